"""HR of each category beside its share of the data."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.run_report.catalogue import NO_CATEGORY, Catalogue
from dat_rec.run_report.html import Content, Html, details, joined, missing, name, note, table
from dat_rec.run_report.parts import bar, block_of, difference, percent, section
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.run_report.sections.ranking import not_evaluated
from dat_rec.runs.figures import figure

SHOWN = 15
"""Number of categories that are shown at once."""
MOST = 500
"""Maximum number of categories that are listed."""
FIGURE = "HR@100"


def categories(runs: Sequence[RunFacts], catalogues: Sequence[Catalogue | UserError]) -> Html:
    """Return the section."""
    scored = [run for run in runs if run.metrics]
    missed = [not_evaluated(run) for run in runs if not run.metrics]
    found = {run.label: block_of(run.metrics, ["by_category"]) or {} for run in scored}
    names = {one for blocks in found.values() for one in blocks}
    if not scored:
        return section("categories", "Categories", *missed)
    if names <= {NO_CATEGORY}:
        return section(
            "categories",
            "Categories",
            missing(
                "The items have no categories; to name them",
                "dat-rec prepare parquet … --items FILE --category COLUMN",
            ),
            *missed,
        )
    shares = _shares(runs, catalogues)
    first = found[scored[0].label]
    tests = {one: _queries(block) for one, block in first.items()}
    order = sorted(names, key=lambda one: (-shares.get(one, 0.0), -tests.get(one, 0), one))[:MOST]
    total = sum(tests.values()) or 1
    largest = max(max(shares.values(), default=0.0), max(tests.values(), default=0) / total) or 1.0
    head: list[Content] = ["category", "training", "test", *_heads(scored)]
    rows = [
        [
            name(one),
            _share(shares.get(one), largest),
            _share(tests.get(one, 0) / total, largest),
            *_figures([found[run.label].get(one) for run in scored]),
        ]
        for one in order
    ]
    said = f"{FIGURE} of all pairs by the item's category, beside its share of the interactions"
    rest = rows[SHOWN:]
    return section(
        "categories",
        "Categories",
        note(
            "Shares are those of the training interactions and of the test queries. A category "
            "whose HR is low for its share of the data is one that the model neglects."
        ),
        table(said, head, rows[:SHOWN]),
        details(f"{len(rest):,} more categories", table(said, head, rest)) if rest else None,
        *missed,
    )


def _heads(runs: Sequence[RunFacts]) -> list[Content]:
    if len(runs) == 1:
        return [FIGURE, "MRR"]
    heads: list[Content] = []
    for place, run in enumerate(runs):
        heads += [joined([FIGURE, " ", name(run.label)]), *(["difference"] if place else [])]
    return heads


def _figures(blocks: Sequence[dict[str, Any] | None]) -> list[Content]:
    values = [(block or {}).get(FIGURE) for block in blocks]
    cells: list[Content] = [joined([figure(values[0], ".4f"), bar(values[0])])]
    if len(blocks) == 1:
        return [*cells, figure((blocks[0] or {}).get("MRR"), ".4f")]
    for value in values[1:]:
        both = joined([figure(value, ".4f"), bar(value)])
        cells += [both, difference(value, values[0], ".4f")]
    return cells


def _share(share: float | None, largest: float) -> Html:
    return joined([percent(share), bar(None if share is None else share / largest)])


def _queries(block: dict[str, Any]) -> int:
    return int(block.get("queries") or 0)


def _shares(
    runs: Sequence[RunFacts], catalogues: Sequence[Catalogue | UserError]
) -> dict[str, float]:
    """Return each category's share of the training interactions; none where no dataset tells."""
    for run, catalogue in zip(runs, catalogues, strict=True):
        if isinstance(catalogue, Catalogue):
            names, counts = catalogue.categories.tolist(), catalogue.train_count.tolist()
        else:
            try:
                dataset = Dataset.open(run.config.data)
                items = dataset.table("items", ["category_name", "train_count"])
            except UserError:
                continue
            names = items["category_name"].fill_null(NO_CATEGORY).to_pylist()
            counts = items["train_count"].to_pylist()
        sums: Counter[str] = Counter()
        for one, count in zip(names, counts, strict=True):
            sums[one] += count
        total = sum(sums.values()) or 1
        return {one: count / total for one, count in sums.items()}
    return {}
