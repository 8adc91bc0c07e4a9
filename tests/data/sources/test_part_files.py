"""Which files of a folder are read: by the names that engines write, beside what is left there."""

import gzip
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest

from dat_rec.data.sources.parts import Parts
from tests.data.sources.prepared import error_of, read, write

SPARK = "part-00000-8a5e-c000.snappy.parquet"


def put(folder: Path, *names: str, first: int = 0) -> None:
    """A Parquet file under each name, which holds its place in the list."""
    for place, name in enumerate(names, first):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, v=[place])


def values(path: Path) -> list[int]:
    return sorted(row[0] for row in read(path, "v"))


@pytest.mark.parametrize(
    "names",
    [
        ("part-0.parquet", "part-1.parquet"),
        (SPARK, SPARK.replace("00000", "00001")),
        ("000000_0", "000001_0", "000001_0_copy_1"),
        ("20260101_000000_00001_abcde_0b1c", "20260101_000000_00001_abcde_1d2e"),
        ("events-000000000000", "events-v1.2-000000000001"),
        ("A.PARQUET", "b.parq", "c.Pq"),
        (f"2026-01-01.parquet/{SPARK}", f"2026-01-02.parquet/{SPARK}"),
        ("2026/01/01/events.parquet", "2026/01/02/events.parquet"),
        ("events.parquet", "2026/01/02/events.parquet", "2026/01/03/x/events"),
        ("day=1/_c0=2/a.parquet", "day=2/_c0=1/a.parquet"),
    ],
)
def test_the_part_files_of_engines_are_read(names: tuple[str, ...], tmp_path: Path) -> None:
    put(tmp_path, *names)
    assert values(tmp_path) == list(range(len(names)))


@pytest.mark.parametrize(
    "hidden",
    [
        "._part-0.parquet",
        ".part-0.parquet.crc",
        "_SUCCESS",
        "_metadata",
        "_common_metadata",
        "_temporary/0/task/part-0.parquet",
        ".part-0-0.inprogress.8f3a",
        ".ipynb_checkpoints/part-0.parquet",
        "day=1/.hidden.parquet",
    ],
)
def test_hidden_files_never_count(hidden: str, tmp_path: Path) -> None:
    put(tmp_path, "part-0.parquet")
    for content in (b"", b"\0\5\x16\7\0\2\0\0Mac OS X", (tmp_path / "part-0.parquet").read_bytes()):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_bytes(content)
        assert values(tmp_path) == [0]


def test_files_of_other_kinds_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "part-0.parquet", "part-0.parquet.bak")
    (tmp_path / "README").write_text("see the wiki")
    assert values(tmp_path) == [0]
    err = capsys.readouterr().err
    assert err == (
        f"{tmp_path}: not read, as they are no Parquet by name: README, part-0.parquet.bak\n"
    )


def test_unfinished_files_are_named_and_never_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("a.parquet.tmp", "b.parquet._COPYING_", "part-0-1.inprogress.7e2f", "c.pq.crdownload")
    put(tmp_path, *names, first=1)
    assert "holds unfinished files alone (a.parquet.tmp, b.parquet._COPYING_, " in refusal(tmp_path)
    put(tmp_path, "part-0.parquet")
    (tmp_path / "_temporary/0").mkdir(parents=True)
    assert values(tmp_path) == [0]
    err = capsys.readouterr().err
    assert f"{tmp_path}: not read, as their names say that they are unfinished: a.parquet" in err
    assert f"{tmp_path}/_temporary: a job writes here, or died: what it has not finished" in err


