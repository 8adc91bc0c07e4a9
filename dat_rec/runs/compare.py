"""Folders of runs in, a table out: the options in which they differ, and what came of each.

Standard library only. A run that has not ended, or was not evaluated, has no such figures.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dat_rec.errors import UserError
from dat_rec.files import read_json
from dat_rec.options import flatten
from dat_rec.runs.figures import BLOCKS, CUTOFFS, read_metrics, read_summary

NO_OPTIONS = ("out", "resume", "overwrite", "launch", "job")
"""What config.json holds beside the options that make a run."""


@dataclass(frozen=True)
class Compared:
    """A run."""

    run: str
    options: dict[str, Any]
    """By name, as in ``model.hidden``; with ``world_size``, ``global_batch`` and ``row_digest``."""
    training: dict[str, Any] | None
    """train.json."""
    metrics: dict[str, Any] | None
    """Of ``read_metrics``."""


@dataclass(frozen=True)
class Comparison:
    """Several runs, side by side."""

    runs: tuple[Compared, ...]

    def differing(self) -> list[str]:
        """Names of the options in which the runs differ; one that a run lacks differs."""
        names = dict.fromkeys(name for one in self.runs for name in one.options)
        return [
            name
            for name in names
            if any(
                one.options.get(name, self) != self.runs[0].options.get(name, self)
                for one in self.runs
            )
        ]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"differing": self.differing(), "runs": [asdict(one) for one in self.runs]}

    def text(self) -> str:
        """For a terminal: a row for each option that differs and each figure, a column a run."""
        differing = self.differing()
        rows = [["", *(one.run for one in self.runs)]]
        rows += [
            [name, *(_option(one.options, name) for one in self.runs)]
            for name in differing
            if name != "row_digest"
        ]
        rows += _figures(self.runs)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [f"{row[0]:<{widths[0]}}"]
                + [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in rows
        ]
        if "row_digest" in differing:
            lines.append("the datasets differ: losses and metrics do not compare")
        for one in self.runs:
            if one.training is None:
                lines.append(f"{one.run}: has not ended: dat-rec status --run {_quoted(one)}")
            if one.metrics is None:
                lines.append(f"{one.run}: not evaluated: dat-rec evaluate --run {_quoted(one)}")
        return "\n".join(lines)


def compare(runs: Sequence[Path]) -> Comparison:
    """Read runs.

    Raises:
        UserError: fewer than two, or a folder holds no run, or a malformed one.
    """
    if len(runs) < 2:
        raise UserError("compare needs two runs, or more: dat-rec compare RUN RUN")
    return Comparison(tuple(_read(run) for run in runs))


def _read(run: Path) -> Compared:
    path = run / "config.json"
    if not path.exists():
        raise UserError(f"{run} is not a run (no config.json): make one with `dat-rec train`")
    config = read_json(path, "the run's configuration")
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the configuration of a run: train anew")
    options = {name: value for name, value in flatten(config).items() if name not in NO_OPTIONS}
    return Compared(str(run), options, read_summary(run), read_metrics(run))


def _quoted(one: Compared) -> str:
    return shlex.quote(one.run)


def _option(options: dict[str, Any], name: str) -> str:
    if name not in options:
        return "-"
    value = options[name]
    return value if isinstance(value, str) else json.dumps(value)


def _figures(runs: Sequence[Compared]) -> list[list[str]]:
    """Rows of what came out: losses, speed, metrics; "-" where a run has none."""
    terms = dict.fromkeys(name for one in runs for name in ((one.training or {}).get("loss") or {}))
    rows = [[f"loss {name}", *(_cell(_loss(one, name), ".4f") for one in runs)] for name in terms]
    rows.append(
        ["samples/s", *(_cell((one.training or {}).get("samples_per_s"), ",.0f") for one in runs)]
    )
    rows.append(
        ["evaluated at step", *(_cell((one.metrics or {}).get("checkpoint"), ",") for one in runs)]
    )
    for block, words in BLOCKS.items():
        rows += [
            [
                f"{words} {name}",
                *(_cell((one.metrics or {}).get(block, {}).get(name), ".4f") for one in runs),
            ]
            for name in CUTOFFS
        ]
    return rows


def _loss(one: Compared, name: str) -> float | None:
    loss: float | None = ((one.training or {}).get("loss") or {}).get(name)
    return loss


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
