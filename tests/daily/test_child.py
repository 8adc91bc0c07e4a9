"""Work in a process of its own: what it returns and raises, and that it ends with its parent."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial, wraps
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import pytest

from dat_rec.daily.child import STOPPED, in_child
from dat_rec.errors import NoRowsError, RankError, StoppedError

LIMIT_S = 60
P = ParamSpec("P")


def apart(test: Callable[P, None]) -> Callable[P, None]:
    """The test in a process that has no threads to fork, as the driver has none."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asked = (test.__name__, args, kwargs)
        process = get_context("spawn").Process(target=_run, args=asked)
        process.start()
        process.join(LIMIT_S)
        process.kill()
        assert process.exitcode == 0

    return run


def _run(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    globals()[name].__wrapped__(*args, **kwargs)


def fail(error: BaseException) -> NoReturn:
    raise error


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@apart
def test_what_it_returns_and_prints(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")

    def work() -> int:
        print("some words")
        os.write(2, b"others\n")
        return os.getpid()

    assert in_child(work, log, "work") not in (0, os.getpid())
    assert sorted(log.read_text().splitlines()) == ["before", "others", "some words"]


@pytest.mark.parametrize(
    ("work", "kind", "words"),
    [
        (partial(fail, NoRowsError("none here")), NoRowsError, "none here"),
        (partial(fail, OSError(28, "No space left on device")), OSError, "No space left"),
        (partial(fail, StoppedError("with --resume")), StoppedError, "start the same command"),
        (kill_itself, RankError, "work: was killed by SIGKILL"),
        (partial(fail, ValueError("a bug")), RuntimeError, "work: ended with exit code 1"),
    ],
)
@apart
def test_what_it_raises(
    work: Callable[[], Any], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        in_child(work, tmp_path / "log.txt", "work")
    said = (tmp_path / "log.txt").read_text()
    assert ("ValueError: a bug" in said) == (kind is RuntimeError)


@apart
def test_it_is_killed_with_its_parent(tmp_path: Path) -> None:
    place = tmp_path / "pid"

    def work() -> None:
        place.write_text(f"{os.getpid()}")
        time.sleep(60)

    parent = get_context("fork").Process(target=in_child, args=(work, tmp_path / "log.txt", "work"))
    parent.start()
    pid = int(wait_for(place))
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@apart
def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    pid = os.getpid()

    def work() -> None:
        place.write_text("here")
        os.kill(pid, signal.SIGTERM)
        time.sleep(60)

    begin = time.monotonic()
    with pytest.raises(StoppedError, match="start the same command again"):
        in_child(work, tmp_path / "log.txt", "work")
    assert time.monotonic() - begin < 30
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@apart
def test_a_step_that_stops_by_itself_advises_the_drivers_command(tmp_path: Path) -> None:
    """As training does, which speaks of options of its own."""
    pid = os.getpid()

    def work() -> None:
        def stop(*_: object) -> None:
            raise StoppedError("begin anew with --overwrite")

        signal.signal(signal.SIGTERM, stop)
        os.kill(pid, signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(StoppedError) as error:
        in_child(work, tmp_path / "log.txt", "work")
    assert str(error.value) == STOPPED
    assert "start the same command again" in STOPPED


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
