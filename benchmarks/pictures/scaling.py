"""Samples a second over ranks, beside what perfect scaling would give."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks import pictures

TITLES = {
    ("strong", "modern"): "strong: 8192 examples a step together,\neach with 16,384 candidates",
    ("strong", "tables"): "strong: 8192 examples a step together,\n1,024 shared negatives",
    ("weak", "tables"): "weak: 4096 examples a step of each rank,\n1,024 shared negatives",
}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """One panel a kind; ranks that share cores are hollow."""
    newest = {(row["kind"], row["shape"], row["world_size"]): row for row in rows if "kind" in row}
    figure = pictures.figure(
        "How much faster are more ranks, each with one thread?", list(newest.values())
    )
    figure.set_size_inches(12, 5)
    for axes, (case, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
        found = sorted(
            ((world, row) for (*of, world), row in newest.items() if tuple(of) == case),
            key=lambda pair: pair[0],
        )
        worlds = [world for world, _ in found]
        middle = [row["samples_per_s"]["p50"] / 1e3 for _, row in found]
        error = [
            [(row["samples_per_s"]["p50"] - row["samples_per_s"]["p10"]) / 1e3 for _, row in found],
            [(row["samples_per_s"]["p90"] - row["samples_per_s"]["p50"]) / 1e3 for _, row in found],
        ]
        one = middle[0] / worlds[0]
        axes.plot(worlds, [one * world for world in worlds], "--", color="0.5", label="perfect")
        axes.errorbar(worlds, middle, yerr=error, capsize=4, color="tab:blue", label="measured")
        for world, value, (_, row) in zip(worlds, middle, found, strict=True):
            own = row["own_cores"]
            axes.plot(world, value, "o", color="tab:blue", markerfacecolor=None if own else "white")
            note = f"{value:.0f} k/s: × {value / middle[0]:.2f}" + (
                "" if own else "\n(shared cores)"
            )
            axes.annotate(note, (world, value), (6, -14), textcoords="offset points", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(worlds)
        axes.set_xlim(min(worlds) - 0.2, max(worlds) + 1.2)
        axes.set_xlabel("ranks")
        axes.legend(loc="upper left")
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("thousand samples a second (median of turns)")
    return figure
