"""What ranks tell of themselves is judged: several networks, GPUs, little memory."""

import dataclasses

import pytest

from dat_rec.preflight.rank_checks import check_gpus, check_interfaces, check_memory
from dat_rec.preflight.rank_facts import RankFacts
from dat_rec.preflight.report import Check

FACTS = RankFacts(
    rank=0,
    host="a",
    group=0,
    network="x:1",
    versions={"python": "3.11.7"},
    address="10.0.0.1",
    name_address="10.0.0.1",
    local_world_size=2,
    device="cpu",
    gpus=(),
    free_bytes=8 << 30,
    free_shm_bytes=2 << 30,
)
OTHER = dataclasses.replace(FACTS, rank=1, host="b", group=1, network="y:1", address="10.0.0.2")


def judged(checks: Check | list[Check]) -> dict[str, tuple[str, str, str | None]]:
    found = [checks] if isinstance(checks, Check) else checks
    return {check.name: (check.level, check.found, check.cure) for check in found}


def test_loopback_is_a_problem_only_between_networks() -> None:
    lost = dataclasses.replace(OTHER, address="127.0.0.1", name_address="127.0.1.1")
    found = judged(list(check_interfaces([FACTS, lost])))
    level, words, cure = found["interfaces"]
    assert (level, words) == ("problem", "rank 1 (b) is reached by 127.0.0.1, from itself alone")
    assert cure
    assert cure.startswith("export GLOO_SOCKET_IFNAME=")
    assert found["host name"][:2] == ("note", "b takes its own name for 127.0.1.1 (/etc/hosts)")
    here = dataclasses.replace(lost, network=FACTS.network)
    assert judged(list(check_interfaces([FACTS, here])))["interfaces"][0] == "ok"
    found = judged(list(check_interfaces([FACTS, OTHER])))
    assert found == {"interfaces": ("ok", "reached by 10.0.0.1 (a), 10.0.0.2 (b)", None)}


@pytest.mark.parametrize(
    ("ours", "theirs", "level", "words"),
    [
        (("H100",) * 2, ("H100",) * 2, "ok", "2 on each host: H100"),
        (("H100",) * 2, ("H100",), "problem", "b has 1 GPU for 2 ranks"),
        (("H100",) * 2, ("A100",) * 2, "problem", "of several models: A100 (b), H100 (a)"),
    ],
)
def test_every_rank_needs_a_gpu_like_all_others(
    ours: tuple[str, ...], theirs: tuple[str, ...], level: str, words: str
) -> None:
    facts = [
        dataclasses.replace(one, device="cuda", gpus=gpus)
        for one, gpus in ((FACTS, ours), (OTHER, theirs))
    ]
    assert judged(check_gpus(facts))["gpus"][:2] == (level, words)


def test_little_memory_is_noted() -> None:
    full = dataclasses.replace(OTHER, free_bytes=1 << 30, free_shm_bytes=None)
    found = judged(list(check_memory([FACTS, full])))
    assert found["memory"][:2] == ("note", "0.5 GiB free for each rank, at least (b)")
    assert found["/dev/shm"][:2] == ("note", "missing on b")
