"""Samples a second by sharding type, ranks, tables and bag."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

COLOURS = {
    "data_parallel": "#cc79a7",
    "table_wise": "#0072b2",
    "row_wise": "#d55e00",
    "column_wise": "#009e73",
    "default": "#56b4e9",
}
SHAPES = {
    "few huge": "rows drawn evenly",
    "many small": "rows drawn evenly",
    "skewed": "P(row) ∝ row^-0.9",
}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw the newest run of the rows: a panel for each shape and bag."""
    newest = max(row["date"] for row in rows)
    rows = [row for row in rows if row["date"] == newest]
    shapes = [one for one in SHAPES if any(row["shape"] == one for row in rows)]
    bags = sorted({row["bag"] for row in rows})
    figure = Figure(figsize=(11.5, 6.6), layout="constrained")
    figure.suptitle(
        "Which way to shard is quickest?\n"
        f"{rows[0]['hardware']}, one for each rank, {rows[0]['batch_size']} examples a step of "
        "all ranks; bars: median, P10 to P90; "
        f"torch {rows[0]['torch']}, torchrec {rows[0]['torchrec']}",
        fontsize=11,
    )
    panels = figure.subplots(len(bags), len(shapes), squeeze=False)
    for axes_of_bag, bag in zip(panels, bags, strict=True):
        for axes, shape in zip(axes_of_bag, shapes, strict=True):
            here = [row for row in rows if (row["shape"], row["bag"]) == (shape, bag)]
            _bars(axes, here)
            values = "1 value" if bag == 1 else f"{bag} values"
            axes.set_title(
                f"{shape}: {here[0]['tables']} tables, {SHAPES[shape]}, {values} a bag", fontsize=8
            )
    handles, labels = panels[0][
        shapes.index("many small") if "many small" in shapes else 0
    ].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
    return figure


def _bars(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Groups of ranks, a bar for each type with a line from P10 to P90."""
    worlds = sorted({row["ranks"] for row in rows})
    types = [one for one in COLOURS if any(row["sharding_type"] == one for row in rows)]
    width = 0.8 / len(types)
    for number, kind in enumerate(types):
        found = {row["ranks"]: row["samples_per_s"] for row in rows if row["sharding_type"] == kind}
        middle = np.array([found[world]["p50"] for world in worlds]) / 1000
        low = np.array([found[world]["p10"] for world in worlds]) / 1000
        high = np.array([found[world]["p90"] for world in worlds]) / 1000
        places = np.arange(len(worlds)) + (number - (len(types) - 1) / 2) * width
        axes.bar(
            places,
            middle,
            width * 0.92,
            yerr=[middle - low, high - middle],
            color=COLOURS[kind],
            label=kind,
            error_kw={"linewidth": 0.8, "ecolor": "#333333"},
        )
        busiest = {
            row["ranks"]: row["samples_per_busiest_cpu_s"] / 1000
            for row in rows
            if row["sharding_type"] == kind
        }
        axes.plot(
            places,
            [busiest[world] for world in worlds],
            "D",
            color="white",
            markeredgecolor="black",
            markersize=5,
            label="by the busiest rank's CPU time" if number == len(types) - 1 else None,
        )
    axes.set_xticks(range(len(worlds)), [f"{one} rank{'s' if one > 1 else ''}" for one in worlds])
    axes.set_ylabel("1,000 samples a second", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.grid(visible=True, axis="y", alpha=0.25)
