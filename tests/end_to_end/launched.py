"""Start ``dat-rec train`` under torchrun, find its ranks while they run, leave none behind."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.files import PARTIAL_SUFFIX
from tests.device import DEVICE_FLAGS
from tests.end_to_end.forked_torchrun import ForkedTorchrun, forked_of

MARK = "DAT_REC_TEST_RUN"
"""Environment variable by which a run's processes are found, whoever has started them."""
START_MARK = "DAT_REC_TEST_START"
"""The same for one start of the run."""
POLL_S = 0.002
FLAGS = (
    *("--epochs", "2", "--batch-size", "80", "--log-every", "5", "--checkpoint-every", "7"),
    *("--model.embedding-dim", "16", "--model.hidden", "16", "--model.output-dim", "8"),
    # So that runs on other numbers of ranks can be compared.
    *("--model.precision", "float64", "--sharding-types", "table_wise"),
)
STEPS = 102
"""Of a run with these flags on two ranks: two epochs of 8128 examples, 160 a step."""
TRAIN = (sys.executable, "-m", "dat_rec", "train", *DEVICE_FLAGS)


@dataclass(frozen=True)
class Launched:
    """A training that runs, or has run."""

    out: Path
    """The run's folder."""
    launcher: subprocess.Popen[bytes] | ForkedTorchrun
    log: Path
    """What launcher and ranks print."""
    start: str
    """What no other start of the run has in its environment."""

    def ranks(self) -> dict[int, int]:
        """The process of each rank of the run that lives, whoever has started it."""
        found = _processes(MARK, str(self.out)) | forked_of(out=str(self.out))
        return {rank: pid for pid, rank in found.items() if rank is not None}

    def signal_start(self, number: signal.Signals) -> None:
        """Send a signal to every process of this start, launcher and all."""
        for pid in self._of_start():
            send(pid, number)

    def _of_start(self) -> set[int]:
        """The processes of this start that live."""
        found = _processes(START_MARK, self.start).keys() | forked_of(start=self.start).keys()
        return found if self.launcher.poll() is not None else found | {self.launcher.pid}

    def wait_until(self, ready: Callable[[], bool], seconds: float = 180.0) -> bool:
        """Wait for a state; whether it came before the launcher's end and the time's."""
        deadline = time.monotonic() + seconds
        while not (is_ready := ready()):
            if self.launcher.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return is_ready

    def wait_for_end_of(self, pid: int) -> bool:
        """Wait until a rank has ended; whether it did before the launcher, and within a minute."""
        return self.wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60)

    def wait_for_checkpoint(self) -> int:
        """Wait until one is whole; its step."""
        assert self.wait_until(lambda: bool(checkpoints(self.out))), self.output()
        return checkpoints(self.out)[-1][0]

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a rank, if it lives; its process."""
        pid = self.ranks()[rank]
        send(pid, number)
        return pid

    def kill_all(self) -> None:
        """Kill -9 whatever belongs to this start, until nothing is left, and holds no lock."""
        killed = set[int]()
        while found := self._of_start():
            for pid in found:
                send(pid, signal.SIGKILL)
            killed |= found
            time.sleep(0.01)
            self.launcher.poll()
        while any(_holds_files(pid) for pid in killed):
            time.sleep(0.01)

    def wait(self, seconds: float = 180.0) -> int | None:
        """The launcher's exit code, or none if it has not ended by then."""
        try:
            return self.launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def output(self) -> str:
        """Everything that was printed."""
        return self.log.read_text("utf-8", "replace")

    def said(self) -> list[str]:
        """The lines of ours, without what a progress bar left before them."""
        return re.findall(r"dat-rec: .*", self.output())

    def exit_codes(self) -> list[int]:
        """Of the ranks that failed, as torchrun tells them."""
        return [int(code) for code in re.findall(r"exitcode +: (-?\d+) \(pid", self.output())]

    def ended_with(self, *codes: int) -> bool:
        """Whether these are the ranks' exit codes, but for some that torchrun ended meanwhile.

        It looks ten times in a second, and ends (-15) whoever is not yet gone when one has failed:
        a rank that hangs on its way out looks the same.
        """
        found = self.exit_codes()
        own = Counter(found)
        del own[-signal.SIGTERM]
        return len(found) == len(codes) and bool(own) and own <= Counter(codes)

    def partials(self) -> list[Path]:
        """Checkpoints that are being written or removed."""
        return list(self.out.glob("checkpoints/*" + PARTIAL_SUFFIX))


@contextmanager
def launched(
    data: Path | str,
    out: Path,
    *flags: str,
    ranks: int = 2,
    restarts: int = 0,
    program: Sequence[str] = TRAIN,
    meet: Sequence[str] = ("--standalone",),
    own_store: bool = True,
    variables: Mapping[str, str] | None = None,
    log: Path | None = None,
    forks: bool = True,
) -> Iterator[Launched]:
    """``program`` on so many ranks under torchrun; none of its processes outlives the block.

    ``meet`` says where hosts and ranks meet, ``own_store`` whether each restart gets a store of its
    own, ``variables`` what else stands in its environment. What is printed is added to ``log``, or
    to a file beside ``out``. Without ``forks``, torchrun and each rank are executed, and import all
    anew.
    """
    words = [*meet, "--no-python", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    words += [*program, "--data", str(data), "--out", str(out), *flags]
    start = uuid.uuid4().hex
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        # torchrun would keep one store over restarts, and gloo then calls addresses of the dead.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(own_store)),
        MARK: str(out),
        START_MARK: start,
        **(variables or {}),
    }
    log = log or out.with_suffix(".log")
    process: subprocess.Popen[bytes] | ForkedTorchrun
    if forks:
        process = ForkedTorchrun(words, environment, log, start, str(out))
    else:
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True
            )
    run = Launched(out, process, log, start)
    try:
        yield run
    finally:
        run.kill_all()
        process.wait()


def _processes(variable: str, value: str) -> dict[int, int | None]:
    """The living processes with that variable, with the rank of those that train."""
    found: dict[int, int | None] = {}
    mark = f"{variable}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if mark in variables:
            ranks = [value[5:] for value in variables if value.startswith(b"RANK=")]
            found[int(folder.name)] = int(ranks[0]) if ranks else None
    return found


def _holds_files(pid: int) -> bool:
    """Whether a process lives, or ends and has not yet closed its files."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False
    # Its first thread is a zombie while others still hold the files of all.
    return state not in "ZX" or threads > 1


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to what may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
