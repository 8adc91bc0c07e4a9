"""Throughput, and where the time went."""

import shlex
from collections.abc import Sequence

from dat_rec.run_report.html import Html, element, joined, missing, name, note, table
from dat_rec.run_report.parts import grid, legend, percent, section, swatch
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.run_report.sections.learning import chart_of
from dat_rec.runs.figures import figure

PARTS = {
    "data_wait": "waiting for data",
    "lookup": "lookups and the exchange of their output",
    "checkpoint": "waiting for checkpoints",
    "validation": "validation",
}
REST = "the rest: towers, losses, backward, updates"


def time(runs: Sequence[RunFacts]) -> Html:
    """Return the section."""
    ended = [run for run in runs if run.training.get("seconds")]
    shown = [
        chart_of("samples/s", "samples_per_s", runs, ",.0f"),
        *(
            chart_of(f"share of time: {words}", f"share/{key}", runs)
            for key, words in PARTS.items()
        ),
    ]
    drawn = [one for one in shown if one is not None]
    return section(
        "time",
        "Throughput and time",
        *([_table(ended), *(_bar(run) for run in ended), _legend()] if ended else []),
        grid(drawn),
        *(
            missing(
                f"{run.label} has not ended, and has no sums",
                f"dat-rec status --run {shlex.quote(str(run.folder))}",
            )
            for run in runs
            if run not in ended
        ),
    )


def _table(runs: Sequence[RunFacts]) -> Html:
    rows = [
        [
            name(run.label),
            figure(run.training.get("samples_per_s"), ",.0f"),
            figure(run.training.get("seconds"), ",.1f"),
            figure(run.training.get("steps"), ",d"),
            figure(run.options.get("world_size"), ",d"),
            *(percent(_share(run, key)) for key in PARTS),
        ]
        for run in runs
    ]
    head = ["run", "samples/s", "seconds", "steps", "ranks", *PARTS.values()]
    resumed = [run for run in runs if run.training.get("resumed_after")]
    told = [
        f"{run.label} was resumed after step {run.training['resumed_after']:,}: seconds and "
        "shares are those of its last start."
        for run in resumed
    ]
    return joined(
        [table("Throughput, and shares of the time of rank 0", head, rows), *map(note, told)]
    )


def _share(run: RunFacts, key: str) -> float | None:
    value = run.training.get(f"{key}_share")
    return float(value) if isinstance(value, int | float) else None


def _bar(run: RunFacts) -> Html:
    parts = [(colour, _share(run, key) or 0.0) for colour, key in enumerate(PARTS, 1)]
    rest = max(0.0, 1 - sum(share for _, share in parts))
    spans = [
        element("span", class_=f"f{colour}", style=f"width:{100 * share:.2f}%")
        for colour, share in [*parts, (0, rest)]
    ]
    said = ", ".join(
        f"{words} {percent(share)}" for words, (_, share) in zip(PARTS.values(), parts, strict=True)
    )
    return element(
        "p",
        swatch(run.colour),
        name(run.label),
        element(
            "span",
            *spans,
            class_="stack tall",
            role="img",
            aria_label=f"{run.label}: {said}, the rest {percent(rest)}",
        ),
    )


def _legend() -> Html:
    return legend([*((colour, words) for colour, words in enumerate(PARTS.values(), 1)), (0, REST)])
