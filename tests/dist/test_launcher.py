"""Launchers that set less than torchrun, and environment variables that contradict."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from dat_rec.data.dataset import Dataset
from tests.device import DEVICE_FLAGS
from tests.end_to_end.forked import forked, forked_ranks
from tests.rendezvous import free_port

FLAGS = ("--epochs", "1", "--batch-size", "512", "--model.hidden", "16", "--timeout-s", "60")


def together(
    program: Sequence[str | Path], ranks: Sequence[Mapping[str, str]]
) -> list[subprocess.CompletedProcess[str]]:
    """``program`` in as many processes, told what srun or PyTorchJob tells them: no torchrun."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return forked_ranks(program, [meet | variables for variables in ranks])


def of(rank: int, world: int, **more: str) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(world), **more}


def test_ranks_that_know_their_number_alone_find_out_their_host_and_train(
    planted: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pins = ("--pin", "item=table_row_wise", "user=row_wise", "*=table_wise")
    program = ("train", *DEVICE_FLAGS, "--data", planted.folder, "--out", run, *FLAGS, *pins)
    done = together(program, [of(rank, 2) for rank in range(2)])
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    assert "2 ranks on 1 host" in done[0].stderr
    plan = json.loads((run / "plan.json").read_text())
    (item,) = (row for row in plan if row["table"] == "item")
    assert [part["rank"] for part in item["shards"]] == [0, 1]


@pytest.mark.parametrize(
    ("ranks", "line"),
    [
        (
            [of(0, 2, LOCAL_RANK="0"), of(1, 2, LOCAL_RANK="0")],
            "environment: LOCAL_RANK is 0 on rank 1 (HOST), and with 2 ranks on each host it must "
            "be 1: start torchrun with the same --nproc-per-node on each host",
        ),
        (
            [
                of(0, 2, LOCAL_WORLD_SIZE="1", LOCAL_RANK="0"),
                of(1, 2, LOCAL_WORLD_SIZE="2", LOCAL_RANK="1"),
            ],
            "environment: LOCAL_WORLD_SIZE is 2 on rank 1 (HOST), where each host has 1: start "
            "torchrun with the same --nproc-per-node on each host",
        ),
    ],
)
def test_ranks_whose_words_contradict_refuse_together(
    ranks: list[dict[str, str]], line: str
) -> None:
    done = together(("doctor", "--cluster", *DEVICE_FLAGS), ranks)
    assert [one.returncode for one in done] == [2, 2]
    host = os.uname().nodename
    assert done[0].stderr == f"dat-rec: error: {line.replace('HOST', host)}\n"
    # c10d may warn there of the connection that rank 0 has closed.
    assert "dat-rec" not in done[1].stderr


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"RANK": "0"}, "environment: RANK without WORLD_SIZE: start with torchrun, or set both"),
        (
            {"WORLD_SIZE": "2"},
            "environment: WORLD_SIZE without RANK: start with torchrun, or set both",
        ),
        (
            {"RANK": "2", "WORLD_SIZE": "2"},
            "environment: RANK 2 of WORLD_SIZE 2 contradict one another: start with torchrun",
        ),
        (
            {"RANK": "one", "WORLD_SIZE": "2"},
            "environment: RANK is 'one', no integer: start with torchrun",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
            "environment: LOCAL_RANK 1 of LOCAL_WORLD_SIZE 1 contradict one another: start with "
            "torchrun",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "4"},
            "environment: srun has started 4 processes without RANK and WORLD_SIZE, and each would "
            "be alone: start torchrun once on each host, or set RANK, WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT",
        ),
    ],
)
def test_a_rank_refuses_an_environment_that_cannot_be(variables: dict[str, str], line: str) -> None:
    refused = forked("doctor", "--cluster", *DEVICE_FLAGS, **variables)
    assert refused.returncode == 2
    assert line in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that can be used")
def test_a_gpu_that_is_not_there_is_not_replaced(planted: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused = forked("train", "--device", "cuda", "--data", planted.folder, "--out", run, *FLAGS)
    assert (refused.returncode, run.exists()) == (2, False)
    assert refused.stderr == (
        f"dat-rec: error: --device cuda: torch can use no GPU on {os.uname().nodename}: run "
        "`dat-rec doctor` there, or pass --device cpu\n"
    )
