"""Score calibration: how often an item of a score is the one that was taken."""

import shlex
from collections.abc import Sequence

import numpy as np

from dat_rec.errors import UserError
from dat_rec.run_report.calibration import FEWEST, Calibration, calibration
from dat_rec.run_report.catalogue import Catalogue
from dat_rec.run_report.charts import Line, curves
from dat_rec.run_report.html import Content, Html, details, missing, name, note, table
from dat_rec.run_report.parts import chart, grid, legend, of_run, section
from dat_rec.run_report.run_facts import RunFacts

OBSERVED, PREDICTED = 0, 1
"""Colours."""


def scores(runs: Sequence[RunFacts], catalogues: Sequence[Catalogue | UserError]) -> Html:
    """Return the section."""
    several = len(runs) > 1
    parts = [
        of_run(run, *_of_run(run, catalogue), several=several)
        for run, catalogue in zip(runs, catalogues, strict=True)
    ]
    return section(
        "scores",
        "Score calibration",
        note(
            "How often a test user took an item of a given score: the chance that a query's item "
            "is one given item, of all trained ones. It must rise with the score. Where the main "
            "loss is a softmax, the model itself gives such a chance; where both curves agree, it "
            "can be taken at its word."
        ),
        grid(parts, "wide"),
    )


def _of_run(run: RunFacts, catalogue: Catalogue | UserError) -> list[Html]:
    if isinstance(catalogue, UserError):
        return [no_vectors(run, catalogue)]
    if catalogue.asked is None:
        return [missing(f"Nobody could be asked: {catalogue.not_asked}")]
    softmax = run.config.loss.main == "softmax"
    temperature = run.temperature if softmax else None
    trained = catalogue.train_count > 0
    found = calibration(catalogue.asked, catalogue.served_NE, trained, temperature)
    if not len(found.score):
        return [missing(f"Too few test interactions: no score has as many as {FEWEST}")]
    users, queries = len(catalogue.asked.query_UD), len(catalogue.asked.user)
    return [
        _chart(found, f"{queries:,} queries of {users:,} users, by {catalogue.of}"),
        _table(found),
    ]


def no_vectors(run: RunFacts, error: UserError) -> Html:
    """Return the line that says why a run has no vectors, and what helps."""
    folder = shlex.quote(str(run.folder))
    return missing(
        f"No item vectors of {run.label} ({error}). An export has them",
        f"dat-rec export --run {folder} --out EXPORT",
        f"dat-rec report {folder} --export EXPORT --out REPORT.html",
    )


def _chart(found: Calibration, said: str) -> Html:
    observed, predicted = found.observed, found.predicted
    lines = [Line("observed", _points(found.score, observed), OBSERVED, dotted=True)]
    entries: list[tuple[int | None, Content]] = [(OBSERVED, "observed")]
    if predicted is not None:
        lines.append(Line("predicted", _points(found.score, predicted), PREDICTED))
        entries.append((PREDICTED, "predicted by the softmax"))
    label = (
        f"Chance by score, logarithmic: observed from {observed[0]:.2g} at score "
        f"{found.score[0]:.2f} to {observed[-1]:.2g} at {found.score[-1]:.2f}"
    )
    drawn = curves(label, lines, log_y=True)
    return chart("chance by score (logarithmic)", drawn, legend(entries), note(said))


def _points(xs: np.ndarray, ys: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _table(found: Calibration) -> Html:
    predicted = found.predicted
    head = [
        "score",
        "pairs",
        "taken",
        "observed",
        *(["predicted"] if predicted is not None else []),
    ]
    rows = [
        [
            f"{found.score[place]:.3f}",
            f"{found.pairs[place]:,}",
            f"{found.hits[place]:,}",
            f"{found.observed[place]:.2e}",
            *([f"{predicted[place]:.2e}"] if predicted is not None else []),
        ]
        for place in range(len(found.score))
    ]
    return details("The figures", table("Chance by score", [name(one) for one in head], rows))
