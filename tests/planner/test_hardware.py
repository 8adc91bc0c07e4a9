"""Described clusters: what their texts stand for, and what is refused in one line."""

import inspect

import pytest

from dat_rec.commands.plan import PlanOptions
from dat_rec.errors import UserError
from dat_rec.planner.hardware import BANDWIDTHS, PRESETS, parse_cluster


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
