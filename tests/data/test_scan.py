"""Odd names in the paths of inputs and of --out, beside neighbours that a pattern would meet."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

import dat_rec.data
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.scan import scan_csv, scan_parquet
from dat_rec.data.sources.amazon import Amazon
from dat_rec.data.sources.movielens import MovieLens
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.errors import UserError
from tests.data.sources.prepared import own, write

NAMES = [
    "copy[1]", "copy1", "*", "st*r", "star", "**", "what?", "whatx", "[!a]", "[", "]", "[[]",
    "{a,b}", "a", "it's", 'a "b"', "a  b", "back\\slash", "v=9", "%20", "~", "file:", "#;,", "ü",
    "new\nline",
]  # fmt: skip


def texts(folder: Path) -> dict[str, Path]:
    """A Parquet and a CSV file in a folder of each name, which hold that name."""
    for name in NAMES:
        (folder / name).mkdir()
        write(folder / name / "f.parquet", v=[name])
        (folder / name / "f.csv").write_text(f'v\n"{name.replace(chr(34), chr(34) * 2)}"\n')
    return {name: folder / name for name in NAMES}


def test_a_path_is_the_name_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, or from here."""
    columns = ", auto_detect=false, header=true, quote='\"', escape='\"', columns={'v': 'VARCHAR'}"
    paths = texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, folder in paths.items():
        parquets = [scan_parquet([path / "f.parquet"]) for path in (folder, Path(name))]
        for scan in (*parquets, scan_csv(folder / "f.csv", columns)):
            assert duckdb.sql(f"SELECT * FROM {scan}").fetchall() == [(name,)]


def test_a_pattern_beside_a_backslash_is_refused() -> None:
    with pytest.raises(UserError, match=r"^/a\\b/\[1\]: .* a backslash beside .*: rename"):
        scan_parquet([Path("/a\\b/[1]")])


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"^/a\\udcff: the path is no UTF-8: rename it"):
        scan_parquet([Path("/a\udcff")])


def test_nothing_else_tells_duckdb_a_path_to_read() -> None:
    for file in Path(dat_rec.data.__path__[0]).rglob("*.py"):
        if file.name != "scan.py":
            assert not re.search(r"read_(parquet|csv|json)\(\{|FROM read_", file.read_text()), file


def test_an_out_with_a_backslash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes a backslash for a slash: name a folder without"):
        prepare(own_log(tmp_path, tmp_path / "a\\b"))
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def own_log(folder: Path, out: Path) -> Options:
    n = range(300)
    columns = {"user_id": [k % 20 for k in n], "item_id": [k * 7 % 31 for k in n], "time": [*n]}
    write(folder / "log.parquet", **columns)
    return own(folder, out=out)


def reviews(folder: Path, out: Path) -> Options:
    lines = [
        json.dumps({"reviewerID": f"u{k % 9}", "asin": f"i{k * 5 % 7}", "unixReviewTime": k})
        for k in range(200)
    ]
    (folder / "reviews.json").write_text("\n".join(lines))
    products = [json.dumps({"asin": f"i{k}", "category": ["Books", f"c{k % 3}"]}) for k in range(7)]
    with gzip.open(folder / "meta.json.gz", "wt") as file:
        file.write("\n".join(products))
    return Amazon(
        reviews=folder / "reviews.json", metadata=folder / "meta.json.gz", minimum=2, out=out
    )


def ratings(folder: Path, out: Path) -> Options:
    rows = [f"{k % 9}::{k * 5 % 7}::5::{k}" for k in range(200)]
    (folder / "ratings.dat").write_text("\n".join(rows))
    films = [f"{k}::Film {k} (1999)::{'Drama' if k % 2 else 'Crime'}" for k in range(7)]
    (folder / "movies.dat").write_text("\n".join(films))
    (folder / "users.dat").write_text("\n".join(f"{k}::{'FM'[k % 2]}::{k}::1::0" for k in range(9)))
    return MovieLens(path=folder, out=out)


def planted(folder: Path, out: Path) -> Options:
    return Synthetic(users=20, items=10, interactions=300, categories=2, out=out)


@pytest.mark.parametrize(
    ("source", "key"),
    [(own_log, "shuffle"), (reviews, "user_id"), (ratings, "userId"), (planted, "time")],
)
def test_the_folders_of_out_change_nothing(
    source: Callable[[Path, Path], Options], key: str, tmp_path: Path
) -> None:
    inputs = [tmp_path / "plain", tmp_path / f"{key}=1"]
    outs = [tmp_path / "out", tmp_path / f"{key}=1" / "what? [1] * 'x' {a}" / "out"]
    for folder in inputs:
        folder.mkdir()
    schemas = [prepare(source(*folders)) for folders in zip(inputs, outs, strict=True)]
    assert schemas[0] == schemas[1]
    for name in ("examples", "users.parquet", "items.parquet", "test.parquet", "seen.parquet"):
        first, second = (pq.read_table(out / name, partitioning=None) for out in outs)
        assert first.equals(second), name
