"""Folders and files appear whole or not at all, whatever happens and whoever else is at work."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, local_path, publish, whole_file, whole_folder


def fill(folder: Path, text: str, *, overwrite: bool = False) -> None:
    with whole_folder(folder, marker="mark", overwrite=overwrite) as partial:
        (partial / "mark").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


def test_nothing_is_left_when_the_block_fails(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole_folder(tmp_path / "out", marker="mark", overwrite=True) as partial:
            (partial / "mark").write_text("new")
            raise KeyboardInterrupt

    fill(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "mark").read_text() == "old"


def test_only_a_folder_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("mine")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="holds no mark"):
            fill(tmp_path / name, "new", overwrite=True)
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years"
    assert (tmp_path / "file").read_text() == "mine"
    fill(tmp_path / "out", "old")
    with pytest.raises(UserError, match="already there"):
        fill(tmp_path / "out", "new")
    fill(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "mark").read_text() == "new"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "big") == ["mark"]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with (
        whole_folder(tmp_path / "out", marker="mark") as partial,
        pytest.raises(UserError, match="another process is writing it"),
    ):
        fill(tmp_path / "out", "other")
    assert not partial.exists()


def test_what_lies_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "log.parquet").write_text("input")
    with pytest.raises(UserError, match="in the way"):
        fill(tmp_path / "out", "new")
    assert names(tmp_path / "out.partial") == ["log.parquet"]


def test_a_folder_of_a_process_that_was_killed_before_its_mark_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


def test_the_rest_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom dat_rec.files import whole_folder\n"
        "with whole_folder(Path(sys.argv[1]), marker='mark') as partial:\n"
        "    (partial / 'mark').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == ["out.partial"]
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


KILLED = """import os, signal, sys
from pathlib import Path
from dat_rec import files

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{patch}
with files.whole_folder(Path(sys.argv[1]), marker='mark', overwrite=True) as partial:
    (partial / 'mark').write_text('killed')
