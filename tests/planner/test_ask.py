"""Whether tables fit a described cluster, by how much not, and what would."""

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from dat_rec.planner.ask import Answer, Question, ask, changes, compare, smallest_cluster
from dat_rec.planner.hardware import Cluster, Hardware
from dat_rec.planner.picture import draw
from dat_rec.planner.report import as_json, comparison, cures, headline, ranges, report
from dat_rec.planner.table_file import Table
from tests.planner.described import question

GIB = 2**30
# 4 GiB of weights each.
BIG = [Table(f"big_{number}", 2**24, 64) for number in range(6)]


def gpus(hosts: int, ranks: int = 2, memory_gb: float = 4.0, host_gb: float = 64.0) -> Cluster:
    return Cluster(Hardware("here", "cuda", memory_gb, host_gb), hosts, ranks)


def test_what_does_not_fit_is_told_with_the_bytes_that_are_missing() -> None:
    asked = question(BIG, gpus(1))
    answer = ask(asked)
    assert answer.misfit is not None
    weights, sums = 6 * 4 * GIB, 6 * 2**24 * 4
    assert answer.misfit.device_bytes == pytest.approx(weights + sums, rel=1e-6)
    # 85 % of two GPUs of 4 GiB.
    assert headline(answer) == (
        "1 × 2 here: does not fit: the tables need 24.4 GiB and 6.8 GiB are there, "
        "17.6 GiB too little"
    )
    assert "plan" not in as_json(answer)


def test_the_smallest_cluster_is_that_of_trying_them_one_by_one() -> None:
    asked = question(BIG, gpus(1))
    found = smallest_cluster(ask(asked))
    assert found is not None
    one_by_one = next(
        hosts
        for hosts in range(1, 20)
        if ask(replace(asked, cluster=replace(asked.cluster, hosts=hosts))).fits
    )
    assert found.question.cluster.hosts == one_by_one
    assert found.fits
    assert max(found.main_bytes().values()) <= 0.85 * 4 * GIB


