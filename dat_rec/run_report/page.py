"""Runs and their catalogues in, the whole page out: nothing in it is loaded from elsewhere."""

from collections.abc import Sequence
from datetime import UTC, datetime

from dat_rec.errors import UserError
from dat_rec.run_report.catalogue import Catalogue
from dat_rec.run_report.html import Html, element, joined
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.run_report.samples import samples
from dat_rec.run_report.sections.categories import categories
from dat_rec.run_report.sections.item_map import item_map
from dat_rec.run_report.sections.learning import learning
from dat_rec.run_report.sections.neighbours import neighbours
from dat_rec.run_report.sections.options import options
from dat_rec.run_report.sections.overview import overview
from dat_rec.run_report.sections.plan import plan
from dat_rec.run_report.sections.ranking import ranking
from dat_rec.run_report.sections.scores import scores
from dat_rec.run_report.sections.time import time
from dat_rec.run_report.style import COLOURS, STYLE
from dat_rec.versions import about

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load and run for the page: nothing but its own style."""
CONTENTS = {
    "overview": "Overview",
    "options": "Options",
    "learning": "Learning",
    "ranking": "Ranking",
    "categories": "Categories",
    "scores": "Score calibration",
    "map": "Item vectors",
    "neighbours": "Neighbours",
    "plan": "Plan and memory",
    "time": "Time",
}


def page(runs: Sequence[RunFacts], catalogues: Sequence[Catalogue | UserError]) -> str:
    """Return the page.

    Args:
        runs: one, or several, which stand side by side.
        catalogues: of each run, or why there is none.
    """
    known = [one for one in catalogues if isinstance(one, Catalogue)]
    chosen = samples(known[0]) if known else []
    title = f"dat_rec: {', '.join(run.label for run in runs)}"
    body = [
        overview(runs),
        options(runs),
        learning(runs),
        ranking(runs),
        categories(runs, catalogues),
        scores(runs, catalogues),
        item_map(runs, catalogues, chosen),
        neighbours(runs, catalogues, chosen),
        plan(runs),
        time(runs),
    ]
    links = joined(
        element("li", element("a", words, href=f"#{key}")) for key, words in CONTENTS.items()
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = element(
        "head",
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("title", title),
        element("style", Html(STYLE), Html(COLOURS)),
    )
    whole = element(
        "html",
        head,
        element(
            "body",
            element(
                "header",
                element("h1", title),
                element("nav", element("ul", links), aria_label="Contents"),
            ),
            element("main", *body),
            element("footer", f"Made by dat-rec report, {made}; {about()}"),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{whole}\n"
