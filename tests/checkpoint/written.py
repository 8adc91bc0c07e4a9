"""Write checkpoints of a small model, for the tests of what becomes of them on a disk."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from tests.distributed.exactness import Case
from tests.distributed.moves import build

AWAY = (errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH)
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, *AWAY)
"""Errors of a disk that may pass."""


def write(dataset: Dataset, run: Path, keep: int, keep_best: int, saves: list[Any]) -> None:
    """Save at the given (step, loss) or (step, loss, value); a path is a file to damage."""
    with process_group(60) as context:
        model, optimizer = build(dataset, Case("two-tower"), context)
        writer = CheckpointWriter(run, context, keep, keep_best)
        for save in saves:
            if isinstance(save, Path):
                writer.finish()
                save.write_bytes(b"rubbish")
            else:
                facts = {"loss": save[1]}
                if len(save) > 2:
                    facts["validation"] = {"value": save[2]}
                writer.save(save[0], model, optimizer, facts)
        writer.finish()
        writer.close()


def steps(run: Path) -> list[int]:
    return [step for step, _ in checkpoints(run)]


Save = Callable[..., None]


@contextmanager
def saving(dataset: Dataset, run: Path, **options: Any) -> Iterator[tuple[CheckpointWriter, Save]]:
    """A writer, and how to save a step by it."""
    memory = options.pop("memory_bytes", 2**60)
    with process_group(60) as context:
        model, optimizer = build(dataset, Case("two-tower"), context)
        context = replace(context, memory_bytes=memory)
        writer = CheckpointWriter(run, context, **{"keep": 1} | options)

        def save(step: int, **more: Any) -> None:
            writer.save(step, model, optimizer, {"loss": 1.0}, **more)

        yield writer, save
        writer.close()
