"""Answers in, text for a terminal or JSON out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dat_rec.planner.ask import Answer
from dat_rec.planner.estimate import RankEstimate
from dat_rec.planner.hardware import BANDWIDTHS, CPU_COSTS

MOST_LINES = 16
"""Of ranks that hold alike; of more the fullest are shown."""
TIMES = {
    "forward_ms": "lookups",
    "output_ms": "outputs' exchange",
    "backward_ms": "backward and update",
    "gradient_ms": "gradients' exchange",
    "prefetch_ms": "prefetch",
    "own_ms": "for its own examples under any plan",
}


def headline(answer: Answer) -> str:
    """One sentence."""
    cluster, misfit = answer.question.cluster, answer.misfit
    share = answer.question.share_bytes
    if misfit is not None:
        there, needed = share * cluster.world_size, misfit.device_bytes
        start = f"{cluster}: does not fit: "
        if needed > there:
            short = needed - there
            return (
                f"{start}the tables need {_size(needed)} and {_size(there)} are there, "
                f"{_size(short)} too little"
            )
        if answer.lacks_host_memory:
            host = cluster.host_bytes * cluster.world_size
            return (
                f"{start}the tables need {_size(misfit.host_bytes)} of host memory and "
                f"{_size(host)} are there, {_size(misfit.host_bytes - host)} too little"
            )
        return (
            f"{start}{_size(needed)} of {_size(there)} are needed, but not in parts that fill "
            f"ranks of {_size(share)} (the largest: {_size(misfit.largest_bytes)} of "
            f"{misfit.largest_table})"
        )
    full, slow = max(answer.main_bytes().values()), max(answer.times_ms().values())
    return (
        f"{cluster}: fits, {_size(full)} of {_size(share)} on the fullest rank; a step of the "
        f"slowest rank's tables takes {slow:.3g} ms"
    )


def report(answer: Answer) -> str:
    """All of an answer."""
    lines = [headline(answer)]
    if answer.fits:
        lines += ["", *_tables(answer), "", *_memory(answer), "", *_times(answer)]
    return "\n".join(lines)


def cures(smallest: Answer | None, changes: dict[str, Answer]) -> str:
    """What would fit."""
    lines = ["what would fit, planned:"]
    if smallest is None:
        lines.append("  more of such hosts: none found")
    else:
        lines.append(f"  the fewest hosts: {headline(smallest)}")
    lines += [f"  {name}: {headline(one).split(': ', 1)[1]}" for name, one in changes.items()]
    if not changes:
        lines.append("  here, by float16 tables or rows in host memory: none found")
    return "\n".join(lines)


def comparison(found: dict[str, Answer | str]) -> str:
    """Alternatives side by side."""
    width = max(map(len, found))
    lines = [f"{'':<{width}}  {'step ms':>8}  {'fullest rank':>12}  fits"]
    for name, one in found.items():
        if isinstance(one, str):
            lines.append(f"{name:<{width}}  {'':>8}  {'':>12}  cannot be: {one}")
        elif one.misfit is not None:
            text = headline(one).split("does not fit: ", 1)[1]
            lines.append(f"{name:<{width}}  {'':>8}  {'':>12}  no: {text}")
        else:
            full, slow = max(one.main_bytes().values()), max(one.times_ms().values())
            lines.append(f"{name:<{width}}  {slow:>8.3g}  {_size(full):>12}  yes")
    return "\n".join(lines)


def as_json(answer: Answer) -> dict[str, Any]:
    """All of an answer as JSON values."""
    cluster, estimate = answer.question.cluster, answer.estimate
    value: dict[str, Any] = {
        "headline": headline(answer),
        "fits": answer.fits,
        "cluster": {
            "hosts": cluster.hosts,
            "ranks_per_host": cluster.ranks_per_host,
            **asdict(cluster.hardware),
        },
        "batch_size": answer.question.options.batch_size,
        "memory_bytes": cluster.memory_bytes,
        "share_bytes": answer.question.share_bytes,
        "towers_bytes": answer.question.towers_bytes,
    }
    if answer.misfit is not None:
        return value | {"misfit": asdict(answer.misfit)}
    ranks = {} if estimate is None else estimate.ranks
    times, sizes = answer.times_ms(), answer.main_bytes()
    return value | {
        "step_ms": max(times.values()),
        "slowest_rank": _largest(times),
        "fullest_bytes": max(sizes.values()),
        "fullest_rank": _largest(sizes),
        "imbalance": {"memory": _imbalance(sizes), "time": _imbalance(times)},
        "ranks": [{"rank": rank, **asdict(one)} for rank, one in ranks.items()],
        "plan": list(answer.plan),
    }


def comparison_json(found: dict[str, Answer | str]) -> dict[str, Any]:
    """The alternatives as JSON values, without their plans."""
    return {
        name: {"cannot_be": one}
        if isinstance(one, str)
        else {key: inner for key, inner in as_json(one).items() if key not in ("ranks", "plan")}
        for name, one in found.items()
    }


def _tables(answer: Answer) -> list[str]:
    assert answer.estimate is not None
    sizes: dict[str, int] = {}
    for (table, _), one in answer.estimate.parts.items():
        sizes[table] = sizes.get(table, 0) + one.device_bytes + one.host_bytes
    width = max(5, *(len(row["table"]) for row in answer.plan))
    lines = [f"{'table':<{width}}  {'type':<17}  {'kernel':<17}  {'in all':>10}  on ranks"]
    for row in answer.plan:
        ranks = [shard["rank"] for shard in row["shards"]] or row["ranks"]
        lines.append(
            f"{row['table']:<{width}}  {row['sharding_type']:<17}  {row['compute_kernel']:<17}  "
            f"{_size(sizes[row['table']]):>10}  {ranges(ranks)}"
        )
    return lines


def ranges(ranks: Sequence[int]) -> str:
    """As in ``0-7, 16-23``."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _memory(answer: Answer) -> list[str]:
    assert answer.estimate is not None
    question, cluster = answer.question, answer.question.cluster
    sizes, ranks = answer.main_bytes(), answer.estimate.ranks
    with_host = cluster.on_gpu and any(one.host_bytes for one in ranks.values())
    alike: dict[tuple[str, ...], list[int]] = {}
    for rank in sorted(sizes, key=lambda rank: -sizes[rank]):
        one = ranks.get(rank, RankEstimate())
        buffers = sizes[rank] - one.weights_bytes - one.state_bytes
        columns = [one.weights_bytes, one.state_bytes, buffers, sizes[rank]]
        columns += [one.host_bytes] if with_host else []
        alike.setdefault(tuple(map(_size, columns)), []).append(rank)
    names = ("weights", "optimizer", "in, out", "in all") + (("host",) if with_host else ())
    shown = list(alike.items())[:MOST_LINES]
    width = max(16, *(len(ranges(of)) + 2 for _, of in shown))
    lines = [f"{'memory of ranks':<{width}}" + "".join(f"{name:>12}" for name in names)]
    for texts, of in shown:
        lines.append(f"{ranges(of):<{width}}" + "".join(f"{text:>12}" for text in texts))
    if rest_of := sum(len(of) for of in list(alike.values())[MOST_LINES:]):
        lines.append(f"and {rest_of} ranks with less")
    mean = sum(sizes.values()) / cluster.world_size
    lines.append(
        f"tables may take {_size(question.share_bytes)} of each rank's "
        f"{_size(cluster.memory_bytes)}; the fullest has {_imbalance(sizes):.2f} times the mean, "
        f"{_size(mean)}"
    )
    if cluster.on_gpu:
        lines.append(f"a host's memory is {_size(cluster.host_bytes)} for each rank")
        rest = cluster.memory_bytes - question.share_bytes
        text = f"the other {_size(rest)} are for activations, batches and towers"
    else:
        rest = cluster.memory_bytes - max(sizes.values())
        text = f"on CPU nothing is kept for towers and activations; the fullest has {_size(rest)}"
    if question.towers_bytes:
        text += f"; the towers, their gradients and Adam take {_size(question.towers_bytes)}"
        if question.towers_bytes > rest:
            text += ": MORE THAN IS LEFT"
    return [*lines, text]


