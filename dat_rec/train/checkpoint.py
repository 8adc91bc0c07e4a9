"""Checkpoints: whole or absent, written by all ranks, read by any number of them.

``RUN/checkpoints/step-00001000/`` holds a safetensors file of each rank, checkpoint.json with
the index and what else a run needs to go on, and sha256.json. It appears by a rename after every
rank's bytes are on the disk, so a killed run, a full disk or Ctrl-C leaves the older ones and
nothing half-written. Random numbers need no saving: they are keyed by seed and step.
"""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.errors import SharedError, SupersededError, UserError
from dat_rec.files import PARTIAL_SUFFIX, fsync_tree, publish, read_json, sha256, write_json
from dat_rec.parallel.agree import first_problem, raise_first
from dat_rec.parallel.pieces import table_pieces
from dat_rec.parallel.process_group import Place
from dat_rec.train.fence import Fence
from dat_rec.train.found import checkpoints
from dat_rec.train.model_state import blocks_of, check_finite, copied, load_into, load_towers
from dat_rec.train.tensor_files import SUFFIX, Block, TensorFiles, write_blocks

VERSION = 1
INDEX = "checkpoint.json"
DIGESTS = "sha256.json"
"""SHA-256 of every other file of a checkpoint."""


class CheckpointWriter:
    """Writes a run's checkpoints, beside training where the memory allows a copy.

    All ranks call its methods together.

    Args:
        run: the run's folder.
        place: this process's.
        keep: newest checkpoints that stay.
        keep_best: checkpoints of the lowest loss that stay besides.
        background: write beside training.
        copies: of the tables there are (2D parallelism).
        fence: looked at before anything is published or removed; without it nobody else writes.
    """

    def __init__(
        self,
        run: Path,
        place: Place,
        keep: int,
        keep_best: int = 0,
        *,
        background: bool = True,
        copies: int = 1,
        fence: Fence | None = None,
    ) -> None:
        self._run = run
        self._fence = fence
        self._place = place
        self._keep = keep
        self._keep_best = keep_best
        self._background = background
        self._copies = copies
        # Of its own: what is agreed on in the thread must not meet what training sends.
        self._group = place.own_group()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self.stall_s = 0.0
        """Seconds for which training has waited for checkpoints."""

    def save(
        self, step: int, model: nn.Module, optimizer: CombinedOptimizer, facts: dict[str, Any]
    ) -> None:
        """Begin to write the checkpoint after ``step`` steps.

        Args:
            step: number of steps done.
            model: sharded.
            optimizer: of ``build_optimizer``.
            facts: what else checkpoint.json shall hold; ``loss`` decides what is best.

        Raises:
            SharedError: the checkpoint before could not be written (a full disk, say), or a
                weight of it was not finite.
            SupersededError: another start of this run writes its checkpoints now.
        """
        begin = time.perf_counter()
        self.finish()
        blocks = blocks_of(model, optimizer, self._copies)
        kept = (self._keep, self._keep_best)
        job = _Job(self._run, step, facts, kept, self._group, self._fence)
        if self._background and self._has_room(blocks):
            self._pending = self._thread.submit(job.write, copied(blocks))
        else:
            job.write(blocks)
        self.stall_s += time.perf_counter() - begin

    def _has_room(self, blocks: list[Block]) -> bool:
        """Whether a copy fits beside what this process holds now."""
        wanted = sum(block.tensor.numel() * block.tensor.element_size() for block in blocks)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * resource.getpagesize()
        room = self._place.host_memory_bytes
        if self._place.device.type == "cpu":
            room = self._place.memory_bytes
        return held + wanted <= room

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is whole.

        Raises:
            SharedError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the thread; what it could not write is not told any more."""
        self._thread.shutdown(wait=True)


class _Job:
    """One checkpoint on its way to the disk. All ranks do the same actions, and agree on each."""

    def __init__(
        self,
        run: Path,
        step: int,
        facts: dict[str, Any],
        kept: tuple[int, int],
        group: dist.ProcessGroup,
        fence: Fence | None,
    ) -> None:
        self._run = run
        self._keep, self._keep_best = kept
        self._fence = fence
        self._facts = {"version": VERSION, "step": step, **facts}
        self._folder = run / "checkpoints" / f"step-{step:08d}"
        # Its own: two starts that both believe to be the run's must not mix their files.
        mark = f".{fence.mark}" if fence is not None else ""
        self._partial = self._folder.with_name(self._folder.name + mark + PARTIAL_SUFFIX)
        self._group = group
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()

    def write(self, blocks: list[Block]) -> None:
        """Write it, and drop the older ones that are not to be kept."""
        entries: list[dict[str, Any]] = []
        digests: dict[str, str] = {}

        def empty() -> None:
            if self._rank == 0:
                self._check_fence()
                shutil.rmtree(self._partial, ignore_errors=True)
                self._partial.mkdir(parents=True)

        def write() -> None:
            check_finite(blocks)
            file = self._partial / f"rank-{self._rank:04d}-of-{self._ranks:04d}{SUFFIX}"
            mine, digest = write_blocks(file, blocks)
            entries.extend(mine)
            digests[file.name] = digest
            fsync_tree(self._partial)

        def seal() -> None:
            if self._rank == 0:
                tensors = [entry for part, _ in parts for entry in part]
                TensorFiles(self._partial, tensors)  # refuses gaps
                write_json(self._partial / INDEX, self._facts | {"tensors": tensors})
                merged = {name: digest for _, part in parts for name, digest in part.items()}
                merged[INDEX] = sha256(self._partial / INDEX)
                write_json(self._partial / DIGESTS, merged)
                self._check_fence()
                publish(self._partial, self._folder)
                self._check_fence()
                self._drop_old()

        try:
            self._together(empty)
            self._together(write)
            parts: list[Any] = [None] * self._ranks
            dist.all_gather_object(parts, (entries, digests), group=self._group)
            self._together(seal)
        finally:
            if self._rank == 0:
                shutil.rmtree(self._partial, ignore_errors=True)

    def _check_fence(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _drop_old(self) -> None:
        # Later ones were damaged when the run went on from an earlier one: they count for
        # nothing, and the run will write them anew.
        found = [one for one in checkpoints(self._run) if one[0] <= self._facts["step"]]
        best = sorted(found, key=lambda one: (_loss(one[1]), -one[0]))[: self._keep_best]
        for one in found[: -self._keep]:
            if one not in best:
                drop(one[1])

    def _together(self, action: Callable[[], None]) -> None:
        """Do ``action`` on every rank; if it fails on one, every rank raises, and says which."""
        problem: SharedError | None = None
        interrupted = False
        try:
            action()
        except KeyboardInterrupt:
            problem, interrupted = SharedError("interrupted"), True
        except SupersededError as error:
            problem = error
        except UserError as error:
            problem = SharedError(str(error))
        except (OSError, MemoryError) as error:
            problem = SharedError(
                f"{self._folder}: rank {self._rank} could not write the checkpoint "
                f"({(str(error).splitlines() or [type(error).__name__])[0][:300]}; "
                f"{_free(self._folder)}): free the disk or mend the folder, then go on with "
                "--resume"
            )
        try:
            raise_first(problem, self._group)
        except SupersededError:
            raise
        except SharedError:
            self._raise_if_superseded()
            if interrupted:
                raise KeyboardInterrupt from None
            raise

    def _raise_if_superseded(self) -> None:
        """Another start removes what this one has half-written, which then fails for that alone."""
        problem: SharedError | None = None
        if self._rank == 0:
            try:
                self._check_fence()
            except SupersededError as error:
                problem = error
            except (OSError, UserError):  # the first problem is told
                pass
        raise_first(problem, self._group)


def _loss(folder: Path) -> float:
    try:
        loss = read_json(folder / INDEX, "the checkpoint's index").get("loss")
    except (UserError, AttributeError):
        return float("inf")
    return float(loss) if isinstance(loss, int | float) else float("inf")


def drop(folder: Path) -> None:
    """Remove a checkpoint, which at no moment looks finished and is not."""
    doomed = folder.with_name(folder.name + ".old" + PARTIAL_SUFFIX)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _free(folder: Path) -> str:
    there = next(path for path in folder.parents if path.exists())
    return f"{shutil.disk_usage(there).free >> 20} MiB free"


def newest_whole(run: Path, *, alone: bool = False) -> tuple[int, Path] | None:
    """The newest checkpoint whose files are those that were written; None if there is none at all.

    Damaged ones are passed over, said aloud. Without ``alone`` all ranks share the work.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    # One look for all: the folder may change while ranks look.
    looks: list[Any] = [checkpoints(run)]
    if not alone:
        dist.broadcast_object_list(looks)
    (found,) = looks
    for step, folder in reversed(found):
        damage = _damage(folder, alone=alone)
        if not damage:
            return int(step), Path(folder)
        if alone or dist.get_rank() == 0:
            print(f"{folder}: damaged ({damage}): looking for an older one", file=sys.stderr)
    if found:
        kind = UserError if alone else SharedError
        raise kind(f"{run}: every checkpoint is damaged: train anew, with --overwrite")
    return None


