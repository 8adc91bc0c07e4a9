"""The first failure of a job, in the store that all ranks share: whoever fails first writes it.

The key ``failed`` holds the failure as JSON. A later failure does not replace it, since it is
mostly a consequence.
"""

import json
from collections.abc import Sequence

import torch.distributed as dist

from dat_rec.dist.communication_errors import in_short
from dat_rec.errors import Failure, FailureKind

KEY = "failed"
MAX_LENGTH = 2000
"""Maximum number of characters of a reason."""


def publish(store: dist.Store, rank: int, reason: str, kind: FailureKind) -> None:
    """Tell the other ranks why this one ends, unless another has told so before."""
    words = json.dumps({"rank": rank, "message": reason[:MAX_LENGTH], "kind": kind})
    store.compare_set(KEY, "", words)


def published(store: dist.Store) -> Failure | None:
    """Return the first failure that any rank has published."""
    if not store.check([KEY]):
        return None
    words = json.loads(store.get(KEY))
    return Failure(words["kind"], words["rank"], words["message"])


def ranks_died(silent: Sequence[int]) -> Failure:
    """Return the failure of ranks that answer no roll call, though the store answers."""
    who = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
    reason = f"{who} died without a word (killed, or out of memory) or hangs"
    return Failure("died", silent[0], reason)


def ranks_lost_touch() -> Failure:
    """Return the failure where all ranks answer the roll call, and connections broke."""
    reason = "the ranks lost touch with one another (is the network cut?)"
    return Failure("lost", None, reason)


def store_lost(error: BaseException | None = None) -> Failure:
    """Return the failure of rank 0, which holds the store, where the store does not answer.

    Args:
        error: what asking the store raised; None if it hangs.
    """
    return Failure(
        "lost",
        0,
        "the store where the ranks meet does not answer: rank 0 or its host, which hold it, "
        "died (killed, or out of memory) or hangs",
        in_short(error) if error is not None else "",
    )
