"""Load a checkpoint into a model and its optimizer, under any sharding plan and world size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.checkpoint.damage import cannot_read, is_missing, read_patiently
from dat_rec.checkpoint.find import FoundCheckpoint
from dat_rec.checkpoint.listing import DIGESTS, INDEX, VERSION
from dat_rec.checkpoint.model_state import load_into
from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.disk import system_error
from dat_rec.dist.agree import raise_first
from dat_rec.errors import SharedError, UserError
from dat_rec.files import read_json

T = TypeVar("T")
CURE = "use the options and the version that it was made with, or train anew"


def restore(
    found: FoundCheckpoint, model: nn.Module, optimizer: CombinedOptimizer, global_batch: int
) -> dict[str, Any]:
    """Load a checkpoint into ``model`` and ``optimizer``; all ranks call this together.

    Args:
        found: the checkpoint.
        model: sharded, by any plan.
        optimizer: of ``build_optimizer``.
        global_batch: examples a step on all ranks, which must be those of the checkpoint.

    Returns:
        What else checkpoint.json holds: ``step``, ``global_batch``, ``loss`` and more.

    Raises:
        SharedError: the checkpoint does not fit the model.
        DiskError: a rank cannot read it.
    """

    def load() -> dict[str, Any]:
        facts, files = read_index(found.folder)
        if facts.get("step") != found.step or facts.get("global_batch") != global_batch:
            raise UserError(
                f"{found.folder / INDEX}: step {facts.get('step')!r} of global batches of "
                f"{facts.get('global_batch')!r}, not step {found.step} of {global_batch}"
            )
        load_into(files, model, optimizer)
        return facts

    return read_together(load, found.folder, f"{found.folder}: does not fit the model", CURE)


def read_index(folder: Path) -> tuple[dict[str, Any], TensorFiles]:
    """Return what checkpoint.json holds beside the tensors, and the tensors.

    Raises:
        UserError: it is of another version, or malformed.
    """
    facts = read_json(folder / INDEX, "the checkpoint's index")
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise UserError(
            f"{folder / INDEX}: not a checkpoint of version {VERSION}: use the version that it was "
            "made with, or train anew"
        )
    tensors = facts.pop("tensors", None)
    digests = read_json(folder / DIGESTS, "the checkpoint's digests")
    for entry in tensors if isinstance(tensors, list) else ():
        if isinstance(entry, dict) and (file := str(entry.get("file"))) not in digests:
            raise UserError(f"{folder / INDEX}: file {file!r}: {DIGESTS} does not name it")
    return facts, TensorFiles(folder, tensors)


def read_together(action: Callable[[], T], folder: Path, problem: str, cure: str) -> T:
    """Read on every rank what rank 0 has chosen; if one cannot, every rank says which.

    Args:
        action: reads; can be done again from the start.
        folder: the checkpoint that is read.
        problem: says that the checkpoint does not fit.
        cure: says what to do then.

    Raises:
        SharedError: the checkpoint does not fit.
        DiskError: a rank cannot read it.
    """
    found: list[T] = []
    wrong: SharedError | None = None
    try:
        found.append(read_patiently(action, folder))
    except (OSError, UserError) as error:
        wrong = SharedError(f"{problem} ({error}): {cure}")
        of_disk = system_error(error)
        if of_disk is not None and not is_missing(of_disk):
            wrong = cannot_read(folder, error)
    raise_first(wrong)
    return found[0]
