"""Two worlds that both believe to be the run's: one of them writes, and the other one ends.

Every rank is a real process under torchrun. A world that is stopped and goes on later stands for
hosts that were cut from the others, and whose locks the file system has not let go of.
"""

import json
import platform
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from tests.checkpoint.saved import saved_digests
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked
from tests.end_to_end.launched import FLAGS, launched
from tests.end_to_end.test_survival import bits
from tests.rendezvous import free_port

pytestmark = pytest.mark.slow


def job(name: str) -> dict[str, str]:
    return {"DAT_REC_JOB": name}


def files(run: Path) -> dict[str, tuple[int, int]]:
    """Every file but the lock and the curves, by what changes when it is written anew."""
    return {
        str(path.relative_to(run)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in run.rglob("*")
        if path.name != ".lock" and "tensorboard" not in path.parts
    }


@pytest.mark.parametrize("when", ["while the second trains", "after its end"])
def test_a_world_that_comes_back_after_another_took_over_writes_nothing_more(
    when: str, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    flags = (*FLAGS, "--keep-checkpoints", "100", "--overwrite")
    with launched(
        planted.folder, out, *flags, restarts=1, variables=job("slurm-1"), log=tmp_path / "1"
    ) as first:
        saved = first.wait_for_checkpoint()
        first.signal_start(signal.SIGSTOP)
        # It waits for the lock half as long as for another rank, and at most 15 s.
        hasty = (*flags, "--timeout-s", "10")
        with launched(
            planted.folder, out, *hasty, variables=job("slurm-1"), log=tmp_path / "2"
        ) as second:
            assert second.wait_until(lambda: "resumed after step" in second.output())
            if when == "while the second trains":
                first.signal_start(signal.SIGCONT)
            assert second.wait() == 0, second.output()
            told = second.output()
        assert f"{out}: an earlier start of this job holds .lock: waiting 5 s" in told
        assert f"{out}: still held: going on without .lock" in told
        assert int(told.partition("resumed after step ")[2].split()[0]) >= saved
        before = files(out)
        first.signal_start(signal.SIGCONT)
        assert first.wait() == 1, first.output()
        lines = first.said()
        assert len(lines) == 2, "the ranks, and those that torchrun started in their place"
        for line in lines:
            assert line.startswith(f"dat-rec: {out}: another start of this run, on ")
            assert line.endswith(", writes its checkpoints now: this one stops")
        assert first.ended_with(1, 1)
        assert files(out) == before
    theirs = dict(checkpoints(undisturbed))
    assert dict(checkpoints(out)).keys() == theirs.keys()
    for step, folder in checkpoints(out):
        assert saved_digests(folder) == saved_digests(theirs[step])


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_job_that_the_scheduler_starts_again_goes_on_unasked(
    more: Sequence[str], planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with launched(planted.folder, out, *FLAGS, *more, variables=job("slurm-7")) as run:
        saved = run.wait_for_checkpoint()
        run.kill_all()
    with launched(
        planted.folder, out, *FLAGS, *more, variables=job("slurm-7"), log=tmp_path / "again"
    ) as run:
        assert run.wait() == 0, run.output()
        told = run.output()
    assert int(told.partition("resumed after step ")[2].split()[0]) >= saved
    assert bits(out) == bits(undisturbed)


def test_another_job_is_refused_at_once_while_the_first_trains_and_after_it(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def refused(name: str, *more: str) -> str:
        with launched(
            planted.folder, out, *FLAGS, *more, variables=job(name), log=tmp_path / name
        ) as run:
            assert run.wait() == 1, run.output()
            assert run.ended_with(2, 2)
            (line,) = run.said()
            return line

    with launched(planted.folder, out, *FLAGS, variables=job("slurm-7")) as first:
        first.wait_for_checkpoint()
        first.signal_start(signal.SIGSTOP)
        before = files(out)
        assert "another process trains here" in refused("slurm-8", "--resume")
        assert "waiting" not in (tmp_path / "slurm-8").read_text()
        first.kill_all()
    assert "holds a run: pass --resume" in refused("slurm-9")
    assert files(out) == before


def test_the_run_says_whose_it_is(planted: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", "--data", planted.folder, "--out", out, *FLAGS, "--overwrite")
    tokens = set()
    # No other name of a job counts: users give torchrun's id by hand, and twice.
    for variables, name in ((job("slurm-3"), "slurm-3"), ({"TORCHELASTIC_RUN_ID": "once"}, "")):
        done(forked(*arguments, **variables))
        writer = json.loads((out / ".writer").read_text())
        assert writer["job"] == name
        assert writer["host"] == platform.node()
        assert json.loads((out / "config.json").read_text())["job"] == name
        tokens.add(writer["token"])
    assert len(tokens) == 2


@pytest.mark.parametrize(("variables", "code"), [({"TORCHELASTIC_RUN_ID": "x"}, 1), ({}, 2)])
def test_ranks_that_cannot_meet_are_bad_input_only_without_torchrun(
    variables: dict[str, str], code: int, planted: Dataset, tmp_path: Path
) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    paths = ("--data", planted.folder, "--out", tmp_path / "run")
    ended = forked("train", *paths, "--timeout-s", "1", **place, **variables)
    assert ended.returncode == code, ended.stderr
    assert "the ranks cannot meet at 127.0.0.1:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_who_started_the_ranks_learns_bad_input_from_a_file(
    planted: Dataset, tmp_path: Path
) -> None:
    """And that they were stopped: test_failure_record.py."""
    file = tmp_path / "codes"
    told = {"DAT_REC_EXIT_FILE": str(file)}
    paths = ("--data", planted.folder, "--out", tmp_path / "bad")
    for bad in (("--pin", "no=dense"), ("--no-such-option",)):
        assert forked("train", *paths, *FLAGS, *bad, **told).returncode == 2
        assert file.read_text() == "2\n"
        file.unlink()
