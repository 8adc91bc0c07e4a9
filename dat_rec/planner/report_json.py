"""The result of a plan as JSON values, for machines."""

from dataclasses import asdict
from typing import Any

from dat_rec.planner.plan_request import PlanResult
from dat_rec.planner.report import headline
from dat_rec.planner.report_sections import imbalance, largest


def as_json(result: PlanResult) -> dict[str, Any]:
    """Return all of a result."""
    cluster, estimate = result.request.cluster, result.estimate
    value: dict[str, Any] = {
        "headline": headline(result),
        "fits": result.fits,
        "cluster": {
            "hosts": cluster.hosts,
            "ranks_per_host": cluster.ranks_per_host,
            **asdict(cluster.hardware),
        },
        "batch_size": result.request.options.batch_size,
        "memory_bytes": cluster.memory_bytes,
        "share_bytes": result.request.share_bytes,
        "towers_bytes": result.request.towers_bytes,
    }
    if result.shortfall is not None:
        return value | {"misfit": asdict(result.shortfall)}
    ranks = {} if estimate is None else estimate.ranks
    times, sizes = result.times_ms(), result.main_bytes()
    return value | {
        "step_ms": max(times.values()),
        "slowest_rank": largest(times),
        "fullest_bytes": max(sizes.values()),
        "fullest_rank": largest(sizes),
        "imbalance": {"memory": imbalance(sizes), "time": imbalance(times)},
        "ranks": [{"rank": rank, **asdict(one)} for rank, one in ranks.items()],
        "plan": list(result.plan),
    }


def comparison_json(found: dict[str, PlanResult | str]) -> dict[str, Any]:
    """Return alternatives by name, without their plans."""
    return {
        name: {"cannot_be": one}
        if isinstance(one, str)
        else {key: inner for key, inner in as_json(one).items() if key not in ("ranks", "plan")}
        for name, one in found.items()
    }
