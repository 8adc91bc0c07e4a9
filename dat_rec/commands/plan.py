"""``dat-rec plan``: plan the sharding of tables on a described cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.config import MAXIMUM_MEMORY_GB, Preset
from dat_rec.errors import UserError
from dat_rec.files import STRICT
from dat_rec.option_marks import check_bounds
from dat_rec.sharding_rules import ShardingType, parse_rule
from dat_rec.storage.address import Location
from dat_rec.versions import require_stack


@dataclass(frozen=True)
class PlanOptions:
    """Plan the sharding of tables on a described cluster: shards, memory, and a step's time.

    No GPU is needed. The exit code is 1 if they do not fit, with what would.
    """

    tables: Path | None = None
    """JSON file of the tables to plan: {"batch_size": N, "tables": [{"name", "rows", "dim",
    "pooling_factor"}]}; each may have "features": N bags an example, "fp16": true, "rule": words
    as behind --pin TABLE=."""
    run: Path | None = None
    """Folder of a run to plan: its tables and towers, with its global batch."""
    data: Location | None = None
    """Folder or address of a dataset to plan: the tables and towers that the preset's model has on
    it. With --run: the run's dataset, if it was moved."""
    preset: Preset = "modern"
    """Preset of the model to plan; with --data alone."""
    cluster: str | None = None
    """Cluster to plan for, PRESET:HOSTSxRANKS with the ranks on each host, as in h100-80gb:16x8;
    presets: a100-40gb, a100-80gb, h100-80gb, h200-141gb, b200-180gb, a10g-24gb,
    l4-24gb, l40s-48gb, cpu-64gb, cpu-256gb, cpu-1tb."""
    topology: Path | None = None
    """JSON file of another cluster to plan for: device (cuda, cpu), hosts, ranks_per_host,
    memory_gb (GiB of a rank), host_memory_gb (GiB of a host), and in GB/s hbm_mem_bw, ddr_mem_bw,
    hbm_to_ddr_mem_bw, intra_host_bw, inter_host_bw; "measured": true if those were. On CPU also
    costs, as benchmarks/calibrate.py writes them."""
    pin: tuple[str, ...] = ()
    """Constraints of the planner, as in training; they go before the file's rules, and in place of
    the run's."""
    sharding_types: tuple[ShardingType, ...] = ()
    """Sharding types that the planner may choose from; empty: training's default, or the run's."""
    memory_gb: Annotated[float, Ge(0), Le(MAXIMUM_MEMORY_GB)] = 0.0
    """Memory of each rank, in GiB; 0: that of the cluster's hosts or topology file."""
    batch_size: Annotated[int, Ge(0), Lt(2**31)] = 0
    """Number of examples in a batch on each rank; 0: the file's, the preset's, or the run's global
    batch divided by the number of ranks."""
    fp16_tables: tuple[str, ...] = ()
    """Tables whose weights have the dtype float16, by name or pattern."""
    optimizer: Literal["rowwise_adagrad", "adagrad"] | None = None
    """Optimizer of the tables; without it training's default, or the run's."""
    offload: Annotated[float, Ge(0), Le(1)] = 0.0
    """Offload the tables that no constraint names into the hosts' memory (fused_uvm_caching): the
    share of their rows that a cache on the GPUs holds; 0: offload none."""
    compare: bool = False
    """Compare with alternatives: each sharding type alone, all of them, float16, offloading."""
    json: Path | None = None
    """JSON file to write the answer to."""
    picture: Path | None = None
    """PNG file to draw the plan into: bytes by rank and table, and each rank's memory."""

    __pydantic_config__ = STRICT

    def check(self) -> None:
        """Refuse values beyond their bounds, and options that contradict one another.

        Raises:
            UserError: names the option, and the cure.
        """
        check_bounds(self)
        if self.tables is not None and (self.run is not None or self.data is not None):
            raise UserError("--tables is given with --run or --data: name one of them")
        if self.tables is None and self.run is None and self.data is None:
            raise UserError("no tables: pass --tables FILE, --run RUN or --data DATA")
        if self.preset != "modern" and (self.tables is not None or self.run is not None):
            raise UserError(
                f"--preset {self.preset}: does nothing with --tables or --run: leave it out"
            )
        if (self.cluster is None) == (self.topology is None):
            raise UserError("pass one of --cluster PRESET:HOSTSxRANKS and --topology FILE")
        for pin in self.pin:
            parse_rule(pin)


def run(arguments: Arguments) -> int:
    """Print the plan; 1 if the tables do not fit."""
    refuse_repeated(arguments)
    options: PlanOptions = parse("plan", PlanOptions, arguments)
    require_stack()
    from dat_rec.commands.plan_question import print_plan

    return print_plan(options)
