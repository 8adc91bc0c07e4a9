"""What a rank knows of itself, and one speaker for each host."""

import dataclasses

import pytest

from dat_rec.dist.process_group import process_group
from dat_rec.preflight.gloo_address import listening_address
from dat_rec.preflight.rank_facts import RankFacts, first_of_each_host, named_apart, own_facts
from tests.distributed.ranks import run_ranks
from tests.preflight.test_rank_checks import FACTS, OTHER


def address() -> tuple[str, RankFacts]:
    with process_group(60) as context:
        return listening_address(), own_facts(context)


def test_the_address_is_that_of_the_interface_that_gloo_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    for found, facts in run_ranks(address, 2):
        assert found in ("127.0.0.1", "::1")
        assert facts.address == found
        assert (facts.device, facts.gpus) == ("cpu", ()) or facts.device == "cuda"


def test_hosts_of_one_name_are_told_apart_and_each_has_one_speaker() -> None:
    same = [dataclasses.replace(FACTS, rank=rank, group=rank // 2) for rank in range(4)]
    found = named_apart(same)
    assert [one.host for one in found] == ["a/0", "a/0", "a/1", "a/1"]
    assert first_of_each_host(found) == [0, 2]
    assert [one.host for one in named_apart([FACTS, OTHER])] == ["a", "b"]
