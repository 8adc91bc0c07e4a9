"""The nearest items of some sample items, by name."""

from collections.abc import Sequence

from dat_rec.errors import UserError
from dat_rec.run_report.catalogue import Catalogue
from dat_rec.run_report.html import Html, element, joined, missing, name, note
from dat_rec.run_report.parts import grid, section, swatch
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.run_report.samples import Near, Sample, nearest
from dat_rec.run_report.sections.scores import no_vectors


def neighbours(
    runs: Sequence[RunFacts],
    catalogues: Sequence[Catalogue | UserError],
    samples: Sequence[Sample],
) -> Html:
    """Return the section."""
    several = len(runs) > 1
    known = {
        run.label: (run, catalogue)
        for run, catalogue in zip(runs, catalogues, strict=True)
        if isinstance(catalogue, Catalogue)
    }
    lists = {label: _lists(catalogue, samples) for label, (_, catalogue) in known.items()}
    cards = []
    for sample in samples:
        of_runs = []
        title: Html | None = None
        for label, (run, catalogue) in known.items():
            row = sample.row_in(catalogue)
            if row is not None and title is None:
                title = _title(sample, catalogue, row)
            heading = element("h4", swatch(run.colour), name(label)) if several else None
            near = lists[label].get(sample.number)
            shown = missing("This run does not know the item.") if near is None else near
            of_runs.append(element("div", heading, shown))
        cards.append(element("article", title, *of_runs, class_="card"))
    untitled = any(not catalogue.has_titles for _, catalogue in known.values())
    return section(
        "neighbours",
        "Neighbours",
        note(
            "The most frequent item of each of the largest categories, and two rare ones: the "
            "items with the highest cosine. What popularity adds to scores is left out."
        )
        if cards
        else None,
        missing(
            "The items have no titles; to name them",
            "dat-rec prepare parquet … --items FILE --title COLUMN",
        )
        if untitled
        else None,
        grid(cards, "cards"),
        *(
            no_vectors(run, catalogue)
            for run, catalogue in zip(runs, catalogues, strict=True)
            if isinstance(catalogue, UserError)
        ),
    )


def _lists(catalogue: Catalogue, samples: Sequence[Sample]) -> dict[int, Html]:
    rows = {sample.number: sample.row_in(catalogue) for sample in samples}
    there = {number: row for number, row in rows.items() if row is not None}
    found = nearest(catalogue, list(there.values()))
    return {
        number: element("ol", joined(_entry(catalogue, near) for near in nearest_ones))
        for number, nearest_ones in zip(there, found, strict=True)
    }


def _title(sample: Sample, catalogue: Catalogue, row: int) -> Html:
    count = catalogue.train_count[row]
    about = [name(catalogue.categories[row])] if catalogue.has_categories else []
    return joined(
        [
            element(
                "h3",
                element("span", sample.number, class_="numbered"),
                " ",
                name(catalogue.text(row)),
            ),
            note(*(joined([one, " · "]) for one in about), f"{count:,} training interactions"),
        ]
    )


def _entry(catalogue: Catalogue, near: Near) -> Html:
    about = (
        element("small", name(catalogue.categories[near.row])) if catalogue.has_categories else None
    )
    return element(
        "li",
        element("span", f"{near.cosine:.3f}", class_="cosine"),
        " ",
        name(catalogue.text(near.row)),
        " ",
        about,
    )
