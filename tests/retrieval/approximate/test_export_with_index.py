"""An export with an approximate index: who uses it, who does not, and what becomes of its files.

The world's index has one list, and so finds what the exact search finds, by another way.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dat_rec.commands import export as export_command
from dat_rec.commands import recommend as recommend_command
from dat_rec.errors import UserError
from dat_rec.retrieval import fit_blend
from dat_rec.retrieval.answer import load_export
from dat_rec.retrieval.approximate import tune
from dat_rec.retrieval.approximate.ann_index import ApproximateIndex
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.similar import similar
from tests.retrieval.world import ITEMS, USERS


@pytest.fixture(scope="module", autouse=True)
def _of_few_vectors() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "LEAST", 8)
        patch.setattr(fit_blend, "CUTOFF", 20)
        yield


@pytest.fixture(scope="module")
def indexed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "export"
    export(run, folder, index="ivf", recall_at=20, blend_history=True)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """K of each search by the approximate index, from now on."""
    found: list[int] = []
    search = ApproximateIndex.top_items

    def counted(self: ApproximateIndex, query: Any, k: int, effort: Any) -> Any:
        found.append(k)
        return search(self, query, k, effort)

    monkeypatch.setattr(ApproximateIndex, "top_items", counted)
    return found


EXCLUDED = pa.table(
    {
        "user_id": [f"u{n % USERS}" for n in range(300)],
        "item_id": [1000 + n % 37 for n in range(300)],
    }
)


@pytest.mark.parametrize("k", [1, 7, 20, ITEMS])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blend_history": True},
        {"exclude_seen": True},
        {"exclude": EXCLUDED},
        {"exclude_seen": True, "exclude": EXCLUDED, "blend_history": True},
    ],
)
def test_lists_of_all_items_but_some_are_those_of_the_exact_search(
    indexed: Path, asked: list[int], options: dict[str, Any], k: int
) -> None:
    recommender = Recommender.open(indexed)
    found = recommender.top(k=k, **options)
    assert asked
    assert min(asked) >= k
    asked.clear()
    assert found.equals(recommender.top(k=k, exact=True, **options))
    assert not asked


@pytest.mark.parametrize(
    "options",
    [
        {"filter": "train_count > 1"},
        {"available": [1001, 1002, 1003]},
        {"per_category": 2},
        {"quotas": {"train_count": 1}},
    ],
)
def test_filters_and_quotas_are_exact(
    indexed: Path, asked: list[int], options: dict[str, Any]
) -> None:
    recommender = Recommender.open(indexed)
    assert recommender.top(["u1"], k=3, **options).num_rows > 0
    recommender.similar([1001], k=3, **options)
    assert not asked


def test_similar_items_come_from_the_index_where_it_was_quick_enough(
    indexed: Path, tmp_path: Path, asked: list[int]
) -> None:
    manifest = json.loads((indexed / "export.json").read_text())
    measured = manifest["ann"]["users"] | {"recall": 1.0}
    manifest["ann"] |= {"similar": measured, "similar_effort": {"search": 1, "fetch": 1}}
    quick = shutil.copytree(indexed, tmp_path / "quick")
    (quick / "export.json").write_text(json.dumps(manifest))
    found = Recommender.open(quick).similar(k=9)
    assert set(asked) == {10}
    asked.clear()
    assert found.equals(Recommender.open(quick).similar(k=9, exact=True))
    assert similar(quick, 9, tmp_path / "out").by.startswith("ivf index, recall@20")
    manifest["ann"] |= {"similar": None, "similar_effort": None}
    (quick / "export.json").write_text(json.dumps(manifest))
    asked.clear()
    assert similar(quick, 9, tmp_path / "exact").by == ""
    assert not asked


def test_answers_in_memory_and_in_files_say_by_what_they_were_found(
    indexed: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_export(indexed)
    best = loaded.recommend(["u3", "?"], k=5)
    assert asked == [5]
    exact = loaded.recommend(["u3", "?"], k=5, exact=True)
    assert asked == [5]
    assert np.array_equal(best.item_ids, exact.item_ids)
    facts = Recommender.open(indexed).index
    assert facts is not None
    assert str(facts) == "ivf index, recall@20 1.000 as measured at export"
    done = recommend(indexed, 5, tmp_path / "by.parquet")
    assert done.by == str(facts)
    assert recommend(indexed, 5, tmp_path / "exact.parquet", exact=True).by == ""
    words = ["--export", str(indexed), "--out", str(tmp_path / "words.parquet"), "--k", "3"]
    recommend_command.run(words)
    assert f"found by the {facts}; --exact scores all items" in capsys.readouterr().out


def test_an_index_that_cannot_be_leaves_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--index lsh: it must be one of"):
        export(run, tmp_path / "out", index="lsh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "LEAST", 1000)
        with pytest.raises(UserError, match=r"--index hnsw: the items have [0-9]+ different"):
            export(run, tmp_path / "out", index="hnsw")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_was_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", str(run), "--out", str(tmp_path / "out"), "--index", "hnsw"]
    export_command.run([*words, "--recall-at", "5", "--min-recall", "0.9"])
    printed = capsys.readouterr().out
    ann = json.loads((tmp_path / "out" / "export.json").read_text())["ann"]
    assert (ann["kind"], ann["k"], ann["min_recall"]) == ("hnsw", 5, 0.9)
    assert f"ann.faiss: hnsw, recall@5 {ann['users']['recall']:.4f} on 15 users" in printed


@pytest.mark.parametrize("name", ["ann.faiss", "ann_equal.parquet"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_damaged_files_are_refused(
    indexed: Path, tmp_path: Path, name: str, harm: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(indexed, tmp_path / "export")
    harm(folder / name)
    with pytest.raises(UserError, match=message) as error:
        Export.open(folder)
    assert str(folder / name) in str(error.value)


def test_deltas_give_the_index_whole(run: Path, exported: Path, tmp_path: Path) -> None:
    made = export(run, tmp_path / "delta", since=exported, index="ivf", recall_at=20)
    given = {name for name in made["sha256"] if name.startswith("whole/")}
    assert given == {"whole/ann.faiss", "whole/ann_equal.parquet"}
    apply(exported, [tmp_path / "delta"], tmp_path / "today")
    result = json.loads((tmp_path / "delta" / "result.json").read_text())
    assert json.loads((tmp_path / "today" / "export.json").read_text()) == result
    assert Recommender.open(tmp_path / "today").index is not None
    # And away again.
    export(run, tmp_path / "plain", since=tmp_path / "today")
    apply(tmp_path / "today", [tmp_path / "plain"], tmp_path / "tomorrow")
    assert Recommender.open(tmp_path / "tomorrow").index is None
    assert not (tmp_path / "tomorrow" / "ann.faiss").exists()
