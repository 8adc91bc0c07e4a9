"""Does the planner know what a plan costs? Its estimates beside measured steps, before and after.

    python -m benchmarks.calibrate --out topology.json
    python -m benchmarks.fidelity --topology topology.json

Three shapes of tables, each sharded by the same few rules and as the planner itself would; all
plans of a shape are alive in the same ranks, one core each, and step in turn. Every plan is
estimated three times, as ``dat-rec plan`` prints it ("a step takes … ms for the tables of the
slowest rank"):

- ``assumed``: with the bandwidths that TorchRec assumes, before calibration;
- ``bandwidths``: with those measured, in TorchRec's formulas;
- ``calibrated``: with the whole topology file, on CPU its costs (``dat_rec.planner.step_time``).

The first two are of tables alone; ``calibrated`` has also what every rank does under any plan,
fitted by ``benchmarks.calibrate`` to other shapes. No offset is fitted here. Spearman's rank
correlation is told over all plans, and over the plans of each shape, where what plans share does
not count. A step is the median of the slowest rank's times (``step_ms``). Where a machine has other
work to do, steps tell of that too; beside them stands the CPU time of the busiest rank
(``cpu_ms``), which is what a step takes on cores that it has for itself, but for waiting.

Regret: what the plan takes that the planner chooses, over the quickest plan that was measured,
minus 1. The planner may choose from data_parallel, table_wise, row_wise and column_wise.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchrec.distributed.types import ShardingPlan

from benchmarks.options import Options, parse
from benchmarks.plans import Planner, on_one_rank, this_host, timed
from benchmarks.record import percentiles
from benchmarks.shapes import Shape
from dat_rec.planner.hardware import Cluster
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.planner.topology_file import read_cluster

TOWERS: dict[str, Any] = {"hidden": (8,), "output_dim": 8}
SHAPES = {
    "few huge": Shape((500_000,) * 4, (500_000,) * 4, dim=64, batch_size=8192, **TOWERS),
    "many small": Shape((10_000,) * 25, (10_000,) * 25, dim=32, batch_size=4096, **TOWERS),
    "skewed": Shape(
        (300_000, 50_000, 50_000, 2_000, 2_000),
        (300_000, 50_000, 50_000, 2_000),
        batch_size=4096,
        bag=10,
        skew=0.7,
        **TOWERS,
    ),
}
PINS = {
    "table_wise": ("*=table_wise",),
    "one rank": ("*=table_wise",),
    "row_wise": ("*=row_wise",),
    "column_wise": ("*=column_wise",),
    "data_parallel": ("*=data_parallel",),
    "half row_wise": ("query*=row_wise", "*=table_wise"),
    "half column_wise": ("query*=column_wise", "*=table_wise"),
    "half data_parallel": ("query*=data_parallel", "*=table_wise"),
}
"""Rules of each plan."""
ESTIMATES = ("assumed", "bandwidths", "calibrated")
MEASURED = ("step_ms", "cpu_ms")
TOO_LARGE = {"few huge": ("data_parallel", "half data_parallel")}
"""Plans that are not measured: gradients of gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """The planner's estimates beside measured steps."""

    topology: Path | None = None
    """Topology file that ``benchmarks.calibrate`` wrote, for the same ranks; --smoke needs none."""
    ranks: int = 2
    """One core each, as far as they go."""
    rounds: int = 61
    """Steps of each plan."""


def main() -> None:
    """Measure every shape, append a line for each plan and the two figures."""
    arguments = parse(Arguments)
    shapes, pins = SHAPES, PINS
    if arguments.smoke:
        shapes = {"tiny": dataclasses.replace(SHAPES["skewed"], batch_size=64)}
        pins = {name: PINS[name] for name in ("table_wise", "row_wise", "one rank")}
        arguments = dataclasses.replace(arguments, rounds=2)
    clusters = described(arguments)
    rows: list[dict[str, Any]] = []
    for name, shape in shapes.items():
        wanted = {one: by for one, by in pins.items() if one not in TOO_LARGE.get(name, ())}
        for row in measure(name, shape, wanted, clusters, arguments.rounds):
            rows.append(row)
            arguments.report("fidelity", row)
    for figure in (rank_correlation(rows), regret(rows)):
        arguments.report("fidelity", figure)