def test_what_no_number_of_hosts_can_hold_has_no_smallest_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table that may not be cut, larger than a GPU: tried on some more, and not without end."""
    asked = question(BIG[:1], gpus(1), pins=("*=table_wise",))
    answer = ask(asked)
    assert not answer.fits
    assert "the largest: 4.1 GiB of big_0" in headline(answer)
    tried: list[int] = []

    def noted(one: Question) -> Answer:
        tried.append(one.cluster.hosts)
        return ask(one)

    monkeypatch.setattr("dat_rec.planner.ask.ask", noted)
    assert smallest_cluster(answer) is None
    assert tried == [2, 4, 8, 16, 32]
    assert "more of such hosts: none found" in cures(None, {})


def test_float16_is_offered_where_it_fits_and_offloading_where_that_does() -> None:
    # 4 GiB and its sums do not fit 3.4 GiB a rank; half of them do.
    halves = changes(question(BIG[:2], gpus(1)))
    assert any(name.startswith("float16 tables") for name in halves)
    assert all(one.fits for one in halves.values())
    whole = changes(question(BIG, gpus(1, host_gb=40)))
    assert not any(name == "float16 tables (--fp16-tables '*')" for name in whole)
    offload = next(one for name, one in whole.items() if name.startswith("20% of rows"))
    assert {row["compute_kernel"] for row in offload.plan} == {"fused_uvm_caching"}
    # The host cannot hold them in float32, in float16 it can.
    (name,) = changes(question(BIG, gpus(1, host_gb=16)))
    assert name.startswith("float16 tables (--fp16-tables '*') and 20% of rows")
    assert changes(question(BIG, gpus(1, host_gb=8))) == {}


def test_alternatives_stand_side_by_side_with_those_that_cannot_be() -> None:
    small = Table("small", 3, 30)
    cluster = Cluster(Hardware("here", "cpu", 8, 64), 2, 2)
    found = compare(question([*BIG[:1], small], cluster, pins=("small=data_parallel",)))
    by_name = {line.split("  ")[0]: line for line in comparison(found).splitlines()}
    assert "yes" in by_name["row_wise alone"]
    assert "float16 weights need the kernel fused" in by_name["float16 tables"]
    assert not any(name.startswith("offload") for name in found)
    # Weights and gradient, 4 GiB each, and the sums.
    assert "no: the tables need 32.3 GiB and 32.0 GiB are there" in by_name["data_parallel alone"]


def test_the_report_adds_up() -> None:
    answer = ask(question(BIG, gpus(4), batch_size=1024))
    value = json.loads(json.dumps(as_json(answer)))
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
    text = report(answer)
    assert "uncalibrated" in text
    measured = replace(answer.question.cluster.hardware, bandwidths={"ddr_mem_bw": 5.0})
    told = replace(answer.question.cluster, hardware=replace(measured, measured=True))
    again = ask(replace(answer.question, cluster=told))
    assert "uncalibrated" not in report(again)
    assert "measured in here: ddr_mem_bw; and those that TorchRec assumes: hbm_mem_bw," in report(
        again
    )


def test_ranks_without_tables_count_in_the_mean() -> None:
    answer = ask(question(BIG[:1], gpus(2, memory_gb=8), pins=("*=table_wise",)))
    assert as_json(answer)["imbalance"] == {"memory": 4.0, "time": 4.0}


def test_half_the_bandwidth_takes_twice_the_time() -> None:
    asked = question(BIG, gpus(4), batch_size=1024, pins=("*=row_wise",))
    times = []
    for speed in (20.0, 10.0):
        hardware = replace(asked.cluster.hardware, bandwidths={"inter_host_bw": speed})
        answer = ask(replace(asked, cluster=replace(asked.cluster, hardware=hardware)))
        assert answer.estimate is not None
        times.append(answer.estimate.ranks[0].output_ms)
    assert times[1] == pytest.approx(2 * times[0])


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([0, 1, 2, 3], "0-3"), ([5], "5"), ([3, 1, 0, 1, 7, 8], "0-1, 3, 7-8"), ([], "")],
)
def test_ranks_are_told_as_ranges(ranks: list[int], text: str) -> None:
    assert ranges(ranks) == text


@pytest.mark.parametrize("hosts", [2, 20])
def test_the_picture_is_a_whole_png(hosts: int, tmp_path: Path) -> None:
    answer = ask(question(BIG, gpus(hosts, memory_gb=16)))
    draw(answer, headline(answer), tmp_path / "plan.png")
    pixels = matplotlib.image.imread(tmp_path / "plan.png")
    assert pixels.shape[0] > 300
    assert pixels.std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]


def tick_texts(axes: Axes) -> list[Text]:
    return [*axes.get_xticklabels(), *axes.get_yticklabels()]


@pytest.mark.parametrize("hosts", [1, 20])
@pytest.mark.parametrize("length", [1, 20, 60])
def test_no_text_of_the_picture_stands_over_another(
    hosts: int, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr("dat_rec.planner.picture.whole_file", nullcontext)
    tables = [Table(f"{number}{'x' * length}", 2**24, 64) for number in range(6)]
    answer = ask(question(tables, gpus(hosts, memory_gb=32)))
    draw(answer, headline(answer), tmp_path / "plan.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    # Ticks outside of an axis have texts too, which are not drawn.
    ticks = {id(text) for axes in figure.axes for text in tick_texts(axes)}
    boxes = {
        text.get_text(): text.get_window_extent()
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and id(text) not in ticks
    }
    heat = figure.axes[0]
    boxes |= {text.get_text(): text.get_window_extent() for text in tick_texts(heat)}
    assert headline(answer) in boxes
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)
    whole = figure.bbox.padded(1)
    assert all(whole.contains(*box.min) and whole.contains(*box.max) for box in boxes.values())