def chosen_whole(run: Path, wanted: str) -> tuple[int, Path] | None:
    """A whole checkpoint, for one process; None if there is none at all.

    Args:
        run: the run's folder.
        wanted: the number of its steps; ``newest``; or ``best``, the one of the lowest loss, and of
            equals the newest. A damaged one is passed over, said aloud, unless it was named.

    Raises:
        UserError: there are checkpoints, and none is the wanted one, or all are damaged.
    """
    found = checkpoints(run)
    if wanted == "newest" or not found:
        return newest_whole(run, alone=True)
    if wanted == "best":
        for step, folder in sorted(found, key=lambda one: (_loss(one[1]), -one[0])):
            damage = _damage(folder, alone=True)
            if damage:
                print(f"{folder}: damaged ({damage}): looking for the next best", file=sys.stderr)
            elif _loss(folder) < float("inf"):
                return step, folder
        raise UserError(f"{run}: no whole checkpoint says its loss: name one by its step")
    for step, folder in found:
        if wanted in (str(step), folder.name):
            if damage := _damage(folder, alone=True):
                raise UserError(f"{folder}: damaged ({damage}): name another checkpoint")
            return step, folder
    there = ", ".join(str(step) for step, _ in found)
    raise UserError(
        f"{run}: no checkpoint {wanted!r}: name a step that is there ({there}), best or newest"
    )


