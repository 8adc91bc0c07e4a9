"""The three sections of a plan's report: its tables, the memory of its ranks, and a step's time."""

from collections.abc import Mapping, Sequence

from dat_rec.planner.cost_estimate import PlanEstimate, RankEstimate
from dat_rec.planner.hardware import BANDWIDTHS, CPU_COSTS, Hardware
from dat_rec.planner.plan_request import PlanResult

MAX_LINES = 16
"""Maximum number of lines for ranks; the fullest are shown."""
TIMES = {
    "forward_ms": "lookups",
    "output_ms": "outputs' exchange",
    "backward_ms": "backward and update",
    "gradient_ms": "gradients' exchange",
    "prefetch_ms": "prefetch",
    "own_ms": "for its own examples under any plan",
}
"""What the report calls the parts of ``step_ms``."""


def table_lines(result: PlanResult) -> list[str]:
    """Return a line for each table: type, kernel, bytes in all, and ranks."""
    sizes: dict[str, int] = {}
    for (table, _), one in _estimate(result).tables.items():
        sizes[table] = sizes.get(table, 0) + one.device_bytes + one.host_bytes
    width = max(5, *(len(row["table"]) for row in result.plan))
    lines = [f"{'table':<{width}}  {'type':<17}  {'kernel':<17}  {'in all':>10}  on ranks"]
    for row in result.plan:
        ranks = [shard["rank"] for shard in row["shards"]] or row["ranks"]
        lines.append(
            f"{row['table']:<{width}}  {row['sharding_type']:<17}  {row['compute_kernel']:<17}  "
            f"{size_text(sizes[row['table']]):>10}  {ranges(ranks)}"
        )
    return lines


def memory_lines(result: PlanResult) -> list[str]:
    """Return a line for ranks that hold the same, the fullest first, and what is left."""
    sizes, ranks = result.main_bytes(), _estimate(result).ranks
    on_gpu = result.request.cluster.on_gpu
    with_host = on_gpu and any(one.host_bytes for one in ranks.values())
    alike: dict[tuple[str, ...], list[int]] = {}
    for rank in sorted(sizes, key=lambda rank: -sizes[rank]):
        one = ranks.get(rank, RankEstimate())
        buffers = sizes[rank] - one.weights_bytes - one.state_bytes
        columns = [one.weights_bytes, one.state_bytes, buffers, sizes[rank]]
        columns += [one.host_bytes] if with_host else []
        alike.setdefault(tuple(map(size_text, columns)), []).append(rank)
    names = ("weights", "optimizer", "in, out", "in all") + (("host",) if with_host else ())
    shown = list(alike.items())[:MAX_LINES]
    width = max(16, *(len(ranges(of)) + 2 for _, of in shown))
    lines = [f"{'memory of ranks':<{width}}" + "".join(f"{name:>12}" for name in names)]
    for texts, of in shown:
        lines.append(f"{ranges(of):<{width}}" + "".join(f"{text:>12}" for text in texts))
    if rest := sum(len(of) for of in list(alike.values())[MAX_LINES:]):
        lines.append(f"and {rest} ranks with less")
    return [*lines, *_what_is_left(result, sizes)]


def _what_is_left(result: PlanResult, sizes: Mapping[int, int]) -> list[str]:
    request, cluster = result.request, result.request.cluster
    mean = sum(sizes.values()) / cluster.world_size
    lines = [
        f"tables may take {size_text(request.share_bytes)} of each rank's "
        f"{size_text(cluster.memory_bytes)}; the fullest has {imbalance(sizes):.2f} times the "
        f"mean, {size_text(mean)}"
    ]
    if cluster.on_gpu:
        lines.append(f"a host's memory is {size_text(cluster.host_bytes)} for each rank")
        rest = cluster.memory_bytes - request.share_bytes
        text = f"the other {size_text(rest)} are for activations, batches and towers"
    else:
        rest = cluster.memory_bytes - max(sizes.values())
        text = (
            f"on CPU nothing is kept for towers and activations; the fullest has {size_text(rest)}"
        )
    if request.towers_bytes:
        text += f"; the towers, their gradients and Adam take {size_text(request.towers_bytes)}"
        if request.towers_bytes > rest:
            text += ": MORE THAN IS LEFT"
    return [*lines, text]


def time_lines(result: PlanResult) -> list[str]:
    """Return the time of a step on the slowest rank, its parts, and where the figures come from."""
    times = result.times_ms()
    slowest = largest(times)
    one = _estimate(result).ranks[slowest]
    hardware = result.request.cluster.hardware
    shown = TIMES | ({"forward_ms": "its parts of the tables"} if hardware.costs else {})
    parts = ", ".join(
        f"{name} {getattr(one, field):.3g}" for field, name in shown.items() if getattr(one, field)
    )
    lines = [
        f"a step takes {times[slowest]:.3g} ms for the tables of the slowest rank, {slowest}, "
        f"{imbalance(times):.2f} times the mean of all ranks",
        f"  in ms: {parts}",
    ]
    if hardware.costs:
        usual = hardware.costs == CPU_COSTS
        where = "on other CPUs (CPU_COSTS)" if usual else f"in {hardware.name}"
        return [*lines, f"  by the costs of steps measured {where}, with the smallest towers"]
    return [
        *lines,
        f"  beside the step before, not in it: ids' exchange {one.input_ms:.3g}",
        f"  TorchRec's estimates {_bandwidths_text(hardware)}; towers are not counted",
    ]


def _bandwidths_text(hardware: Hardware) -> str:
    """Return where the bandwidths come from by which TorchRec estimates."""
    if hardware.measured and hardware.bandwidths:
        names = ", ".join(hardware.bandwidths)
        text = f"with the bandwidths measured in {hardware.name}: {names}"
        if others := [name for name in BANDWIDTHS if name not in hardware.bandwidths]:
            text += f"; and those that TorchRec assumes: {', '.join(others)}"
        return text
    source = "of data sheets" if hardware.bandwidths else "that TorchRec assumes"
    return f"with bandwidths {source}: uncalibrated, for comparing plans"


def _estimate(result: PlanResult) -> PlanEstimate:
    assert result.estimate is not None, "of a plan that fits"
    return result.estimate


def ranges(ranks: Sequence[int]) -> str:
    """Return the text of ranks, as in ``0-7, 16-23``."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def largest(values: Mapping[int, float]) -> int:
    """Return the rank with the largest value."""
    return max(values, key=lambda rank: values[rank])


def imbalance(values: Mapping[int, float]) -> float:
    """Return the largest value over the mean of all ranks; 1 if all are 0."""
    mean = sum(values.values()) / len(values)
    return float(max(values.values()) / mean) if mean else 1.0


def size_text(number: float) -> str:
    """Return the text of a number of bytes, as in ``10.1 GiB``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"
