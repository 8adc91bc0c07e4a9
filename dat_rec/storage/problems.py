"""An error of a store in, one line for the user out: what, where, cure; and whether it may pass.

obstore raises an exception of one class for many causes. What tells them apart is the response,
which stands in its text: the HTTP status, and the code of S3, Google or Azure.
"""

import re
from typing import NamedTuple

from dat_rec.errors import StoreError, UserError
from dat_rec.storage.address import AZURE, GOOGLE, Address

STATUS = re.compile(r"non-2xx status code: (\d+)")
CODE = re.compile(r"<Code>(\w+)</Code>")
NO_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed", "InvalidToken")
PASSING = ("SlowDown", "RequestTimeout", "ServerBusy", "OperationTimedOut", "InternalError")
OBSTORES_OWN = ("InvalidPath", "NotSupported", "UnknownConfigurationKey")
"""How obstore calls requests that it does not make."""
METADATA = ("169.254.169.254", "metadata.google.internal", "metadata/identity")
"""Where a cloud's machines ask for their credentials: elsewhere, nobody answers."""


class MissingError(UserError):
    """There is no such object, or bucket."""


class ChangedError(UserError):
    """An object is another one than was pinned, or is there against expectation."""


class Problem(NamedTuple):
    """What is wrong with a request."""

    error: UserError
    """To be raised."""
    passing: bool
    """Whether a later request may succeed."""


def problem_of(error: Exception, address: Address, doing: str) -> Problem:
    """Tell what a store's error means.

    Args:
        error: raised by obstore.
        address: of the request.
        doing: what was done, as in ``reading bytes 0 to 99``.
    """
    text = str(error)
    code = found[1] if (found := CODE.search(text)) else ""
    status = int(found[1]) if (found := STATUS.search(text)) else 0
    kind = type(error).__name__
    bucket = f"{address.scheme}://{address.bucket}"
    if any(place in text for place in METADATA):
        return Problem(UserError(f"{address}: no credentials: {_set(address)}"), False)
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return Problem(
            MissingError(f"{bucket}: there is no such bucket: correct the address"), False
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return Problem(MissingError(f"{address}: is not there: correct the address"), False)
    if status == 416:
        return Problem(UserError(f"{address}: has no such bytes ({doing}): write it anew"), False)
    if code in NO_KEY or kind == "UnauthenticatedError" or status == 401:
        why = f"{address}: the store does not accept the key ({code or status}): {_set(address)}"
        return Problem(UserError(why), False)
    if "Expired" in code:
        return Problem(UserError(f"{address}: the credentials have expired: renew them"), False)
    if kind == "PermissionDeniedError" or status == 403:
        why = f"{address}: access denied ({doing}): grant the key this right, or use another key"
        return Problem(UserError(why), False)
    if kind in ("PreconditionError", "AlreadyExistsError") or status in (409, 412):
        why = f"{address}: has changed meanwhile ({doing}): start again when nobody writes there"
        return Problem(ChangedError(why), code == "ConditionalRequestConflict")
    words = f"{address}: {doing}: {_words(text, code, status)}"
    # Without a status, no answer has come; or obstore has refused the request itself.
    unanswered = not status and not kind.startswith(OBSTORES_OWN)
    passing = unanswered or status in (408, 425, 429) or status >= 500 or code in PASSING
    return Problem(StoreError(words) if passing else UserError(words), passing)


def _words(text: str, code: str, status: int) -> str:
    """An error without a known cause in a few words."""
    if status:
        return f"the store answers {status} {code}".rstrip()
    server = found[1] if (found := re.search(r"(https?://[^/\s]+)", text)) else "the store"
    for sign, words in [
        ("ConnectionRefused", f"nothing listens at {server}"),
        ("dns error", f"{server} is not known"),
        ("kind: Timeout", f"{server} does not answer"),
        ("TimedOut", f"{server} does not answer"),
        ("kind: Connect", f"{server} cannot be reached"),
        ("error decoding response body", f"{server} broke off"),
        ("error sending request", f"{server} closed the connection"),
    ]:
        if sign in text:
            return words
    return text.splitlines()[0][:200]


def _set(address: Address) -> str:
    """Which variables hold the credentials."""
    if address.scheme in GOOGLE:
        return "set GOOGLE_APPLICATION_CREDENTIALS"
    if address.scheme in AZURE:
        return "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
    return (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (those of a profile: "
        "eval $(aws configure export-credentials --format env))"
    )