"""


def killed(folder: Path, patch: str) -> None:
    """Fill a folder in a process that kills itself somewhere, as a line of code says."""
    command = [sys.executable, "-c", KILLED.format(patch=patch), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("there", [False, True])
def test_a_kill_just_before_the_rename_leaves_what_the_next_start_replaces(
    tmp_path: Path, there: bool
) -> None:
    if there:
        fill(tmp_path / "out", "old")
    killed(tmp_path / "out", "files.publish = kill")
    assert names(tmp_path / "out.partial") == ["mark"]
    if there:
        assert (tmp_path / "out" / "mark").read_text() == "old"
    fill(tmp_path / "out", "new", overwrite=there)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "mark").read_text() == "new"


def test_a_kill_between_the_renames_gives_back_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    at = "kill() if one.name == 'out.partial' else rename(one, to)"
    killed(tmp_path / "out", f"rename = Path.rename\nPath.rename = lambda one, to: {at}")
    assert not (tmp_path / "out").exists()
    fill(tmp_path / "out", "new", overwrite=True)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


def test_a_kill_just_after_the_rename_leaves_the_whole_folder(tmp_path: Path) -> None:
    killed(tmp_path / "out", "files.shutil.rmtree = kill")
    assert names(tmp_path / "out") == ["mark"]
    assert (tmp_path / "out" / "mark").read_text() == "killed"
    with pytest.raises(UserError, match="already there"):
        fill(tmp_path / "out", "new")
    fill(tmp_path / "out", "new", overwrite=True)
    assert names(tmp_path) == ["out"]


def test_a_second_process_is_refused_while_the_first_one_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(partial: Path, folder: Path) -> None:
        with pytest.raises(UserError, match="another process is writing it"):
            whole_folder(tmp_path / "out", marker="mark").__enter__()
        publish(partial, folder)

    monkeypatch.setattr("dat_rec.files.publish", slow)
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mark"]


def test_an_old_folder_is_back_when_replacing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "partial").mkdir()
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "partial":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "partial", tmp_path / "out")
    assert (tmp_path / "out" / "mark").read_text() == "old"


def test_an_old_folder_is_back_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / "out.old.partial")
    with pytest.raises(UserError, match="already there"):
        fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "mark").read_text() == "old"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def failing() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        failing()
    assert path.read_text() == "old"
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "text",
    ["s3://b/x", "gs://b", "S3A://b/x", "hdfs:///x", "https://a.b/c", "abfss://x@y/z", "dbfs:/x"],
)
def test_an_address_is_no_path(text: str) -> None:
    with pytest.raises(UserError, match=f"^{text}: {text.split(':')[0]} is no local disk"):
        local_path(text)


@pytest.mark.parametrize("text", ["file:///tmp/a b", "file:/tmp/a b", "FILE:///tmp/a b"])
def test_a_files_address_is_read_as_its_path(text: str) -> None:
    assert local_path(text) == Path("/tmp/a b")


def test_a_files_address_on_another_host_is_refused() -> None:
    with pytest.raises(UserError, match=r"^file://host/x: names another host: write file:///PATH$"):
        local_path("file://host/x")


@pytest.mark.parametrize("text", ["/x", "x", "./s3:/x", "run-12:30/x", "a=b:c", "C:", "x//y"])
def test_any_other_text_is_a_path(text: str) -> None:
    assert local_path(text) == Path(text)


@dataclass(frozen=True)
class Wheel:
    spokes: int
    name: str = ""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Cart:
    wheels: tuple[Wheel, ...]
    weight: float | None = None
    by_name: dict[str, Wheel] = field(default_factory=dict)

    __pydantic_config__ = STRICT


def test_a_json_value_becomes_the_dataclass_that_it_is() -> None:
    value = {"wheels": [{"spokes": 8}, {"spokes": 6, "name": "left"}], "weight": 3}
    assert checked(Cart, value) == Cart((Wheel(8), Wheel(6, "left")), 3.0)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([], "the content is []: it must be an object: build anew"),
        ({}, "wheels is missing: build anew"),
        ({"wheels": [{}]}, "wheels[0].spokes is missing: build anew"),
        ({"wheels": [{"spokes": 1, "hub": 2}]}, "unknown field 'wheels[0].hub': build anew"),
        ({"wheels": "two"}, "wheels is 'two': it must be a valid array: build anew"),
        ({"wheels": [{"spokes": True}]}, "wheels[0].spokes is True: it must be a valid integer: "),
        ({"wheels": [{"spokes": 1.0}]}, "wheels[0].spokes is 1.0: it must be a valid integer: "),
        ({"wheels": [], "weight": float("nan")}, "weight is nan: it must be a finite number: "),
        ({"wheels": [], "weight": "3"}, "weight is '3': it must be a valid number: build anew"),
        ({"wheels": [], "by_name": {"a": 1}}, "by_name.a is 1: it must be an object: build anew"),
        ({"wheels": "\n" * 1000}, "wheels is '\\n\\n"),
        ({"wheels": "\ud800"}, "Invalid JSON: "),
    ],
)
def test_what_is_wrong_with_a_json_value_is_one_line(value: Any, line: str) -> None:
    with pytest.raises(UserError) as raised:
        checked(Cart, value, "cart.json", "build anew")
    message = str(raised.value)
    assert message.startswith(f"cart.json: {line}")
    assert message.endswith("build anew")
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_a_killed_process_left_is_gone_on_with_if_it_fits(
    goes_on: bool, tmp_path: Path
) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    for name in (".unfinished", "before"):
        (left / name).touch()
    with whole_folder(tmp_path / "out", marker="m", goes_on=lambda found: goes_on) as folder:
        assert (folder / "before").exists() == goes_on
        (folder / "m").touch()
    names = {"m", "before"} if goes_on else {"m"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
