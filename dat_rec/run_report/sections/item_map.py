"""Item vectors on a plane, coloured by category; sample items have numbers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dat_rec.errors import UserError
from dat_rec.run_report.catalogue import Catalogue
from dat_rec.run_report.charts import COLOURS, Group, plane
from dat_rec.run_report.html import Content, Html, missing, name, note
from dat_rec.run_report.parts import chart, grid, legend, of_run, percent, section
from dat_rec.run_report.projection import projection
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.run_report.samples import Sample
from dat_rec.run_report.sections.scores import no_vectors

MOST_POINTS = 2000
"""Maximum number of items that are drawn; of more, as many at random."""


def item_map(
    runs: Sequence[RunFacts],
    catalogues: Sequence[Catalogue | UserError],
    samples: Sequence[Sample],
) -> Html:
    """Return the section."""
    several = len(runs) > 1
    shown = _largest([one for one in catalogues if isinstance(one, Catalogue)])
    parts = [
        of_run(
            run,
            no_vectors(run, catalogue)
            if isinstance(catalogue, UserError)
            else _of_run(catalogue, shown, samples),
            several=several,
        )
        for run, catalogue in zip(runs, catalogues, strict=True)
    ]
    return section(
        "map",
        "Item vectors",
        note(
            "The items' unit vectors on the plane of their two principal components (PCA). "
            "Numbers are the sample items of the next section."
            + (" The axes of two runs have nothing in common." if several else "")
        ),
        grid(parts, "wide"),
    )


def _of_run(catalogue: Catalogue, shown: Sequence[str], samples: Sequence[Sample]) -> Html:
    found = projection(catalogue.unit_ND)
    count = len(catalogue.unit_ND)
    drawn = np.arange(count)
    if count > MOST_POINTS:
        drawn = np.sort(np.random.default_rng(0).choice(count, MOST_POINTS, replace=False))
    points = found.points(catalogue.unit_ND[drawn])
    names = catalogue.categories[drawn]
    groups, entries = [], []
    other = ~np.isin(names, np.array(shown, dtype=object))
    if other.any():
        groups.append(Group(points[other].tolist(), None))
    for colour, category in enumerate(shown):
        own = points[names == category]
        if not len(own):
            continue
        groups.append(Group(own.tolist(), colour))
        entries.append((colour, name(category)))
    known: list[tuple[int | None, Content]] = [*entries]
    if other.any():
        known.append((None, "other categories"))
    named = [
        (*found.points(catalogue.unit_ND[row : row + 1])[0].tolist(), str(sample.number))
        for sample in samples
        if (row := sample.row_in(catalogue)) is not None
    ]
    label = f"{len(drawn):,} of {count:,} items as points, coloured by category"
    title = (
        f"{len(drawn):,} of {count:,} items; the plane shows {percent(found.share)} of the variance"
    )
    has_some = catalogue.has_categories
    below: list[Content] = [legend(known, shapes=True)] if has_some else [_no_categories()]
    return chart(title, plane(label, groups, named), *below, note(f"By {catalogue.of}."))


def _no_categories() -> Html:
    return missing(
        "The items have no categories; to name them",
        "dat-rec prepare parquet … --items FILE --category COLUMN",
    )


def _largest(catalogues: Sequence[Catalogue]) -> list[str]:
    """Return the categories with most training interactions: as many as the page has colours."""
    for catalogue in catalogues:
        if catalogue.has_categories:
            sums: Counter[str] = Counter()
            for one, count in zip(
                catalogue.categories.tolist(), catalogue.train_count.tolist(), strict=True
            ):
                sums[one] += count
            return [one for one, _ in sums.most_common(COLOURS)]
    return []
