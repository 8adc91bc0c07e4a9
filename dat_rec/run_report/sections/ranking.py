"""HR@K and MRR beside the baselines', for each set of queries; figures of users and of lists."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from dat_rec.retrieval.evaluation_text import BLEND, LISTS, MODEL, ROWS, USERS, Row, ahead
from dat_rec.run_report.html import (
    Content,
    Html,
    details,
    element,
    joined,
    missing,
    name,
    note,
    table,
)
from dat_rec.run_report.parts import bar, block_of, head_of, of_run, section, side_by_side, value_of
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.runs.figures import CUTOFFS, figure

SHOWN = "HR@100"
"""The figure that has bars."""


def ranking(runs: Sequence[RunFacts]) -> Html:
    """Return the section."""
    several = len(runs) > 1
    scored = [run for run in runs if run.metrics]
    content: list[Content] = []
    if scored:
        content.append(
            note(
                "Each held-out interaction is a query, whose item is ranked among all items, "
                "exactly. HR@K is the share of queries whose item is among the first K, MRR the "
                "mean of 1/rank. Warm: the model knows user and item; cold: it does not."
            )
        )
    if len(scored) > 1:
        content.append(_side_by_side(scored))
    for run in runs:
        if run.metrics is None:
            content.append(of_run(run, not_evaluated(run), several=several))
        else:
            content.append(of_run(run, *_of_run(run.metrics, several=several), several=several))
    return section("ranking", "Ranking", *content)


def not_evaluated(run: RunFacts) -> Html:
    """Return the line that says how to evaluate a run."""
    command = f"dat-rec evaluate --run {shlex.quote(str(run.folder))}"
    return missing(f"{run.label} was not evaluated", command)


def _side_by_side(runs: Sequence[RunFacts]) -> Html:
    rows: list[Sequence[Content]] = []
    for words, path in _compared():
        values = [value_of(run.metrics, path) for run in runs]
        if any(value is not None for value in values):
            rows.append(side_by_side(words, values, ".4f"))
    return table(
        f"The models' figures, and by how much they differ from those of {runs[0].label}",
        head_of(runs, "figure"),
        rows,
    )


def _compared() -> Iterator[tuple[str, tuple[str, ...]]]:
    for row in ROWS:
        for figure_name in CUTOFFS:
            yield f"{row.words}, {figure_name}", (*row.path, figure_name)
    for figure_name in ("Recall@20", "NDCG@20", "Recall@100", "NDCG@100"):
        yield f"{USERS.words}, {figure_name}", (*USERS.path, figure_name)
    for row in ROWS[:2]:
        yield f"{BLEND}: {row.words}, {SHOWN}", ("blend", *row.path, SHOWN)


def _of_run(metrics: dict[str, Any], *, several: bool) -> Iterator[Html]:
    rankers = ranked(metrics)
    whole = _table("HR@K and MRR", rankers, ROWS, CUTOFFS, "queries")
    yield details("HR@K and MRR beside the baselines'", whole) if several else whole
    if block_of(metrics, USERS.path):
        users = [one for one in block_of(metrics, USERS.path) or {} if "@" in one]
        lists = [one for one in block_of(metrics, LISTS.path) or {} if "@" in one]
        yield details(
            "Means over users, and what the lists show",
            _table("Recall@K and NDCG@K, means over users", rankers, (USERS,), users, "users"),
            _table("Coverage and popularity of the lists", rankers, (LISTS,), lists, "users"),
        )
    lines = [
        f"Model: step {metrics['checkpoint']:,}.",
        *_on(metrics),
        *(
            ["The test has no cold query: training knows all of its users and items."]
            if value_of(metrics, ("cold", "queries")) == 0
            else []
        ),
        *_ahead(metrics),
        *(
            f"{who} is left out: {why}."
            for who, why in (block_of(metrics, ["baselines_left_out"]) or {}).items()
        ),
    ]
    yield element("ul", joined(element("li", line) for line in lines), class_="lines")
    if not metrics.get("baselines"):
        yield missing("No baselines stand beside", "dat-rec evaluate --run RUN")


def ranked(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the blocks of the model and of all that stands beside it, by name."""
    blend = {BLEND: metrics["blend"]} if "blend" in metrics else {}
    return {MODEL: metrics, **blend, **(block_of(metrics, ["baselines"]) or {})}


def _on(metrics: dict[str, Any]) -> Iterator[str]:
    if matched := block_of(metrics, ["matched"]):
        yield f"On another dataset than the training's, matched by id: {matched['data']}."
    if metrics.get("asked") != metrics.get("tests"):
        yield (
            f"{metrics['asked']:,} of {metrics['tests']:,} test interactions were asked "
            "(--queries)."
        )


def _ahead(metrics: dict[str, Any]) -> list[str]:
    # A file of an older release lacks some of the blocks.
    return ahead(metrics) if "per_user" in metrics and "baselines" in metrics else []


def _table(
    caption: str,
    rankers: dict[str, dict[str, Any]],
    rows: Sequence[Row],
    figures: Sequence[str],
    counted: str,
) -> Html:
    """Return a table with a group of rows for each set of queries, a row for each ranker."""
    head = element(
        "tr", element("th", "ranked by", scope="col"), *_columns("th", figures, scope="col")
    )
    groups = [head_and_rows for row in rows if (head_and_rows := _group(rankers, row, figures))]
    bodies = joined(
        element(
            "tbody",
            element(
                "tr",
                element(
                    "th",
                    words,
                    element("small", f" {number:,} {counted}"),
                    scope="rowgroup",
                    colspan=1 + len(figures),
                    class_="group",
                ),
            ),
            *lines,
        )
        for words, number, lines in groups
    )
    return element(
        "div",
        element("table", element("caption", caption), element("thead", head), bodies),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _columns(tag: str, cells: Sequence[Content], **attributes: Content) -> list[Html]:
    return [element(tag, cell, class_="number", **attributes) for cell in cells]


def _group(
    rankers: dict[str, dict[str, Any]], row: Row, figures: Sequence[str]
) -> tuple[str, int, list[Html]] | None:
    blocks = {
        who: block
        for who, found in rankers.items()
        if (block := block_of(found, row.path)) is not None
    }
    model = blocks.get(MODEL) or {}
    number = int(model.get("queries") or model.get("users") or 0)
    if not number:
        return None
    best = {
        key: max((block.get(key) or 0.0 for block in blocks.values()), default=0.0)
        for key in figures
    }
    lines = []
    for who, block in blocks.items():
        cells: list[Content] = []
        for key in figures:
            value = block.get(key)
            text: Content = figure(value, ",.1f" if key.startswith("ARP") else ".4f")
            ranks = key.startswith(("HR", "MRR", "Recall", "NDCG"))
            if ranks and value is not None and value == best[key] and value > 0:
                text = element("strong", text)
            cells.append(joined([text, bar(value) if key == SHOWN else None]))
        kind = "model" if who == MODEL else None
        lines.append(
            element(
                "tr", element("th", name(who), scope="row"), *_columns("td", cells), class_=kind
            )
        )
    return row.words, number, lines
