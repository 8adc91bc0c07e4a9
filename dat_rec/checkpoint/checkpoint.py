"""Checkpoints: whole or absent, written by all ranks, read by any number of them.

``RUN/checkpoints/step-00001000/`` holds a safetensors file of each rank, checkpoint.json with
the index and what else a run needs to go on, and sha256.json. It appears by a rename after every
rank's bytes are on the disk, so a killed run, a full disk or Ctrl-C leaves the older ones and
nothing half-written. Random numbers need no saving: they are keyed by seed and step.

Ranks wait for one another's disks without a time-out, and try again what may pass (a full disk, a
file server that is away; ``disk.py``). Beside training a checkpoint is tried until the next one is
due; the last one of a start for ``PATIENCE_S``.
"""

import errno
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.checkpoint.found import advice, checkpoints
from dat_rec.checkpoint.model_state import blocks_of, check_finite, copied, load_into, load_towers
from dat_rec.checkpoint.tensor_files import SUFFIX, Block, TensorFiles, write_blocks
from dat_rec.disk import (
    READ_S,
    TRANSIENT,
    UNSEEN,
    Patience,
    keep_trying,
    may_pass,
    reason,
    say,
    system_error,
)
from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0, raise_first
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import DiskError, SharedError, SupersededError, UserError
from dat_rec.files import OLD_SUFFIX, PARTIAL_SUFFIX, publish, read_json, sha256, write_json
from dat_rec.sharding.table_shards import table_shards

T = TypeVar("T")
VERSION = 1
INDEX = "checkpoint.json"
DIGESTS = "sha256.json"
"""SHA-256 of every other file of a checkpoint."""
CURE = "use the options and the version that it was made with, or train anew"
PATIENCE_S = 600.0
"""So long the last checkpoint of a start is tried."""
WAITING_S = 15.0
"""The same of another one for which training waits; then it is left out."""


_Part = tuple[list[dict[str, Any]], dict[str, str]]
"""Of one rank's file: entries of the index, and its digest by its name."""


class Fence(Protocol):
    """Says whether this start of the run may still write in its folder (``runs.fence.Fence``)."""

    @property
    def mark(self) -> str:
        """This start's, in the names of what it writes aside."""
        ...

    def check(self) -> None:
        """Raises ``SupersededError`` where another start has taken the folder over."""


