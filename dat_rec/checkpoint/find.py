"""Find a whole checkpoint of a run: the newest, the best, or the one of a step; skip damaged ones.

All ranks call these functions together; without a process group, as in an evaluation, one process
does so alone.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dat_rec.checkpoint.damage import (
    cannot_read,
    damage_of,
    rank_and_ranks,
    read_patiently,
    seen_by_rank_0,
)
from dat_rec.checkpoint.listing import checkpoints
from dat_rec.checkpoint.retention import standing
from dat_rec.disk import say
from dat_rec.errors import DiskError, SharedError, UserError


@dataclass(frozen=True)
class FoundCheckpoint:
    """A whole checkpoint: each of its files is the one that was written."""

    step: int
    """Number of steps done when it was written."""
    folder: Path
    damaged: tuple[Path, ...] = ()
    """Later checkpoints that were passed over, since they are damaged."""


def newest_whole(run: Path) -> FoundCheckpoint | None:
    """Return the newest whole checkpoint; None if the run has no checkpoint at all.

    Damaged ones are passed over, and named on stderr. All ranks share the work, on the checkpoints
    that rank 0 finds: another host may see an older state of the folder.

    Raises:
        SharedError: there are checkpoints, and all are damaged.
        DiskError: the disk does not tell, or a rank cannot read what rank 0 sees.
    """
    found = _listed(run)
    damaged: list[Path] = []
    sure = True
    for step, folder in reversed(found):
        damage = damage_of(folder)
        if damage is None:
            return FoundCheckpoint(step, folder, tuple(damaged))
        sure = sure and damage.sure
        damaged.append(folder)
        if rank_and_ranks()[0] == 0:
            say(f"{folder}: damaged ({damage.words}): looking for an older one")
    if found and not sure:
        raise DiskError(
            f"{run}: no checkpoint can be read whole, and not all are surely damaged: mend the "
            "disk or its mount, then go on with --resume"
        )
    if found:
        raise SharedError(f"{run}: every checkpoint is damaged: train anew, with --overwrite")
    return None


def chosen_whole(run: Path, wanted: str) -> FoundCheckpoint | None:
    """Return a whole checkpoint of the user's choice; None if the run has no checkpoint at all.

    Args:
        run: the run's folder.
        wanted: the number of its steps, ``newest`` or ``best``: of those that were validated the
            one with the highest value, else the one of the lowest loss (``retention.Standing``). A
            damaged one is passed over, and named on stderr, unless it is the wanted step's.

    Raises:
        UserError: there are checkpoints, and none is the wanted one, or all are damaged.
        DiskError: the disk does not tell.
    """
    if wanted == "newest":
        return newest_whole(run)
    found = _listed(run)
    if not found:
        return None
    if wanted == "best":
        return _best_whole(run, found)
    for step, folder in found:
        if wanted in (str(step), folder.name):
            if damage := damage_of(folder):
                raise UserError(f"{folder}: damaged ({damage.words}): name another checkpoint")
            return FoundCheckpoint(step, folder)
    there = ", ".join(str(step) for step, _ in found)
    raise UserError(
        f"{run}: no checkpoint {wanted!r}: name a step that is there ({there}), best or newest"
    )


def _best_whole(run: Path, found: list[tuple[int, Path]]) -> FoundCheckpoint:
    try:
        standings = {
            step: read_patiently(partial(standing, step, folder), folder) for step, folder in found
        }
    except OSError as error:
        raise cannot_read(run / "checkpoints", error) from error
    for step, folder in sorted(found, key=lambda one: standings[one[0]]):
        damage = damage_of(folder)
        if damage is not None:
            say(f"{folder}: damaged ({damage.words}): looking for the next best")
        elif standings[step].is_known:
            return FoundCheckpoint(step, folder)
    raise UserError(f"{run}: no whole checkpoint says how good it is: name one by its step")


def _listed(run: Path) -> list[tuple[int, Path]]:
    """Return the run's checkpoints, oldest first, as rank 0 sees them."""

    def look() -> tuple[list[tuple[int, Path]], DiskError | None]:
        try:
            return read_patiently(partial(checkpoints, run), run), None
        except OSError as error:
            return [], cannot_read(run / "checkpoints", error)

    found, problem = seen_by_rank_0(look)
    if problem is not None:
        raise problem
    return found
