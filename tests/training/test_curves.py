"""Curves that the disk refuses: they end, the run does not."""

import errno
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from dat_rec.dist.process_group import process_group
from dat_rec.training import metrics_log
from dat_rec.training.metrics_log import MetricsLog


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("refused", ["add_scalar", "close"])
def test_a_run_goes_on_without_its_curves_where_the_disk_is_full(
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with process_group(60):
        log = MetricsLog(tmp_path, 10, 0, 4, {}, {})
        assert log._writer is not None
        monkeypatch.setattr(log._writer, refused, full)
        with log:
            for step in (1, 2):
                log.step()
                log.point(step, {"main": 1.0}, 1.0)
    assert log.totals["samples"] == 8
    told = capsys.readouterr().err
    assert told.count("tensorboard: No space left on device; ") == 1
    assert "no curves for 60 s" in told


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_go_on_once_the_disk_takes_them_and_the_librarys_thread_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_log, "AGAIN_S", -1.0)
    with process_group(60):
        log = MetricsLog(tmp_path, 10, 0, 4, {}, {})
        assert log._writer is not None
        with log:
            thread = log._writer.file_writer.event_writer._async_writer._worker
            monkeypatch.setattr(thread._record_writer, "write", full)
            for step in (1, 2, 3):
                log.step()
                log.point(step, {"main": 1.0}, 1.0)
                thread.join(30)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("loss/main")]
    assert steps in ([2, 3], [3])
    assert "tensorboard: No space left on device; " in capsys.readouterr().err


def test_options_stand_beside_curves_that_the_disk_takes_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_log, "AGAIN_S", -1.0)
    in_the_way = tmp_path / "tensorboard"
    in_the_way.touch()
    with process_group(60):
        log = MetricsLog(tmp_path, 10, 0, 4, {}, {"seed": 7})
        in_the_way.unlink()
        with log:
            log.step()
            log.point(1, {"main": 1.0}, 1.0)
    events = EventAccumulator(str(in_the_way)).Reload()
    assert [event.step for event in events.Scalars("loss/main")] == [1]
    told = events.PluginTagToContent("hparams")
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= told.keys()


@pytest.mark.parametrize("every", [0, 5])
def test_the_metric_that_stops_a_run_stands_beside_its_options(every: int, tmp_path: Path) -> None:
    options = {"validate_every": every, "stop_by": "all/MRR"}
    with process_group(60), MetricsLog(tmp_path, 10, 0, 4, {}, options):
        pass
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    shown = {one.name.tag for one in experiment.metric_infos}
    assert ("validation/all/MRR" in shown) == (every > 0)
    assert "evaluation/per_user/NDCG@20" in shown
