"""Whether all ranks see the same run folder, and every host can write in it."""

import os
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0
from dat_rec.preflight.rank_facts import RankFacts
from dat_rec.preflight.report import CLUSTER, Check

PREFIX = ".preflight-"
"""Beginning of the names of the files that are tried; a run's folder may hold them."""
SEEN_S = 2.0
"""Maximum number of seconds until a file that one host wrote is seen by the others."""


@dataclass(frozen=True)
class SharedFolder:
    """A folder that all ranks have tried, and what stands in the way."""

    folder: str
    problem: str
    """Words of the lowest rank with a problem; empty if there is none."""
    rank: int
    """That rank, or -1."""


def try_folder(out: Path, writers: Sequence[int]) -> SharedFolder:
    """Let every host write a file, and every rank look for it. Collective: all ranks call it.

    The folder is rank 0's ``out``, or the nearest that exists above it. The files are removed.

    Args:
        out: the run's folder.
        writers: one rank of each host, which writes for it.

    Returns:
        The same on all ranks.
    """
    rank = dist.get_rank()
    chosen: list[Any] = [None, None]
    if rank == 0:
        chosen = [str(_nearest(out.resolve())), PREFIX + uuid.uuid4().hex]
    chosen = broadcast_from_rank_0(chosen)
    folder, token = Path(chosen[0]), str(chosen[1])
    files = {writer: folder / f"{token}-{writer}" for writer in sorted({0, *writers})}
    try:
        # Nobody looks before all have written.
        problems = all_gather_object(_write(files[rank], token) if rank in files else "")
        if not any(problems):
            looked = files.items() if rank == 0 else [(0, files[0])]
            found = [_read(path, token, writer) for writer, path in looked if writer != rank]
            # Nobody removes before all have looked.
            problems = all_gather_object(next((text for text in found if text), ""))
    finally:
        if rank in files:
            with suppress(OSError):
                files[rank].unlink(missing_ok=True)
    first = next(((text, number) for number, text in enumerate(problems) if text), ("", -1))
    return SharedFolder(str(folder), *first)


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
    """Return what exists there or above; one that is no folder, or may not be read, fails later."""
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


def check_folder(shared: SharedFolder | None, facts: Sequence[RankFacts]) -> Iterable[Check]:
    """Judge what was tried.

    Args:
        shared: None if no folder was tried.
        facts: of every rank.
    """
    if shared is None:
        yield Check(CLUSTER, "folder", "note", "not tried", "pass --out RUN")
        return
    if shared.problem:
        found = f"rank {shared.rank} ({facts[shared.rank].host}) {shared.problem}"
        cure = "mount the same folder at this path on every host, with the right to write"
        yield Check(CLUSTER, "folder", "problem", found, cure)
    else:
        yield Check(CLUSTER, "folder", "ok", f"{shared.folder}: shared, and every host can write")
