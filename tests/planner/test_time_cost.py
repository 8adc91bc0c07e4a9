"""A part's time by measured costs, by hand; and that the planner goes by it."""

from dataclasses import replace
from typing import Any

import pytest

from dat_rec.planner.hardware import Cluster, Cost, Hardware
from dat_rec.planner.plan_request import PlanResult, find_plan
from dat_rec.planner.table_file import Table
from tests.planner.described import BIG, gpus, request

ROWS, DIM, FACTOR, BATCH, WORLD = 1_000, 64, 3.0, 128, 4
BAGS, VALUES = BATCH * WORLD, BATCH * WORLD * 3
NOTHING = Cost(0.0, 0.0, 0.0, 0.0, 0.0)
FREE = dict.fromkeys(
    ("table_wise", "column_wise", "row_wise", "data_parallel", "every_rank"), NOTHING
)
COST = Cost(bag_ns=7.0, bag_byte_ns=0.5, value_ns=11.0, value_byte_ns=0.25, row_byte_ns=2.0)


def asked(kind: str, costs: dict[Any, Cost], **changed: Any) -> PlanResult:
    table = Table("one", ROWS, DIM, FACTOR, fp16=changed.pop("fp16", False))
    cluster = Cluster(Hardware("here", "cpu", 16, 64, costs=costs), 1, WORLD)
    pins = (f"one={kind}",)
    return find_plan(request([table], cluster, batch_size=BATCH, pins=pins, **changed))


def times(result: PlanResult) -> list[float]:
    """Of each rank, ascending."""
    return sorted(result.times_ms().values())


def test_a_whole_table_serves_all_ranks() -> None:
    one = (BAGS * 7 + BAGS * DIM * 4 * 0.5 + VALUES * 11 + VALUES * DIM * 4 * 0.25) / 1e6
    found = times(asked("table_wise", FREE | {"table_wise": COST}))
    assert found == pytest.approx([0.0, 0.0, 0.0, one])


def test_a_part_of_the_rows_has_its_share_of_values_and_all_bags() -> None:
    each = (BAGS * 7 + BAGS * DIM * 4 * 0.5 + (VALUES * 11 + VALUES * DIM * 4 * 0.25) / 4) / 1e6
    assert times(asked("row_wise", FREE | {"row_wise": COST})) == pytest.approx([each] * 4)


def test_half_the_columns_have_all_bags_and_values_and_half_the_bytes() -> None:
    each = (BAGS * 7 + BAGS * DIM * 2 * 0.5 + VALUES * 11 + VALUES * DIM * 2 * 0.25) / 1e6
    found = times(asked("column_wise", FREE | {"column_wise": COST}))
    assert found == pytest.approx([0.0, 0.0, each, each])


def test_column_shards_of_adagrad_exchange_no_squares_and_cost_as_narrow_tables() -> None:
    costs = FREE | {"table_wise": Cost(1.0, 0.0, 0.0, 0.0, 0.0)}
    assert max(times(asked("column_wise", costs))) == 0
    found = times(asked("column_wise", costs, optimizer="adagrad"))
    assert max(found) == pytest.approx(BAGS / 1e6)


def test_a_table_on_every_rank_serves_that_ranks_examples_and_passes_over_all_rows() -> None:
    bags, values = BATCH, BATCH * 3
    each = (bags * 7 + bags * DIM * 4 * 0.5 + values * 11 + values * DIM * 4 * 0.25) / 1e6
    each += ROWS * DIM * 4 * 2 / 1e6
    found = times(asked("data_parallel", FREE | {"data_parallel": COST}))
    assert found == pytest.approx([each] * 4)


def test_float16_rows_are_half_as_long_and_pooled_vectors_are_not() -> None:
    one = (BAGS * 7 + BAGS * DIM * 4 * 0.5 + VALUES * 11 + VALUES * DIM * 2 * 0.25) / 1e6
    found = times(asked("table_wise", FREE | {"table_wise": COST}, fp16=True))
    # Their pooled vectors are as long as others': FBGEMM's sum is float32.
    assert max(found) == pytest.approx(one)


def test_every_rank_has_its_own_examples_beside_its_parts_of_tables() -> None:
    bags, values = BATCH, BATCH * 3
    own = (bags * 7 + bags * DIM * 4 * 0.5 + values * 11 + values * DIM * 4 * 0.25) / 1e6
    table = Cost(1.0, 0.0, 0.0, 0.0, 0.0)
    result = asked("table_wise", FREE | {"table_wise": table, "every_rank": COST})
    assert times(result) == pytest.approx([own, own, own, own + BAGS / 1e6])
    assert result.estimate is not None
    assert [one.own_ms for one in result.estimate.ranks.values()] == pytest.approx([own] * 4)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise"])
def test_the_planner_takes_what_costs_least(kind: str) -> None:
    dear = Cost(1e6, 0.0, 0.0, 0.0, 0.0)
    costs = dict.fromkeys(FREE, dear) | {kind: NOTHING}
    table = Table("one", ROWS, DIM, FACTOR)
    cluster = Cluster(Hardware("here", "cpu", 16, 64, costs=costs), 1, WORLD)
    result = find_plan(request([table], cluster, sharding_types=("table_wise", "row_wise")))
    assert [row["sharding_type"] for row in result.plan] == [kind]


def test_half_the_bandwidth_takes_twice_the_time() -> None:
    wanted = request(BIG, gpus(4), batch_size=1024, pins=("*=row_wise",))
    times = []
    for speed in (20.0, 10.0):
        hardware = replace(wanted.cluster.hardware, bandwidths={"inter_host_bw": speed})
        result = find_plan(replace(wanted, cluster=replace(wanted.cluster, hardware=hardware)))
        assert result.estimate is not None
        times.append(result.estimate.ranks[0].output_ms)
    assert times[1] == pytest.approx(2 * times[0])
