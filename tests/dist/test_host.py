"""One host's program, run as a scheduler runs it: real torchruns, real namespaces."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from dat_rec.dist.host import _parser, torchrun
from dat_rec.dist.host_address import Meeting
from tests.launch.hosts import Hosts, missing


def command(*options: str, way: str, more: tuple[str, ...] = ()) -> list[str]:
    program = [sys.executable, "-m", "dat_rec.dist.host", "--module", "tests.launch.a_rank"]
    return [*program, *options, "--", way, *more]


def start(*options: str, way: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*options, way=way), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Wait until a rank has said so, or all have ended."""
    assert process.stdout
    for line in process.stdout:
        if words in line:
            return


def run(*options: str, way: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options, way=way, more=more),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def living(mark: str) -> list[int]:
    """Processes with this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_torchrun_leaves_our_options_alone() -> None:
    """``--run`` might be the beginning of its own ``--run-path``."""
    options = _parser().parse_args(["--", "evaluate", "--run", "RUN"])
    parsed = parse_args(torchrun(options, Meeting("localhost:0"), first=True)[3:])
    assert (parsed.module, parsed.training_script) == (True, "dat_rec")
    assert parsed.training_script_args == ["evaluate", "--run", "RUN"]


def test_ranks_find_the_jobs_name_and_what_torchrun_needs() -> None:
    done = run("--job", "job-7", way="show", more=("a b", "$HOME"))
    assert done.returncode == 0, done.stderr
    assert "'DAT_REC_JOB': 'job-7'" in done.stdout
    assert "'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'" in done.stdout
    assert "['a b', '$HOME']" in done.stdout


def test_a_failed_rank_is_restarted() -> None:
    done = run("--nproc-per-node", "2", "--max-restarts", "1", way="fail-once")
    assert done.returncode == 0, done.stderr
    # The other one may be stopped before it has said so.
    assert max(done.stdout.count(f"rank {rank} begins") for rank in (0, 1)) == 2


def test_a_rank_that_refuses_its_input_ends_the_host_at_once_with_its_code() -> None:
    """The other rank heeds no SIGTERM: it is killed, and nothing is restarted."""
    mark = f"DAT_REC_TEST_HOST={os.getpid()}"
    begin = time.monotonic()
    done = subprocess.run(
        ["env", mark, *command("--nproc-per-node", "2", way="refuse")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert time.monotonic() - begin < 30
    # torchrun may have been faster once, not three times.
    assert done.stdout.count("rank 1 begins") <= 2
    assert living(mark) == []


def test_being_stopped_while_it_ends_does_not_change_a_refusals_code() -> None:
    """As srun stops all of a job's hosts once the first of them has refused."""
    process = start(way="all-refuse")
    wait_for(process, "leaves with 2")
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.0005)
    assert process.returncode == 2


def test_sigterm_reaches_the_ranks_whose_checkpoint_counts() -> None:
    process = start(way="stop")
    wait_for(process, "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75


def test_a_host_program_that_is_killed_takes_torchrun_along() -> None:
    mark = f"DAT_REC_TEST_HOST=killed-{os.getpid()}"
    process = subprocess.Popen(["env", mark, *command(way="stop")], stdout=subprocess.PIPE)
    assert process.stdout
    while b"ready" not in process.stdout.readline():
        pass
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while living(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living(mark) == []


def test_ranks_do_not_outlive_a_torchrun_that_is_killed() -> None:
    mark = f"DAT_REC_TEST_HOST=orphans-{os.getpid()}"
    process = subprocess.Popen(["env", mark, *command(way="stop")], stdout=subprocess.PIPE)
    assert process.stdout
    while b"ready" not in process.stdout.readline():
        pass
    (torchrun,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(torchrun), signal.SIGKILL)
    assert process.wait(30) == 128 + signal.SIGKILL
    assert living(mark) == []


def test_a_port_that_another_program_holds_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run("--nnodes", "2", "--port", str(port), way="show")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"port {port} cannot be listened on" in line


def test_no_ranks_on_a_host_are_refused() -> None:
    done = run("--nproc-per-node", "0", way="show")
    assert (done.returncode, "--nproc-per-node is 0" in done.stderr) == (2, True)


@pytest.mark.parametrize("nodes", ["0", "2:1", "x", ""])
def test_impossible_numbers_of_hosts_are_refused(nodes: str) -> None:
    done = run("--nnodes", nodes, way="show")
    assert done.returncode == 2
    assert "--nnodes" in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two hosts with addresses of their own."""
    if why := missing():
        pytest.skip(why)
    hosts = Hosts(tmp_path_factory.mktemp("hosts"), 2, network=79)
    hosts.down()
    hosts.up()
    yield hosts
    hosts.down()


def on(hosts: Hosts, number: int, *options: str, mounts: str = "true") -> subprocess.Popen[str]:
    """The program on one of two hosts."""
    words = ("--nnodes", "2", "--first", hosts.names[0], "--replica", str(number), *options)
    return subprocess.Popen(
        hosts.at(hosts.names[number], *command(*words, way="show"), mounts=mounts),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_hosts_meet_though_each_takes_its_own_name_for_127_0_1_1(hosts: Hosts) -> None:
    """As Debian's installer has it: gloo and torchrun would tell others to call 127.0.1.1."""
    debian = 'sed "s/^.* $0$/127.0.1.1 $0/" "$1" > "$1.$0" && mount --bind "$1.$0" /etc/hosts'
    for process in [on(hosts, number, mounts=debian) for number in (0, 1)]:
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0, said
        assert "'GLOO_SOCKET_IFNAME': 'eth0'" in said


def test_a_host_behind_a_cut_link_says_so(hosts: Hosts) -> None:
    hosts.cut(hosts.names[1])
    try:
        process = on(hosts, 1, "--meet-s", "3")
        said, _ = process.communicate(timeout=90)
    finally:
        hosts.mend(hosts.names[1])
    assert process.returncode == 1
    assert f"{hosts.names[0]}: 10.79.0.10 does not answer" in said.splitlines()[-1]
