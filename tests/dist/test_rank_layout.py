"""Which host and GPU each rank has, for hosts and GPUs that this machine need not have."""

import pytest
import torch

from dat_rec.dist.rank_layout import RankLayout, RankReport, rank_layout
from dat_rec.errors import SharedError


def report(host: str, gpus: int = 0, **changed: object) -> RankReport:
    facts: dict[str, object] = {"local_rank": None, "local_world_size": None, "device": "auto"}
    names = tuple(f"GPU-{host}{number}" for number in range(gpus))
    return RankReport(host=host, boot_id="", gpus=names, **(facts | changed))  # type: ignore[arg-type]


def test_the_ranks_of_each_host_are_numbered_in_their_order() -> None:
    everyone = [report("a"), report("a"), report("b"), report("b")]
    cpu = torch.device("cpu")
    found = [rank_layout(everyone, rank) for rank in range(4)]
    assert found == [RankLayout(number, 2, cpu) for number in (0, 1, 0, 1)]


def test_hosts_of_one_name_are_two_where_their_boot_ids_are() -> None:
    everyone = [
        RankReport("pod", boot_id, None, None, "auto", (boot_id,)) for boot_id in ("1", "2")
    ]
    found = [rank_layout(everyone, rank) for rank in range(2)]
    assert found == [RankLayout(0, 1, torch.device("cuda", 0))] * 2


def test_each_rank_has_the_gpu_of_its_number_on_its_host() -> None:
    everyone = [report(host, gpus=2) for host in ("a", "a", "b", "b")]
    found = [rank_layout(everyone, rank).device for rank in range(4)]
    assert found == [torch.device("cuda", number) for number in (0, 1, 0, 1)]
    on_cpu = [report(host, gpus=2, device="cpu") for host in ("a", "a", "a", "a")]
    assert rank_layout(on_cpu, 3).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("everyone", "line"),
    [
        (
            [report("a", gpus=1), report("a", gpus=1)],
            "a has 2 ranks, and torch sees 1 GPU there: start as many ranks on each host as it has "
            "GPUs, let each see all of them (srun --gpu-bind=none), or pass --device cpu",
        ),
        (
            [report("a", gpus=1), report("b")],
            "rank 0 (a) is on cuda, and rank 1 (b) on cpu: run `dat-rec doctor` there, or pass "
            "--device cpu on all",
        ),
        (
            [report("a", gpus=1, device="cuda"), report("b", device="cuda")],
            "--device cuda: torch can use no GPU on b: run `dat-rec doctor` there, or pass "
            "--device cpu",
        ),
        (
            [report("a", gpus=2, local_rank=0, local_world_size=1) for _ in range(2)],
            "ranks 0 and 1 both take GPU 0 of a: start torchrun once on each host, or pass "
            "--device cpu",
        ),
        (
            [report("a"), report("a"), report("b")],
            "a has 2 ranks, and b 1: start as many on each host",
        ),
        (
            [report("a"), report("b"), report("a"), report("b")],
            "rank 0 is on a, and rank 1 on b, where hosts have 2 ranks each: those of a host must "
            "follow one another, as by srun --distribution=block",
        ),
        (
            [report("a", local_rank=rank % 2, local_world_size=2) for rank in range(3)],
            "environment: LOCAL_WORLD_SIZE 2 does not divide WORLD_SIZE 3: start torchrun with the "
            "same --nproc-per-node on each host",
        ),
    ],
)
def test_a_cluster_that_cannot_train_is_refused_in_one_line(
    everyone: list[RankReport], line: str
) -> None:
    for rank in range(len(everyone)):
        with pytest.raises(SharedError) as refused:
            rank_layout(everyone, rank)
        assert str(refused.value) == line
