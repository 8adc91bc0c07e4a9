"""How each run stands, and its main figures; of several runs their differences."""

from collections.abc import Sequence

from dat_rec.run_report.html import Content, Html, code, element, joined, name, note, table
from dat_rec.run_report.parts import grid, head_of, section, side_by_side, swatch, value_of
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.runs.compare import compare
from dat_rec.runs.figures import figure

FIGURES = (
    ("all pairs HR@100", ("all", "HR@100")),
    ("new pairs HR@100", ("new_pairs", "HR@100")),
    ("all pairs MRR", ("all", "MRR")),
    ("warm HR@100", ("warm", "HR@100")),
    ("cold HR@100", ("cold", "HR@100")),
    ("users Recall@20", ("per_user", "Recall@20")),
    ("users NDCG@20", ("per_user", "NDCG@20")),
)
"""Of metrics.json."""


def overview(runs: Sequence[RunFacts]) -> Html:
    """Return the section."""
    several = len(runs) > 1
    return section(
        "overview",
        "Overview",
        grid([_card(run) for run in runs], "cards"),
        *([_differences(runs), *map(note, remarks(runs))] if several else []),
    )


def remarks(runs: Sequence[RunFacts]) -> list[str]:
    """Return what of several runs does not compare."""
    return compare([run.folder for run in runs]).remarks() if len(runs) > 1 else []


def _card(run: RunFacts) -> Html:
    status, schema = run.status, run.schema
    lines = status.text().splitlines()[1:]
    facts: list[tuple[str, Content]] = [
        ("state", status.state),
        ("steps", f"{status.step:,} of {status.steps:,}"),
        ("preset", run.config.preset),
        ("main loss", figure((run.training.get("loss") or {}).get("main"), ".4f")),
        ("samples/s", figure(run.training.get("samples_per_s"), ",.0f")),
        *((label, figure(value_of(run.metrics, path), ".4f")) for label, path in FIGURES[:2]),
    ]
    if schema is not None:
        facts += [
            ("users", f"{schema.users:,}"),
            ("items", f"{schema.items:,}"),
            ("examples", f"{schema.examples:,}"),
            ("test", f"{schema.tests:,}"),
        ]
    return element(
        "article",
        element("h3", swatch(run.colour), name(run.label)),
        element(
            "dl",
            joined(
                element("div", element("dt", label), element("dd", value)) for label, value in facts
            ),
        ),
        element("p", code(str(run.folder.resolve())), class_="path"),
        *(element("p", line, class_="state") for line in lines),
        class_="card",
    )


def _differences(runs: Sequence[RunFacts]) -> Html:
    training = [run.training for run in runs]
    losses = [run.get("loss") or {} for run in training]
    found: list[tuple[str, list[float | None], str]] = [
        ("main loss", [loss.get("main") for loss in losses], ".4f"),
        ("samples/s", [one.get("samples_per_s") for one in training], ",.0f"),
        ("seconds of training", [one.get("seconds") for one in training], ",.0f"),
        *((label, [value_of(run.metrics, path) for run in runs], ".4f") for label, path in FIGURES),
    ]
    rows = [
        side_by_side(label, values, form)
        for label, values, form in found
        if any(value is not None for value in values)
    ]
    return table(
        f"Main figures, and by how much they differ from those of {runs[0].label}",
        head_of(runs, "figure"),
        rows,
    )
