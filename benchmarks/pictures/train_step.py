"""A step of each shape: how fast each kind is, and where DAT's time goes."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks import pictures

NAMES = {
    "plain": "plain PyTorch",
    "fbgemm": "unsharded FBGEMM",
    "dat": "DAT",
    "bfloat16": "DAT, towers in bfloat16",
    "two_tower": "two-tower",
}
COLOURS = ("tab:grey", "tab:olive", "tab:blue", "tab:green", "tab:orange")
SHAPES = {
    "small": "8 tables of 100 k × 16\nbatch 4096\n1,024 shared negatives",
    "tables": "14 tables of 500 k × 32\nbatch 8192\n1,024 shared negatives",
    "modern": "7 tables × 32, bags of 3\nbatch 2048\nin-batch negatives",
}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Above samples/s, below the parts of DAT's step; the newest measurement of each shape."""
    newest = {row["shape"]: row for row in rows if "samples_per_s" in row}
    shapes = [shape for shape in SHAPES if shape in newest]
    figure = pictures.figure(
        "How fast is a step, and where does its time go? (one thread)", list(newest.values())
    )
    figure.set_size_inches(9, 8)
    above, below = figure.subplots(2, 1)
    for number, (kind, name) in enumerate(NAMES.items()):
        found = [newest[shape]["samples_per_s"].get(kind) for shape in shapes]
        places = [place + 0.17 * (number - 2) for place in range(len(shapes))]
        there = [(place, one) for place, one in zip(places, found, strict=True) if one]
        middle = [one["p50"] / 1e3 for _, one in there]
        error = [
            [(one["p50"] - one["p10"]) / 1e3 for _, one in there],
            [(one["p90"] - one["p50"]) / 1e3 for _, one in there],
        ]
        at = [place for place, _ in there]
        bars = above.bar(at, middle, 0.16, yerr=error, capsize=3, label=name, color=COLOURS[number])
        above.bar_label(bars, fmt="%.0f", label_type="center", color="white", fontsize=8)
    above.set_xticks(range(len(shapes)), [SHAPES[shape] for shape in shapes])
    above.set_ylabel("thousand samples a second\n(median, P10 to P90)")
    above.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)

    parts = list(dict.fromkeys(part for shape in shapes for part in newest[shape]["parts_ms"]))
    begin = [0.0] * len(shapes)
    for number, part in enumerate(parts):
        share = []
        for shape in shapes:
            of_shape = newest[shape]["parts_ms"]
            share.append(100 * of_shape.get(part, 0.0) / sum(of_shape.values()))
        bars = below.barh(
            shapes,
            share,
            left=begin,
            label=part,
            color=f"C{number % 10}",
            hatch="//" if number >= 10 else None,
        )
        labels = [f"{value:.0f}" if value >= 2.5 else "" for value in share]
        below.bar_label(bars, labels=labels, label_type="center", color="white", fontsize=8)
        begin = [before + value for before, value in zip(begin, share, strict=True)]
    below.set_xlim(0, 100)
    below.invert_yaxis()
    below.set_xlabel("% of DAT's step, by the profiler")
    below.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize=8)
    return figure
