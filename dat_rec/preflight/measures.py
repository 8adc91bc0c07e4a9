"""What ranks find out together: a shared folder, each other's clocks, the network's bandwidth.

Every function here is a collective: all ranks call it, at the same point.
"""

import os
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0
from dat_rec.dist.rank_context import RankContext

PREFIX = ".preflight-"
"""Of the files by which ranks look whether they see the same folder."""
SEEN_S = 2.0
"""In which a file that one host wrote must be seen by the others."""
ROUND_TRIPS = 5
BUFFER_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}
REPEATS = 5
BUDGET_S = 0.8
"""For the repeats of one kind of message; a slow network gets fewer of them."""
MODULUS = 1021


@dataclass(frozen=True)
class SharedFolder:
    """A folder that all ranks have tried, or what stands in the way."""

    folder: str
    problem: str
    """Of the lowest rank that has one; nothing if all is well."""
    rank: int
    """That rank."""


def check_shared(out: Path, speakers: Sequence[int]) -> SharedFolder:
    """Whether all ranks see the same folder, and every host can write in it.

    The folder is the first rank's ``out``, or the nearest that exists above it. What is written is
    removed again.

    Args:
        out: the run's folder.
        speakers: one rank of each host, which writes for it.

    Returns:
        The same on all ranks.
    """
    rank = dist.get_rank()
    chosen: list[Any] = [None, None]
    if rank == 0:
        chosen = [str(_nearest(out.resolve())), PREFIX + uuid.uuid4().hex]
    chosen = broadcast_from_rank_0(chosen)
    folder, token = Path(chosen[0]), str(chosen[1])
    files = {speaker: folder / f"{token}-{speaker}" for speaker in sorted({0, *speakers})}
    try:
        problems = [_write(files[rank], token) if rank in files else ""]
        # Nobody looks before all have written.
        problems = all_gather_object(problems[0])
        if not any(problems):
            looked = files.items() if rank == 0 else [(0, files[0])]
            found = [_read(path, token, writer) for writer, path in looked if writer != rank]
            # Nobody removes before all have looked.
            problems = all_gather_object(next((text for text in found if text), ""))
    finally:
        if rank in files:
            with suppress(OSError):
                files[rank].unlink(missing_ok=True)
    told = ((text, number) for number, text in enumerate(problems) if text)
    return SharedFolder(str(folder), *next(told, ("", -1)))


def _write(path: Path, token: str) -> str:
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"cannot write in {path.parent} ({error.strerror})"
    return ""


def _nearest(out: Path) -> Path:
    """What exists there or above; what may not be looked into, or is no folder, fails later."""
    for path in (out, *out.parents):
        try:
            if path.exists():
                return path
        except OSError:
            return path
    return out


def _read(path: Path, token: str, writer: int) -> str:
    deadline = time.monotonic() + SEEN_S
    while True:
        try:
            if path.read_text("ascii") == token:
                return ""
            reason = "it holds something else"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if time.monotonic() > deadline:
            return f"does not see the file that rank {writer} wrote in {path.parent} ({reason})"
        time.sleep(0.05)


def clock_offsets(speakers: Sequence[int], group: dist.ProcessGroup) -> dict[int, float]:
    """By how many seconds the clock of each of those ranks is ahead of the first rank's.

    From the shortest of some round trips, so that half of it bounds the error. Known to rank 0
    alone; the others get nothing.
    """
    rank = dist.get_rank()
    offsets: dict[int, float] = {}
    for speaker in speakers:
        if speaker == 0 or rank not in (0, speaker):
            continue
        trips = []
        for _ in range(ROUND_TRIPS):
            told = torch.zeros((), dtype=torch.float64)
            if rank == 0:
                begin = time.time()
                dist.send(told, speaker, group=group)
                dist.recv(told, speaker, group=group)
                end = time.time()
                trips.append((end - begin, told.item() - (begin + end) / 2))
            else:
                dist.recv(told, 0, group=group)
                told.fill_(time.time())
                dist.send(told, 0, group=group)
        if trips:
            offsets[speaker] = min(trips)[1]
    return offsets


@dataclass(frozen=True)
class Bandwidth:
    """Of one kind of message."""

    bytes_per_s: float
    """That each rank sends, when all do."""
    right: bool
    """Whether what arrived is what was sent, on this rank."""


def bandwidths(context: RankContext) -> dict[str, Bandwidth]:
    """Of all-reduce and all-to-all over the backend that trains, by name.

    Of a ring's all-reduce each rank sends 2 (n - 1) / n of the buffer, of an all-to-all
    (n - 1) / n. Whole numbers below 2^24 are exact in float32, in whatever order they are added.
    """
    ranks, rank = context.world_size, context.rank
    numbers = BUFFER_BYTES[context.device.type] // 4 // ranks * ranks
    base = torch.arange(numbers, device=context.device, dtype=torch.float32) % MODULUS
    sent = base + rank
    part = torch.arange(ranks, device=context.device).repeat_interleave(numbers // ranks)
    buffer = torch.empty_like(sent)

    def all_reduce() -> None:
        dist.all_reduce(buffer)

    def all_to_all() -> None:
        dist.all_to_all_single(buffer, sent)

    # From rank q came its part for this rank: the values of place ``rank``, and q.
    own = base.view(ranks, -1)[rank].repeat(ranks)
    expected = {
        "all-reduce": base * ranks + ranks * (ranks - 1) / 2,
        "all-to-all": own + part,
    }
    share = {"all-reduce": 2 * (ranks - 1) / ranks, "all-to-all": (ranks - 1) / ranks}
    found = {}
    for name, message in (("all-reduce", all_reduce), ("all-to-all", all_to_all)):
        buffer.copy_(sent)
        first_s = _seconds(message, context)
        right = torch.equal(buffer, expected[name])
        repeats: list[Any] = [max(1, min(REPEATS, int(BUDGET_S / first_s)))]
        dist.broadcast_object_list(repeats)
        seconds = []
        for _ in range(repeats[0]):
            buffer.copy_(sent)
            seconds.append(_seconds(message, context))
        rate = numbers * 4 * share[name] / statistics.median(seconds)
        found[name] = Bandwidth(rate, right)
    return found


def _seconds(message: Callable[[], None], context: RankContext) -> float:
    dist.barrier()
    begin = time.perf_counter()
    message()
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
    return time.perf_counter() - begin
