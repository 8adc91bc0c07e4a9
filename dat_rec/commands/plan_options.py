"""Every option of ``dat-rec plan``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dat_rec.config import MOST_MEMORY_GB, Preset
from dat_rec.errors import UserError
from dat_rec.table_rules import ShardingType, parse_rule


@dataclass(frozen=True)
class PlanConfig:
    """Say where tables would go on a described cluster, whether they fit, and a step's time.

    No GPU is needed. Exit code 1 if they do not fit, with what would.
    """

    tables: Path | None = None
    """JSON file of tables: {"batch_size": N, "tables": [{"name", "rows", "dim",
    "pooling_factor"}]}; each may have "features": N bags an example, "fp16": true, "rule": words
    as behind --pin TABLE=."""
    run: Path | None = None
    """Plan a run's tables and towers, with the global batch that it has."""
    data: Path | None = None
    """Plan those of PRESET on this dataset; with --run, the run's if it was moved."""
    preset: Preset = "modern"
    """With --data: where the model comes from."""
    cluster: str | None = None
    """PRESET:HOSTSxRANKS, as in h100-80gb:16x8; presets: a100-40gb, a100-80gb, h100-80gb,
    h200-141gb, b200-180gb, a10g-24gb, l4-24gb, l40s-48gb, cpu-64gb, cpu-256gb, cpu-1tb."""
    topology: Path | None = None
    """JSON file that describes another cluster: device (cuda, cpu), hosts, ranks_per_host,
    memory_gb (GiB of a rank), host_memory_gb (GiB of a host), and in GB/s hbm_mem_bw, ddr_mem_bw,
    hbm_to_ddr_mem_bw, intra_host_bw, inter_host_bw; "measured": true if those were. On CPU also
    costs, as benchmarks/calibrate.py writes them."""
    pin: tuple[str, ...] = ()
    """As in training; goes before the file's rules, and in place of the run's."""
    sharding_types: tuple[ShardingType, ...] = ()
    """As in training; empty: as training would, or the run has it."""
    memory_gb: float = 0.0
    """Memory of each rank, in GiB, in place of the preset's."""
    batch_size: int = 0
    """Examples a batch on each rank; 0: the file's, the preset's, or the run's global batch over
    all ranks."""
    fp16_tables: tuple[str, ...] = ()
    """Tables whose weights are float16, by name or pattern."""
    optimizer: Literal["rowwise_adagrad", "adagrad"] | None = None
    """The tables' optimizer; as training would, or the run has it."""
    offload: float = 0.0
    """Put the tables that no rule names into the hosts' memory (fused_uvm_caching), with a cache
    on the GPUs for such a share of their rows."""
    compare: bool = False
    """Plan alternatives too: each sharding type alone, all of them, float16, offloading."""
    json: Path | None = None
    """Write the answer to this file for machines."""
    picture: Path | None = None
    """Draw the plan into this PNG: bytes by rank and table, and each rank's memory."""

    def check(self) -> None:
        """Refuse options that contradict one another.

        Raises:
            UserError: names the option, and the cure.
        """
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
        if not 0 <= self.memory_gb <= MOST_MEMORY_GB:
            raise UserError(
                f"--memory-gb is {self.memory_gb}: it must be 0 or more, at most {MOST_MEMORY_GB}"
            )
        if not 0 <= self.batch_size < 2**31:
            raise UserError(f"--batch-size is {self.batch_size}: it must be 1 or more")
        if not 0 <= self.offload <= 1:
            raise UserError(f"--offload is {self.offload}: it must lie in (0, 1]")
        for pin in self.pin:
            parse_rule(pin)
