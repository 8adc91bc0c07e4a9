import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.publish import catalogue as module
from dat_rec.publish.catalogue import Catalogue
from dat_rec.publish.parquet import write_parquet
from dat_rec.retrieval.recommender import Recommender


def expected(export: Path) -> list[dict]:
    """The rows, by pyarrow alone."""
    vectors = pq.read_table(export / "item_vectors").to_pylist()
    items = pq.read_table(export / "items.parquet").to_pylist()
    return [
        {
            "item_id": item["item_id"],
            "vector": vector["vector"],
            "title": item["title"],
            "category": item["category_name"],
            "train_count": item["train_count"],
            "tags": item["tags"],
            "price": None if np.isnan(item["price"]) else item["price"],
            "fresh": item["fresh"],
            "feature_export": item["export"],
        }
        for vector, item in zip(vectors, items, strict=True)
    ]


@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_batches_hold_every_item_once_in_order(
    tomorrow: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", rows)
    with Catalogue.open(tomorrow) as catalogue:
        batches = list(catalogue.batches())
        assert max(batch.num_rows for batch in batches) <= rows
        table = pa.Table.from_batches(batches, catalogue.schema)
        digest = catalogue.digest
    assert set(table["export"].to_pylist()) == {digest}
    assert table.drop_columns(["export"]).to_pylist() == expected(tomorrow)


def test_queries_are_the_vectors_of_users_and_of_a_stranger(today: Path) -> None:
    with Catalogue.open(today) as catalogue:
        found = catalogue.queries()
    recommender = Recommender.open(today)
    users = recommender.vectors([*recommender.user_ids.to_pylist(), "nobody"])
    np.testing.assert_allclose(found, np.array(users["vector"].to_pylist()), atol=1e-6)


def test_exports_are_told_apart(today: Path, tomorrow: Path) -> None:
    with Catalogue.open(today) as one, Catalogue.open(today) as same, Catalogue.open(tomorrow) as x:
        assert one.digest == same.digest != x.digest


def test_a_damaged_export_is_refused(tomorrow: Path, tmp_path: Path) -> None:
    shutil.copytree(tomorrow, tmp_path / "export")
    with (tmp_path / "export/items.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="damaged"), Catalogue.open(tmp_path / "export"):
        pass


def test_parquet_parts_hold_the_same(
    tomorrow: Path, today: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dat_rec.publish.parquet.PART_ROWS", 200)
    monkeypatch.setattr(module, "BATCH_ROWS", 100)
    out = tmp_path / "parts"
    assert write_parquet(tomorrow, out).new
    parts = sorted(out.glob("part-*.parquet"))
    assert len(parts) == 3
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    assert table.drop_columns(["export"]).to_pylist() == expected(tomorrow)
    before = parts[0].stat().st_mtime_ns
    assert not write_parquet(tomorrow, out).new
    assert parts[0].stat().st_mtime_ns == before
    with pytest.raises(UserError, match="--overwrite"):
        write_parquet(today, out)
    assert write_parquet(today, out, overwrite=True).items == 700
    assert sum(pq.read_metadata(part).num_rows for part in out.glob("part-*")) == 700
