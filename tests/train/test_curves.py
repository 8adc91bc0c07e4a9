"""Curves that the disk refuses: they end, the run does not."""

import errno
from pathlib import Path
from typing import Any

import pytest

from dat_rec.parallel.process_group import process_group
from dat_rec.train.metrics_log import MetricsLog


@pytest.mark.parametrize("refused", ["add_scalar", "close"])
def test_a_run_goes_on_without_its_curves_where_the_disk_is_full(
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

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
    assert "no more curves from this start" in told
