"""The doctor: which versions and devices are here, whether they work together, and the cure.

What it looks at stands in ``dat_rec.preflight``: ``packages``, ``probes`` and ``this_machine``, and
with ``--cluster`` ``preflight``. Standard library only at import, so that it works where torch does
not.
"""

import io
import json
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dat_rec.install import nvidia_gpu_present
from dat_rec.preflight import probes
from dat_rec.preflight.packages import (
    check_other_packages,
    check_torch_stack,
    fbgemm_build,
    installed_versions,
)
from dat_rec.preflight.probes import Probes, run_probes
from dat_rec.preflight.report import Report
from dat_rec.preflight.this_machine import check_backends, check_devices, check_space
from dat_rec.versions import INSTALL

if TYPE_CHECKING:
    from dat_rec.config import Device

TIMEOUT_S = 60
"""Seconds without an answer after which another rank is given up."""


def probe_training() -> str:
    """Prepare a planted world and train on it for a step, as ``dat-rec train`` does it here."""
    from dat_rec.config import preset
    from dat_rec.data.prepare.pipeline import prepare
    from dat_rec.data.sources.synthetic import Synthetic
    from dat_rec.dist.process_group import process_group
    from dat_rec.training.train import train

    said = io.StringIO()
    with (
        redirect_stdout(said),
        redirect_stderr(said),
        tempfile.TemporaryDirectory(prefix="dat_rec-doctor-") as folder,
    ):
        data, run = Path(folder, "data"), Path(folder, "run")
        prepare(Synthetic(out=data, users=50, items=30, interactions=400))
        config = replace(preset("modern", data, run), epochs=1, batch_size=400)
        done = train(config)
        with process_group(TIMEOUT_S, device=config.device) as context:
            device = context.device
    return f"{done['steps']} step on {device}"


PROBES: Probes = {**probes.PROBES, "training": (probe_training, INSTALL)}
"""Every part alone, and then the whole."""


def report() -> Report:
    """Look at this machine; takes some seconds, since torch is imported and tried."""
    installed = installed_versions()
    results = run_probes("dat_rec.doctor")
    build = fbgemm_build(installed, results, nvidia_gpu_present())
    return Report(
        (
            *check_torch_stack(installed, build),
            *check_other_packages(installed),
            *check_devices(results, build),
            *check_backends(results, PROBES),
            *check_space(),
        )
    )


def main(*, as_json: bool = False) -> int:
    """Print the report of this machine, and return the exit code: 0 when all is well, else 2."""
    return _tell(report(), as_json=as_json)


def cluster_main(out: Path | None, device: "Device" = "auto", *, as_json: bool = False) -> int:
    """Look at all ranks of a process group; every rank calls this, rank 0 prints.

    Args:
        out: the run's folder, there or not.
        device: the ``--device`` that training will have.
        as_json: print JSON.

    Returns:
        The exit code, the same on every rank.

    Raises:
        UserError: the launcher's environment contradicts itself.
        RankError: another rank failed, died, or cannot be met.
    """
    from dat_rec.dist.process_group import process_group
    from dat_rec.preflight.preflight import preflight

    with process_group(TIMEOUT_S, device=device) as context:
        found = preflight(context, out).report
        if context.is_rank_zero:
            return _tell(found, as_json=as_json)
    return 0 if found.ok else 2


def _tell(found: Report, *, as_json: bool) -> int:
    print(json.dumps(found.as_json(), indent=2) if as_json else found.text())
    return 0 if found.ok else 2


if __name__ == "__main__":
    sys.exit(main(as_json="--json" in sys.argv[1:]))
