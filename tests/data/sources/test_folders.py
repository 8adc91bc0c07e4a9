"""Folders called key=value: read where the files lack the column, compared where they have it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dat_rec.data.sources.parts import Parts
from tests.data.sources.prepared import error_of, own, raw, read, write


def put(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, **columns)


def refusal(path: Path, *columns: str) -> str:
    return error_of(read, path, *columns)


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["1", "20", "-3"], [1, 20, -3]),
        (["01", "2", "10"], ["01", "2", "10"]),
        (["2026-01-01", "2026-01-02"], ["2026-01-01", "2026-01-02"]),
        (["a%20b%2Fc", "it's=odd", "x"], ["a b/c", "it's=odd", "x"]),
        (["7", "__HIVE_DEFAULT_PARTITION__"], [7, None]),
        (["b", "__HIVE_DEFAULT_PARTITION__"], ["b", None]),
        ([str(2**63), "1"], [str(2**63), "1"]),
    ],
)
def test_a_column_that_the_files_lack_is_read_from_the_folders(
    names: list[str], values: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run[1]" / "log"
    for place, name in enumerate(names):
        put(log / f"key={name}" / "part-0.parquet", v=[place, place])
    expected = [(place, value) for place, value in enumerate(values) for _ in range(2)]
    assert sorted(read(log, "v", "key")) == expected
    assert f"{log}: column 'key' is read from the names of the folders" in capsys.readouterr().err


def test_a_column_of_one_file_or_of_a_folder_is_there(tmp_path: Path) -> None:
    put(tmp_path / "day=1" / "part-0.parquet", v=[1])
    put(tmp_path / "day=2" / "part-0.parquet", v=[1], w=[1])
    parts = Parts(tmp_path)
    assert [name for name in ("v", "w", "day", "x", "W") if parts.has(name)] == ["v", "w", "day"]


def test_a_column_that_is_not_asked_for_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "v=9" / "w=8" / "part-0.parquet", v=[9], u=[1])
    assert read(tmp_path, "u") == [(1,)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "named", ["a=1", "a=1/b=2", "a=1/b=2/part-0.parquet", ".", "../[log]", "a=1/../../[log]/a=1"]
)
def test_folders_directly_above_the_path_count_too(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a=5" / "x" / "[log]" / "a=1" / "b=2" / "part-0.parquet", v=[3])
    monkeypatch.chdir(tmp_path / "a=5" / "x" / "[log]")
    assert read(Path(named), "v", "a", "b") == [(3, 1, 2)]
    assert read(Path(named).absolute(), "v", "a", "b") == [(3, 1, 2)]


def test_folders_further_above_do_not(tmp_path: Path) -> None:
    put(tmp_path / "a=5" / "log" / "part-0.parquet", v=[3])
    assert "part-0.parquet: column 'a' is missing: it has v;" in refusal(tmp_path / "a=5/log", "a")


def test_the_column_of_a_file_counts_whatever_stands_above_its_path(tmp_path: Path) -> None:
    put(tmp_path / "v=7" / "part-0.parquet", v=[1, 2])
    for path in (tmp_path / "v=7", tmp_path / "v=7" / "part-0.parquet"):
        assert read(path, "v") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("7", pa.array([7, 7])),
        ("07", pa.array([7, 7])),
        ("a%20b", pa.array(["a b"])),
        ("2026-01-02", pa.array([20455], pa.int32()).cast(pa.date32())),
    ],
)
def test_a_folder_may_say_what_its_files_say(name: str, column: pa.Array, tmp_path: Path) -> None:
    put(tmp_path / f"v={name}" / "part-0.parquet", v=column)
    assert read(tmp_path, "v") == [(value,) for value in column.to_pylist()]


@pytest.mark.parametrize(
    ("name", "column", "said"),
    [
        ("7", [7, 8], "row 2: column 'v' is 8, and its folder says v=7"),
        ("x", [7], "row 1: column 'v' is 7, and its folder says v=x"),
        ("6.6", [7], "row 1: column 'v' is 7, and its folder says v=6.6"),
        ("7", [7, None], "row 2: column 'v' is None, and its folder says v=7"),
        ("07", ["7"], "row 1: column 'v' is 7, and its folder says v=07"),
    ],
)
def test_a_folder_that_says_another_value_than_its_files_is_refused(
    name: str, column: list[Any], said: str, tmp_path: Path
) -> None:
    put(tmp_path / "v=9" / "part-0.parquet", v=["9" if name == "07" else 9], w=[1])
    put(tmp_path / f"v={name}" / "part-1.parquet", v=column, w=[1] * len(column))
    start = f"{tmp_path / f'v={name}' / 'part-1.parquet'}: {said}: "
    assert refusal(tmp_path, "v").startswith(start)
    assert len(read(tmp_path, "w")) == 1 + len(column)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_decodes_to_no_text_is_refused_by_its_file(
    inside: bool, tmp_path: Path
) -> None:
    columns = {"w": [1], **({"v": ["a"]} if inside else {})}
    put(tmp_path / "v=a" / "part-0.parquet", **columns)
    put(tmp_path / "v=%FF" / "part-1.parquet", **columns)
    assert refusal(tmp_path, "v") == (
        f"{tmp_path / 'v=%FF' / 'part-1.parquet'}: the folder v=%FF is no UTF-8 when decoded: "
        "rename it"
    )
    assert read(tmp_path, "w") == [(1,), (1,)]


def test_a_file_beside_the_folders_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path / "day=1" / "part-0.parquet", v=[1])
    put(tmp_path / "part-9.parquet", v=[2])
    message = refusal(tmp_path, "v", "day")
    assert f"{tmp_path}/part-9.parquet: column 'day' is missing, and no folder above it" in message
    put(tmp_path / "day=1" / "day=2" / "part-0.parquet", v=[1])
    (tmp_path / "part-9.parquet").unlink()
    assert "and more than one folder above it is called day=…" in refusal(tmp_path, "v", "day")


COLUMNS = ("user_id", "item_id", "time", "problem")


@pytest.mark.parametrize("day", ["2026-01-0", "2026010"])
def test_a_partitioned_log_is_read_as_one_file(tmp_path: Path, day: str) -> None:
    """Its days are the times, its shops the users; the same rows in one file are the other."""
    rows = [(shop, item, f"{day}{n}") for n in range(1, 4) for shop in (1, 2) for item in range(4)]
    for shop, item, time in rows:
        put(tmp_path / "log" / f"day={time}" / f"shop={shop}" / f"{item}", item_id=[item])
    (tmp_path / "log" / "_SUCCESS").touch()
    shops, items, times = zip(*rows, strict=True)
    times = [int(time) for time in times] if day.isdigit() else times
    put(tmp_path / "log.parquet", shop=shops, item_id=items, day=times)
    log, file = (
        raw(own(tmp_path, interactions=tmp_path / name, user_id="shop", time="day"), *COLUMNS)
        for name in ("log", "log.parquet")
    )
    assert log == file
    assert [row[3] for row in log] == [None] * len(rows)
