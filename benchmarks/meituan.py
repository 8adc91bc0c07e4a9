"""The paper's own size: where do its tables go, and how fast is what this machine can hold?

    python -m benchmarks.meituan [--share 0.5] [--cluster a100-40gb:1x8]

82 million users, 3.6 million items, 9 categories (docs/meituan_tables.json). All of it is planned,
as `dat-rec plan` does, for a cluster that is only described. Then one rank here trains DAT with
that share of the rows, float16 tables and random ids. The result is a JSON line: the plan's bytes
and seconds, samples/s, peak memory, and the bytes that were planned beside those that the tables
and the process have taken.
"""

import dataclasses
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from tqdm import tqdm

from benchmarks.ranks import on_ranks
from benchmarks.record import append, circumstances, percentiles
from benchmarks.shapes import Shape, build, endless
from dat_rec.commands.plan import PlanOptions
from dat_rec.commands.plan_question import question_of
from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_request import find_plan
from dat_rec.planner.table_file import read_tables
from dat_rec.sharding.table_shards import table_shards

TABLES = Path(__file__).parents[1] / "docs" / "meituan_tables.json"
FP16 = ("user", "item", "augmented_*")
BYTES_A_ROW = 2 * (32 * 2 + 4)
"""Embedding and augmented vector in float16, and a float32 sum of squares for each."""
APART_GB = 2.0
"""GiB kept for the process itself, its batches and towers."""
BATCHES = 8
Steps = tuple[int, int]
"""Before the clock starts, and timed."""


@dataclass(frozen=True)
class Arguments:
    """The paper's tables: planned in full, trained in part."""

    share: float = 0.0
    """Of the users and items; 0: as many as --memory-gb holds."""
    memory_gb: float = 0.0
    """GiB to use; 0: half of what is free."""
    cluster: str = "a100-40gb:1x8"
    """Plan for this one, as `dat-rec plan --cluster`."""
    batch_size: int = 2048
    """Examples a batch."""
    negatives: int = 4
    """For each example."""
    steps: int = 100
    """Timed, after 20 others."""
    out: Path = Path("benchmarks/results/meituan.jsonl")
    """File to append to."""
    smoke: bool = False
    """A ten-thousandth of the rows, a few steps: shows that the script works, no figure."""


def planned(cluster: str) -> dict[str, Any]:
    """What the planner says of the tables as they are, and in float16."""
    found: dict[str, Any] = {}
    for name, fp16 in (("float32", ()), ("float16", FP16)):
        config = PlanOptions(tables=TABLES, cluster=cluster, fp16_tables=fp16)
        begin = time.perf_counter()
        answer = find_plan(question_of(config))
        seconds = time.perf_counter() - begin
        sizes = answer.main_bytes()
        found[name] = {
            "fits": answer.fits,
            "fullest_rank_bytes": max(sizes.values(), default=None),
            "all_ranks_bytes": sum(sizes.values()),
            "plan_s": seconds,
        }
    return found


def trained(shape: Shape, memory_gb: float, steps: Steps) -> dict[str, Any]:
    """Figures of one rank that trains ``shape``."""
    config = shape.config(memory_gb=memory_gb)
    model = dataclasses.replace(config.model, fp16_tables=FP16)
    config = dataclasses.replace(config, model=model)
    with process_group(config.timeout_s, config.memory_gb, config.device) as context:
        before = _resident_bytes()
        begin = time.perf_counter()
        built = build(shape, config, context)
        built_s, after = time.perf_counter() - begin, _resident_bytes()
        shards = table_shards(built.model)
        pipeline = TrainPipelineSparseDist(
            built.model, built.optimizer, context.device, execute_all_batches=True
        )
        batches = endless(shape.batches(BATCHES))
        for _ in range(steps[0]):
            pipeline.progress(batches)
        times = []
        for _ in tqdm(range(steps[1]), desc="measure", unit="step"):
            begin = time.perf_counter()
            pipeline.progress(batches)
            times.append(time.perf_counter() - begin)
        estimate = built.estimate.ranks[0]
    tensors = [t for shard in shards for t in (shard.weights, shard.accumulator) if t is not None]
    return {
        "samples_per_s": shape.batch_size * len(times) / sum(times),
        "samples_per_s_by_step": percentiles([shape.batch_size / s for s in times]),
        "build_s": built_s,
        "planned_bytes": {
            "tables": estimate.weights_bytes + estimate.state_bytes,
            "with a step": estimate.host_bytes,
        },
        "measured_bytes": {
            "tables": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "resident, added by the model": after - before,
            "resident, added by the model and its steps": _resident_bytes() - before,
        },
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _free_gb() -> float:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 2**20


def main() -> None:
    """Plan, train, and append the result."""
    arguments = tyro.cli(Arguments)
    users, items = (table.rows - 1 for table in read_tables(TABLES).tables[:2])
    memory_gb = arguments.memory_gb or _free_gb() / 2
    room = (memory_gb - APART_GB) * 2**30
    share = arguments.share or max(0.0, min(1.0, room / (BYTES_A_ROW * (users + items))))
    steps = (20, arguments.steps)
    if arguments.smoke:
        share, steps = 1e-4, (2, 5)
    shape = Shape(
        (int(users * share) + 1,),
        (int(items * share) + 1,),
        batch_size=arguments.batch_size,
        negatives=arguments.negatives,
        categories=10,
    )
    plan = planned(arguments.cluster)
    (result,) = on_ranks(1, trained, shape, memory_gb, steps)
    row = {
        "benchmark": "meituan",
        "cluster": arguments.cluster,
        "planned_in_full": plan,
        "share": share,
        "users": shape.query_rows[0],
        "items": shape.item_rows[0],
        "batch_size": shape.batch_size,
        "negatives": shape.negatives,
        "steps": steps[1],
    }
    out = None if arguments.smoke else arguments.out
    append(out, row | result | circumstances())


if __name__ == "__main__":
    main()
