"""``dat-rec doctor``: check versions, devices and backends, or a whole cluster.

Standard library only at import: it has to speak of packages that are missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dat_rec.commands.parse import Arguments, parse
from dat_rec.errors import UserError


@dataclass(frozen=True)
class DoctorOptions:
    """Check which versions and devices are here, whether they work together, and print the cure."""

    json: bool = False
    """Print JSON."""
    cluster: bool = False
    """Compare all ranks: versions, run folder, clocks, interfaces, GPUs, memory, bandwidth. Start
    it on every rank under torchrun, as training is; the first rank prints."""
    out: Path | None = None
    """Folder of the run, there or not, which all hosts must share; with --cluster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that training will use, as in `dat-rec train`; with --cluster."""


def run(arguments: Arguments) -> int:
    """Check, and print the report; 0 when all is well."""
    from dat_rec.doctor import cluster_main
    from dat_rec.doctor import main as doctor

    # By hand: where tyro is missing, doctor is the one to say so.
    if set(arguments) <= {"--json"}:
        return doctor(as_json=bool(arguments))
    options: DoctorOptions = parse("doctor", DoctorOptions, arguments)
    if options.cluster:
        return cluster_main(options.out, options.device, as_json=options.json)
    if options.out is not None:
        raise UserError("--out is looked at with --cluster alone: add it, or leave --out out")
    return doctor(as_json=options.json)
