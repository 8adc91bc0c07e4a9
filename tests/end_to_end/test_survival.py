"""Ranks that are killed, stopped, starved or misled: all end soon, say why, and lose nothing.

Every rank is a real process under torchrun. What becomes of the runs is compared with one that
nobody disturbed, which has kept all its checkpoints.
"""

import json
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from tests.checkpoint.saved import facts, saved_digests, saved_tensors
from tests.end_to_end.cli import ENVIRONMENT, done
from tests.end_to_end.forked import on_ranks
from tests.end_to_end.launched import FLAGS, STEPS, TRAIN, Launched, launched, send
from tests.rendezvous import free_port

OUR_TRACEBACK = re.compile(r'File "(?!.*/\.venv/).*/dat_rec/')

pytestmark = pytest.mark.slow


def train(planted: Dataset, out: Path, *flags: str, ranks: int = 2) -> str:
    """Train to the end; what was printed."""
    trained = on_ranks(ranks, "train", "--data", planted.folder, "--out", out, *FLAGS, *flags)
    done(trained)
    return trained.stderr


def bits(run: Path) -> dict[str, str]:
    """Of the last checkpoint, which must be that of the last step."""
    step, folder = checkpoints(run)[-1]
    assert step == STEPS
    return saved_digests(folder)


def assert_nothing_half_done(run: Launched, undisturbed: Path) -> None:
    """What checkpoints there are, are the undisturbed run's; what failed left no traceback."""
    assert not OUR_TRACEBACK.search(run.output()), run.output()
    theirs = dict(checkpoints(undisturbed))
    for step, folder in checkpoints(run.out):
        if step in theirs:  # or made where the run was asked to stop
            assert saved_digests(folder) == saved_digests(theirs[step])


def begun_until(last: int, undisturbed: Path, out: Path) -> None:
    """A copy of the run as it was when the checkpoint of step ``last`` was its newest."""
    shutil.copytree(undisturbed, out)
    (out / "train.json").unlink()
    for step, folder in checkpoints(out):
        if step > last:
            shutil.rmtree(folder)


