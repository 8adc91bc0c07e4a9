"""Tell a damaged checkpoint from one that a disk does not show at the moment.

Damage is a digest that differs, a file that rank 0 does not find, JSON that is malformed, and an
input/output error that stays: the disk's own word for it. Any other error of a disk says nothing
about the checkpoint. Reads are tried again for ``READ_S``, as disks refuse for a while what they do
later (``dat_rec.disk``).

All ranks call these functions together; without a process group, as in an evaluation, one process
does so alone.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from dat_rec.checkpoint.listing import DIGESTS, INDEX
from dat_rec.disk import (
    READ_S,
    TRANSIENT,
    UNSEEN,
    Patience,
    keep_trying,
    may_pass,
    reason,
    system_error,
)
from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0, raise_first
from dat_rec.errors import DiskError, UserError
from dat_rec.files import read_json, sha256

T = TypeVar("T")


@dataclass(frozen=True)
class Damage:
    """What is wrong with a checkpoint's files."""

    words: str
    sure: bool = True
    """Whether it was seen in what the disk holds. An input/output error may pass some day."""


def damage_of(folder: Path) -> Damage | None:
    """Return what is wrong with a checkpoint's files, on all ranks alike; None if it is whole.

    Each rank reads some of the files.

    Raises:
        DiskError: a rank cannot read the checkpoint, for a reason that is no damage.
    """
    rank, ranks = rank_and_ranks()
    digests, damage, unread = seen_by_rank_0(lambda: _digests(folder))
    try:
        for name, digest in sorted(digests.items())[rank::ranks]:
            if read_patiently(partial(sha256, folder / name), folder) != digest:
                damage = damage or Damage(f"{name}: SHA-256 differs from {DIGESTS}")
    except OSError as error:
        damage, unread = _of_error(error, folder)
    if not dist.is_initialized():
        if unread is not None:
            raise unread
        return damage
    raise_first(unread)
    found = [one for one in all_gather_object(damage) if one is not None]
    # Of several, one that is sure.
    return min(found, key=lambda one: not one.sure, default=None)


def _digests(folder: Path) -> tuple[dict[str, str], Damage | None, DiskError | None]:
    """Return the digests of a checkpoint's files, all of which are there; or why there are none."""
    try:
        digests = read_patiently(partial(read_json, folder / DIGESTS, "its digests"), folder)
        if not isinstance(digests, dict) or INDEX not in digests:
            raise UserError(f"{DIGESTS} does not name {INDEX}")
        for name, digest in digests.items():
            if not isinstance(digest, str) or Path(name).name != name or "\0" in name:
                raise UserError(f"{DIGESTS}: {name!r}: {digest!r} is no digest of a file")
            read_patiently((folder / name).stat, folder)
    except (OSError, UserError) as error:
        return {}, *_of_error(error, folder)
    return digests, None, None


def _of_error(error: OSError | UserError, folder: Path) -> tuple[Damage | None, DiskError | None]:
    """Return what an error says of a checkpoint: that it is damaged, or that it cannot be read."""
    found = system_error(error)
    if found is None:
        return Damage(str(error)), None
    if found.errno == errno.EIO or is_missing(found):
        return Damage(f"{found.filename}: {found.strerror}", sure=is_missing(found)), None
    return None, cannot_read(folder, error)


def is_missing(error: OSError) -> bool:
    """Return whether a file is not there. Only rank 0 knows: other hosts see it later."""
    return error.errno == errno.ENOENT and rank_and_ranks()[0] == 0


def read_patiently(action: Callable[[], T], folder: Path) -> T:
    """Read what is in a checkpoint; try again what the disk refuses or does not show yet.

    Args:
        action: reads; can be done again from the start.
        folder: the checkpoint.

    Raises:
        Exception: the action's, if it does not pass within ``READ_S``.
    """
    rank, _ = rank_and_ranks()
    # Rank 0 has looked which checkpoints there are: what it does not see has been removed.
    kinds = UNSEEN if rank else TRANSIENT
    return keep_trying(action, Patience(READ_S), f"{folder}: rank {rank}: reading", folder, kinds)


def cannot_read(folder: Path, error: BaseException) -> DiskError:
    """Return the error of a checkpoint that a rank cannot read, and that may be whole."""
    rank, _ = rank_and_ranks()
    tried = f", tried for {READ_S:g} s" if may_pass(error, UNSEEN) else ""
    return DiskError(
        f"{folder}: rank {rank} cannot read it{tried} ({reason(error, folder)}): mend the disk or "
        "its mount, then go on with --resume"
    )


def seen_by_rank_0(look: Callable[[], T]) -> T:
    """Return what rank 0 sees, on all ranks: another host may see an older state of the folder."""
    if not dist.is_initialized():
        return look()
    seen: T = broadcast_from_rank_0(look() if dist.get_rank() == 0 else None)
    return seen


def rank_and_ranks() -> tuple[int, int]:
    """Return rank and world size; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
