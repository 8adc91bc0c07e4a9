"""What a path stands for: a name where there is one, else a pattern; and several paths."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.commands.parse import parse
from dat_rec.data.sources import SOURCES
from dat_rec.data.sources.parts import Parts
from dat_rec.data.sources.tables import parquet
from dat_rec.errors import UserError
from tests.data.sources.prepared import Prepared, refused


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"v": [name]}), folder / name)


def values(*paths: Path) -> list[str]:
    table = parquet(duckdb.connect(), Parts(paths), ["v"])
    return [row[0] for row in duckdb.sql(f"SELECT v FROM {table} ORDER BY v").fetchall()]


TREE = ("a/x.parquet", "a/b/y.parquet", "a/b/c/z.parquet", "ab/x.parquet", "a/_old/x.parquet")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a*/x.parquet", ["a/x.parquet", "ab/x.parquet"]),
        ("a/**/*.parquet", ["a/b/c/z.parquet", "a/b/y.parquet", "a/x.parquet"]),
        ("a/**", ["a/b/c/z.parquet", "a/b/y.parquet", "a/x.parquet"]),
        ("a/*", ["a/b/c/z.parquet", "a/b/y.parquet", "a/x.parquet"]),
        ("a/_o*/*", ["a/_old/x.parquet"]),
        ("**/c", ["a/b/c/z.parquet"]),
    ],
)
def test_a_star_is_a_pattern_where_no_such_file_is(
    pattern: str, found: list[str], tmp_path: Path
) -> None:
    put(tmp_path / "run[1]?", *TREE)
    put(tmp_path / "run1x", "a/x.parquet")
    assert values(tmp_path / "run[1]?" / pattern) == found


def test_a_path_that_exists_is_a_name_whatever_signs_it_holds(tmp_path: Path) -> None:
    put(tmp_path, "a*.parquet", "ab.parquet", "a[1].parquet", "a1.parquet", "**/x.parquet")
    assert values(tmp_path / "a*.parquet") == ["a*.parquet"]
    assert values(tmp_path / "a[1].parquet") == ["a[1].parquet"]
    assert values(tmp_path / "**") == ["**/x.parquet"]


@pytest.mark.parametrize("name", ["b[1].parquet", "b?.parquet", "{a,b}.parquet"])
def test_other_signs_are_never_a_pattern(name: str, tmp_path: Path) -> None:
    put(tmp_path, "b1.parquet", "a.parquet")
    with pytest.raises(UserError, match="no such file: correct the path"):
        values(tmp_path / name)


def test_a_pattern_that_nothing_fits_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "b1.parquet")
    with pytest.raises(UserError, match=r"c\*\.parquet: no such file, and no name fits it"):
        values(tmp_path / "c*.parquet")


def test_files_of_other_kinds_that_fit_a_pattern_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "a.parquet", "b.parquet.tmp", "c.parquet._COPYING_", "part-0.inprogress.8f3a")
    (tmp_path / "README.md").touch()
    (tmp_path / "_SUCCESS").touch()
    assert values(tmp_path / "*") == ["a.parquet"]
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/*: not read, as they are no Parquet by name: README.md",
        f"{tmp_path}/*: not read, as their names say that they are unfinished: b.parquet.tmp, "
        "c.parquet._COPYING_, part-0.inprogress.8f3a",
    ]


def test_folders_named_in_a_pattern_are_partitions(tmp_path: Path) -> None:
    put(tmp_path, "day=1/h=2/x.parquet", "day=2/h=3/x.parquet", "day=3/h=3/y.parquet")
    for path in ("day=*", "day=*/h=*/x.parquet", "**/x.parquet"):
        parts = Parts(tmp_path / path, first="day=2")
        table = parquet(duckdb.connect(), parts, ["day", "h"])
        found = duckdb.sql(f"SELECT day, h FROM {table} ORDER BY day").fetchall()
        assert found == [(2, 3), (3, 3)][: 1 if "x" in path else 2]


def test_several_paths_are_one_log_and_each_file_is_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "day=1/x.parquet", "more/day=2/x.parquet", "more/y/day=3/x.parquet")
    (tmp_path / "again").symlink_to("day=1")
    one, more = tmp_path / "day=1", tmp_path / "more"
    assert values(one, more / "day=2", more, one, tmp_path / "again") == [
        "day=1/x.parquet",
        "more/day=2/x.parquet",
        "more/y/day=3/x.parquet",
    ]
    assert capsys.readouterr().err.count("read once") == 1
    table = parquet(duckdb.connect(), Parts([one, more]), ["day"])
    found = duckdb.sql(f"SELECT day FROM {table} ORDER BY day").fetchall()
    assert found == [(1,), (2,), (3,)]


def test_one_of_several_paths_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, "a.parquet")
    with pytest.raises(UserError, match=r"/b\.parquet: no such file: correct the path"):
        values(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_no_path_at_all_is_refused(tmp_path: Path) -> None:
    words = ["parquet", "--interactions", "--out", str(tmp_path / "out")]
    refused(parse("prepare", SOURCES, words), "--interactions: names no path: name a Parquet file")


def test_the_command_takes_several_paths_and_patterns(tmp_path: Path) -> None:
    rows = [(row % 3, row % 5, row) for row in range(40)]
    for place in range(4):
        users, items, times = zip(*rows[place::4], strict=True)
        table = pa.table({"user_id": users, "item_id": items, "time": times})
        pq.write_table(table, tmp_path / f"{place}.parquet")
    words = ["parquet", "--interactions", str(tmp_path / "0.parquet"), str(tmp_path / "[12]*")]
    words[-1:] = [str(tmp_path / f"{place}*") for place in (1, 2, 3)]
    made = Prepared(parse("prepare", SOURCES, [*words, "--out", str(tmp_path / "out")]))
    assert made.triples("train") + made.triples("test") == rows
