"""Recall against queries a second, a panel for each size of the catalogue."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks import pictures

MARKS = {"IVF": ("o", "tab:blue"), "HNSW": ("s", "tab:green")}
SETTINGS = {"IVF": "nprobe", "HNSW": "efSearch"}
LABEL_AT = {"IVF": (3, 5), "HNSW": (-12, -13)}
"""Offset in points: above a curve, below the other."""
TICKS = (100, 300, 1_000, 3_000, 10_000, 30_000)


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Upper right is better; the newest row of each size is drawn."""
    newest = {row["items"]: row for row in rows}
    k = next(iter(newest.values()))["k"]
    figure = pictures.figure(
        f"What does an exact answer cost? Recall@{k} against queries/s of one thread",
        list(newest.values()),
    )
    panels = figure.subplots(1, len(newest), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (items, row) in zip(panels, sorted(newest.items()), strict=True):
        _panel(panel, row)
        panel.set_title(f"{items:,} items, {row['dim']} numbers each", fontsize=10)
        panel.set_xlabel("queries/s of CPU time, median and P10 to P90")
        panel.legend(loc="lower left", fontsize=8)
    panels[0].set_ylabel(f"recall@{k} against exact float64 search")
    return figure


def _panel(panel: Axes, row: dict[str, Any]) -> None:
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in row["points"]:
        curves.setdefault(point["search"].split(",")[0], []).append(point)
    for name, points in curves.items():
        speed = [point["queries_per_s"] for point in points]
        middle = [one["p50"] for one in speed]
        spread = [
            [one["p50"] - one["p10"] for one in speed],
            [one["p90"] - one["p50"] for one in speed],
        ]
        recall = [point["recall"] for point in points]
        kind = name.split()[0]
        mark, colour = MARKS.get(kind, ("*" if name == "product" else "D", "crimson"))
        label = {"product": "search of dat-rec recommend", "exact": "its index alone (flat)"}.get(
            name, name
        )
        if kind in MARKS:
            label = f"{label}: {SETTINGS[kind]} beside each point"
            for point, x, y in zip(points, middle, recall, strict=True):
                text = point["search"].rsplit(" ", 1)[1]
                panel.annotate(
                    text,
                    (x, y),
                    LABEL_AT[kind],
                    textcoords="offset points",
                    fontsize=8,
                    color=colour,
                )
        panel.errorbar(
            middle,
            recall,
            xerr=spread,
            marker=mark,
            color=colour if name != "exact" else "0.3",
            markersize=12 if name == "product" else 6,
            linestyle="-" if len(points) > 1 else "none",
            label=label,
        )
    panel.set_xscale("log")
    panel.set_xticks(TICKS)
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(0.2, 1.05)
