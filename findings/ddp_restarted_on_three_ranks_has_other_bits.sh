#!/usr/bin/env bash
# A DistributedDataParallel job that is stopped and resumed on three ranks ends with other bits than
# the same job undisturbed; on two ranks it does not.
#
# DDP puts all gradients of this model into one bucket in its first step, in the order of the
# parameters, and from the second step on into buckets in the order in which gradients became ready.
# Which ranks' numbers gloo adds first depends on where a number stands in its bucket, so that sums of
# three round differently in the first step of every start. A checkpoint that holds everything does
# not help: the step after it is a first step again. Sums of two numbers do not depend on their order,
# which is why tests on two ranks see nothing. Repeated without a restart, the run has the same bits.
#
# A cure is find_unused_parameters=True, with which DDP keeps its first buckets, or one message in a
# fixed order in place of DDP.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/restart.py" <<'PYTHON'
"""Print, for 2 and 3 ranks, how many parameters differ after a repetition and after a restart."""

import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

STEPS = 4


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4)))


def train(model: torch.nn.Module, first: int, last: int, rank: int) -> None:
    """One start of the job: SGD has no state, so that the weights are a whole checkpoint."""
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, last):
        generator = torch.Generator().manual_seed(1000 * step + rank)
        optimizer.zero_grad()
        wrapped(torch.randn(16, 64, generator=generator)).square().mean().backward()
        optimizer.step()


def differing(one: torch.nn.Module, other: torch.nn.Module) -> int:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(not torch.equal(a, b) for a, b in pairs)


def main(rank: int, world: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    once, repeated, restarted = fresh(), fresh(), fresh()
    train(once, 0, STEPS, rank)
    train(repeated, 0, STEPS, rank)
    train(restarted, 0, STEPS // 2, rank)
    train(restarted, STEPS // 2, STEPS, rank)
    if rank == 0:
        Path(out).write_text(f"{differing(once, repeated)} {differing(once, restarted)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    found = {}
    for world in (2, 3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        out = f"{sys.argv[1]}/{world}"
        mp.start_processes(main, (world, port, out), nprocs=world, start_method="spawn")
        repeated, restarted = map(int, Path(out).read_text().split())
        found[world] = (repeated, restarted > 0)
        print(f"torch {torch.__version__}, {world} ranks: of 8 parameters {repeated} differ after a")
        print(f"    repetition, {restarted} after a restart in the middle")
    sys.exit(found != {2: (0, False), 3: (0, True)})
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/restart.py" "$folder"
echo "As described: on three ranks a restart changes bits, on two it does not."
