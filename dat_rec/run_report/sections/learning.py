"""The curves of training and validation, of all runs in one chart each."""

import shlex
from collections.abc import Sequence
from typing import Any

from dat_rec.run_report.charts import Line, curves
from dat_rec.run_report.curves import MOST_POINTS, Curve
from dat_rec.run_report.html import Html, element, missing, name, note
from dat_rec.run_report.parts import chart, difference, grid, legend, section
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.runs.figures import figure

TERMS = {
    "loss/main": "main loss",
    "loss/mimic_user": "mimic loss of users",
    "loss/mimic_item": "mimic loss of items",
    "loss/alignment": "category alignment loss",
    "lr_factor": "factor on the learning rates",
    "temperature": "temperature, learned",
}
VALIDATED = (
    ("all", "HR@100"),
    ("new_pairs", "HR@100"),
    ("new_pairs", "MRR"),
    ("cold", "HR@100"),
    ("per_user", "NDCG@20"),
)


def learning(runs: Sequence[RunFacts]) -> Html:
    """Return the section."""
    losses = [chart_of(title, key, runs) for key, title in TERMS.items()]
    drawn = [one for one in losses if one is not None]
    return section(
        "learning",
        "Learning",
        note(
            "By step. Losses are those of the step, mean over the ranks; a curve of more than "
            f"{MOST_POINTS} points shows means of neighbours."
        ),
        grid(drawn),
        *(_no_curves(run) for run in runs if not run.curves),
        element("h3", "Validation"),
        *_validation(runs),
    )


def chart_of(title: str, key: str, runs: Sequence[RunFacts], form: str = ".4f") -> Html | None:
    """Return a chart of the runs' curves of one name; None where no run has it."""
    return chart_of_curves(title, [run.curves.get(key, ()) for run in runs], runs, form)


def chart_of_curves(
    title: str,
    of_each: Sequence[Curve],
    runs: Sequence[RunFacts],
    form: str = ".4f",
    marks: Sequence[float] = (),
    *,
    dotted: bool = False,
) -> Html | None:
    """Return a chart of a curve of each run, below it their last values; None without a point."""
    pairs = [(run, curve) for run, curve in zip(runs, of_each, strict=True) if curve]
    if not pairs:
        return None
    first = pairs[0][1][-1][1]
    entries, said = [], []
    for run, curve in pairs:
        step, value = curve[-1]
        words = f"{format(value, form)} at step {step:,.0f}"
        if run is not pairs[0][0]:
            words += f" ({difference(value, first, form.lstrip(','))})"
        entries.append((run.colour, element("span", name(run.label), " ", words)))
        start = format(curve[0][1], form)
        said.append(f"{run.label} from {start} at step {curve[0][0]:,.0f} to {words}")
    lines = [Line(run.label, curve, run.colour, dotted) for run, curve in pairs]
    drawn = curves(f"{title}: {'; '.join(said)}", lines, marks=marks)
    return chart(title, drawn, legend(entries))


def _no_curves(run: RunFacts) -> Html:
    if "tensorboard" not in run.options.get("log_to", ["tensorboard"]):
        return missing(
            f"{run.label} has written its curves elsewhere (--log-to); for curves here",
            "dat-rec train … --log-to tensorboard",
        )
    return missing(f"{run.label} has no curves yet", run.status.command or "dat-rec train …")


def _validation(runs: Sequence[RunFacts]) -> list[Html]:
    without = [run for run in runs if not run.validations]
    shown: list[Html] = []
    stop_by = dict.fromkeys(
        tuple(str(run.validations[-1]["metric"]).split("/")) for run in runs if run.validations
    )
    for block, metric in dict.fromkeys([*stop_by, *VALIDATED]):
        of_each = [_points(run.validations, block, metric) for run in runs]
        marks = [
            float(run.validations[-1]["best_step"])
            for run in runs
            if run.validations and run.validations[-1]["metric"] == f"{block}/{metric}"
        ]
        title = f"{block}/{metric}" + (", the best marked" if marks else "")
        drawn = chart_of_curves(title, of_each, runs, marks=marks, dotted=True)
        if drawn is not None:
            shown.append(drawn)
    best = [
        f"{run.label}: best {run.validations[-1]['metric']} "
        f"{figure(run.validations[-1]['best'], '.4f')} at step "
        f"{run.validations[-1]['best_step']:,}."
        for run in runs
        if run.validations
    ]
    return [
        *([grid(shown), note(" ".join(best))] if shown else []),
        *(_not_validated(run) for run in without),
    ]


def _points(records: Sequence[dict[str, Any]], block: str, metric: str) -> Curve:
    found = [(one["step"], (one.get(block) or {}).get(metric)) for one in records]
    return [(float(step), float(value)) for step, value in found if value is not None]


def _not_validated(run: RunFacts) -> Html:
    schema = run.schema
    if schema is not None and not schema.validation:
        return missing(
            f"{run.label} was not validated, and its dataset holds no validation span; with one",
            "dat-rec prepare … --validation-share .1",
            "dat-rec train … --validate-every 500",
        )
    return missing(
        f"{run.label} was not validated; a run that is",
        f"dat-rec train --data {shlex.quote(str(run.config.data))} … --validate-every 500",
    )
