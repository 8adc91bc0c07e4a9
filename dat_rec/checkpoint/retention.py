"""Decide which of a run's checkpoints stay, the newest and the best; remove others.

The best are those with the highest value of the metric that the run's validations follow; where
there was none, those of the lowest loss: the main one, mean over the steps since the checkpoint
before.
"""

import errno
import shutil
from pathlib import Path
from typing import NamedTuple

from dat_rec.checkpoint.listing import INDEX, checkpoints
from dat_rec.disk import say, system_error
from dat_rec.errors import UserError
from dat_rec.files import OLD_SUFFIX, read_json


def drop_old(run: Path, step: int, keep: int, keep_best: int) -> None:
    """Remove the checkpoints that need not stay; what the disk refuses to remove is left, aloud.

    Args:
        run: the run's folder.
        step: of the newest checkpoint. Later ones were damaged when the run went on from an earlier
            one: they count for nothing, and the run will write them anew.
        keep: number of newest checkpoints that stay.
        keep_best: number of the best checkpoints that stay besides.
    """
    try:
        # Of earlier removals: network file systems keep what another host still reads.
        for left in (run / "checkpoints").glob("*" + OLD_SUFFIX):
            shutil.rmtree(left, ignore_errors=True)
        found = [one for one in checkpoints(run) if one[0] <= step]
        best = sorted(found, key=lambda one: standing(*one))[:keep_best] if keep_best else []
    except OSError as error:
        _say_left(error, run)
        return
    for one in found[:-keep]:
        if one not in best:
            try:
                _drop(one[1])
            except OSError as error:
                _say_left(error, run)


def _drop(folder: Path) -> None:
    """Remove a checkpoint, which at no moment looks finished and is not."""
    doomed = folder.with_name(folder.name + OLD_SUFFIX)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _say_left(error: OSError, run: Path) -> None:
    # The new checkpoint is whole: no older one is worth the run.
    say(f"{error.filename or run}: cannot be removed ({error.strerror}): left there")


class Standing(NamedTuple):
    """How good a checkpoint is beside others of its run: the least is the best."""

    kind: int
    """0: it was validated; 1: it states its loss alone; 2: neither, or it is damaged."""
    badness: float
    order: int
    """Of equals, the first of those that were validated is the best, as early stopping has it, and
    the last of others."""

    @property
    def is_known(self) -> bool:
        """Whether the checkpoint says anything of how good it is."""
        return self.kind < 2


def standing(step: int, folder: Path) -> Standing:
    """Read how good a checkpoint is.

    Raises:
        OSError: the disk does not tell, which makes no checkpoint a worse one.
    """
    try:
        facts = read_json(folder / INDEX, "the checkpoint's index")
        loss, validation = facts.get("loss"), facts.get("validation") or {}
        value = validation.get("value")
    except (UserError, AttributeError) as error:
        found = system_error(error)
        if found is not None and found.errno not in (errno.ENOENT, errno.EIO):
            raise found from None
        loss = value = None
    if isinstance(value, int | float):
        return Standing(0, -float(value), step)
    if isinstance(loss, int | float):
        return Standing(1, float(loss), -step)
    return Standing(2, 0.0, -step)


def set_aside(damaged: tuple[Path, ...]) -> None:
    """Rename damaged checkpoints that were passed over, to be neither counted nor read again.

    Only the start that holds the run's fence may do so: another one may have written them anew.
    """
    for folder in damaged:
        aside = folder.with_name(folder.name + ".damaged")
        if folder.exists():  # not done by an earlier try
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
