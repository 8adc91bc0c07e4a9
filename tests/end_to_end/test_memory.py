"""Tables that fill more than half of each rank's share: the peaks stay near the share."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dat_rec.data.dataset import Dataset
from tests.device import DEVICE_FLAGS
from tests.end_to_end.cli import ENVIRONMENT

RANKS = 2
ROWS = 6_000_000
SHARE_GB = 1.3


@pytest.fixture
def large(planted: Dataset, tmp_path: Path) -> Path:
    """The planted world with a user table of many more rows than it has users."""
    folder = tmp_path / "data"
    shutil.copytree(planted.folder, folder)
    schema = json.loads((folder / "schema.json").read_text())
    for feature in schema["features"]:
        if feature["table"] == "user":
            feature["rows"] = ROWS
    (folder / "schema.json").write_text(json.dumps(schema))
    return folder


IMPORTS = """
import dat_rec.training.train
print(next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line) / 1024)
"""


def imported_mb() -> float:
    """What a process holds once it has imported all that trains; with CUDA twice as much."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def peaks_mb(run: list[str], end: Path) -> list[float]:
    """Run the command under torchrun; the most that each rank's process has held, by the kernel.

    Until the file ``end`` is there: ending, CUDA's libraries touch 100 MB of themselves.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    with subprocess.Popen(
        [sys.executable, *torchrun, *run],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        peaks: dict[str, float] = {}
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None:
            if end.exists():
                process.wait()
                break
            for child in children.read_text().split():
                try:
                    status = Path(f"/proc/{child}/status").read_text()
                except OSError:
                    continue
                fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
                if "VmHWM" in fields:
                    peaks[child] = int(fields["VmHWM"].split()[0]) / 1024
            time.sleep(0.05)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return sorted(peaks.values())[-RANKS:]


@pytest.mark.slow
def test_training_saving_and_resuming_stay_near_the_share(large: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ["-m", "dat_rec", "train", *DEVICE_FLAGS, "--data", str(large), "--out", str(run)]
    flags = ["--epochs", "1", "--batch-size", "512", "--checkpoint-every", "4"]
    flags += ["--sharding-types", "row_wise", "--memory-gb", str(SHARE_GB)]
    held_mb = 2 * ROWS * (32 + 1) * 4 / RANKS / 2**20  # ids and augmented vectors, and their sums
    share_mb = SHARE_GB * 1024
    assert held_mb > share_mb / 2
    most_mb = imported_mb() + 0.9 * share_mb
    peaks = peaks_mb([*train, *flags], run / "train.json")
    told = json.loads((run / "train.json").read_text())["peak_memory_mb"]
    assert max(abs(a - b) for a, b in zip(sorted(told), peaks, strict=True)) < 0.05 * share_mb
    assert min(peaks) > held_mb
    assert max(peaks) < most_mb, peaks
    # Once more from the checkpoint of step 4, with the rest of the steps.
    shutil.rmtree(max((run / "checkpoints").iterdir()))
    (run / "train.json").unlink()
    peaks = peaks_mb([*train, *flags, "--resume"], run / "train.json")
    assert json.loads((run / "train.json").read_text())["resumed_after"] == 4
    assert max(peaks) < most_mb, peaks


@pytest.mark.slow
def test_tables_beyond_the_share_are_refused_before_anything_is_written(
    large: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = ["-m", "dat_rec", "train", *DEVICE_FLAGS, "--data", str(large), "--out", str(run)]
    done = subprocess.run(
        [sys.executable, *train, "--memory-gb", "0.5"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no sharding plan fits 1 × cpu of 0.5 GiB each" in done.stderr
    assert not run.exists()
