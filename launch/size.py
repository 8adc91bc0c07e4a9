"""The size of a job: hosts, and ranks on each (``-j``)."""

import re
from dataclasses import dataclass

from launch.refuse import refuse

PATTERN = re.compile(r"(?:(?:(\d+):)?(\d+)x)?(\d+)")


@dataclass(frozen=True)
class Size:
    """Hosts of a job and ranks on each host."""

    minimum: int
    """Hosts with which the job begins, and goes on; below ``maximum`` the job is elastic."""
    maximum: int
    """Hosts that the job takes at most."""
    workers: int
    """Ranks on each host."""

    @property
    def nnodes(self) -> str:
        """The value of torchrun's ``--nnodes``: ``2``, or ``1:2`` for an elastic job."""
        return str(self.maximum) if not self.elastic else f"{self.minimum}:{self.maximum}"

    @property
    def elastic(self) -> bool:
        """Whether the number of hosts may change while the job runs."""
        return self.minimum < self.maximum


ONE = Size(1, 1, 1)


def parse_size(j: str) -> Size:
    """Read ``-j``: ``8`` (ranks on one host), ``2x8`` (hosts × ranks) or ``1:2x8`` (elastic)."""
    found = PATTERN.fullmatch(j)
    if found is None:
        refuse(f"-j {j}: hosts x workers on each, as in 2x8, or 1:2x8 for one or two hosts")
    maximum = int(found[2] or 1)
    size = Size(int(found[1] or maximum), maximum, int(found[3]))
    if not 1 <= size.minimum <= size.maximum or size.workers < 1:
        refuse(f"-j {j}: at least one host and one worker, and the minimum number of hosts first")
    return size
