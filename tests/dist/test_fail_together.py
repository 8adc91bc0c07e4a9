"""One rank fails, dies or is stopped: what the others raise, report and end with."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from dat_rec.dist import failure_watch, first_failure
from dat_rec.dist.fail_together import fail_together
from dat_rec.dist.failure_report import FailureReporter
from dat_rec.dist.roll_call import BEFORE_STOP
from dat_rec.errors import Failure, RankError, StoppedError, UserError
from tests.dist.test_communication_errors import GLOO


@pytest.mark.parametrize(
    ("answers", "error", "kind"), [(True, StoppedError, "stopped"), (False, RankError, "died")]
)
def test_a_rank_that_is_stopped_because_another_died_names_the_dead(
    answers: bool, error: type[Exception], kind: str
) -> None:
    """torchrun sends SIGTERM to the ranks that live, as a scheduler does to all of them."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    if answers:
        store.set("alive/1", "")
    left: list[Failure] = []

    def leave(failure: Failure) -> str:
        left.append(failure)
        return ""

    with pytest.raises(error), fail_together(store, 0, 2, 60, FailureReporter(leave)):
        raise StoppedError("stopped by SIGTERM")
    (failure,) = left
    assert (failure.kind, failure.rank) == (kind, None if answers else 1)


@pytest.mark.parametrize("answers", [True, False])
def test_a_rank_that_is_stopped_because_another_failed_names_its_error(answers: bool) -> None:
    """However late it hears of SIGTERM: the other's word came first."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    if answers:
        store.set("alive/1", "")
    left: list[Failure] = []
    reporter = FailureReporter(lambda failure: left.append(failure) or "")
    first_failure.publish(store, 1, "IndexError: no such row", "error")
    with pytest.raises(RankError) as caught, fail_together(store, 0, 2, 60, reporter):
        raise StoppedError("stopped by SIGTERM")
    (failure,) = left
    assert (failure.kind, failure.rank) == ("error", 1)
    assert "rank 1 failed: IndexError: no such row" in str(caught.value)


@pytest.mark.parametrize("alive", [True, False])
def test_the_cause_of_a_loss_is_kept_in_the_line_in_the_record_and_below(alive: bool) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    if alive:
        store.set("alive/1", "")
    left: list[Failure] = []
    reporter = FailureReporter(lambda failure: left.append(failure) or "")
    cause = RuntimeError(GLOO)
    with pytest.raises(RankError) as caught, fail_together(store, 0, 2, 60, reporter):
        raise cause
    assert caught.value.__cause__ is cause
    (failure,) = left
    assert failure.kind == ("lost" if alive else "died")
    short = "RuntimeError: [gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:9"
    assert failure.cause == short
    assert f"(seen here: {short})" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        UserError("/data/timeout/nccl.parquet: prepare it anew"),
        FileNotFoundError(2, "No such file or directory", "/data/nccl/timeout"),
        RuntimeError("no socket in /data/gloo"),
    ],
)
def test_an_error_of_this_rank_stays_itself(error: Exception) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    store.set("alive/1", "")
    left: list[Failure] = []
    reporter = FailureReporter(lambda failure: left.append(failure) or "")
    with pytest.raises(type(error)) as caught, fail_together(store, 0, 2, 60, reporter):
        raise error
    assert caught.value is error
    (failure,) = left
    assert (failure.kind, failure.rank) == ("error", 0)
    assert str(error) in failure.reason


def lingers(reason: str, file: str, asked: bool) -> None:
    """The other rank is told to stop, and ends; this one is kept by a disk.

    torchrun may then ask it to stop too.
    """
    os.environ["DAT_REC_EXIT_FILE"] = file
    failure_watch.GRACE_S = 60.0 if asked else 0.5
    failure_watch.BEFORE_STOP = replace(BEFORE_STOP, timeout_s=0.5)
    signal.signal(signal.SIGTERM, lambda *_: None)
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    words = {"rank": 1, "message": reason, "kind": "stopped"}
    with fail_together(store, 0, 2, 60, FailureReporter()):
        store.set("failed", json.dumps(words))
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize(
    ("reason", "code", "told"), [("stopped by SIGTERM", 75, "75\n"), ("interrupted", 1, "")]
)
def test_a_rank_that_is_kept_from_its_end_after_sigterm_ends_with_the_others_code(
    reason: str, code: int, told: str, asked: bool, tmp_path: Path
) -> None:
    file = tmp_path / "codes"
    file.touch()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=lingers, args=(reason, str(file), asked))
    process.start()
    process.join(60)
    assert process.exitcode == code
    assert file.read_text() == told
