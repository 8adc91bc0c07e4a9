"""Described clusters: what their texts and files stand for, and what is refused in one line."""

import inspect
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from dat_rec.commands.plan import PlanOptions
from dat_rec.errors import UserError
from dat_rec.install import CHECKOUT
from dat_rec.planner.hardware import (
    BANDWIDTHS,
    CPU_COSTS,
    PRESETS,
    Cost,
    parse_cluster,
    read_cluster,
)

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


def test_a_text_stands_for_hosts_of_a_preset() -> None:
    cluster = parse_cluster("h100-80gb:16x8")
    assert (cluster.hosts, cluster.ranks_per_host, cluster.world_size) == (16, 8, 128)
    topology = cluster.topology()
    assert (topology.world_size, topology.local_world_size) == (128, 8)
    assert topology.compute_device == "cuda"
    assert topology.devices[127].storage.hbm == int(79.1 * 2**30)
    # Two TiB for eight ranks.
    assert topology.devices[0].storage.ddr == 2**38
    # 3,350 GB/s are 3.35e9 bytes a millisecond.
    assert topology.hbm_mem_bw == pytest.approx(3.35e9)
    assert (topology.intra_host_bw, topology.inter_host_bw) == (450e6, 50e6)


def test_on_cpu_the_ranks_share_their_hosts_memory_as_in_training() -> None:
    topology = parse_cluster("cpu-64gb:2x4").topology()
    assert [device.storage.ddr for device in topology.devices] == [2**34] * 8
    given = parse_cluster("cpu-64gb:2x4").with_memory(0.5).topology()
    assert [device.storage.ddr for device in given.devices] == [2**29] * 8


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_plausible_and_a_newer_dgx_is_in_no_way_slower(name: str) -> None:
    hardware = PRESETS[name]
    assert not hardware.measured
    for bandwidth, speed in hardware.bandwidths.items():
        assert 1 < speed < 10_000, bandwidth
    if hardware.device == "cuda":
        label = int(name.split("-")[1].removesuffix("gb"))
        # The name counts 1e9 or 2**30 bytes, and a little is the driver's.
        assert hardware.memory_gb is not None
        assert label * 0.9 < hardware.memory_gb < label
        dgx = [one for one in PRESETS if one.startswith(("a100", "h", "b"))]
        if name in dgx:
            assert len(hardware.bandwidths) == 5
            for older in dgx[: dgx.index(name)]:
                for one, speed in PRESETS[older].bandwidths.items():
                    assert hardware.bandwidths[one] >= speed
        else:
            # Without NVLink, cards speak to one another as to their host.
            assert hardware.bandwidths.keys() == {*BANDWIDTHS} - {"ddr_mem_bw"}
            assert hardware.bandwidths["intra_host_bw"] == hardware.bandwidths["hbm_to_ddr_mem_bw"]
            assert hardware.bandwidths["inter_host_bw"] < 50 / 8 + 0.01


def test_the_commands_help_names_all_presets() -> None:
    text = " ".join(inspect.getsource(PlanOptions).split())
    assert f"presets: {', '.join(PRESETS)}." in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no hosts ''"),
        ("v100:1x8", "no hosts 'v100': one of a100-40gb, a100-80gb"),
        ("H100-80GB:1x8", "no hosts 'H100-80GB'"),
        ("h100-80gb", "'' is no HOSTSxRANKS, as in h100-80gb:16x8"),
        ("h100-80gb:", "'' is no HOSTSxRANKS"),
        ("h100-80gb:8", "'8' is no HOSTSxRANKS"),
        ("h100-80gb:0x8", "'0x8' is no HOSTSxRANKS"),
        ("h100-80gb:1x0", "'1x0' is no HOSTSxRANKS"),
        ("h100-80gb:-1x8", "'-1x8' is no HOSTSxRANKS"),
        ("h100-80gb:1x8x2", "'1x8x2' is no HOSTSxRANKS"),
        ("h100-80gb:1 x 8", "'1 x 8' is no HOSTSxRANKS"),
        ("h100-80gb:1.5x8", "'1.5x8' is no HOSTSxRANKS"),
        ("h100-80gb:²x8", "'²x8' is no HOSTSxRANKS"),
        ("h100-80gb:99999999999x8", "is no HOSTSxRANKS"),
        ("h100-80gb:99999x8", "799,992 ranks: at most 16,384"),
    ],
)
def test_a_wrong_cluster_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_cluster(text)
    assert str(raised.value).startswith(f"--cluster {text}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


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
