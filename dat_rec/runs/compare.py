"""Compare runs: a table of the options in which they differ, and of their losses and metrics.

Standard library only. A run that has not ended, or was not evaluated, has no such figures.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dat_rec.errors import UserError
from dat_rec.option_marks import flatten
from dat_rec.runs.figures import (
    BLOCKS,
    CUTOFFS,
    USER_FIGURES,
    figure,
    losses,
    read_config,
    read_metrics,
    read_summary,
)

NO_OPTIONS = ("out", "resume", "overwrite", "launch", "job")
"""Fields of config.json that do not decide what is computed."""


@dataclass(frozen=True)
class Compared:
    """What one run is made of, and what came of it."""

    run: str
    options: dict[str, Any]
    """Options by name, as in ``model.hidden``; ``world_size``, ``global_batch``, ``row_digest``."""
    training: dict[str, Any] | None
    """What train.json holds; None if training has not ended."""
    metrics: dict[str, Any] | None
    """What ``read_metrics`` returns; None if the run was not evaluated."""


@dataclass(frozen=True)
class Comparison:
    """Several runs, side by side."""

    runs: tuple[Compared, ...]

    def differing(self) -> list[str]:
        """Return the names of the options in which the runs differ, or that a run lacks."""
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
        """Return the comparison as JSON values."""
        return {"differing": self.differing(), "runs": [asdict(one) for one in self.runs]}

    def text(self) -> str:
        """Return a table: a row for each option that differs and each figure, a column a run."""
        differing = self.differing()
        rows = [["", *(one.run for one in self.runs)]]
        rows += [
            [name, *(option_text(one.options, name) for one in self.runs)]
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
        return "\n".join([*lines, *self.remarks()])

    def remarks(self) -> list[str]:
        """Return what does not compare, and which figures a run does not have yet, in lines."""
        lines = []
        ranked = _ranked(self.runs)
        trained_differ = "row_digest" in self.differing()
        if said := _datasets(self.runs, ranked, trained_differ=trained_differ):
            lines.append(said)
        elif len({one.training.get("examples_an_epoch") for one in self.runs if one.training}) > 1:
            lines.append("the runs' examples differ: losses do not compare")
        queries = {one.metrics["all"]["queries"] for one in self.runs if one.metrics}
        tests = {one.metrics.get("tests") for one in self.runs if one.metrics}
        if len(set(ranked)) < 2 and len(tests) > 1:
            lines.append("the runs were evaluated on tests that differ: metrics do not compare")
        elif len(set(ranked)) < 2 and len(queries) > 1:
            lines.append(
                "the runs were asked different samples of the test (dat-rec evaluate --queries): "
                "metrics do not compare"
            )
        for one in self.runs:
            if one.training is None:
                lines.append(f"{one.run}: has not ended: dat-rec status --run {_quoted(one)}")
            if one.metrics is None:
                lines.append(f"{one.run}: not evaluated: dat-rec evaluate --run {_quoted(one)}")
        return lines


def compare(runs: Sequence[Path]) -> Comparison:
    """Read what the runs' folders say of them.

    Raises:
        UserError: fewer than two, or a folder holds no run, or a malformed one.
    """
    if len(runs) < 2:
        raise UserError("compare needs two runs, or more: dat-rec compare RUN RUN")
    return Comparison(tuple(_read(run) for run in runs))


def _read(run: Path) -> Compared:
    options = flatten(read_config(run))
    options = {name: value for name, value in options.items() if name not in NO_OPTIONS}
    return Compared(str(run), options, read_summary(run), read_metrics(run))


def _ranked(runs: Sequence[Compared]) -> list[Any]:
    """Return the digest of the dataset of each run's metrics; of those that were evaluated."""
    return [
        one.metrics.get("matched", one.options).get("row_digest") for one in runs if one.metrics
    ]


def _datasets(runs: Sequence[Compared], ranked: Sequence[Any], *, trained_differ: bool) -> str:
    """Say what does not compare because the runs' datasets differ; empty where they do not."""
    if len(ranked) < 2 or not any("matched" in one.metrics for one in runs if one.metrics):
        return "the datasets differ: losses and metrics do not compare" if trained_differ else ""
    if len(set(ranked)) > 1:
        what = "losses and metrics do" if trained_differ else "metrics do"
        return f"the runs were evaluated on datasets that differ: {what} not compare"
    if not trained_differ:
        return ""
    return (
        "the runs were trained on datasets that differ and evaluated on one: losses do not "
        "compare, metrics do, but for warm and cold, which go by what each run knows"
    )


def _quoted(one: Compared) -> str:
    return shlex.quote(one.run)


def option_text(options: dict[str, Any], name: str) -> str:
    """Return an option's value as text; "-" where a run does not state it."""
    if name not in options:
        return "-"
    value = options[name]
    return value if isinstance(value, str) else json.dumps(value)


def _figures(runs: Sequence[Compared]) -> list[list[str]]:
    """Return a row for each loss, speed and metric; "-" where a run has none."""
    training = [one.training or {} for one in runs]
    metrics = [one.metrics or {} for one in runs]
    validations = [found.get("validation") or {} for found in training]
    users = [found.get("per_user", {}) for found in metrics]
    terms = dict.fromkeys(name for found in training for name in losses(found))
    stop_by = dict.fromkeys(found["metric"] for found in validations if found)
    of_users = [name for name in USER_FIGURES if any(name in found for found in users)]
    return [
        *(_row(f"loss {name}", [losses(f).get(name) for f in training], ".4f") for name in terms),
        _row("samples/s", [found.get("samples_per_s") for found in training], ",.0f"),
        *(row for metric in stop_by for row in _validated(metric, validations)),
        _row("evaluated at step", [found.get("checkpoint") for found in metrics], ","),
        *(
            _row(f"{words} {name}", [found.get(block, {}).get(name) for found in metrics], ".4f")
            for block, words in BLOCKS.items()
            for name in CUTOFFS
        ),
        *(_row(f"users {name}", [found.get(name) for found in users], ".4f") for name in of_users),
    ]


def _validated(metric: str, validations: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return rows with the best value of a metric of the validations, and its step."""
    mine = [found if found.get("metric") == metric else {} for found in validations]
    return [
        _row(f"validation {metric}", [found.get("best") for found in mine], ".4f"),
        _row("  best at step", [found.get("best_step") for found in mine], ","),
    ]


def _row(label: str, values: Sequence[float | None], form: str) -> list[str]:
    return [label, *(figure(value, form) for value in values)]
