"""The table of Delta or Iceberg that a log was read from, and the version that was read whole."""

from dataclasses import dataclass
from typing import Literal

from dat_rec.files import STRICT


@dataclass(frozen=True)
class LogTable:
    """One version of a table."""

    kind: Literal["Delta", "Iceberg"]
    id: str
    """What the table itself calls itself: stays the same wherever it lies."""
    version: int
    """Version of a Delta table, id of an Iceberg table's snapshot."""

    __pydantic_config__ = STRICT
