"""Checks and the report that they make: what the doctor prints, of a machine or of a cluster.

Standard library only, so that it works where nothing else does.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]
VERSIONS, DEVICES, BACKENDS, SPACE, CLUSTER = (
    "versions",
    "devices",
    "backends",
    "space",
    "cluster",
)
"""The report's groups: four of one machine, and one of several ranks."""
MARK = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    group: str
    """One of the five groups."""
    name: str
    level: Level
    found: str
    """What is there."""
    cure: str | None = None
    """A command that mends it, where ``level`` is not ``ok``."""


@dataclass(frozen=True)
class Report:
    """All checks, those of a group one after the other."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is a problem; notes do not count."""
        return not any(self.problems())

    def problems(self) -> Iterator[Check]:
        """Return the checks that are problems, in order."""
        return (check for check in self.checks if check.level == "problem")

    def text(self) -> str:
        """Return the report for a terminal."""
        lines: list[str] = []
        group = None
        width = max(len(check.name) for check in self.checks)
        for check in self.checks:
            if check.group != group:
                group = check.group
                lines.append(group)
            lines.append(f"  {MARK[check.level]}  {check.name:<{width}}  {check.found}")
            if check.cure:
                lines.append(f"           {'':<{width}}  cure: {check.cure}")
        problems = len(list(self.problems()))
        lines.append("all is well" if not problems else f"problems: {problems}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}
