"""Tables and a described cluster in; out: where the tables would go, and whether they fit.

The planner is training's own (``dat_rec.planner.plan.plan_on``). No process group, no GPU and no
memory for the tables is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torchrec.distributed.planner.types import ShardingOption
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.errors import UserError
from dat_rec.planner.estimate import PlanEstimate, RankEstimate
from dat_rec.planner.hardware import MOST_RANKS, Cluster
from dat_rec.planner.plan import MEMORY_RESERVE, DoesNotFitError, plan_on
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import fuse_optimizer
from dat_rec.table_rules import SHARDING_TYPES

OFFLOADS = (0.2, 0.1, 0.05, 0.02)
"""Cache load factors that are tried, in this order, where nothing fits."""
MOST_TIMES = 16
"""Of the hosts that could hold the bytes, at which the search for enough of them ends."""


@dataclass(frozen=True)
class Question:
    """What is to be planned, and for which cluster."""

    model: Callable[[Sequence[str]], nn.Module]
    """Makes the model with the tables that the patterns fit in float16; tables on the meta
    device."""
    pooling_factors: dict[str, float]
    cluster: Cluster
    options: ShardingOptions
    fp16_tables: tuple[str, ...] = ()
    towers_bytes: int = 0
    """Of each rank's towers, with gradients and Adam's moments."""

    @property
    def share_bytes(self) -> int:
        """Of each rank's memory, what tables may take."""
        given = self.cluster.memory_bytes
        return int(given * (1 - MEMORY_RESERVE)) if self.cluster.on_gpu else given


@dataclass(frozen=True)
class Misfit:
    """Why nothing fits; each table sharded in the way that takes the least memory in all."""

    device_bytes: int
    """That all ranks' GPUs must hold, or on CPU their memory."""
    host_bytes: int
    """That the hosts of GPUs must hold."""
    largest_bytes: int
    """Of the largest part that one rank must hold."""
    largest_table: str


@dataclass(frozen=True)
class Answer:
    """A plan with what it is expected to take, or why there is none."""

    question: Question
    plan: tuple[dict[str, Any], ...] = ()
    """Of ``plan_to_json``."""
    estimate: PlanEstimate | None = None
    misfit: Misfit | None = None

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.misfit is None

    @property
    def lacks_host_memory(self) -> bool:
        """Whether the hosts of GPUs cannot hold what must lie there."""
        cluster = self.question.cluster
        there = cluster.host_bytes * cluster.world_size
        return cluster.on_gpu and self.misfit is not None and self.misfit.host_bytes > there

    def main_bytes(self) -> dict[int, int]:
        """By rank, of GPU memory, or on CPU of the rank's; no ranks without a plan."""
        on_gpu = self.question.cluster.on_gpu
        return {rank: one.device_bytes if on_gpu else one.host_bytes for rank, one in self._ranks()}

    def times_ms(self) -> dict[int, float]:
        """By rank; no ranks without a plan."""
        return {rank: one.step_ms for rank, one in self._ranks()}

    def _ranks(self) -> list[tuple[int, RankEstimate]]:
        """All of them, those without tables too."""
        if self.estimate is None:
            return []
        found = self.estimate.ranks
        world = range(self.question.cluster.world_size)
        return [(rank, found.get(rank, RankEstimate())) for rank in world]


def ask(question: Question) -> Answer:
    """Plan.

    Raises:
        UserError: a rule or an option that cannot be.
    """
    model = question.model(question.fp16_tables)
    fuse_optimizer(model, question.options)
    estimate = PlanEstimate()
    try:
        plan = plan_on(
            question.cluster.topology(),
            model,
            question.pooling_factors,
            question.options,
            estimate,
            question.cluster.hardware.costs,
        )
    except DoesNotFitError as error:
        return Answer(question, misfit=_misfit(error.smallest, on_gpu=question.cluster.on_gpu))
    return Answer(question, tuple(plan_to_json(plan)), estimate)


