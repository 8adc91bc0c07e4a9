"""Where the ranks meet: the store at MASTER_ADDR:MASTER_PORT that their launcher names."""

import os
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from dat_rec.dist.launcher import is_torchrun
from dat_rec.errors import RankError, UserError


def rendezvous_store(world_size: int, timeout: timedelta, folder: Path) -> dist.Store:
    """Return the store that all ranks share; a process alone gets one in ``folder``.

    Raises:
        UserError: there are several ranks and no address.
        RankError: the ranks cannot meet, under torchrun.
    """
    if "MASTER_ADDR" not in os.environ or "WORLD_SIZE" not in os.environ:
        if world_size == 1:
            return dist.FileStore(str(folder / "store"), 1)
        raise UserError("environment: WORLD_SIZE without MASTER_ADDR: start with torchrun")
    try:
        store: dist.Store = next(dist.rendezvous("env://", timeout=timeout))[0]
    except (ValueError, OSError, dist.DistError) as error:
        raise cannot_meet(error) from error
    return store


def attempt_number(local_world_size: int | None, world_size: int) -> str:
    """Return the prefix by which the ranks of one attempt find each other in the store.

    On one host torchrun may keep its store over restarts, and an attempt must not read the words
    of an older one. On several hosts it does not, and their counts of restarts differ.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return restarts if local_world_size == world_size else "0"


def cannot_meet(error: Exception) -> UserError | RankError:
    """Return the error of ranks that cannot meet.

    Under torchrun it is no user's error, since a restart may mend it: a host that was lost, a
    store that is gone.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if is_torchrun():
        return RankError(
            f"the ranks cannot meet at {address} ({reason}); where hosts have several networks, "
            "or take their own names for 127.0.1.1, set GLOO_SOCKET_IFNAME"
        )
    return UserError(
        f"environment: the ranks cannot meet at {address} ({reason}): start with torchrun"
    )
