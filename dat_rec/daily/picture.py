"""``ROOT/daily.png``: HR@100 over the days, of all, warm and cold pairs."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from dat_rec.daily.days import folder_of
from dat_rec.daily.table import Row
from dat_rec.files import whole_file
from dat_rec.runs.figures import BLOCKS

SHOWN = {"all": "#1f77b4", "warm": "#2ca02c", "cold": "#d62728"}
"""Blocks of metrics.json, and their colours."""
FIGURE = "HR@100"
MOST_LABELS = 16


def draw(rows: list[Row], path: Path) -> None:
    """Draw the table's figures into a PNG; a day without a figure is a gap.

    Args:
        rows: of the table.
        path: file of the PNG.
    """
    days = [folder_of(row["day"]) for row in rows]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(max(5.0, min(16.0, 2.5 + 0.4 * len(days))), 3.6))
        axes = figure.add_subplot()
        for block, colour in SHOWN.items():
            values = [row.get(f"{block}/{FIGURE}") for row in rows]
            heights = [float("nan") if value is None else value for value in values]
            axes.plot(heights, "o-", color=colour, markersize=3, label=BLOCKS[block])
        every = -(-len(days) // MOST_LABELS)
        axes.set_xticks(range(0, len(days), every), days[::every], rotation=45, ha="right")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(FIGURE)
        axes.set_title("The model of the day before, on each new day", loc="left", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.tight_layout()
        with whole_file(path) as partial:
            figure.savefig(partial, format="png", dpi=110)
