"""Plans: the same in every process, within the memory that there is, and as the rules say."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.hardware import parse_cluster
from dat_rec.planner.plan import make_plan, plan_on
from dat_rec.planner.plan_table import plan_to_json, plan_to_text
from dat_rec.planner.sharding_options import options_of_plan
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding_rules import SHARDING_TYPES

DIM = 32
ROWS = {"user": 5_000, "item": 800, "category": 20, "city": 300, "shop": 300}
OPTIONS = ShardingOptions(batch_size=256, table_lr=0.1)
SIZES = {"device": "cpu", "hosts": 7, "ranks_per_host": 5, "host_memory_gb": 0.001}
"""Of a topology file."""


def model(dim: int = DIM, rows: dict[str, int] = ROWS) -> nn.Module:
    """Two collections, as DAT has them; nothing is allocated."""
    tables = [
        EmbeddingBagConfig(
            name=name, embedding_dim=dim, num_embeddings=number, feature_names=[f"of_{name}"]
        )
        for name, number in rows.items()
    ]
    meta = torch.device("meta")
    return nn.ModuleDict(
        {
            "embeddings": EmbeddingBagCollection(tables=tables[1:], device=meta),
            "augmented": EmbeddingBagCollection(tables=tables[:1], device=meta),
        }
    )


def context(world: int, memory_bytes: int = 2**34) -> RankContext:
    cpu, minute = torch.device("cpu"), timedelta(minutes=1)
    return RankContext(0, world, 0, world, cpu, memory_bytes, memory_bytes, minute)


def plan(
    world: int,
    options: ShardingOptions = OPTIONS,
    memory_bytes: int = 2**34,
    factors: dict[str, float] | None = None,
    made: nn.Module | None = None,
) -> dict[str, dict[str, Any]]:
    """The plan's rows by table."""
    where = context(world, memory_bytes)
    found = make_plan(made or model(), factors or {}, where, options)
    return {row["table"]: row for row in plan_to_json(found)}


def all_plans() -> str:
    """The plans of worlds 2, 4 and 8, all types allowed, as one text."""
    options = replace(OPTIONS, sharding_types=SHARDING_TYPES)
    return json.dumps([plan(world, options) for world in (2, 4, 8)], sort_keys=True)


def test_every_process_makes_the_same_plan() -> None:
    """Python's order of a set of strings is another in each."""
    program = "from tests.planner.test_plan import all_plans; print(all_plans())"
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert json.loads(other.stdout)
    assert other.stdout.strip() == all_plans()


def covered(row: dict[str, Any], rows: int, dim: int = DIM) -> bool:
    """Whether the shards hold every number of the table once."""
    times = torch.zeros(rows, dim)
    for shard in row["shards"]:
        (a, c), (n, m) = shard["offsets"], shard["sizes"]
        times[a : a + n, c : c + m] += 1
    return bool((times == 1).all())


def test_on_one_rank_tables_stay_whole_whatever_may_be_chosen() -> None:
    found = plan(1, replace(OPTIONS, sharding_types=("row_wise", "column_wise")))
    assert {row["sharding_type"] for row in found.values()} == {"table_wise"}
    assert {row["compute_kernel"] for row in found.values()} == {"fused"}
    for table, row in found.items():
        assert covered(row, ROWS[table])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kind", SHARDING_TYPES)
def test_a_pin_holds_on_any_number_of_ranks(kind: str, world: int) -> None:
    found = plan(world, replace(OPTIONS, pins=(f"item={kind}",)))
    assert found["item"]["sharding_type"] == kind
    if kind == "data_parallel":
        assert found["item"]["compute_kernel"] == "dense"
        assert found["item"]["ranks"] == list(range(world))
    else:
        assert found["item"]["compute_kernel"] == "fused"
        assert covered(found["item"], ROWS["item"])
    others = [row["sharding_type"] for name, row in found.items() if name != "item"]
    assert not {"data_parallel", "column_wise", "grid_shard", "table_column_wise"} & set(others)


def test_the_first_rule_that_fits_counts() -> None:
    pins = ("c*=column_wise,min_partition:8", "city=row_wise", "*=table_wise")
    found = plan(2, replace(OPTIONS, pins=pins))
    kinds = {name: row["sharding_type"] for name, row in found.items()}
    assert kinds == {
        "user": "table_wise",
        "item": "table_wise",
        "category": "column_wise",
        "city": "column_wise",
        "shop": "table_wise",
    }
    assert [shard["sizes"][1] for shard in found["city"]["shards"]] == [8, 8, 8, 8]


