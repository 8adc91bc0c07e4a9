"""The report of a plan: what is told, and that it adds up."""

import json
from dataclasses import replace

import pytest

from dat_rec.planner.hardware import Cluster, Hardware
from dat_rec.planner.plan_request import find_plan
from dat_rec.planner.report import comparison, headline, report
from dat_rec.planner.report_json import as_json
from dat_rec.planner.report_sections import ranges
from dat_rec.planner.table_file import Table
from dat_rec.planner.what_if import compare
from tests.planner.described import BIG, gpus, request

GIB = 2**30


def test_what_does_not_fit_is_told_with_the_bytes_that_are_missing() -> None:
    wanted = request(BIG, gpus(1))
    result = find_plan(wanted)
    assert result.shortfall is not None
    weights, sums = 6 * 4 * GIB, 6 * 2**24 * 4
    assert result.shortfall.device_bytes == pytest.approx(weights + sums, rel=1e-6)
    # 85 % of two GPUs of 4 GiB.
    assert headline(result) == (
        "1 × 2 here: does not fit: the tables need 24.4 GiB and 6.8 GiB are there, "
        "17.6 GiB too little"
    )
    assert "plan" not in as_json(result)


def test_alternatives_stand_side_by_side_with_those_that_cannot_be() -> None:
    small = Table("small", 3, 30)
    cluster = Cluster(Hardware("here", "cpu", 8, 64), 2, 2)
    found = compare(request([*BIG[:1], small], cluster, pins=("small=data_parallel",)))
    by_name = {line.split("  ")[0]: line for line in comparison(found).splitlines()}
    assert "yes" in by_name["row_wise alone"]
    assert "float16 weights need the kernel fused" in by_name["float16 tables"]
    assert not any(name.startswith("offload") for name in found)
    # Weights and gradient, 4 GiB each, and the sums.
    assert "no: the tables need 32.3 GiB and 32.0 GiB are there" in by_name["data_parallel alone"]


def test_the_report_adds_up() -> None:
    result = find_plan(request(BIG, gpus(4), batch_size=1024))
    value = json.loads(json.dumps(as_json(result)))
    assert len(value["ranks"]) == 8
    parts = ("forward_ms", "output_ms", "backward_ms", "gradient_ms", "prefetch_ms")
    for rank in value["ranks"]:
        assert sum(rank[part] for part in parts) == pytest.approx(rank["step_ms"])
    assert value["step_ms"] == max(rank["step_ms"] for rank in value["ranks"])
    mean = sum(rank["device_bytes"] for rank in value["ranks"]) / 8
    assert value["imbalance"]["memory"] == pytest.approx(value["fullest_bytes"] / mean)
    # What the ranks hold of weights is what the plan's parts are.
    for rank in value["ranks"]:
        held = sum(
            4 * shard["sizes"][0] * shard["sizes"][1]
            for row in value["plan"]
            for shard in row["shards"]
            if shard["rank"] == rank["rank"]
        )
        assert rank["weights_bytes"] == held
    text = report(result)
    assert "uncalibrated" in text
    measured = replace(result.request.cluster.hardware, bandwidths={"ddr_mem_bw": 5.0})
    told = replace(result.request.cluster, hardware=replace(measured, measured=True))
    again = find_plan(replace(result.request, cluster=told))
    assert "uncalibrated" not in report(again)
    assert "measured in here: ddr_mem_bw; and those that TorchRec assumes: hbm_mem_bw," in report(
        again
    )


def test_ranks_without_tables_count_in_the_mean() -> None:
    result = find_plan(request(BIG[:1], gpus(2, memory_gb=8), pins=("*=table_wise",)))
    assert as_json(result)["imbalance"] == {"memory": 4.0, "time": 4.0}


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([0, 1, 2, 3], "0-3"), ([5], "5"), ([3, 1, 0, 1, 7, 8], "0-1, 3, 7-8"), ([], "")],
)
def test_ranks_are_told_as_ranges(ranks: list[int], text: str) -> None:
    assert ranges(ranks) == text
