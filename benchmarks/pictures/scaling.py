"""Samples a second over ranks, beside what perfect scaling would give."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks import pictures

TITLES = {
    ("strong", "modern", 16_384): "strong: 16,384 examples a step together,\nof 32,768 candidates",
    ("strong", "modern", 8192): "strong: 8192 examples a step together,\nof 16,384 candidates",
    ("strong", "tables", 8192): "strong: 8192 examples a step together,\n1,024 shared negatives",
    ("weak", "tables", 8192): "weak: 4096 examples a step of each rank,\n1,024 shared negatives",
}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """One panel a kind; ranks that share cores are hollow."""
    newest = {_place(row): row for row in rows if "samples_per_s" in row and "batch_size" in row}
    projected = {
        _place(row): row["projected_samples_per_s"] / 1e3
        for row in rows
        if "projected_samples_per_s" in row and "batch_size" in row
    }
    figure = pictures.figure(
        "How much faster are more ranks, each with one thread?", list(newest.values())
    )
    figure.set_size_inches(15, 5)
    for axes, (case, title) in zip(figure.subplots(1, 4), TITLES.items(), strict=True):
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
        beyond = sorted((world, rate) for (*of, world), rate in projected.items() if (*of,) == case)
        known = dict(zip(worlds, middle, strict=True))
        line = sorted((dict(beyond) | {2: known[2]}).items()) if 2 in known else beyond
        ends = [1, max([*worlds, *(world for world, _ in line)])]
        axes.plot(ends, [one * world for world in ends], "--", color="0.5", label="perfect")
        if beyond:
            places = zip(*line, strict=True)
            axes.plot(*places, "o:", color="tab:orange", label="projected", ms=4)
        axes.errorbar(worlds, middle, yerr=error, capsize=4, color="tab:blue", label="measured")
        for world, value, (_, row) in zip(worlds, middle, found, strict=True):
            own = row["own_cores"]
            axes.plot(world, value, "o", color="tab:blue", markerfacecolor=None if own else "white")
            note = f"{value:.0f} k/s" + ("" if own else "\n(shared cores)")
            if "speedup" in row:
                note = f"× {row['speedup']['p50']:.2f}: {note}"
            place, side = ((-5, 6), "right") if world == 2 else ((6, -14), "left")
            axes.annotate(
                note, (world, value), place, textcoords="offset points", fontsize=8, ha=side
            )
        for world, rate in beyond[-1:]:
            axes.annotate(
                f"× {rate / middle[0]:.1f}",
                (world, rate),
                (-8, -2),
                textcoords="offset points",
                fontsize=8,
                ha="right",
            )
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel("ranks")
        axes.legend(loc="upper left")
    figure.axes[0].set_ylabel("thousand samples a second (median of turns)")
    return figure


def _place(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["kind"], row["shape"], row["batch_size"], row["world_size"]