def test_without_a_width_columns_are_cut_in_halves() -> None:
    for dim, width in ((32, 16), (12, 12), (24, 12), (4, 4), (40, 20)):
        found = plan(2, replace(OPTIONS, pins=("item=column_wise",)), made=model(dim))
        assert {shard["sizes"][1] for shard in found["item"]["shards"]} == {width}, dim
        assert covered(found["item"], ROWS["item"], dim)


def test_the_memory_is_that_of_the_place() -> None:
    """A table of 128 MB and its optimizer state: on one rank of 100 MB not, on four by rows."""
    made = model(rows=ROWS | {"user": 2**20})
    rows = replace(OPTIONS, sharding_types=("row_wise",))
    assert plan(4, rows, 100 * 2**20, made=made)["user"]["sharding_type"] == "row_wise"
    whole = replace(OPTIONS, sharding_types=("table_wise",))
    assert plan(4, whole, 400 * 2**20, made=made)["user"]["sharding_type"] == "table_wise"
    for world, options in ((1, rows), (4, whole)):
        with pytest.raises(UserError) as raised:
            plan(world, options, 100 * 2**20, made=made)
        text = str(raised.value)
        assert text.startswith(f"no sharding plan fits {world} × cpu of 0.0977 GiB each: ")
        assert "use more ranks, raise --memory-gb if there is more" in text
        assert "\n" not in text


def test_the_planner_counts_with_the_rules_pooling_factor() -> None:
    """Bags of ten thousand values need more memory than there is."""
    options = replace(OPTIONS, batch_size=4096)
    plan(1, options, 2**30)
    for pins, factors in ((("item=pooling_factor:1e4",), {}), ((), {"of_item": 1e4})):
        with pytest.raises(UserError, match="no sharding plan fits"):
            plan(1, replace(options, pins=pins), 2**28, factors)
    # The rule's stands for the dataset's.
    plan(1, replace(options, pins=("item=pooling_factor:1",)), 2**28, {"of_item": 1e4})


@pytest.mark.parametrize(
    ("pin", "dim", "message"),
    [
        ("item=fused_uvm", 32, "table item: the kernel fused_uvm needs a GPU"),
        ("item=row_wise,dense", 32, "table item: the kernel dense is that of data_parallel"),
        ("item=column_wise,min_partition:12", 32, "min_partition:12 does not divide its 32"),
        (
            "item=grid_shard",
            30,
            "table item: 30 columns: FBGEMM's fused kernels want multiples of 4",
        ),
        ("nowhere=row_wise", 32, "--pin nowhere=row_wise: no such table: there are item, category"),
    ],
)
def test_a_rule_that_does_not_work_here_is_refused(pin: str, dim: int, message: str) -> None:
    with pytest.raises(UserError) as raised:
        plan(2, replace(OPTIONS, pins=(pin,)), made=model(dim))
    assert str(raised.value).startswith(message) or message in str(raised.value)


def test_the_text_tells_type_size_and_ranks() -> None:
    pins = ("city=data_parallel", "item=row_wise", "*=table_wise")
    found = plan(2, replace(OPTIONS, pins=pins))
    lines = {line.split()[0]: line for line in plan_to_text(list(found.values())).splitlines()}
    assert set(lines) == {"table", *ROWS}
    assert lines["city"].split()[1:] == ["data_parallel", "dense", "all", "0,", "1"]
    assert lines["item"].split()[1:] == ["row_wise", "fused", "800", "×", "32", "0,", "1"]
    rank = str(found["user"]["shards"][0]["rank"])
    assert lines["user"].split()[1:] == ["table_wise", "fused", "5000", "×", "32", rank]
    assert len({line.index(line.split()[2]) for line in lines.values()}) == 1


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_the_planned_memory_is_that_of_the_weights_and_sums_that_the_plan_gives_a_rank(
    kind: str,
) -> None:
    estimate, world = PlanEstimate(), 2
    made = model(rows=ROWS | {"user": 50_000})
    for collection in made.children():
        apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": 0.1})
    # Of one example there is next to nothing to send.
    options = replace(OPTIONS, batch_size=1, sharding_types=(kind,))
    found = plan_to_json(make_plan(made, {}, context(world), options, estimate))
    expected = dict.fromkeys(range(world), 0)
    for shard in (shard for row in found for shard in row["shards"]):
        rows, columns = shard["sizes"]
        expected[shard["rank"]] += 4 * rows * columns + 4 * rows
    assert estimate.ranks.keys() == expected.keys()
    for rank, one in estimate.ranks.items():
        assert one.device_bytes == 0
        assert one.host_bytes == pytest.approx(expected[rank], rel=0.05, abs=4_000)
        assert one.step_ms > 0


