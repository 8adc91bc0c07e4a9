"""What would fit a described cluster, or a larger one."""

from dataclasses import replace

import pytest

from dat_rec.planner.plan_request import PlanRequest, PlanResult, find_plan
from dat_rec.planner.report import cures, headline
from dat_rec.planner.what_if import smallest_cluster, what_would_fit
from tests.planner.described import BIG, gpus, request

GIB = 2**30


def test_the_smallest_cluster_is_that_of_trying_them_one_by_one() -> None:
    wanted = request(BIG, gpus(1))
    found = smallest_cluster(find_plan(wanted))
    assert found is not None
    one_by_one = next(
        hosts
        for hosts in range(1, 20)
        if find_plan(replace(wanted, cluster=replace(wanted.cluster, hosts=hosts))).fits
    )
    assert found.request.cluster.hosts == one_by_one
    assert found.fits
    assert max(found.main_bytes().values()) <= 0.85 * 4 * GIB


def test_what_no_number_of_hosts_can_hold_has_no_smallest_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table that may not be cut, larger than a GPU: tried on some more, and not without end."""
    wanted = request(BIG[:1], gpus(1), pins=("*=table_wise",))
    result = find_plan(wanted)
    assert not result.fits
    assert "the largest: 4.1 GiB of big_0" in headline(result)
    tried: list[int] = []

    def noted(one: PlanRequest) -> PlanResult:
        tried.append(one.cluster.hosts)
        return find_plan(one)

    monkeypatch.setattr("dat_rec.planner.what_if.find_plan", noted)
    assert smallest_cluster(result) is None
    assert tried == [2, 4, 8, 16, 32]
    assert "more of such hosts: none found" in cures(None, {})


def test_float16_is_offered_where_it_fits_and_offloading_where_that_does() -> None:
    # 4 GiB and its sums do not fit 3.4 GiB a rank; half of them do.
    halves = what_would_fit(request(BIG[:2], gpus(1)))
    assert any(name.startswith("float16 tables") for name in halves)
    assert all(one.fits for one in halves.values())
    whole = what_would_fit(request(BIG, gpus(1, host_gb=40)))
    assert not any(name == "float16 tables (--fp16-tables '*')" for name in whole)
    offload = next(one for name, one in whole.items() if name.startswith("20% of rows"))
    assert {row["compute_kernel"] for row in offload.plan} == {"fused_uvm_caching"}
    # The host cannot hold them in float32, in float16 it can.
    (name,) = what_would_fit(request(BIG, gpus(1, host_gb=16)))
    assert name.startswith("float16 tables (--fp16-tables '*') and 20% of rows")
    assert what_would_fit(request(BIG, gpus(1, host_gb=8))) == {}
