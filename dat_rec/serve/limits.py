"""What one request, and all together, may ask of the server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Maxima; what is beyond one is refused with the reason."""

    k: int = 1000
    """Length of a list."""
    users: int = 256
    """Users, or items of /similar, in a request."""
    ids: int = 10_000
    """Ids of ``exclude``, and of ``available``."""
    body_bytes: int = 2**20
    """Bytes of a request's body."""
    body_s: float = 10.0
    """Seconds in which a request's body must have come."""
    filter_s: float = 2.0
    """Seconds that a filter may take."""
    waiting: int = 1024
    """Requests that wait to be computed; with more the server answers 503."""


HEAD_BYTES = 2**16
"""Maximum bytes of a request's line and headers."""
HEAD_S = 20.0
"""Maximum seconds in which they must have come."""
FILTER_LETTERS = 2000
"""Maximum length of a filter."""
QUOTAS = 8
"""Maximum number of quotas in a request."""
AT_ONCE = 64
"""Maximum number of requests that are answered together."""
TOGETHER_USERS = 4
"""Maximum number of users of a request that is answered together with others."""
ANSWER_S = 30.0
"""Maximum seconds from a request to its answer; after them it is 503."""
RETRY_S = 1
"""Seconds after which to ask again, with a 503."""