def test_the_grid_is_left_out_where_it_would_take_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ways for each of seven tables are 2,187 combinations."""
    placed: list[int] = []
    partition = GreedyPerfPartitioner.partition

    def counted(self: Any, proposal: Any, storage_constraint: Any) -> Any:
        placed[-1] += 1
        return partition(self, proposal, storage_constraint)

    monkeypatch.setattr(GreedyPerfPartitioner, "partition", counted)
    seven = model(rows={f"t{number}": 5_000 for number in range(7)})
    for world in (4, 64):
        placed.append(0)
        where = replace(context(world), local_world_size=4)
        make_plan(seven, {}, where, OPTIONS)
    assert placed[0] >= 3**7
    assert 0 < placed[1] < 60


def test_training_plans_with_the_bandwidths_of_a_topology_file_and_its_own_memory(
    tmp_path: Path,
) -> None:
    """Ten times the bandwidth is a tenth of the time; the file's memory and ranks do not count."""
    path = tmp_path / "mine.json"
    found = []
    for speed in (1, 10):
        bandwidths = {"ddr_mem_bw": speed, "intra_host_bw": speed}
        path.write_text(json.dumps(SIZES | bandwidths))
        estimate = PlanEstimate()
        options = replace(OPTIONS, topology=path, pins=("*=table_wise",))
        made = make_plan(model(), {}, context(2), options, estimate)
        found.append((plan_to_json(made), max(one.step_ms for one in estimate.ranks.values())))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(10 * found[1][1])


def test_training_plans_with_the_costs_of_a_topology_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    names = ("bag_ns", "bag_byte_ns", "value_ns", "value_byte_ns", "row_byte_ns")
    dear, cheap = dict.fromkeys(names, 1000), dict.fromkeys(names, 0)
    costs = dict.fromkeys(
        ("table_wise", "column_wise", "row_wise", "data_parallel", "every_rank"), dear
    )
    path.write_text(json.dumps(SIZES | {"costs": costs | {"row_wise": cheap}}))
    found = plan(2, replace(OPTIONS, topology=path))
    assert {row["sharding_type"] for row in found.values()} == {"row_wise"}


@pytest.mark.parametrize("world", [2, 4, 8])
def test_on_cpu_tables_that_fit_a_rank_stay_whole(world: int) -> None:
    """Row-wise parts see every bag of every rank: 1.1 to 1.5 times the step (benchmarks/LOG.md)."""
    found = plan(world)
    assert {row["sharding_type"] for row in found.values()} == {"table_wise"}


def test_on_cpu_a_table_that_fits_no_rank_is_cut_and_no_other() -> None:
    made = model(rows=ROWS | {"user": 2**20})
    found = plan(4, memory_bytes=100 * 2**20, made=made)
    kinds = {name: row["sharding_type"] for name, row in found.items()}
    assert kinds.pop("user") in ("row_wise", "table_row_wise")
    assert set(kinds.values()) == {"table_wise"}


def test_planning_warns_neither_of_tables_on_all_ranks_nor_of_our_topology(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = plan(2, replace(OPTIONS, pins=("item=data_parallel",)))
    assert found["item"]["sharding_type"] == "data_parallel"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    logging.warning("Sharding spec not found for whom it may concern")
    assert caplog.records[-1].name == "root"


def test_training_and_a_described_cluster_of_cpus_have_the_same_plan() -> None:
    described = plan_on(
        parse_cluster("cpu-64gb:1x2").topology(),
        model(),
        {},
        OPTIONS,
        costs=parse_cluster("cpu-64gb:1x2").hardware.costs,
    )
    assert {row["table"]: row for row in plan_to_json(described)} == plan(2, memory_bytes=2**35)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.json"),
        ("{", "mine.json"),
        (
            json.dumps(SIZES | {"device": "cuda", "memory_gb": 1}),
            "of cuda, and this run is on cpu: name one of such hosts",
        ),
    ],
)
def test_a_topology_that_is_no_file_or_anothers_is_refused(
    text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        plan(2, replace(OPTIONS, topology=path))


def test_a_plan_is_seen_as_the_planner_saw_it_when_it_made_it() -> None:
    options = replace(OPTIONS, sharding_types=("table_wise", "row_wise", "column_wise"))
    topology = parse_cluster("cpu-64gb:1x2").topology()
    before, after = PlanEstimate(), PlanEstimate()
    made = plan_on(topology, model(), {}, options, before)
    seen = options_of_plan(made, topology, model(), {}, options)
    after.log(topology=topology, best_plan=seen)
    assert after.tables == before.tables
    assert len(after.tables) >= len(ROWS)
