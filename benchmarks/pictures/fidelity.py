"""Estimated against measured steps of every plan: before calibration, and after."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

SIDES = {"assumed": "before: bandwidths that TorchRec assumes", "calibrated": "after calibration"}
COLOURS = {"few huge": "#0072b2", "many small": "#d55e00", "skewed": "#009e73"}
MARKS = {
    "table_wise": "o",
    "one rank": "X",
    "row_wise": "s",
    "column_wise": "D",
    "data_parallel": "*",
    "half row_wise": "v",
    "half column_wise": "^",
    "half data_parallel": "P",
}
TICKS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
OTHER_MARK = "h"
"""Mark of plans that the planner chose, and no rule gave."""


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw the newest run of the rows."""
    newest = max(row["date"] for row in rows)
    rows = [row for row in rows if row["date"] == newest]
    plans = [row for row in rows if "plan" in row]
    figures = {row["name"]: row for row in rows if "name" in row}
    correlation, regret = figures["planner_rank_correlation"], figures["planner_regret"]
    ranks = {"assumed": correlation["before"], "calibrated": correlation["value"]}
    regrets = {"assumed": regret["before"], "calibrated": regret["value"]}
    figure = Figure(figsize=(11.5, 5.8), layout="constrained")
    figure.suptitle(
        "Does the planner know what a sharding plan costs?\n"
        f"{plans[0]['hardware']}, {plans[0]['ranks']} ranks, {len(plans)} plans of "
        f"{len({row['shape'] for row in plans})} shapes of tables; "
        f"torch {plans[0]['torch']}, torchrec {plans[0]['torchrec']}",
        fontsize=11,
    )
    for number, (kind, title) in enumerate(SIDES.items(), start=1):
        axes = figure.add_subplot(1, 2, number)
        _steps(axes, plans, kind)
        axes.set_xlim(*_range([row["estimated_ms"][kind] for row in plans for kind in SIDES]))
        axes.set_ylim(*_range([row["step_ms"][p] for row in plans for p in ("p10", "p90")]))
        axes.axline((10, 10), (100, 100), color="grey", linestyle=":")
        axes.set_title(
            f"{title}\nrank correlation {ranks[kind]:.2f}, worst regret {regrets[kind]:.0%}",
            fontsize=10,
        )
    shapes = sorted({row["shape"] for row in plans})
    handles = [
        axes.plot([], [], "o", color=COLOURS.get(one, "grey"), label=one)[0] for one in shapes
    ]
    marks = {**MARKS, "another, chosen by the planner": OTHER_MARK}
    handles += [
        axes.plot([], [], mark, color="grey", label=name, linestyle="")[0]
        for name, mark in marks.items()
    ]
    handles += axes.plot(
        [],
        [],
        "o",
        color="none",
        markeredgecolor="black",
        markersize=13,
        label="the planner's choice there",
    )
    handles += axes.plot([], [], color="grey", linestyle=":", label="estimated as measured")
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8.5)
    return figure


def _range(values: list[float]) -> tuple[float, float]:
    return min(values) / 1.2, max(values) * 1.2


def _steps(axes: Any, plans: list[dict[str, Any]], kind: str) -> None:
    """One panel; a line from P10 to P90 of each measured step."""
    for row in plans:
        step, estimated = row["step_ms"], row["estimated_ms"][kind]
        colour, mark = COLOURS.get(row["shape"], "grey"), MARKS.get(row["plan"], OTHER_MARK)
        spread = [[step["p50"] - step["p10"]], [step["p90"] - step["p50"]]]
        axes.errorbar(
            estimated, step["p50"], yerr=spread, fmt=mark, color=colour, markersize=7, alpha=0.85
        )
        if kind in row["chosen_by"]:
            axes.plot(estimated, step["p50"], "o", color="none", markeredgecolor="black", ms=15)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(TICKS_MS))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("estimated step of the slowest rank, ms")
    axes.set_ylabel("measured step, ms (median, P10 to P90)")
    axes.grid(visible=True, alpha=0.25)