def test_a_folder_is_read_once_whatever_links_lead_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "log", "2026-01-01/a.parquet", "2026-01-02/a.parquet")
    put(tmp_path, "elsewhere.parquet", first=2)
    (tmp_path / "log/latest").symlink_to("2026-01-02")
    (tmp_path / "log/2026-01-02/round").symlink_to("..")
    (tmp_path / "log/first.parquet").symlink_to("2026-01-01/a.parquet")
    (tmp_path / "log/z.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    assert values(tmp_path / "log") == [0, 1, 2]
    assert "leads to the same file as" in capsys.readouterr().err


def refusal(path: Path) -> str:
    return error_of(Parts, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes), as a write that broke off leaves it: write it anew, or remove"),
        (b"PAR1\x15\0", "is cut short, its last bytes are missing: write it anew"),
        (b"PARE12345678PARE", "is encrypted Parquet: write it without encryption"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "a pointer of Git LFS: fetch the"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is HTML or XML, no Parquet: dow"),
        (b"\x00\x01\x02", "is no Parquet (it begins with b'\\x00\\x01\\x02'): write it as Parquet"),
    ],
)
def test_a_part_that_is_no_parquet_is_refused_by_name(
    content: bytes, words: str, tmp_path: Path
) -> None:
    put(tmp_path, "part-0.parquet")
    (tmp_path / "part-1.parquet").write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path}/part-1.parquet: ")
    assert words in refusal(tmp_path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "csv": lambda path: path.write_text("v\n3\n4\n"),
    "tsv": lambda path: path.write_text("v\n3\n4\n"),
    "json": lambda path: path.write_text('{"v": 3}\n{"v": 4}\n'),
    "orc": lambda path: pyarrow.orc.write_table(pa.table({"v": [3, 4]}), path),
    "feather": lambda path: pyarrow.feather.write_feather(pa.table({"v": [3, 4]}), path),
    "csv.gz": lambda path: path.write_bytes(gzip.compress(b"v\n3\n4\n")),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_another_format_is_refused_with_a_cure_that_works(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "it's"
    place.mkdir()
    WRITERS[kind](place / f"log.{kind}")
    messages = [refusal(path) for path in (place / f"log.{kind}", place)]
    assert all("no Parquet: convert it: python -c" in message for message in messages)
    commands = {message.partition("convert it: ")[2] for message in messages}
    python, flag, program = shlex.split(commands.pop())
    assert (python, flag, commands) == ("python", "-c", set())
    exec(program, {})
    assert values(next(place.glob("*.parquet"))) == [3, 4]


def test_a_folder_without_parquet_says_what_it_holds(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: holds no files: name the folder of the Parquet files"
    (tmp_path / "_SUCCESS").touch()
    assert "holds no files but hidden ones (_SUCCESS): name the folder of" in refusal(tmp_path)
    for name in "abcde":
        (tmp_path / f"{name}.csv").write_text("v\n1\n")
    assert "holds no Parquet file, but a.csv, b.csv, c.csv and 2 more: " in refusal(tmp_path)


def test_parquet_under_another_ending_is_refused_with_the_cure(tmp_path: Path) -> None:
    put(tmp_path, "a.snappy")
    assert "but a.snappy: " in refusal(tmp_path)
    assert refusal(tmp_path).endswith("/a.snappy is Parquet: rename it")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").endswith("pipe: is no regular file: write it to one")
    assert refusal(tmp_path / "none").endswith("none: no such file: correct the path")


TABLES = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/00001-5f1cab5e-0d3b-4a5e-9c4f-0123456789ab.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("named", ["data", "data/part-0.parquet", "..", "dat*", "../l*"])
def test_a_part_of_a_table_or_a_folder_around_it_is_refused(
    kind: str, named: str, tmp_path: Path
) -> None:
    """Beside the table's rows it holds those that were deleted."""
    log = tmp_path / "all" / "log"
    put(log, "data/part-0.parquet")
    (log / TABLES[kind]).parent.mkdir()
    (log / TABLES[kind]).write_text("{}")
    message = refusal(log.parent / named[3:] if named.startswith("..") else log / named)
    assert f"belongs to a table of {kind}" in message
    assert message.endswith(
        f"in Spark: spark.read.format('hudi').load({str(log)!r}).write.parquet('log.parquet')"
        if kind == "Hudi"
        else f"name the table's folder itself: {log}"
    )


@pytest.mark.parametrize(
    ("name", "content", "iceberg"),
    [
        ("columns.metadata.json", '{"columns": ["v"]}', False),
        ("2026.metadata.json", "{}", False),
        ("v3.gz.metadata.json", "", True),
        ("00007-5f1cab5e-0d3b-4a5e-9c4f-0123456789ab.gz.metadata.json", "", True),
        ("mine.metadata.json", '{"format-version": 2, "table-uuid": "5f1c"}', True),
    ],
)
def test_metadata_makes_a_table_where_iceberg_wrote_it(
    name: str, content: str, iceberg: bool, tmp_path: Path
) -> None:
    put(tmp_path / "all" / "log", "part-0.parquet")
    (tmp_path / "all/metadata").mkdir()
    (tmp_path / "all/metadata" / name).write_text(content)
    if iceberg:
        assert "belongs to a table of Iceberg" in refusal(tmp_path / "all" / "log")
    else:
        assert values(tmp_path / "all") == values(tmp_path / "all/log") == [0]


def test_metadata_above_the_log_that_nobody_can_read_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "all" / "log", "part-0.parquet")
    (tmp_path / "all/_delta_log").symlink_to("x" * 300)  # ENAMETOOLONG, to root too
    assert values(tmp_path / "all/log") == [0]
    assert refusal(tmp_path / "all").startswith(f"{tmp_path}/all/_delta_log: File name too long")


def test_an_out_or_a_dataset_in_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "log.parquet", "old/examples/part-00000.parquet")
    (tmp_path / "old/schema.json").write_text("{}")
    assert "holds a dataset that `dat-rec prepare` made" in refusal(tmp_path)
    (tmp_path / "old/schema.json").unlink()
    put(tmp_path, "out.partial/work/training.parquet")
    (tmp_path / "out.partial/.unfinished").touch()
    assert refusal(tmp_path).endswith("--out lies in it: name a folder elsewhere for --out")
