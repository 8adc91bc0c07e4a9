"""Keep one of TorchRec's warnings from the log, where it says what is as it should be."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOT_BY_FACTORY = (
    "The topology was constructed directly",
    "torchrec.distributed.planner.types",
)
"""Warns of every Topology that TorchRec's TopologyFactory did not make. The factory finds out this
machine's hardware, and ours is given. TorchRec 1.6 does not warn."""


@contextmanager
def without_message(beginning: str, logger: str = "") -> Iterator[None]:
    """Drop log records of one message in the block.

    Args:
        beginning: how the message begins.
        logger: name of the logger to which it goes; the root logger if empty.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    target = logging.getLogger(logger)
    target.addFilter(is_other)
    try:
        yield
    finally:
        target.removeFilter(is_other)
