"""Say on one page, for the terminal and ``RUN/start.txt``, what a start of a run is about to do."""

import os
import shlex
from dataclasses import dataclass
from typing import Any

from dat_rec.config import TrainConfig
from dat_rec.dist.rank_context import RankContext
from dat_rec.planner.cost_estimate import PlanEstimate, RankEstimate
from dat_rec.planner.plan import MEMORY_RESERVE
from dat_rec.planner.plan_table import plan_to_text

LOGS = "DAT_REC_LOGS"
"""Environment variable: where the launcher keeps the ranks' output."""
MOST_RANKS = 16
"""Maximum number of ranks whose memory is listed; of more, the fullest are."""


@dataclass(frozen=True)
class Start:
    """What the page states beside the configuration."""

    context: RankContext
    hosts: tuple[str, ...]
    """Host name of each rank, by rank."""
    steps: int
    """Number of steps in the whole run."""
    done: int
    """Number of steps done before."""
    examples: int
    """Number of examples in an epoch."""
    global_batch: int
    """Examples a step on all ranks."""
    rows: int
    """Maximum number of them on a rank."""
    plan: list[dict[str, Any]]
    """The sharding plan, of ``plan_to_json``."""
    estimate: PlanEstimate
    """Memory and time that the planner expects."""
    by_data: tuple[str, ...] = ()
    """Options that have the default of this dataset, and another one on others."""
    compared: str | None = None
    """Words for the categories that the alignment loss compares; None without that loss."""
    past: int = 0
    """Number of training interactions that are no examples."""
    products: str | None = None
    """Library that multiplies the towers' matrices; None: on a GPU, or by a tower of one's own."""


def start_page(config: TrainConfig, start: Start, queries: int | None = None) -> str:
    """Return the page.

    Args:
        config: every option of the run.
        start: what else it states.
        queries: number of interactions that each validation ranks; None: there are none.
    """
    run, context = str(config.out.resolve()), start.context
    hosts = sorted(set(start.hosts), key=start.hosts.index)
    ranks = ", ".join(f"{host} {_ranges(start.hosts, host)}" for host in hosts)
    begins = f"goes on after step {start.done:,}" if start.done else "begins"
    batch = f"{start.global_batch:,} examples a step, {_share(start)}{start.rows:,} on each rank"
    kept = f"the newest {config.keep_checkpoints}"
    best = max(config.keep_best, 1) if config.patience else config.keep_best
    kept += f" and the best {best}" if best else ""
    rows = [
        ("run", f"{run}, {begins}"),
        ("data", f"{config.data.resolve()}, {start.examples:,} examples an epoch"),
        *([("past", _past(config, start.past))] if start.past else []),
        ("ranks", f"{context.world_size} × {context.device.type}, hosts: {len(hosts)} ({ranks})"),
        ("steps", f"{start.steps:,} (epochs: {config.epochs}), {batch}"),
        *([("defaults", f"by the data: {', '.join(start.by_data)}")] if start.by_data else []),
        *([("categories", start.compared)] if start.compared is not None else []),
        *([("products", f"of the towers by {start.products}")] if start.products else []),
        ("checkpoints", f"{run}/checkpoints, every {config.checkpoint_every:,} steps; {kept}"),
        *([("validation", _validation(config, queries))] if queries is not None else []),
        ("curves", _curves(config, run)),
        ("logs", os.environ.get(LOGS, "what the ranks print, where their launcher keeps it")),
        ("status", f"dat-rec status --run {shlex.quote(run)}"),
    ]
    if config.model.fp16_tables:
        tables = ", ".join(config.model.fp16_tables)
        rows.append(("float16", f"{tables}: a step below 1/4,096 of a weight is lost"))
    lines = [f"{name:<13}{text}" for name, text in rows]
    lines += ["tables"] + [f"  {line}" for line in plan_to_text(start.plan).splitlines()]
    return "\n".join(lines + _estimates(config, start))


def _curves(config: TrainConfig, run: str) -> str:
    shown = {"tensorboard": f"tensorboard --logdir {shlex.quote(run)}/tensorboard"}
    return ", ".join(shown.get(name, name) for name in dict.fromkeys(config.log_to))


def _past(config: TrainConfig, interactions: int) -> str:
    words = f"{interactions:,} earlier interactions make histories, and are no examples"
    if config.warm_start is None:
        words += "; without --warm-start, users and items that have no others are hardly trained"
    return words


def _validation(config: TrainConfig, queries: int) -> str:
    ends = (
        f", ends the run after {config.patience} without a better {config.stop_by}"
        if config.patience
        else ""
    )
    return f"every {config.validate_every:,} steps, {queries:,} interactions{ends}"


def _share(start: Start) -> str:
    return "" if start.rows * start.context.world_size == start.global_batch else "at most "


def _ranges(hosts: tuple[str, ...], host: str) -> str:
    """Return a host's ranks, as in ``ranks 0-7``; one by one if they are not consecutive."""
    ranks = [rank for rank, name in enumerate(hosts) if name == host]
    if ranks[-1] - ranks[0] + 1 == len(ranks) > 1:
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _estimates(config: TrainConfig, start: Start) -> list[str]:
    found = start.estimate.ranks
    if not found:
        return []
    of = f" of each {config.sharding_group_size}" if config.sharding_group_size else ""
    shown = sorted(found, key=lambda rank: -_bytes(found[rank]))[:MOST_RANKS]
    more = f", the fullest {MOST_RANKS} of {len(found)}" if len(found) > MOST_RANKS else ""
    lines = [f"memory       of tables, optimizer state, inputs and outputs, as planned{more}"]
    lines += [f"  rank {rank}{of}: {_memory(found[rank], start.context)}" for rank in sorted(shown)]
    slowest = max(one.step_ms for one in found.values())
    by = "TorchRec's estimate, not calibrated on this hardware"
    if start.context.device.type == "cpu":
        by = "estimated by costs measured on other CPUs, --topology takes this cluster's"
    if config.topology is not None:
        by = f"estimated by {config.topology}"
    lines.append(
        f"step         {slowest:.2g} ms for the slowest rank's tables, towers not counted: {by}"
    )
    return lines


def _bytes(one: RankEstimate) -> int:
    return one.device_bytes + one.host_bytes


def _memory(one: RankEstimate, context: RankContext) -> str:
    if context.device.type == "cpu":
        return f"{_size(_bytes(one))} of {_size(context.memory_bytes)}"
    share = int(context.memory_bytes * (1 - MEMORY_RESERVE))
    text = f"{_size(one.device_bytes)} of {_size(share)}"
    if one.host_bytes:
        text += f", host {_size(one.host_bytes)} of {_size(context.host_memory_bytes)}"
    return text


def _size(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 2**10:.1f} KiB"
