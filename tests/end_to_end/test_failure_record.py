"""What failed first stands in the run's folder and on stderr, and `dat-rec status` tells it.

Ranks are killed, stopped and misled as in ``test_survival``; the status is asked in a process of
its own, as a user does.
"""

import json
import platform
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from dat_rec.errors import Failure
from dat_rec.files import write_json
from dat_rec.runs.failure_record import FailureRecord
from tests.end_to_end.cli import done
from tests.end_to_end.disturbed import FAULT, disturbed
from tests.end_to_end.forked import forked
from tests.end_to_end.launched import FLAGS, STEPS, Launched, launched
from tests.end_to_end.test_survival import (
    assert_nothing_half_done,
    bits,
    seen_by_rank_1,
    stopped_after,
)

COMMAND = "sbatch train.sh"
VARIABLES = {"DAT_REC_COMMAND": COMMAND}

pytestmark = pytest.mark.slow


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(forked("status", "--run", run, "--json")))
    return found


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "failure.json").read_text())
    return found


def told_last(run: Launched) -> str:
    """The line about the first failure: one, below the lines that say why each rank ended."""
    (line,) = re.findall(r"^(?:first failure|stopped): .*", run.output(), re.MULTILINE)
    return str(line)


@pytest.mark.parametrize(
    ("dead", "kind", "words"),
    [
        (1, "died", "rank 1 died without a word"),
        (0, "lost", "the store where the ranks meet does not answer: rank 0 or its host, which"),
    ],
)
def test_a_killed_rank_ends_the_other_which_names_it(
    dead: int, kind: str, words: str, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out, codes = tmp_path / "run", tmp_path / "codes"
    told = VARIABLES | {"DAT_REC_EXIT_FILE": str(codes)}
    with launched(planted.folder, out, *FLAGS, variables=told) as run:
        run.wait_for_checkpoint()
        living = status(out)
        run.kill(dead)
        begin = time.monotonic()
        assert run.wait() == 1
        assert time.monotonic() - begin < 20
    (said,) = run.said()
    assert f"rank {1 - dead}: stopped: {words}" in said
    assert run.ended_with(-9, 1)
    # Neither bad input nor a checkpoint on request.
    assert not codes.exists()
    assert_nothing_half_done(run, undisturbed)
    assert living["state"] in ("training", "ended")
    found = record(out)
    assert (found["kind"], found["rank"], found["told_by"]) == (kind, dead, 1 - dead)
    assert found["host"] == platform.node()
    assert words in found["reason"]
    line = told_last(run)
    assert line.startswith(f"first failure: rank {dead} on {platform.node()}: ")
    assert line.endswith(f"; to go on: {COMMAND}")
    after = status(out)
    assert after["state"] == "failed"
    assert (after["failure"], after["command"]) == (found, COMMAND)
    step, folder = checkpoints(out)[-1]
    assert (after["step"], after["steps"]) == (step, STEPS)
    assert after["checkpoint_age_s"] == pytest.approx(
        time.time() - (folder / "checkpoint.json").stat().st_mtime, abs=10
    )


def test_the_error_itself_is_kept_and_not_what_the_others_made_of_it(
    planted: Dataset, tmp_path: Path
) -> None:
    # Found when it is read: what a file's footer tells is found before the run begins.
    bad = tmp_path / "bad"
    shutil.copytree(planted.folder / "examples", bad)
    (file,) = bad.iterdir()
    column = pq.read_metadata(file).row_group(0).column(0)
    with file.open("r+b") as opened:
        opened.seek(column.data_page_offset)
        opened.write(bytes(column.total_compressed_size))
    out = tmp_path / "run"
    program = seen_by_rank_1(bad, planted.folder / "examples")
    with launched(planted.folder, out, *FLAGS, program=program) as run:
        assert run.wait() == 1
    found = record(out)
    assert (found["kind"], found["rank"]) == ("error", 1)
    assert "(row group 0): cannot be read" in found["reason"]
    assert run.ended_with(1, 2)
    line = told_last(run)
    assert line.startswith(f"first failure: rank 1 on {platform.node()}: {found['reason']}")
    again = "--resume" if checkpoints(out) else "--overwrite"
    assert line.endswith(f"; to go on: the same command with {again}")


def test_sigterm_to_one_rank_stops_all_and_the_resumed_run_has_no_failure(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out, codes = tmp_path / "run", tmp_path / "codes"
    with launched(planted.folder, out, *FLAGS, variables={"DAT_REC_EXIT_FILE": str(codes)}) as run:
        run.wait_for_checkpoint()
        run.kill(1, signal.SIGTERM)
        assert run.wait() == 1
    assert run.ended_with(75, 75)
    assert codes.read_text() == "75\n75\n"
    assert_nothing_half_done(run, undisturbed)
    found = status(out)
    (line,) = run.said()
    assert found["step"] == stopped_after(line) < STEPS
    assert found["state"] == "stopped"
    assert found["failure"]["rank"] is None
    assert f"stopped by SIGTERM after step {found['step']} of {STEPS}" in found["failure"]["reason"]
    assert told_last(run).startswith("stopped: ")
    text = done(forked("status", "--run", out)).splitlines()
    assert text[0] == f"{out}: stopped"
    assert text[1].startswith(f"newest checkpoint: step {found['step']} of {STEPS}, ")
    assert text[-1] == "to go on: the same command with --resume"
    with launched(planted.folder, out, *FLAGS, "--resume", log=tmp_path / "again") as run:
        assert run.wait_until(lambda: "resumed after step" in run.output())
        assert not (out / "failure.json").exists()
        assert run.wait() == 0, run.output()
        assert "first failure" not in run.output()
    assert bits(out) == bits(undisturbed)
    found = status(out)
    assert (found["state"], found["step"], found["failure"]) == ("ended", STEPS, None)
    assert found["command"] == ""


def test_a_run_whose_processes_all_died_says_that_nobody_could_tell(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with launched(planted.folder, out, *FLAGS, variables=VARIABLES) as run:
        run.wait_for_checkpoint()
        run.kill_all()
    text = done(forked("status", "--run", out)).splitlines()
    assert text[0] == f"{out}: failed"
    assert text[2] == f"its processes, on {platform.node()}, died without a word (killed?)"
    assert text[3] == f"to go on: {COMMAND}"
    shutil.rmtree(out / "checkpoints")
    assert status(out)["state"] == "begun"


def test_a_rank_that_fails_before_the_run_has_begun_is_named_and_nothing_is_there_to_resume(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with launched(
        planted.folder, out, *FLAGS, program=disturbed("1:initialize_tables=fail")
    ) as run:
        assert run.wait() == 1
    found = record(out)
    assert (found["kind"], found["rank"], found["told_by"]) == ("error", 1, 1)
    assert found["reason"] == f"IndexError: {FAULT}"
    assert [path.name for path in out.iterdir()] == ["failure.json"]
    after = status(out)
    assert (after["state"], after["failure"]) == ("failed", found)
    assert told_last(run).endswith("; to go on: the same command")
    (line,) = run.said()
    assert line.endswith(f"rank 0: stopped: rank 1 failed: IndexError: {FAULT}: start it again")
    assert "--resume" not in run.output()


def test_what_is_no_run_has_no_status(tmp_path: Path) -> None:
    refused = forked("status", "--run", tmp_path)
    assert refused.returncode == 2
    assert f"{tmp_path} is not a run (no config.json)" in refused.stderr


LOST = Failure("lost", 0, "the store does not answer")
DIED = Failure("died", 1, "rank 1 died")
ERROR = Failure("error", 2, "an id\nis bad")


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([LOST, DIED, ERROR], 2),
        ([ERROR, DIED, LOST], 0),
        ([DIED, LOST], 0),
        ([DIED, Failure("died", 3, "rank 3 died")], 0),
        ([Failure("stopped", None, "stopped"), LOST], 1),
    ],
)
def test_of_several_accounts_the_best_is_kept_and_of_equals_the_first(
    told: list[Failure], kept: int, tmp_path: Path
) -> None:
    write_json(tmp_path / ".writer", {"token": "ours"})
    hosts = ("a", "b", "c", "d")
    lines = [
        FailureRecord(tmp_path, "ours", "go", rank, hosts)(failure)
        for rank, failure in enumerate(told)
    ]
    found = record(tmp_path)
    assert (found["told_by"], found["kind"]) == (kept, told[kept].kind)
    assert found["reason"] == told[kept].reason.replace("\n", " ")
    blamed = told[kept].rank
    assert found["host"] == (None if blamed is None else hosts[blamed])
    # Whoever keeps the record tells it; worse accounts that come later are not told.
    assert [bool(line) for line in lines[kept:]] == [True] + [False] * (len(told) - kept - 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writer", "failure.json"]
    # Another start that has the folder now, and the next failure of this run.
    assert FailureRecord(tmp_path, "theirs", "go", 0, hosts)(ERROR) == ""
    assert record(tmp_path) == found
    write_json(tmp_path / ".writer", {"token": "next"})
    assert FailureRecord(tmp_path, "next", "go", 3, hosts)(LOST)
    assert record(tmp_path)["told_by"] == 3