def _misfit(smallest: Sequence[ShardingOption], *, on_gpu: bool) -> Misfit:
    total = [option.total_storage for option in smallest]
    parts = [
        (shard.storage.hbm if on_gpu else shard.storage.ddr, option.name)
        for option in smallest
        for shard in option.shards
    ]
    largest, table = max(parts)
    return Misfit(
        sum(one.hbm if on_gpu else one.ddr for one in total),
        sum(one.ddr for one in total) if on_gpu else 0,
        largest,
        table,
    )


def towers_bytes(model: nn.Module) -> int:
    """Of what is no table: weights, gradients, and Adam's two moments."""
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for parameter in module.parameters()
    }
    dense = [p for p in model.parameters() if id(p) not in tables]
    return 4 * sum(parameter.numel() * parameter.element_size() for parameter in dense)


def offloaded(question: Question, share: float) -> Question:
    """With all tables that no rule names in host memory, and so much of their rows on the GPU."""
    pin = f"*=fused_uvm_caching,cache_load_factor:{share:g}"
    options = replace(question.options, pins=(*question.options.pins, pin))
    return replace(question, options=options)


def halved(question: Question) -> Question:
    """With all tables in float16."""
    return replace(question, fp16_tables=("*",))


def smallest_cluster(answer: Answer) -> Answer | None:
    """The answer for the fewest hosts of the same kind that fit; None if no number is found.

    Doubles, then bisects, from as many hosts as could hold the bytes, to ``MOST_TIMES`` as many: a
    step's outputs grow with the ranks, so that more of them do not help for ever.
    """
    question, misfit = answer.question, answer.misfit
    if misfit is None:
        return answer
    cluster = question.cluster
    of_host = question.share_bytes * cluster.ranks_per_host
    needed = -(-misfit.device_bytes // of_host)
    if cluster.on_gpu:
        needed = max(needed, -(-misfit.host_bytes // (cluster.host_bytes * cluster.ranks_per_host)))
    # Fewer than these cannot.
    low = max(cluster.hosts, needed - 1)
    high, found = low + 1, None
    most = min(MOST_RANKS // cluster.ranks_per_host, MOST_TIMES * high)
    while high <= most:
        found = _on(question, high)
        if found is not None:
            break
        low, high = high, 2 * high
    if found is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        smaller = _on(question, middle)
        low, high = (low, middle) if smaller else (middle, high)
        found = smaller or found
    return found


def _on(question: Question, hosts: int) -> Answer | None:
    answer = _possible(replace(question, cluster=replace(question.cluster, hosts=hosts)))
    return answer if answer and answer.fits else None


def changes(question: Question) -> dict[str, Answer]:
    """What would fit on the given cluster, by what is changed; each really planned."""
    asked = {"": question}
    if question.fp16_tables != ("*",):
        asked["float16 tables (--fp16-tables '*')"] = halved(question)
    found: dict[str, Answer] = {}
    for name, one in asked.items():
        if name and (answer := _possible(one)) and answer.fits:
            found[name] = answer
        for share in OFFLOADS if question.cluster.on_gpu else ():
            answer = _possible(offloaded(one, share))
            if answer and answer.fits:
                text = f"{share:.0%} of rows in the GPUs' caches (--offload {share:g})"
                found[f"{name} and {text}" if name else text] = answer
            # A smaller cache saves nothing of the hosts' memory.
            if answer is None or answer.fits or answer.lacks_host_memory:
                break
    return found


def _possible(question: Question) -> Answer | None:
    """The answer; None where a rule of a table does not go with what was changed."""
    try:
        return ask(question)
    except UserError:
        return None


def compare(question: Question) -> dict[str, Answer | str]:
    """Alternatives by name: an answer each, or why it cannot be."""
    asked = {"as asked": question}
    for kind in SHARDING_TYPES:
        options = replace(question.options, sharding_types=(kind,))
        asked[f"{kind} alone"] = replace(question, options=options)
    everything = replace(question.options, sharding_types=SHARDING_TYPES)
    asked["free choice of types"] = replace(question, options=everything)
    asked["float16 tables"] = halved(question)
    if question.cluster.on_gpu:
        asked |= {f"offload {share:g}": offloaded(question, share) for share in (0.1, 0.2)}
    found: dict[str, Answer | str] = {}
    for name, one in asked.items():
        try:
            found[name] = ask(one)
        except UserError as error:
            found[name] = str(error)
    return found
