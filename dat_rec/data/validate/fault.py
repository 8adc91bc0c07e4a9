"""One fault of a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one line."""

    where: str
    """The file, and the row (from 0) where there is one."""
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.cure}"
