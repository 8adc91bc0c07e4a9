"""What the process group changes in the process itself."""

import os
import subprocess
import sys

FAULTS = """
import resource
import torch
from dat_rec.dist.process_group import process_group

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(1.0)  # 64 MiB, as the softmax's buffers: mapped anew by default
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with process_group(60):
    # The heap grows to its size in the first steps.
    print(sorted(faults_of_a_step() for _ in range(30))[15])
"""


def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    without_gpus = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=without_gpus,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Mapped anew, 64 MiB in pages of 4 KiB are 16,384 faults (in pages of 2 MiB, 32).
    assert int(done.stdout) < 10
