"""The page that a start of a run begins with, beside what the run then does."""

import json
import platform
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.dist.rank_context import RankContext
from dat_rec.planner.cost_estimate import PlanEstimate, RankEstimate
from dat_rec.runs.start_page import Start, start_page
from tests.end_to_end.cli import done
from tests.end_to_end.forked import on_ranks
from tests.end_to_end.launched import FLAGS, STEPS


def test_the_page_stands_before_the_first_step_and_in_the_folder(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    trained = on_ranks(2, "train", "--data", planted.folder, "--out", out, *FLAGS)
    done(trained)
    told = trained.stderr
    page = (out / "start.txt").read_text()
    assert page in told.partition("step/s]")[0]
    assert told.count(page) == 1
    assert f"{out}, begins\n" in page
    assert f"2 × cpu, hosts: 1 ({platform.node()} ranks 0-1)" in page
    summary = json.loads((out / "train.json").read_text())
    assert f"{STEPS} (epochs: 2), 160 examples a step, 80 on each rank" in page
    assert summary["steps"] == STEPS
    assert f"{summary['examples_an_epoch']:,} examples an epoch" in page
    # What it names is where it says.
    (logdir,) = re.findall(r"tensorboard --logdir (\S+)", page)
    assert list(Path(logdir).glob("events.out.tfevents.*"))
    (folder,) = re.findall(r"(\S+/checkpoints), every 7 steps", page)
    assert Path(folder) == checkpoints(out)[-1][1].parent
    for line in (out / "plan.txt").read_text().splitlines():
        assert f"\n  {line}\n" in page
    assert re.search(r"rank 0: [\d.]+ KiB of [\d.]+ GiB\n  rank 1: [\d.]+ KiB of ", page)
    assert "estimated by costs measured on other CPUs, --topology takes this cluster's" in page


def test_the_page_says_over_how_many_categories_the_alignment_loss_is(planted: Dataset) -> None:
    assert "categories" not in page(("a",))
    (line,) = re.findall(r"^categories   (.*)$", page(("a",), compared="as told"), re.MULTILINE)
    assert line == "as told"


def page(
    hosts: tuple[str, ...],
    device: str = "cpu",
    done: int = 0,
    group: int = 0,
    compared: str | None = None,
    fp16_tables: tuple[str, ...] = (),
    past: int = 0,
    warm_start: Path | None = None,
) -> str:
    context = RankContext(
        0, len(hosts), 0, 1, torch.device(device), 2**30, 2**31, timedelta(seconds=9)
    )
    estimate = PlanEstimate()
    ranks = range(group or len(hosts))
    estimate.ranks = {rank: RankEstimate(2**20, 2**21 * rank, 0.5 + rank) for rank in ranks}
    start = Start(
        context, hosts, 1_000, done, 5_000, 10, 3, [], estimate, compared=compared, past=past
    )
    config = replace(preset("modern", Path("/data"), Path("/a run")), sharding_group_size=group)
    config = replace(config, warm_start=warm_start)
    config = replace(config, model=replace(config.model, fp16_tables=fp16_tables))
    return start_page(config, start)


def test_hosts_shares_and_words_for_a_shell_are_as_they_are() -> None:
    found = page(("a", "a", "b", "a"), done=400)
    assert "hosts: 2 (a ranks 0, 1, 3, b rank 2)" in found
    assert "10 examples a step, at most 3 on each rank" in found
    assert "/a run, goes on after step 400" in found
    assert "tensorboard --logdir '/a run'/tensorboard" in found
    assert "  rank 3: 7.0 MiB of 1.0 GiB" in found
    assert "3.5 ms for the slowest rank's tables" in found


def test_interactions_before_the_examples_are_told_with_what_a_cold_start_lacks() -> None:
    told = "past         4,000 earlier interactions make histories, and are no examples"
    lacks = "; without --warm-start, users and items that have no others are hardly trained"
    assert told + lacks in page(("a",), past=4_000).splitlines()
    assert told in page(("a",), past=4_000, warm_start=Path("/run")).splitlines()
    assert "past" not in page(("a",))


def test_half_precision_tables_are_told_with_what_they_lose() -> None:
    told = "float16      item, aug*: a step below 1/4,096 of a weight is lost"
    assert told in page(("a",), fp16_tables=("item", "aug*")).splitlines()
    assert "float16" not in page(("a",))


def test_a_gpu_keeps_a_reserve_and_copies_are_told_once() -> None:
    found = page(("a",) * 4, device="cuda", group=2)
    # 85 % of a GiB.
    assert "  rank 0 of each 2: 1.0 MiB of 870.4 MiB\n" in found
    assert "  rank 1 of each 2: 1.0 MiB of 870.4 MiB, host 2.0 MiB of 2.0 GiB\n" in found


def test_of_many_ranks_the_fullest_are_listed() -> None:
    found = page(tuple("a" * 40))
    assert "as planned, the fullest 16 of 40" in found
    listed = [int(rank) for rank in re.findall(r"^  rank (\d+):", found, re.MULTILINE)]
    assert listed == list(range(24, 40))
