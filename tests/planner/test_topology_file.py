"""Topology files: the clusters that they stand for, and what is refused in one line."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from dat_rec.errors import UserError
from dat_rec.install import CHECKOUT
from dat_rec.planner.hardware import CPU_COSTS, PRESETS, Cost
from dat_rec.planner.topology_file import read_cluster

GOOD: dict[str, Any] = {
    "device": "cuda",
    "hosts": 3,
    "ranks_per_host": 4,
    "memory_gb": 10,
    "host_memory_gb": 100,
    "intra_host_bw": 200,
    "hbm_mem_bw": 1000.5,
    "measured": True,
}


COST = dict.fromkeys(("bag_ns", "bag_byte_ns", "value_ns", "value_byte_ns", "row_byte_ns"), 1)
"""Of each way to shard."""


def costs(cost: dict[str, Any]) -> dict[str, Any]:
    ways = ("table_wise", "column_wise", "row_wise", "data_parallel", "every_rank")
    return {"device": "cpu", "costs": dict.fromkeys(ways, cost)}


def test_a_file_says_the_same_as_a_text_can(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD))
    cluster = read_cluster(path)
    assert str(cluster) == "3 × 4 mine.json"
    assert cluster.hardware.measured
    topology = cluster.topology()
    assert topology.devices[11].storage.hbm == 10 * 2**30
    assert topology.devices[11].storage.ddr == 25 * 2**30
    assert topology.intra_host_bw == 200e6
    assert topology.hbm_mem_bw == pytest.approx(1000.5e6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu': it must be 'cuda' or 'cpu'"),
        ({"device": ["cuda"]}, "device is ['cuda']: it must be 'cuda' or 'cpu'"),
        ({"device": None}, "device is None"),
        ({"costs": None}, "costs is None: measure them, or leave them out"),
        ({"hosts": 0}, "hosts is 0: it must be 1 or more"),
        ({"hosts": True}, "hosts is True: it must be a valid integer"),
        ({"hosts": "3"}, "hosts is '3': it must be a valid integer"),
        ({"hosts": 2.0}, "hosts is 2.0: it must be a valid integer"),
        ({"ranks_per_host": -8}, "ranks_per_host is -8"),
        ({"hosts": 10**9}, "4,000,000,000 ranks: at most 16,384"),
        ({"memory_gb": 0}, "memory_gb is 0: it must be 9.5"),
        ({"memory_gb": "80"}, "memory_gb is '80'"),
        ({"memory_gb": float("nan")}, "memory_gb is nan"),
        ({"memory_gb": 1e300}, "memory_gb is 1e+300"),
        ({"memory_gb": None}, "memory_gb is None: it must be a valid number"),
        ({"host_memory_gb": -1}, "host_memory_gb is -1"),
        ({"host_memory_gb": float("inf")}, "host_memory_gb is inf"),
        ({"intra_host_bw": 0}, "intra_host_bw is 0"),
        ({"inter_host_bw": None}, "inter_host_bw is None"),
        ({"hbm_mem_bw": True}, "hbm_mem_bw is True"),
        ({"hbm_mem_bw": [1]}, "hbm_mem_bw is [1]"),
        ({"hbm_bw": 5}, "unknown field 'hbm_bw': remove it, or correct its name"),
        ({"measured": 1}, "measured is 1: it must be a valid boolean"),
        ({"costs": {}}, "costs are those of CPUs: leave them out"),
        ({"device": "cpu", "costs": 1}, "costs is 1: it must be an object"),
        ({"device": "cpu", "costs": {"row_wise": {}}}, "costs.row_wise.bag_ns is missing"),
        ({"device": "cpu", "costs": {"row_wise": COST}}, "costs.column_wise is missing: measure"),
        (costs({"bag_ns": 1}), "costs.table_wise.bag_byte_ns is missing"),
        (costs(COST | {"bag_ns": -1}), "costs.table_wise.bag_ns is -1: it must be 0"),
        (costs(COST | {"row_byte_ns": "1"}), "row_byte_ns is '1'"),
    ],
)
def test_a_wrong_field_is_refused_with_its_cure(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD | changed))
    with pytest.raises(UserError) as raised:
        read_cluster(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_cpus_have_costs_unless_their_own_or_bandwidths_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    sizes = {"device": "cpu", "hosts": 1, "ranks_per_host": 2, "host_memory_gb": 9}
    for given, expected in (
        ({}, CPU_COSTS),
        ({"ddr_mem_bw": 9}, {}),
        ({"device": "cuda", "memory_gb": 9}, {}),
    ):
        path.write_text(json.dumps(sizes | given))
        assert read_cluster(path).hardware.costs == expected
    for name, preset in PRESETS.items():
        assert preset.costs == (CPU_COSTS if name.startswith("cpu") else {})


def test_the_costs_of_cpus_are_those_that_were_measured() -> None:
    measured = read_cluster(CHECKOUT / "benchmarks" / "results" / "topology.json").hardware.costs
    assert CPU_COSTS.keys() == measured.keys()
    for kind, cost in CPU_COSTS.items():
        assert astuple(cost) == pytest.approx(astuple(measured[kind]), rel=5e-3)


def test_a_file_may_hold_costs(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD | costs(COST | {"value_ns": 2.5})))
    found = read_cluster(path).hardware.costs
    assert found["row_wise"] == Cost(1.0, 1.0, 2.5, 1.0, 1.0)
    assert len(found) == 5


@pytest.mark.parametrize("name", ["device", "hosts", "ranks_per_host", "host_memory_gb"])
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({key: value for key, value in GOOD.items() if key != name}))
    with pytest.raises(UserError, match=f"{name} is missing: add it"):
        read_cluster(path)


def test_gpus_need_their_memory(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({key: value for key, value in GOOD.items() if key != "memory_gb"}))
    with pytest.raises(UserError, match="memory_gb is missing: add the GiB of each GPU"):
        read_cluster(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '"x"', "{", "\x00"])
def test_what_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_cluster(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
