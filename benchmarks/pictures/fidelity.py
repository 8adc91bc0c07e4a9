"""Estimated against measured steps of every plan: before calibration, and after."""

from typing import Any

from matplotlib.figure import Figure

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
OTHER_MARK = "h"
"""Of plans that the planner chose, and no rule gave."""


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Of the rows' newest run."""
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
        f"{plans[0]['hardware']}, {plans[0]['ranks']} ranks with a core each, "
        f"{len(plans)} plans; torch {plans[0]['torch']}, torchrec {plans[0]['torchrec']}",
        fontsize=11,
    )
    for number, (kind, title) in enumerate(SIDES.items(), start=1):
        axes = figure.add_subplot(1, 2, number)
        _steps(axes, plans, kind)
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
        [], [], "o", color="none", markeredgecolor="black", markersize=13, label="chosen so"
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8.5)
    return figure


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
    axes.set_xlabel("estimated step of the slowest rank's tables, ms")
    axes.set_ylabel("measured step of the whole model, ms (median, P10 to P90)")
    axes.grid(visible=True, which="both", alpha=0.25)