def described(arguments: Arguments) -> dict[str, Cluster]:
    """The cluster as each estimate has it."""
    if arguments.topology is None and not arguments.smoke:
        raise SystemExit("--topology is missing: make the file with benchmarks.calibrate")
    here = this_host(arguments.device, arguments.ranks)
    if arguments.topology is None:
        return dict.fromkeys(ESTIMATES, here)
    measured = read_cluster(arguments.topology)
    if measured.world_size != arguments.ranks:
        raise SystemExit(f"{arguments.topology}: of {measured.world_size} ranks: pass --ranks")
    found = dataclasses.replace(
        here.hardware, device=measured.hardware.device, memory_gb=measured.hardware.memory_gb
    )
    some = dataclasses.replace(found, bandwidths=measured.hardware.bandwidths)
    every = dataclasses.replace(some, costs=measured.hardware.costs)
    hardware = dict(zip(ESTIMATES, (found, some, every), strict=True))
    return {name: dataclasses.replace(here, hardware=one) for name, one in hardware.items()}


def measure(
    name: str,
    shape: Shape,
    pins: dict[str, tuple[str, ...]],
    clusters: dict[str, Cluster],
    rounds: int,
) -> list[dict[str, Any]]:
    """A row for each plan of a shape; the same plan is not measured twice."""
    first = clusters[ESTIMATES[0]]
    planner = Planner(shape, first.world_size)
    plans = {one: planner.plan(first, by) for one, by in pins.items()}
    if "one rank" in plans:
        on_one_rank(plans["one rank"], first.hardware.device)
    chosen: dict[str, list[str]] = {}
    for kind, cluster in clusters.items():
        plan = planner.plan(cluster)
        same = next((one for one in plans if _equal(plans[one], plan)), f"chosen: {kind}")
        plans.setdefault(same, plan)
        chosen.setdefault(same, []).append(kind)
    times = timed(shape, plans, first.world_size, rounds, first.hardware.device)
    return [
        {
            "shape": name,
            "plan": one,
            "ranks": first.world_size,
            "sharding": _types(plan),
            "chosen_by": chosen.get(one, []),
            "step_ms": percentiles([1000 * second for second in times[one].seconds]),
            "cpu_ms": percentiles([1000 * second for second in times[one].busiest]),
            "estimated_ms": {
                kind: planner.step_ms(plan, cluster) for kind, cluster in clusters.items()
            },
            "peak_memory_mb": times[one].peak_memory_mb,
        }
        for one, plan in plans.items()
    ]


def _equal(one: ShardingPlan, other: ShardingPlan) -> bool:
    return plan_to_json(one) == plan_to_json(other)


def _types(plan: ShardingPlan) -> dict[str, int]:
    """Number of tables by sharding type."""
    types = [row["sharding_type"] for row in plan_to_json(plan)]
    return {kind: types.count(kind) for kind in sorted(set(types))}


def rank_correlation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's, of estimates and measured steps; after calibration, and the others beside."""
    shapes = sorted({row["shape"] for row in rows})
    of = {shape: [row for row in rows if row["shape"] == shape] for shape in shapes}
    found = {
        measured: {
            kind: {
                "all_plans": spearman(rows, kind, measured),
                "within_shapes": {one: spearman(of[one], kind, measured) for one in shapes},
            }
            for kind in ESTIMATES
        }
        for measured in MEASURED
    }
    return {
        "name": "planner_rank_correlation",
        "value": found["step_ms"]["calibrated"]["all_plans"],
        "before": found["step_ms"]["assumed"]["all_plans"],
        "plans": len(rows),
        "by": found,
    }


def spearman(rows: list[dict[str, Any]], kind: str, measured: str = "step_ms") -> float:
    """Rank correlation of one estimate with what was measured; equal values share their rank."""
    estimated = _ranks([row["estimated_ms"][kind] for row in rows])
    return float(np.corrcoef(estimated, _ranks([row[measured]["p50"] for row in rows]))[0, 1])


def _ranks(values: list[float]) -> list[float]:
    return [
        sum(v < value for v in values) + sum(v == value for v in values) / 2 for value in values
    ]


def regret(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst over shapes, with the planner's choice after calibration, and the others beside."""
    found = {
        measured: {kind: _regrets(rows, kind, measured) for kind in ESTIMATES}
        for measured in MEASURED
    }
    return {
        "name": "planner_regret",
        "value": max(found["step_ms"]["calibrated"].values()),
        "before": max(found["step_ms"]["assumed"].values()),
        "by": found,
    }


def _regrets(rows: list[dict[str, Any]], kind: str, measured: str) -> dict[str, float]:
    """The regret of each shape."""
    regrets = {}
    for shape in sorted({row["shape"] for row in rows}):
        here = [row for row in rows if row["shape"] == shape]
        chosen = next(row for row in here if kind in row["chosen_by"])
        regrets[shape] = chosen[measured]["p50"] / min(row[measured]["p50"] for row in here) - 1
    return regrets


if __name__ == "__main__":
    main()