def test_a_rank_killed_on_one_of_two_hosts_costs_no_step_though_the_run_may_overwrite(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """Each host's torchrun counts the restarts of its own workers alone."""
    meet = ("--nnodes=2", "--local-addr=localhost", "--rdzv-backend=c10d", "--rdzv-id=once")
    meet += (f"--rdzv-endpoint=localhost:{free_port()}",)
    meet += ("--rdzv-conf=last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5",)
    host = partial(
        launched, planted.folder, tmp_path / "run", *FLAGS, "--overwrite", ranks=1, meet=meet
    )
    with host(restarts=2) as one, host(restarts=2) as other:
        saved = one.wait_for_checkpoint()
        one.kill(1)
        assert one.wait() == 0, one.output()
        assert other.wait() == 0, other.output()
        resumed = re.findall(r"resumed after step (\d+) of", one.output())
        assert len(resumed) == 1
        assert int(resumed[0]) >= saved
    assert bits(tmp_path / "run") == bits(undisturbed)


def test_a_restart_works_with_the_store_that_torchrun_keeps(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    meet = ("--master-addr=localhost", f"--master-port={free_port()}")
    run = tmp_path / "run"
    with launched(planted.folder, run, *FLAGS, restarts=1, meet=meet, own_store=False) as started:
        started.wait_for_checkpoint()
        started.kill(1)
        assert started.wait() == 0, started.output()
    assert bits(run) == bits(undisturbed)


def test_sigterm_to_torchrun_stops_all_with_a_checkpoint_to_go_on_from(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """To a rank: test_failure_record.py."""
    out = tmp_path / "run"
    with launched(planted.folder, out, *FLAGS) as run:
        run.wait_for_checkpoint()
        send(run.launcher.pid, signal.SIGTERM)
        assert run.wait() not in (0, None), run.output()
        (line,) = run.said()
        assert_nothing_half_done(run, undisturbed)
    step = stopped_after(line)
    assert step < STEPS
    assert checkpoints(out)[-1][0] == step
    assert f"resumed after step {step} of {STEPS}" in train(planted, out, "--resume")
    assert bits(out) == bits(undisturbed)


def stopped_after(line: str) -> int:
    """The step that the line of a stopped run names."""
    told = re.search(rf"stopped by SIGTERM after step (\d+) of {STEPS}, whose checkpoint", line)
    assert told, line
    return int(told[1])


def test_sigterm_alone_ends_with_75(planted: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    paths = ("--data", str(planted.folder), "--out", str(out))
    # Half the ranks, twice their batches.
    process = subprocess.Popen(
        [*TRAIN, *paths, *FLAGS, "--batch-size", "160"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not checkpoints(out) and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert checkpoints(out)[-1][0] == stopped_after(told)


@pytest.mark.parametrize("silent", [0, 1])
def test_a_silent_rank_is_given_up_after_the_timeout(
    silent: int, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    with launched(planted.folder, tmp_path / "run", *FLAGS, "--timeout-s", "10") as run:
        run.wait_for_checkpoint()
        other = run.ranks()[1 - silent]
        run.kill(silent, signal.SIGSTOP)
        begin = time.monotonic()
        assert run.wait_for_end_of(other)
        assert 5 < time.monotonic() - begin < 25
        run.kill(silent)
        assert run.wait() == 1
        (line,) = run.said()
        assert f"rank {1 - silent}: " in line
        assert (f"rank {silent} died" in line) or (silent == 0 and "rank 0 or its host" in line)
        assert_nothing_half_done(run, undisturbed)


@pytest.fixture
def damaged(planted: Dataset, tmp_path: Path) -> Path:
    """The folder of examples with rubbish in the middle of its only file."""
    folder = tmp_path / "damaged"
    shutil.copytree(planted.folder / "examples", folder)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:600] + bytes(5_000) + content[5_600:])
    return folder


@pytest.fixture
def cut(damaged: Path) -> Path:
    """The same with no end, which shows as soon as the file is opened."""
    (file,) = damaged.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    return damaged


def seen_by_rank_1(instead: Path, of: Path) -> Sequence[str]:
    """The training, in which another file or folder stands in one's place for rank 1 alone."""
    return after_rank_1_did(f"mount --bind {shlex.quote(str(instead))} {shlex.quote(str(of))}")


def after_rank_1_did(probe: str, program: Sequence[str] = TRAIN) -> Sequence[str]:
    """The program, before which rank 1 alone mounts something that nobody else sees."""
    if subprocess.run(["unshare", "-m", "sh", "-c", probe], check=False).returncode:
        pytest.skip("needs the right to mount (root)")
    ours = shlex.join(program)
    inner = shlex.quote(f'{probe} && exec {ours} "$@"')
    script = f'if [ "$RANK" = 1 ]; then exec unshare -m sh -c {inner} sh "$@"; fi; exec {ours} "$@"'
    return ("sh", "-c", script, "sh")


def test_a_file_that_one_rank_cannot_read_ends_all(
    planted: Dataset, damaged: Path, tmp_path: Path
) -> None:
    examples = planted.folder / "examples"
    program = seen_by_rank_1(damaged, examples)
    with launched(planted.folder, tmp_path / "run", *FLAGS, program=program) as run:
        assert run.wait() == 1, run.output()
        told = {line[:16]: line for line in run.said()}
        assert told.keys() == {"dat-rec: rank 0:", "dat-rec: rank 1:"}
        assert "stopped: rank 1 failed: " in told["dat-rec: rank 0:"]
        for line in told.values():
            assert f"{examples}/part-00000.parquet" in line
            assert "prepare it anew" in line
        assert run.ended_with(1, 2)
        assert not OUR_TRACEBACK.search(run.output())


def test_a_file_that_one_rank_cannot_open_is_refused_by_all_naming_it(
    planted: Dataset, cut: Path, tmp_path: Path
) -> None:
    examples = planted.folder / "examples"
    program = seen_by_rank_1(cut, examples)
    with launched(planted.folder, tmp_path / "run", *FLAGS, program=program) as run:
        assert run.wait() == 1, run.output()
        (line,) = run.said()
        assert line.startswith(f"dat-rec: error: rank 1: {examples}/part-00000.parquet: ")
        assert run.ended_with(2, 2)
    assert not (tmp_path / "run").exists()


def test_a_rank_without_memory_says_so_and_ends_all(planted: Dataset, tmp_path: Path) -> None:
    # The item tower's layer makes 2000 × 16 × 4096 numbers of 8 bytes: a GB.
    size = ("--batch-size", "2000", "--loss.negatives", "15", "--model.hidden", "4096")
    with launched(planted.folder, tmp_path / "run", *FLAGS, *size) as run:
        # The last that is made before the first step, which takes a second or more.
        assert run.wait_until((run.out / "tensorboard").exists)
        pid = run.ranks()[1]
        held = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        limit = held + (200 << 20)
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        assert run.wait() == 1, run.output()
        told = {line[:16]: line for line in run.said()}
        assert told.keys() == {"dat-rec: rank 0:", "dat-rec: rank 1:"}
        assert "rank 1: error: out of memory (" in told["dat-rec: rank 1:"]
        assert "lower --batch-size" in told["dat-rec: rank 1:"]
        assert "stopped: rank 1 failed: out of memory (" in told["dat-rec: rank 0:"]
        assert not OUR_TRACEBACK.search(run.output())
        assert checkpoints(run.out) == []


def test_a_disk_that_stays_full_ends_all_ranks_and_leaves_the_older_checkpoint(
    planted: Dataset, small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").symlink_to(small_disk)
    flags = (*FLAGS, "--checkpoint-every", "51", "--disk-patience-s", "3")
    with launched(planted.folder, tmp_path / "run", *flags) as run:
        assert run.wait() == 1
        (line,) = run.said()
        assert re.search(r"rank \d could not write the checkpoint \(No space left", line), line
        assert line.endswith(
            ", tried for 3 s: free the disk or mend the folder, then go on with --resume"
        )
        # Not 2, after which no scheduler starts it again: another start may find room.
        assert run.ended_with(1, 1)
        # One has room, and stays.
        assert [step for step, _ in checkpoints(run.out)] == [51]
        assert run.partials() == []
        assert not OUR_TRACEBACK.search(run.output())


@pytest.mark.parametrize(
    ("table_lr", "newest"),
    [
        (1e38, 49),  # step 50 leaves infinite weights, which are no checkpoint
        (1e10, 50),  # that of step 50 has begun when step 51 fails
    ],
)
def test_a_diverging_run_names_its_batch_and_its_newest_checkpoint(
    table_lr: float, newest: int, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    begun_until(49, undisturbed, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    known = json.loads(config.read_text())
    known["optimizer"]["table_lr"] = table_lr
    config.write_text(json.dumps(known))
    flags = ("--checkpoint-every", "1", "--optimizer.table-lr", str(table_lr), "--resume")
    with launched(planted.folder, tmp_path / "run", *FLAGS, *flags) as run:
        assert run.wait() == 1
        (line,) = run.said()
        assert re.search(r"from step 51 on .* global batch 51 .*examples/part-00000", line), line
        assert run.ended_with(2, 2)
        assert f"the checkpoint of step {newest} is whole" in line
        step, folder = checkpoints(run.out)[-1]
        assert step == newest
        assert all(tensor.isfinite().all() for tensor in saved_tensors(folder).values())
        assert not (run.out / "train.json").exists()
        assert run.partials() == []
        assert_nothing_half_done(run, undisturbed)


def test_saves_that_training_waits_for_change_no_bit_and_the_rule_keeps_the_best(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    kept = ("--keep-checkpoints", "2", "--keep-best", "1")
    train(planted, tmp_path / "run", "--no-background-saves", *kept)
    assert bits(tmp_path / "run") == bits(undisturbed)
    losses = {step: facts(folder)["loss"] for step, folder in checkpoints(undisturbed)}
    newest = sorted(losses)[-2:]
    best = min(losses, key=lambda step: losses[step])
    assert {step for step, _ in checkpoints(tmp_path / "run")} == {*newest, best}


@pytest.mark.parametrize(
    ("ranks", "flags"),
    [
        (1, ()),
        (3, ()),
        (2, ("--pin", "item=column_wise,min_partition:8")),
    ],
)
def test_a_run_resumed_on_other_ranks_or_plans_ends_where_it_would_have(
    ranks: int, flags: Sequence[str], planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    begun_until(49, undisturbed, out)
    printed = train(planted, out, *flags, "--resume", ranks=ranks)
    assert f"resumed after step 49 of {STEPS}" in printed
    plan = {row["table"].split(".")[-1]: row for row in json.loads((out / "plan.json").read_text())}
    assert plan["item"]["sharding_type"] == ("column_wise" if flags else "table_wise")
    ours, theirs = (saved_tensors(checkpoints(run)[-1][1]) for run in (out, undisturbed))
    assert ours.keys() == theirs.keys()
    for name in ours:
        # Tables are float32: their last bits differ, and where that tips over a ReLU whose input
        # is nearly 0 (it does in step 94), a difference of 1e-9 becomes one of 4e-6.
        if name.startswith(("tables/", "towers/")):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
    losses = [json.loads((run / "train.json").read_text())["loss"] for run in (out, undisturbed)]
    assert abs(losses[0]["main"] - losses[1]["main"]) < 1e-6
