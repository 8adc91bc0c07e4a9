"""A rank that falls silent is given up in time; one that lives has the time that its disk takes."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from dat_rec.errors import Failure, RankError, StoppedError, UserError
from dat_rec.dist import failure as failure_module
from dat_rec.dist.agree import all_gather_object
from dat_rec.dist.failure import FailureReporter, fail_together, is_communication_error
from dat_rec.dist.process_group import process_group
from dat_rec.train.preemption import StopVote
from tests.distributed.ranks import run_ranks

TIMEOUT_S = 2


def waits() -> tuple[float, float]:
    """How long rank 0 waits for rank 1 in a vote, and until what is found on a disk is agreed on.

    Rank 1 takes no part in the vote, and comes late to what is agreed.
    """
    with process_group(TIMEOUT_S) as context:
        vote, patient = StopVote(context), context.own_group(patient=True)
        assert all_gather_object(context.rank) == [0, 1]
        begin = time.monotonic()
        gave_up = 0.0
        if context.rank == 0:
            vote.cast()
            with pytest.raises(RuntimeError) as caught:
                vote.cast()
            assert is_communication_error(caught.value)
            gave_up = time.monotonic() - begin
        else:
            time.sleep(3 * TIMEOUT_S)
        assert all_gather_object(context.rank, patient) == [0, 1]
        assert all_gather_object(context.rank) == [0, 1]
        return gave_up, time.monotonic() - begin


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


def test_a_vote_waits_no_longer_than_training_and_a_disk_is_waited_for() -> None:
    (vote, disk), _ = run_ranks(waits, 2)
    assert TIMEOUT_S / 2 < vote < 1.5 * TIMEOUT_S
    assert disk > 2.5 * TIMEOUT_S


GLOO = "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:9"


@pytest.mark.parametrize(
    ("error", "of_another_rank"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError(f"Gloo connectFullMesh failed with {GLOO}"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (dist.DistStoreError("Timed out after 300 seconds waiting for clients"), True),
        (dist.DistNetworkError("The client socket has failed to connect"), True),
        (dist.DistBackendError("NCCL error in: x.cpp:1, ncclRemoteError: A call failed"), True),
        # A root cause of this rank's own, whatever words it holds.
        (dist.DistBackendError("NCCL error in: x.cpp:1, ncclInvalidUsage: Duplicate GPU"), False),
        (FileNotFoundError(2, "No such file", "/data/timeout/nccl/socket.parquet"), False),
        (ConnectionResetError(104, "Connection reset by peer"), False),
        (RuntimeError("cannot read /data/gloo/connection closed/timeout"), False),
        (IndexError("list index out of range"), False),
    ],
)
def test_an_error_is_another_ranks_by_its_class_and_origin(
    error: Exception, of_another_rank: bool
) -> None:
    assert is_communication_error(error) == of_another_rank


@pytest.mark.parametrize("alive", [True, False])
def test_the_cause_of_a_loss_is_kept_in_the_line_in_the_record_and_below(alive: bool) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    if alive:
        store.set("alive/1", "")
    left: list[Failure] = []
    words = FailureReporter(lambda failure: left.append(failure) or "")
    cause = RuntimeError(GLOO)
    with pytest.raises(RankError) as caught, fail_together(store, 0, 2, 60, words):
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
    words = FailureReporter(lambda failure: left.append(failure) or "")
    with pytest.raises(type(error)) as caught, fail_together(store, 0, 2, 60, words):
        raise error
    assert caught.value is error
    (failure,) = left
    assert (failure.kind, failure.rank) == ("error", 0)
    assert str(error) in failure.reason


def test_a_folder_that_hangs_does_not_keep_a_rank_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failure_module, "FOLDER_S", 0.2)
    hangs = threading.Event()

    def hang(*_: object) -> str:
        hangs.wait(30)
        return "late"

    words = FailureReporter(hang, advice=hang)
    begin = time.monotonic()
    assert words.leave(Failure("lost", 0, "the store does not answer")) == ""
    assert words.how_to_go_on() == "start it again"
    assert time.monotonic() - begin < 5
    hangs.set()


def lingers(reason: str, file: str, asked: bool) -> None:
    """The other rank is told to stop, and ends; this one is kept by a disk.

    torchrun may then ask it to stop too.
    """
    os.environ["DAT_REC_EXIT_FILE"] = file
    failure_module.GRACE_S = 60.0 if asked else 0.5
    failure_module.CENSUS_S = 0.5
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
