"""Disks that are slow, full or behind the times: training goes on, and says what it waits for.

Every rank is a real process under torchrun; what one of them does on its disk takes longer than
the network's time-out.
"""

import json
import re
import shlex
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dat_rec.checkpoint.find import newest_whole
from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from tests.end_to_end.disturbed import SAID, disturbed
from tests.end_to_end.launched import FLAGS, STEPS, launched
from tests.end_to_end.test_survival import after_rank_1_did, begun_until, bits

HASTY = ("--timeout-s", "5")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("flags", [(), ("--no-background-saves",)])
def test_writes_that_take_longer_than_the_time_out_change_nothing(
    flags: tuple[str, ...], planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    program = disturbed("1:write_blocks=9", "0:copy_rows=7")
    flags = (*FLAGS, *HASTY, *flags, "--checkpoint-every", "51")
    with launched(planted.folder, out, *flags, program=program) as run:
        assert run.wait(120) == 0, run.output()
        assert run.output().count(SAID + "write_blocks") == 2
        assert run.output().count(SAID + "copy_rows") == 1
    assert [step for step, _ in checkpoints(out)] == [51, STEPS]
    assert bits(out) == bits(undisturbed)


def test_a_resume_whose_digests_and_reads_are_slow_on_one_rank_goes_on(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    begun_until(98, undisturbed, out)
    program = disturbed("1:sha256=7", "0:load_into=7")
    with launched(planted.folder, out, *FLAGS, *HASTY, "--resume", program=program) as run:
        assert run.wait(120) == 0, run.output()
        assert f"resumed after step 98 of {STEPS}" in run.output()
        assert run.output().count(SAID) >= 2
    assert bits(out) == bits(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_ends_in_the_middle_of_the_last_write_is_found_within_seconds(
    number: signal.Signals, planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    flags = (*FLAGS, *HASTY, "--epochs", "1", "--checkpoint-every", "1000")
    with launched(planted.folder, out, *flags, program=disturbed("1:write_blocks=600")) as run:
        assert run.wait_until(lambda: SAID in run.output())
        time.sleep(6)  # longer than the time-out: the other one waits
        living = run.ranks()[0]
        run.kill(1, number)
        begin = time.monotonic()
        assert run.wait_for_end_of(living) or run.wait() == 1
        assert time.monotonic() - begin < 25
        if number == signal.SIGSTOP:
            run.kill(1)
        assert run.wait() == 1
        (line,) = run.said()
        assert "rank 0: stopped: rank 1 died without a word" in line
    assert checkpoints(out) == []


def steps_done(output: str) -> int:
    """As the progress bar has it."""
    return max((int(step) for step in re.findall(r"(\d+)/\d+ \[", output)), default=0)


def test_a_disk_that_is_full_for_20_s_costs_the_checkpoints_of_that_time_alone(
    planted: Dataset, filled_disk: Path, tmp_path: Path
) -> None:
    out = filled_disk / "run"
    flags = (*FLAGS, "--epochs", "20", "--checkpoint-every", "50")
    with launched(planted.folder, out, *flags, log=tmp_path / "log") as run:
        run.wait_for_checkpoint()
        ballast = filled_disk / "ballast"
        fill(ballast)
        full_since = time.monotonic()
        assert run.wait_until(lambda: "trying again" in run.output())
        kept, done = checkpoints(out), steps_done(run.output())
        assert run.wait_until(lambda: steps_done(run.output()) > done + 100)
        assert run.wait_until(lambda: "given up; training goes on" in run.output())
        time.sleep(max(0.0, 20 - (time.monotonic() - full_since)))
        assert checkpoints(out) == kept
        ballast.unlink()
        assert run.wait(300) == 0, run.output()
        told = run.output()
    assert re.search(
        r"step-\d+: rank \d: writing: No space left on device; 0 MiB free: trying again\n", told
    )
    steps = json.loads((out / "train.json").read_text())["steps"]
    whole = newest_whole(out)
    assert whole is not None
    assert whole.step == checkpoints(out)[-1][0] == steps
    assert run.partials() == []
    assert "Traceback" not in told


def fill(ballast: Path) -> None:
    """Take all the room that a disk has."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**16, 2**12):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def test_a_rank_that_sees_an_older_state_of_the_folder_waits_until_it_sees_the_first_ones(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """The run has ended, and to one rank has not, as a network file system may show it."""
    out, older, seen = tmp_path / "run", tmp_path / "older", tmp_path / "seen"
    shutil.copytree(undisturbed, out)
    begun_until(49, undisturbed, older)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    run_folder = shlex.quote(str(out))
    late = f"(until [ -e {shlex.quote(str(seen))} ]; do sleep 0.2; done; umount -l {run_folder}) &"
    program = after_rank_1_did(
        f"mount --bind {shlex.quote(str(older))} {run_folder} && {{ {late} }}"
    )
    # It sees that the folder is not the same at first.
    flags = (*FLAGS, "--no-preflight", "--resume")
    with launched(planted.folder, out, *flags, program=program) as run:
        assert run.wait_until(lambda: "rank 1: reading: No such file" in run.output()), run.output()
        seen.touch()
        assert run.wait() == 0, run.output()
        assert "the run has ended before: nothing to do" in run.output()
        assert "damaged" not in run.output()
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
