"""Milliseconds of a step with the fused and the dense kernel, by the rows of the tables."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks import pictures

COLOURS = {"fused": "tab:blue", "dense": "tab:orange"}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """A panel for each number of ranks; the newest row of each size is drawn."""
    newest = {(row["world_size"], row["rows"]): row for row in rows}
    worlds = sorted({world for world, _ in newest})
    figure = pictures.figure(
        "Up to which table size does the dense kernel beat the fused one?", list(newest.values())
    )
    panels = figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0]
    for panel, world in zip(panels, worlds, strict=True):
        sizes = sorted(size for one, size in newest if one == world)
        for name, colour in COLOURS.items():
            times = [newest[world, size]["step_ms"][name] for size in sizes]
            low, middle, high = ([one[p] for one in times] for p in ("p10", "p50", "p90"))
            panel.plot(sizes, middle, marker="o", color=colour, label=f"{name}, median")
            panel.fill_between(sizes, low, high, color=colour, alpha=0.2, label="P10 to P90")
        batch = newest[world, sizes[0]]["batch_size"]
        ranks = "1 rank" if world == 1 else f"{world} ranks, one core each"
        panel.set_title(f"{ranks}, batch {batch:,} a rank", fontsize=10)
        panel.set_xlabel("rows of each of four tables of 32 numbers, logarithmic")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.legend(loc="upper left", fontsize=8)
    panels[0].set_ylabel("ms a training step, logarithmic")
    return figure
