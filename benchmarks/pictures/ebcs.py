"""Step time of one collection and of wide rows, as a share of two collections' time."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks import pictures

COLOURS = {"one collection": "tab:blue", "wide rows": "tab:green"}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Bars by world size; below the line is quicker than what DAT does."""
    newest = {row["world_size"]: row for row in rows}
    figure = pictures.figure(
        "Two collections of tables, one, or one wide row for each id: which steps fastest?",
        list(newest.values()),
    )
    axes = figure.subplots()
    worlds = sorted(newest)
    for number, (name, colour) in enumerate(COLOURS.items()):
        ratio = [newest[world]["of_two_collections"][name] for world in worlds]
        middle = [one["p50"] for one in ratio]
        spread = [
            [one["p50"] - one["p10"] for one in ratio],
            [one["p90"] - one["p50"] for one in ratio],
        ]
        places = [place + 0.4 * (number - 0.5) for place in range(len(worlds))]
        bars = axes.bar(places, middle, 0.38, yerr=spread, capsize=4, color=colour, label=name)
        axes.bar_label(bars, fmt="%.2f", label_type="center", color="white")
    axes.axhline(1, color="crimson", label="two collections, as DAT has them")
    labels = [
        f"{world} rank{'s' * (world > 1)}\n"
        f"two collections: {newest[world]['step_ms']['two collections']['p50']:.1f} ms"
        for world in worlds
    ]
    axes.set_xticks(range(len(worlds)), labels)
    axes.set_ylabel("step time of the tables alone ÷ that of two collections\n(median, P10 to P90)")
    one = newest[worlds[0]]
    pins = f", --pin {' '.join(one['pin'])}" if one["pin"] else ""
    axes.set_title(f"{one['users']:,} users, {one['items']:,} items{pins}", fontsize=10)
    axes.set_ylim(0, 1.3)
    axes.legend(loc="upper center", ncols=3)
    return figure