def _times(answer: Answer) -> list[str]:
    assert answer.estimate is not None
    times = answer.times_ms()
    slowest = _largest(times)
    one: RankEstimate = answer.estimate.ranks[slowest]
    hardware = answer.question.cluster.hardware
    shown = TIMES | ({"forward_ms": "its parts of the tables"} if hardware.costs else {})
    parts = ", ".join(
        f"{name} {getattr(one, field):.3g}" for field, name in shown.items() if getattr(one, field)
    )
    if hardware.costs:
        usual = hardware.costs == CPU_COSTS
        where = "on other CPUs (CPU_COSTS)" if usual else f"in {hardware.name}"
        return [
            _step_line(times, slowest),
            f"  in ms: {parts}",
            f"  by the costs of steps measured {where}, with the smallest towers",
        ]
    if hardware.measured and hardware.bandwidths:
        names = ", ".join(hardware.bandwidths)
        source = f"with the bandwidths measured in {hardware.name}: {names}"
        if others := [name for name in BANDWIDTHS if name not in hardware.bandwidths]:
            source += f"; and those that TorchRec assumes: {', '.join(others)}"
    elif hardware.bandwidths:
        source = "with bandwidths of data sheets: uncalibrated, for comparing plans"
    else:
        source = "with bandwidths that TorchRec assumes: uncalibrated, for comparing plans"
    return [
        _step_line(times, slowest),
        f"  in ms: {parts}",
        f"  beside the step before, not in it: ids' exchange {one.input_ms:.3g}",
        f"  TorchRec's estimates {source}; towers are not counted",
    ]


def _step_line(times: dict[int, float], slowest: int) -> str:
    return (
        f"a step takes {times[slowest]:.3g} ms for the tables of the slowest rank, {slowest}, "
        f"{_imbalance(times):.2f} times the mean of all ranks"
    )


def _largest(values: dict[int, Any]) -> int:
    return max(values, key=lambda rank: values[rank])


def _imbalance(values: dict[int, Any]) -> float:
    mean = sum(values.values()) / len(values)
    return float(max(values.values()) / mean) if mean else 1.0


def _size(number: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"
