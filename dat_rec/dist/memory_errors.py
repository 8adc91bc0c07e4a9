"""Turn the many errors of too little memory into one ``UserError`` that names the cure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dat_rec.dist.communication_errors import is_communication_error
from dat_rec.errors import UserError

OUT_OF_MEMORY = re.compile(
    r"allocate memory|can't start new thread|Resource temporarily unavailable"
)
"""Words of RuntimeErrors that come from too little memory."""


class OutOfMemoryError(UserError):
    """This rank ran out of memory."""


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Raise ``OutOfMemoryError`` in place of any error of too little memory in the block.

    Raises:
        OutOfMemoryError: with the options that need less memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_communication_error(error):
            raise
        text = str(error)
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if known or OUT_OF_MEMORY.search(text):
            reason = (text.splitlines() or ["no memory left"])[0][:200]
            raise OutOfMemoryError(
                f"out of memory ({reason}): lower --batch-size or --model.embedding-dim, or use "
                "more ranks"
            ) from error
        raise
