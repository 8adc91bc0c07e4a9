"""A prepare killed in any stage goes on where it was, to the same bytes; of other input, anew."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _pytest.monkeypatch import derive_importpath

from dat_rec.data.prepare.journal import made_of
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.files import UNFINISHED

CONSTANTS = {
    "dat_rec.data.prepare.interactions.RANGE_ROWS": 4_000,
    "dat_rec.data.prepare.write.ROW_GROUP": 512,
    "dat_rec.data.prepare.write.PIECE": 128,
    "dat_rec.data.prepare.write.FILE_ROWS": 4_096,
    "dat_rec.data.sources.synthetic.BLOCK": 2_000,
    "dat_rec.data.sources.synthetic.FILE_BLOCKS": 2,
}
PROGRAM = """
import os, signal, sys
from pathlib import Path
from _pytest.monkeypatch import MonkeyPatch, derive_importpath
from dat_rec.data.prepare.pipeline import prepare
from tests.data.prepare.test_restart import CONSTANTS, world

patch, left = MonkeyPatch(), int(sys.argv[3])
for name, value in CONSTANTS.items():
    patch.setattr(name, value)

def dying(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

name, target = derive_importpath(sys.argv[2], True)
patch.setattr(target, name, dying(getattr(target, name)))
prepare(world(Path(sys.argv[1]), threads=1))
"""
DEATHS = [
    ("dat_rec.data.sources.planted_world.World.draw", 5, None),
    ("dat_rec.data.prepare.stages.reject_bad_rows", 0, None),
    ("dat_rec.data.prepare.stages.hold_out", 0, "check"),
    ("dat_rec.data.prepare.stages.write_held_out", 0, "split"),
    ("dat_rec.data.prepare.user_ranges.find_pairs", 2, "number"),
    ("dat_rec.data.prepare.write.ExampleWriter._with_features", 80, "users"),
    ("dat_rec.data.prepare.pipeline.Schema.save", 0, "examples"),
]
"""Where a kill comes, after how many calls, and the last stage that is finished then."""
STEPS = [
    "dat_rec.data.prepare.stages.reject_bad_rows",
    "dat_rec.data.prepare.stages.hold_out",
    "dat_rec.data.prepare.stages.number_users",
    "dat_rec.data.prepare.user_ranges.find_pairs",
]
RANGES = 5
"""Of the world, by its constants: 18,900 users and training interactions."""


def world(out: Path, **changes: Any) -> Synthetic:
    """A thirtieth of its training interactions are of the past."""
    sizes = {"users": 900, "items": 300, "interactions": 20_000, "history_length": 5}
    return Synthetic(**{"out": out, **sizes, "train_from": "2020-01-04", **changes})


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CONSTANTS.items():
        monkeypatch.setattr(name, value)


def killed(out: Path, where: str, calls: int) -> Path:
    """The unfinished folder of a prepare that was killed at the call."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), where, str(calls)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert not out.exists()
    return out.with_name(out.name + ".partial")


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file's inode and time of change: another one if it is written anew."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): path.stat() for path in files}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def _counted(calls: Counter[str], path: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        calls[path] += 1
        return real(*arguments, **options)

    return call


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> Counter[str]:
    """How often each function is called from now on."""
    calls: Counter[str] = Counter()
    for path in names:
        name, target = derive_importpath(path, True)
        monkeypatch.setattr(target, name, _counted(calls, path, getattr(target, name)))
    return calls


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CONSTANTS.items():
            patch.setattr(name, value)
        prepare(world(out, threads=2))
    return digest(out)


@pytest.mark.parametrize(("where", "calls", "after"), DEATHS)
def test_a_killed_prepare_goes_on_to_the_same_bytes(
    where: str,
    calls: int,
    after: str | None,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    partial = killed(tmp_path / "out", where, calls)
    before = identities(partial)
    done = counted(monkeypatch, *STEPS)
    prepare(world(tmp_path / "out", threads=1))
    assert digest(tmp_path / "out") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    said = capsys.readouterr().err
    assert (f"going on after the stage {after!r}" in said) == (after is not None)
    # What was finished is not done again.
    finished = [None, "check", "split", "number", "users", "examples"].index(after)
    wanted = [int(number >= finished) for number in range(3)]
    wanted += [{3: RANGES - 2, 4: 0, 5: 0}.get(finished, RANGES)]
    assert [done[step] for step in STEPS] == wanted
    after_it = identities(tmp_path / "out")
    kept = {name for name, identity in before.items() if after_it.get(name) == identity}
    for name in kept_at(where):
        assert name in kept


def kept_at(where: str) -> list[str]:
    """Files of the dataset that are finished when the kill comes."""
    if "save" in where or "_with_features" in where:
        last = 5 if "save" in where else 2
        parts = [f"examples/part-{number:05}.parquet" for number in range(last)]
        return [
            "users.parquet",
            "seen.parquet",
            "past.parquet",
            "items.parquet",
            "test.parquet",
            *parts,
        ]
    return ["items.parquet", "test.parquet"] if "find_pairs" in where else []


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a kill at the last moment left."""
    folder = tmp_path_factory.mktemp("left")
    return killed(folder / "out", "dat_rec.data.prepare.pipeline.Schema.save", 0)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"interactions": 20_001, "history_length": 4}])
def test_other_options_start_anew(
    changes: dict[str, Any], left: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(left, tmp_path / "out.partial")
    prepare(world(tmp_path / "out", **changes))
    assert "begun with other options: starting anew" in capsys.readouterr().err
    prepare(world(tmp_path / "again", **changes))
    assert digest(tmp_path / "out") == digest(tmp_path / "again")


@pytest.mark.parametrize(
    "spoil", [lambda path: path.unlink(), lambda path: path.write_text('{"of": {}, "sta')]
)
def test_without_a_readable_journal_all_is_done_anew(
    spoil: Callable[[Path], Any], left: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(left, tmp_path / "out.partial")
    spoil(tmp_path / "out.partial" / "work" / "journal.json")
    prepare(world(tmp_path / "out"))
    assert digest(tmp_path / "out") == undisturbed


def test_what_the_dataset_is_made_of(tmp_path: Path) -> None:
    """Another input or option is another dataset; another OUT, memory or number of threads not."""
    log = tmp_path / "log"
    log.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"user_id": [1], "item_id": [1], "time": [1]}), log / name)

    def own(**changes: Any) -> Any:
        return made_of(ParquetLog(**{"out": tmp_path / "out", "interactions": log, **changes}))

    first = own()
    assert own() == first
    free = {"out": tmp_path / "x", "threads": 7, "memory_limit": "2GB", "overwrite": True}
    assert own(**free) == first
    assert own(seed=1) != first
    assert own(interactions=log / "a")["inputs"] == first["inputs"][:1]
    os.utime(log / "b", ns=(0, 5))
    assert own()["inputs"] != first["inputs"]
    (log / "b").unlink()
    assert len(own()["inputs"]) == 1
    # What is made in the folder in which a pattern begins.
    made = log / "out.partial"
    made.mkdir()
    (made / UNFINISHED).touch()
    assert len(own(interactions=log / "*.parquet")["inputs"]) == 1


def test_what_a_link_leads_to_is_input_too(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "day=1").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "circle").symlink_to(tmp_path / "log")
    (tmp_path / "far" / "part").write_text("a")
    options = ParquetLog(out=tmp_path / "out", interactions=tmp_path / "log")
    before = made_of(options)["inputs"]
    assert len(before) == 1
    os.utime(tmp_path / "far" / "part", ns=(0, 5))
    assert made_of(options)["inputs"] != before