def _damage(folder: Path, *, alone: bool) -> str:
    """What is wrong with a checkpoint's files, or nothing; the same on all ranks."""
    rank, ranks = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    problem = ""
    try:
        digests = read_json(folder / DIGESTS, "the checkpoint's digests")
        if INDEX not in digests:
            raise UserError(f"{DIGESTS} does not name {INDEX}")
        for name, digest in sorted(digests.items())[rank::ranks]:
            if sha256(folder / name) != digest:
                raise UserError(f"{name}: SHA-256 differs from {DIGESTS}")
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    except (UserError, AttributeError, TypeError, ValueError) as error:
        problem = str(error) or type(error).__name__
    return problem if alone else first_problem(problem)[1]


def read_index(folder: Path) -> tuple[dict[str, Any], TensorFiles]:
    """A checkpoint's facts and its tensors.

    Raises:
        UserError: another version, or malformed.
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


def restore(
    run: Path, model: nn.Module, optimizer: CombinedOptimizer, global_batch: int
) -> dict[str, Any]:
    """Load the newest whole checkpoint into ``model`` and ``optimizer``, under any plan.

    Returns:
        Its facts; of step 0 when there is none.

    Raises:
        SharedError: the checkpoint does not fit the model, or all are damaged.
    """
    found = newest_whole(run)
    if found is None:
        return {"step": 0}
    step, folder = found
    if dist.get_rank() == 0:
        # Passed over: they must not be counted among those to keep, nor looked at again.
        for later, damaged in checkpoints(run):
            if later > step:
                shutil.rmtree(damaged.with_name(damaged.name + ".damaged"), ignore_errors=True)
                damaged.rename(damaged.with_name(damaged.name + ".damaged"))
    facts: dict[str, Any] = {}
    problem = ""
    try:
        facts, files = read_index(folder)
        if facts.get("step") != step or facts.get("global_batch") != global_batch:
            raise UserError(
                f"{folder / INDEX}: step {facts.get('step')!r} of global batches of "
                f"{facts.get('global_batch')!r}, not step {step} of {global_batch}"
            )
        load_into(files, model, optimizer)
    except (OSError, UserError) as error:
        problem = f"{folder}: does not fit the model ({error}): use the options and the version "
        problem += "that it was made with, or train anew"
    _, text = first_problem(problem)
    if text:
        raise SharedError(text)
    return facts


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill an unsharded model's tables and towers, on one process, without a process group.

    Raises:
        UserError: the checkpoint does not fit the model.
    """
    try:
        _, files = read_index(folder)
        with torch.no_grad():
            for piece in table_pieces(model):
                files.read_into(f"tables/{piece.table}/weight", piece.weights, (0, 0), piece.shape)
            load_towers(files, model)
    except (OSError, UserError) as error:
        raise UserError(
            f"{folder}: does not fit the model ({error}): use the options and the version that it "
            "was made with, or train anew"
        ) from error