class CheckpointWriter:
    """Writes a run's checkpoints, beside training where the memory allows a copy.

    All ranks call its methods together.

    Args:
        run: the run's folder.
        context: this process's.
        keep: newest checkpoints that stay.
        keep_best: checkpoints of the lowest loss that stay besides.
        background: write beside training.
        copies: of the tables there are (2D parallelism).
        fence: looked at before anything is published or removed; without it nobody else writes.
        patience_s: seconds for which the last checkpoint is tried.
    """

    def __init__(
        self,
        run: Path,
        context: RankContext,
        keep: int,
        keep_best: int = 0,
        *,
        background: bool = True,
        copies: int = 1,
        fence: Fence | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._run = run
        self._fence = fence
        self._patience_s = patience_s
        self._context = context
        self._keep = keep
        self._keep_best = keep_best
        self._background = background
        self._copies = copies
        # Of its own: what is agreed on in the thread must not meet what training sends.
        self._group = context.own_group(patient=True)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: _Pending | None = None
        self.stall_s = 0.0
        """Seconds for which training has waited for checkpoints."""

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: CombinedOptimizer,
        facts: dict[str, Any],
        *,
        last: bool = False,
    ) -> None:
        """Begin to write the checkpoint after ``step`` steps.

        One before it that the disk still refuses is given up, aloud: this one takes its place.

        Args:
            step: number of steps done.
            model: sharded.
            optimizer: of ``build_optimizer``.
            facts: what else checkpoint.json shall hold; ``loss`` decides what is best.
            last: whether this start ends with it.

        Raises:
            SharedError: the checkpoint before could not be written (a folder without rights, say),
                or a weight of it was not finite.
            DiskError: the last one could not be written in time.
            SupersededError: another start of this run writes its checkpoints now.
        """
        begin = time.perf_counter()
        self.settle()
        blocks = blocks_of(model, optimizer, self._copies)
        kept = (self._keep, self._keep_best)
        job = _Job(self._run, step, facts, kept, self._group, self._fence)
        # If one has no room, training waits for it: all write before they go on.
        if all(all_gather_object(self._background and self._has_room(blocks))):
            self._pending = _Pending(job, self._thread.submit(job.write, copied(blocks)))
        else:
            job.end_after(self._patience_s if last else WAITING_S)
            try:
                job.write(blocks)
            except DiskError as error:
                if last:
                    raise self._for_good(error) from error
                self._tell_given_up(error)
        self.stall_s += time.perf_counter() - begin

    def _has_room(self, blocks: list[Block]) -> bool:
        """Whether a copy fits beside what this process holds now."""
        wanted = sum(block.tensor.numel() * block.tensor.element_size() for block in blocks)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * resource.getpagesize()
        room = self._context.host_memory_bytes
        if self._context.device.type == "cpu":
            room = self._context.memory_bytes
        return held + wanted <= room

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is whole; the last one of this start.

        Raises:
            SharedError: it could not be written.
            DiskError: it could not be written in time.
        """
        try:
            self._wait(self._patience_s)
        except DiskError as error:
            raise self._for_good(error) from error

    def settle(self) -> None:
        """Wait for the checkpoint that was begun; what the disk refuses is tried no more.

        Raises:
            SharedError: it could not be written, for another reason than the disk's.
        """
        try:
            self._wait(0)
        except DiskError as error:
            self._tell_given_up(error)

    def _wait(self, patience_s: float) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        pending.job.end_after(patience_s)
        try:
            pending.done.result()
        except BaseException:
            pending.job.end_after(0)
            raise

    def _for_good(self, error: DiskError) -> DiskError:
        return DiskError(
            f"{error}, tried for {self._patience_s:g} s: free the disk or mend the folder, then "
            f"{advice(self._run)}"
        )

    def _tell_given_up(self, error: DiskError) -> None:
        if self._context.is_rank_zero:
            say(f"{error}: given up; training goes on to the next checkpoint")

    def close(self) -> None:
        """Wait for the thread; what it could not write is not told any more."""
        if self._pending is not None:
            self._pending.job.end_after(0)
        self._thread.shutdown(wait=True)


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is written beside training."""

    job: "_Job"
    done: Future[None]


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
        self._what = f"{self._folder}: rank {self._rank}: writing"
        self._sealed = False
        self._patience = Patience()
        self._unseen = Patience(READ_S)

    def end_after(self, seconds: float) -> None:
        """How long this rank tries what its disk refuses, from the next refusal on; 0: no more."""
        self._patience.end_after(seconds)
        self._unseen.end_after(min(seconds, READ_S))

    def write(self, blocks: list[Block]) -> None:
        """Write it, and drop the older ones that are not to be kept."""

        def begin() -> None:
            check_finite(blocks)
            if self._rank == 0:
                self._check_fence()
                shutil.rmtree(self._partial, ignore_errors=True)
                self._partial.mkdir(parents=True, exist_ok=True)

        try:
            self._together(begin)
            # Network file systems show the first rank's folder later elsewhere.
            unseen = self._unseen if self._rank else None
            own = self._together(lambda: self._write_own(blocks), unseen)
            parts = all_gather_object(own, self._group)
            self._together(lambda: self._seal(parts) if self._rank == 0 else None)
        finally:
            if self._rank == 0:
                shutil.rmtree(self._partial, ignore_errors=True)

    def _write_own(self, blocks: list[Block]) -> _Part:
        """This rank's file; gives its entries of the index, and its digest."""
        file = self._partial / f"rank-{self._rank:04d}-of-{self._ranks:04d}{SUFFIX}"
        try:
            entries, digest = write_blocks(file, blocks)
        except OSError:
            # A full disk is not to stay full of it.
            with suppress(OSError):
                file.unlink(missing_ok=True)
            raise
        return entries, {file.name: digest}

    def _seal(self, parts: list[_Part]) -> None:
        """Add what says what the files hold, and let the whole appear."""
        self._check_fence()
        if not self._sealed:
            tensors = [entry for part, _ in parts for entry in part]
            look = partial(TensorFiles, self._partial, tensors)  # refuses gaps
            keep_trying(look, self._unseen, self._what, self._partial, UNSEEN)
            write_json(self._partial / INDEX, self._facts | {"tensors": tensors})
            merged = {name: digest for _, part in parts for name, digest in part.items()}
            merged[INDEX] = sha256(self._partial / INDEX)
            write_json(self._partial / DIGESTS, merged)
            self._sealed = True
        if self._partial.exists() or not self._folder.exists():  # not done by an earlier try
            self._check_fence()
            publish(self._partial, self._folder)
        self._check_fence()
        try:
            self._drop_old()
        except OSError as error:  # the new one is whole: no older one is worth the run
            say(f"{error.filename or self._run}: cannot be removed ({error.strerror}): left there")

    def _check_fence(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _drop_old(self) -> None:
        # Of earlier removals: network file systems keep what another host still reads.
        for left in self._folder.parent.glob("*" + OLD_SUFFIX):
            shutil.rmtree(left, ignore_errors=True)
        # Later ones were damaged when the run went on from an earlier one: they count for
        # nothing, and the run will write them anew.
        found = [one for one in checkpoints(self._run) if one[0] <= self._facts["step"]]
        best = sorted(found, key=lambda one: (_loss(one[1]), -one[0]))[: self._keep_best]
        problem: OSError | None = None
        for one in found[: -self._keep]:
            if one not in best:
                try:
                    drop(one[1])
                except OSError as error:
                    problem = problem or error
        if problem is not None:
            raise problem

    def _together(self, action: Callable[[], T], unseen: Patience | None = None) -> T:
        """Do ``action`` on every rank; if it fails on one, every rank raises, and says which."""
        problem: SharedError | None = None
        interrupted = False
        results: list[T] = []
        try:
            result = keep_trying(action, self._patience, self._what, self._folder, unseen=unseen)
            results.append(result)
        except KeyboardInterrupt:
            problem, interrupted = SharedError("interrupted"), True
        except SupersededError as error:
            problem = error
        except (OSError, MemoryError, UserError) as error:
            words = f"{self._folder}: rank {self._rank} could not write the checkpoint "
            words += f"({reason(error, self._folder)})"
            if may_pass(error, UNSEEN):
                problem = DiskError(words)
            elif isinstance(error, UserError):
                problem = SharedError(str(error))
            else:
                cure = f"mend the folder, then {advice(self._run)}"
                problem = SharedError(f"{words}: {cure}")
        try:
            raise_first(problem, self._group)
        except SupersededError:
            raise
        except SharedError:
            self._raise_if_superseded()
            if interrupted:
                raise KeyboardInterrupt from None
            raise
        return results[0]

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
    """What a checkpoint says; of a damaged one infinity.

    Raises:
        OSError: the disk does not tell, which makes no checkpoint a worse one.
    """
    try:
        loss = read_json(folder / INDEX, "the checkpoint's index").get("loss")
    except (UserError, AttributeError) as error:
        found = system_error(error)
        if found is not None and found.errno not in (errno.ENOENT, errno.EIO):
            raise found from None
        return float("inf")
    return float(loss) if isinstance(loss, int | float) else float("inf")


def drop(folder: Path) -> None:
    """Remove a checkpoint, which at no moment looks finished and is not."""
    doomed = folder.with_name(folder.name + OLD_SUFFIX)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def newest_whole(
    run: Path, *, alone: bool = False, passed_over: list[Path] | None = None
) -> tuple[int, Path] | None:
    """The newest checkpoint whose files are those that were written; None if there is none at all.

    Damaged ones are passed over, said aloud. Without ``alone`` all ranks share the work, on what
    the first one finds: another host may see an older state of the folder.

    Args:
        run: the run's folder.
        alone: one process, without a process group.
        passed_over: takes those that are damaged.

    Raises:
        UserError: there are checkpoints, and all are damaged.
        DiskError: the disk does not tell, or a rank cannot read what the first one sees.
    """
    found = _listed(run, alone=alone)
    sure = True
    for step, folder in reversed(found):
        damage = _damage(folder, alone=alone)
        if damage is None:
            return int(step), Path(folder)
        sure = sure and damage.sure
        if passed_over is not None:
            passed_over.append(folder)
        if alone or dist.get_rank() == 0:
            say(f"{folder}: damaged ({damage.words}): looking for an older one")
    if found and not sure:
        raise DiskError(
            f"{run}: no checkpoint can be read whole, and not all are surely damaged: mend the "
            "disk or its mount, then go on with --resume"
        )
    if found:
        kind = UserError if alone else SharedError
        raise kind(f"{run}: every checkpoint is damaged: train anew, with --overwrite")
    return None


def _listed(run: Path, *, alone: bool) -> list[tuple[int, Path]]:
    """The run's checkpoints, as the first rank sees them."""

    def look() -> tuple[list[tuple[int, Path]], DiskError | None]:
        try:
            return read_patiently(partial(checkpoints, run), run, TRANSIENT), None
        except OSError as error:
            return [], _cannot_read(run / "checkpoints", error)

    found, problem = _of_first(look, alone=alone)
    if problem is not None:
        raise problem
    return found


def chosen_whole(run: Path, wanted: str) -> tuple[int, Path] | None:
    """A whole checkpoint, for one process; None if there is none at all.

    Args:
        run: the run's folder.
        wanted: the number of its steps; ``newest``; or ``best``, the one of the lowest loss, and of
            equals the newest. A damaged one is passed over, said aloud, unless it was named.

    Raises:
        UserError: there are checkpoints, and none is the wanted one, or all are damaged.
        DiskError: the disk does not tell.
    """
    if wanted == "newest":
        return newest_whole(run, alone=True)
    found = _listed(run, alone=True)
    if not found:
        return None
    if wanted == "best":
        try:
            losses = {folder: read_patiently(partial(_loss, folder), folder) for _, folder in found}
        except OSError as error:
            raise _cannot_read(run / "checkpoints", error) from error
        for step, folder in sorted(found, key=lambda one: (losses[one[1]], -one[0])):
            damage = _damage(folder, alone=True)
            if damage is not None:
                say(f"{folder}: damaged ({damage.words}): looking for the next best")
            elif losses[folder] < float("inf"):
                return step, folder
        raise UserError(f"{run}: no whole checkpoint says its loss: name one by its step")
    for step, folder in found:
        if wanted in (str(step), folder.name):
            if damage := _damage(folder, alone=True):
                raise UserError(f"{folder}: damaged ({damage.words}): name another checkpoint")
            return step, folder
    there = ", ".join(str(step) for step, _ in found)
    raise UserError(
        f"{run}: no checkpoint {wanted!r}: name a step that is there ({there}), best or newest"
    )


def _of_first(look: Callable[[], T], *, alone: bool) -> T:
    """What the first rank sees."""
    if alone:
        return look()
    seen: T = broadcast_from_rank_0(look() if dist.get_rank() == 0 else None)
    return seen


@dataclass(frozen=True)
class _Damage:
    """What is wrong with a checkpoint's files."""

    words: str
    sure: bool = True
    """Whether it was seen in what the disk holds; an error of the disk's own may pass some day."""


def _damage(folder: Path, *, alone: bool) -> _Damage | None:
    """What is wrong with a checkpoint's files, or nothing; the same on all ranks.

    Damage is a digest that differs, a file that the first rank does not find, JSON that is
    malformed, and an input/output error that stays: the disk's own word for it.

    Raises:
        DiskError: a rank cannot read it, for another reason.
    """
    rank, ranks = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    digests, damage, unread = _of_first(lambda: _digests(folder), alone=alone)
    # The first rank has seen them all: what is gone now has been removed.
    kinds = UNSEEN if rank else TRANSIENT
    try:
        for name, digest in sorted(digests.items())[rank::ranks]:
            if read_patiently(partial(sha256, folder / name), folder, kinds) != digest:
                damage = damage or _Damage(f"{name}: SHA-256 differs from {DIGESTS}")
    except OSError as error:
        damage, unread = _of_error(error, folder, missing=not rank)
    if not alone:
        raise_first(unread)
        found = [one for one in all_gather_object(damage) if one is not None]
        # Of several, what is sure.
        return min(found, key=lambda one: not one.sure, default=None)
    if unread is not None:
        raise unread
    return damage


def _of_error(
    error: OSError | UserError, folder: Path, *, missing: bool
) -> tuple[_Damage | None, DiskError | None]:
    """What an error says of a checkpoint: that it is damaged, or that it cannot be read.

    Args:
        error: of reading it.
        folder: the checkpoint.
        missing: whether a file that is not there is missing, and not only unseen.
    """
    found = system_error(error)
    if found is None:
        return _Damage(str(error)), None
    if found.errno == errno.EIO or (found.errno == errno.ENOENT and missing):
        sure = found.errno == errno.ENOENT
        return _Damage(f"{found.filename}: {found.strerror}", sure), None
    return None, _cannot_read(folder, error)


def _digests(folder: Path) -> tuple[dict[str, str], _Damage | None, DiskError | None]:
    """The digests of a checkpoint's files, all of which are there; or why there are none."""
    try:
        digests = read_patiently(
            partial(read_json, folder / DIGESTS, "its digests"), folder, TRANSIENT
        )
        if not isinstance(digests, dict) or INDEX not in digests:
            raise UserError(f"{DIGESTS} does not name {INDEX}")
        for name, digest in digests.items():
            if not isinstance(digest, str) or Path(name).name != name or "\0" in name:
                raise UserError(f"{DIGESTS}: {name!r}: {digest!r} is no digest of a file")
            read_patiently((folder / name).stat, folder, TRANSIENT)
    except (OSError, UserError) as error:
        return {}, *_of_error(error, folder, missing=True)
    return digests, None, None


def read_patiently(action: Callable[[], T], folder: Path, kinds: frozenset[int] = UNSEEN) -> T:
    """Read what is in a checkpoint; what cannot be read, or is not seen yet, is tried again."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return keep_trying(action, Patience(READ_S), f"{folder}: rank {rank}: reading", folder, kinds)


def _cannot_read(folder: Path, error: BaseException) -> DiskError:
    rank = dist.get_rank() if dist.is_initialized() else 0
    tried = f", tried for {READ_S:g} s" if may_pass(error, UNSEEN) else ""
    return DiskError(
        f"{folder}: rank {rank} cannot read it{tried} ({reason(error, folder)}): mend the disk or "
        "its mount, then go on with --resume"
    )


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


def set_aside(damaged: Sequence[Path]) -> None:
    """Rename checkpoints that were passed over, to be neither counted nor looked at again.

    For the start that holds the run's fence: another one may have written them anew.
    """
    for folder in damaged:
        aside = folder.with_name(folder.name + ".damaged")
        if folder.exists():  # not done by an earlier try
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def restore(
    run: Path,
    model: nn.Module,
    optimizer: CombinedOptimizer,
    global_batch: int,
    passed_over: list[Path] | None = None,
) -> dict[str, Any]:
    """Load the newest whole checkpoint into ``model`` and ``optimizer``, under any plan.

    Args:
        run: the run's folder.
        model: sharded.
        optimizer: of ``build_optimizer``.
        global_batch: examples a step, which must be those of the checkpoint.
        passed_over: takes the later ones, which are damaged.

    Returns:
        Its facts; of step 0 when there is none.

    Raises:
        SharedError: the checkpoint does not fit the model, or all are damaged.
        DiskError: a rank cannot read it.
    """
    found = newest_whole(run, passed_over=passed_over)
    if found is None:
        return {"step": 0}
    step, folder = found

    def load() -> dict[str, Any]:
        facts, files = read_index(folder)
        if facts.get("step") != step or facts.get("global_batch") != global_batch:
            raise UserError(
                f"{folder / INDEX}: step {facts.get('step')!r} of global batches of "
                f"{facts.get('global_batch')!r}, not step {step} of {global_batch}"
            )
        load_into(files, model, optimizer)
        return facts

    return read_together(load, folder, f"{folder}: does not fit the model", CURE)


def read_together(action: Callable[[], T], folder: Path, problem: str, cure: str) -> T:
    """Read on every rank what the first one has chosen; if one cannot, every rank says which.

    Args:
        action: reads; can be done again from the start.
        folder: what is read, a checkpoint.
        problem: how to tell that it does not fit.
        cure: what to do then.

    Raises:
        SharedError: it does not fit.
        DiskError: a rank cannot read it.
    """
    found: list[T] = []
    wrong: SharedError | None = None
    # What the first rank does not see, the one that has looked, is not there.
    kinds = UNSEEN if dist.get_rank() else TRANSIENT
    try:
        found.append(read_patiently(action, folder, kinds))
    except (OSError, UserError) as error:
        wrong = SharedError(f"{problem} ({error}): {cure}")
        of_disk = system_error(error)
        if of_disk is not None and (of_disk.errno != errno.ENOENT or errno.ENOENT in kinds):
            wrong = _cannot_read(folder, error)
    raise_first(wrong)
    return found[0]


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill an unsharded model's tables and towers, on one process, without a process group.

    Raises:
        UserError: the checkpoint does not fit the model.
        DiskError: it cannot be read.
    """
    try:
        _, files = read_index(folder)
        with torch.no_grad():
            for shard in table_shards(model):
                files.read_into(f"tables/{shard.table}/weight", shard.weights, (0, 0), shard.shape)
            load_towers(files, model)
    except (OSError, UserError) as error:
        if system_error(error) is not None:
            raise _cannot_read(folder, error) from error
        raise UserError(f"{folder}: does not fit the model ({error}): {CURE}") from error
