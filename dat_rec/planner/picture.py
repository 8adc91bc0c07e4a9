"""The picture of a plan: a heat map of bytes, ranks × tables, beside bars of each rank's memory."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dat_rec.files import whole_file
from dat_rec.planner.cost_estimate import RankEstimate
from dat_rec.planner.plan_request import PlanResult

MAX_RANKS = 32
"""Maximum number of ranks with a row each; with more, each row is a host."""
GIB = 2**30


def draw(result: PlanResult, title: str, path: Path) -> None:
    """Draw the plan of ``result`` into a PNG.

    Args:
        result: one that fits.
        title: stands above the picture.
        path: file of the PNG.
    """
    estimate, cluster = result.estimate, result.request.cluster
    if estimate is None:
        raise ValueError("no plan to draw")
    tables = [row["table"] for row in result.plan]
    world = cluster.world_size
    held_RT = np.zeros((world, len(tables)))
    for (table, rank), one in estimate.tables.items():
        held_RT[rank, tables.index(table)] = (one.device_bytes + one.host_bytes) / GIB
    memory_R3 = np.zeros((world, 3))
    for rank, size in result.main_bytes().items():
        one = estimate.ranks.get(rank, RankEstimate())
        rest = size - one.weights_bytes - one.state_bytes
        memory_R3[rank] = np.array([one.weights_bytes, one.state_bytes, rest]) / GIB
    rows, what = world, "rank"
    if world > MAX_RANKS and cluster.hosts > 1:
        rows, what = cluster.hosts, "host"
        held_RT = held_RT.reshape(rows, -1, len(tables)).mean(1)
        by_host = memory_R3.reshape(rows, -1, 3)
        fullest = by_host.sum(2).argmax(1)
        memory_R3 = by_host[np.arange(rows), fullest]
    with mpl.rc_context({"font.size": 9}):
        figure = _figure(held_RT, memory_R3, tables, what, result)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, wrap=True)
        with whole_file(path) as partial:
            figure.savefig(partial, format="png", dpi=110)


def _figure(
    held_RT: np.ndarray, memory_R3: np.ndarray, tables: list[str], what: str, result: PlanResult
) -> Figure:
    rows = len(held_RT)
    names = 0.08 * max(map(len, tables))
    height = min(24.0, max(3.6, 1.8 + 0.28 * rows) + names)
    width = min(26.0, max(10.0, 6.5 + 0.24 * len(tables)))
    layout = ConstrainedLayoutEngine(w_pad=0.12)
    figure = Figure(figsize=(width, height), layout=layout)
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[max(2.0, width - 5.5), 3.5])
    shown = np.ma.masked_equal(held_RT, 0.0)
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.93")
    # Small tables can be told from none beside large ones.
    norm = PowerNorm(0.4, vmin=0, vmax=float(held_RT.max()))
    image = heat.imshow(shown, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    mean = ", mean of the host's ranks" if what == "host" else ""
    figure.colorbar(image, ax=heat, location="left")
    # Beside the bar, which long names of tables make low, it would stand over the picture's title.
    heat.set_title(f"GiB of a table{mean}; grey: none", loc="left", fontsize=9)
    step = max(1, -(-len(tables) // 80))
    heat.set_xticks(range(0, len(tables), step), tables[::step], rotation=90)
    every = max(1, -(-rows // 48))
    heat.set_yticks(range(0, rows, every), [f"{what} {row}" for row in range(0, rows, every)])
    bottom = np.zeros(rows)
    for name, colour, column in zip(
        ("weights", "optimizer state", "inputs and outputs"),
        ("#3b528b", "#21918c", "#fca50a"),
        memory_R3.T,
        strict=True,
    ):
        bars.barh(np.arange(rows), column, left=bottom, color=colour, label=name, height=0.8)
        bottom += column
    share, memory = result.request.share_bytes / GIB, result.request.cluster.memory_bytes / GIB
    bars.axvline(share, color="crimson", label=f"tables may take {share:.3g}")
    if memory > share:
        bars.axvline(memory, color="0.4", linestyle="--", label=f"memory of a rank {memory:.3g}")
    bars.set_xlim(0, 1.05 * memory)
    bars.tick_params(labelleft=False)
    device = "GPU memory" if result.request.cluster.on_gpu else "memory"
    bars.set_xlabel(f"GiB of {device}{', fullest rank of the host' if what == 'host' else ''}")
    figure.legend(loc="outside lower right", ncols=3, fontsize=8)
    return figure
