"""Draws docs/data_way.svg, the picture of the README: ``python docs/data_way.py``."""

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STAGES = (
    (
        ("interactions", "users, items", "#dbe9f6"),
        ("prepare", "DuckDB", "#fff2cc"),
        ("examples", "Parquet + schema", "#dbe9f6"),
        ("reader", "ranks share batches", "#fff2cc"),
    ),
    (
        ("two sharded EBCs", "features ‖ augmented", "#e2f0d9"),
        ("two towers", "unit vectors", "#e2f0d9"),
        ("losses", "softmax/BCE, mimic,\nalignment: global batch", "#e2f0d9"),
        ("checkpoint", "whole or absent", "#dbe9f6"),
    ),
    (
        ("evaluate", "full catalogue,\nbaselines beside", "#fff2cc"),
        ("export", "index, vectors,\nquery tower", "#dbe9f6"),
        ("recommend", "Parquet", "#fff2cc"),
    ),
)
WIDTH, HEIGHT, GAP_X, GAP_Y = 2.5, 1.05, 0.7, 0.75


def main() -> None:
    """Draw the stages as rows of boxes with arrows."""
    mpl.rcParams["svg.hashsalt"] = "dat_rec"
    figure, axes = plt.subplots(figsize=(11, 4.6))
    centres = []
    for row, stages in enumerate(STAGES):
        for column, (title, detail, colour) in enumerate(stages):
            x, y = column * (WIDTH + GAP_X), -row * (HEIGHT + GAP_Y)
            shape = "round,pad=0.02,rounding_size=0.12"
            box = FancyBboxPatch(
                (x, y), WIDTH, HEIGHT, shape, facecolor=colour, edgecolor="#555555"
            )
            axes.add_patch(box)
            title_y = y + HEIGHT * (0.72 if "\n" in detail else 0.64)
            axes.text(x + WIDTH / 2, title_y, title, ha="center", va="center", weight="bold")
            detail_y = y + HEIGHT * (0.3 if "\n" in detail else 0.32)
            axes.text(x + WIDTH / 2, detail_y, detail, ha="center", va="center", size=9)
            centres.append((row, x, y + HEIGHT / 2))
    for (row, x, y), (next_row, next_x, next_y) in pairwise(centres):
        if row == next_row:
            start, end, style = (x + WIDTH + 0.05, y), (next_x - 0.05, next_y), "arc3"
        else:
            start, end = (x + WIDTH / 2, y - HEIGHT / 2 - 0.05), (next_x + WIDTH / 2, next_y + 0.6)
            style = "arc3,rad=0"
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=14, color="#555555", connectionstyle=style
        )
        axes.add_patch(arrow)
    axes.set_xlim(-0.15, 4 * WIDTH + 3 * GAP_X + 0.15)
    axes.set_ylim(-2 * (HEIGHT + GAP_Y) - 0.15, HEIGHT + 0.15)
    axes.axis("off")
    figure.patch.set_facecolor("white")
    figure.savefig(Path(__file__).with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
