"""Own history blended in: scores, ranks and weights as one would compute them by hand."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from math import log1p
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.errors import UserError
from dat_rec.retrieval.answer import load_export
from dat_rec.retrieval.blend import Blend, past_of, read_past
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.evaluation_text import text
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.fit_blend import BLENDS
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.trained import load_model
from tests.retrieval import brute_force
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import ITEMS, USERS, write_dataset, write_run

Log = list[tuple[int, int, int]]
"""(user_row, item_index, time) of each training interaction."""


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset with a validation."""
    root = tmp_path_factory.mktemp("validated")
    return write_run(root / "run", write_dataset(root / "data", validation=True))


def read_log(data: Path) -> Log:
    rows = pq.read_table(data / "examples").to_pylist()
    return [(row["user"] - 1, row["item_index"], row["time"]) for row in rows]


def model_scores(run: Path) -> np.ndarray:
    """(users, items) float32, equal where they differ by rounding."""
    trained = load_model(run)
    query = encode_users(trained.model, trained.dataset, np.arange(USERS)).astype(np.float64)
    scores = query @ encode_items(trained.model, trained.dataset).astype(np.float64).T
    return scores.round(6)


class Naive:
    """The docstring's formula, a pair at a time."""

    def __init__(self, scores: np.ndarray, log: Log, blend: Blend) -> None:
        self._scores, self._blend = scores, blend
        begin, end = min(time for *_, time in log), max(time for *_, time in log)
        self._ages: dict[tuple[int, int], list[float]] = defaultdict(list)
        for user, item, time in log:
            self._ages[user, item].append((end - time) / (end - begin))

    def __call__(self, user: int, item: int) -> float:
        half_life = self._blend.half_life or float("inf")
        taken = sum(2 ** (-age / half_life) for age in self._ages[user, item])
        return round(float(self._scores[user, item]) + self._blend.weight * log1p(taken), 5)


def hit_rate(score: Naive, user: list[int], item: list[int], items: int) -> float:
    ranks = [brute_force.rank(score, u, i, range(items)) for u, i in zip(user, item, strict=True)]
    return sum(rank <= 20 for rank in ranks) / len(ranks)


@pytest.fixture(autouse=True)
def _short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 45 items all would be among the first 100."""
    monkeypatch.setattr("dat_rec.retrieval.fit_blend.CUTOFF", 20)


def test_the_blend_is_the_best_of_all_on_validation_and_ranks_as_by_hand(validated: Path) -> None:
    plain = evaluate(validated, fitted_baselines=False)
    metrics = evaluate(validated, fitted_baselines=False, blend_history=True)
    blend = metrics["blend"]
    assert metrics == json.loads((validated / "metrics.json").read_text("utf-8"))
    del metrics["blend"]
    assert metrics == plain

    data = validated.parent / "data"
    dataset = Dataset.open(data)
    scores, log = model_scores(validated), read_log(data)
    asked = Protocol.read(dataset, "validation")
    user, item = (rows[asked.answerable].tolist() for rows in (asked.user_row, asked.item_index))
    tried = [Blend(trial["weight"], trial["half_life"]) for trial in blend["trials"]]
    assert tuple(tried) == BLENDS
    some = [0, 7, 20, 33, 44, 60]
    for number in some:
        naive = hit_rate(Naive(scores, log, tried[number]), user, item, asked.trained_items)
        assert blend["trials"][number]["HR@20"] == pytest.approx(naive, abs=1e-12), tried[number]
    figures = [trial["HR@20"] for trial in blend["trials"]]
    chosen = Blend(blend["settings"].pop("weight"), blend["settings"].pop("half_life"))
    assert chosen == tried[figures.index(max(figures))] != BLENDS[0]
    assert blend.pop("settings") == {"fitted_on": "validation"}
    del blend["trials"]

    expected = brute_force.metrics(Protocol.read(dataset), Naive(scores, log, chosen))
    del expected["all"]["unanswerable"], expected["by_category"]
    assert brute_force.approximately(blend) == brute_force.approximately(expected)
    for block in ("new_pairs", "per_user", "lists"):
        assert blend[block] == metrics[block]


def test_without_validation_the_end_of_training_decides(run: Path) -> None:
    data = run.parent / "data"
    scores, log = model_scores(run), read_log(data)
    blend = evaluate(run, fitted_baselines=False, blend_history=True)["blend"]
    assert blend["settings"]["fitted_on"] == "the last tenth of training"
    times = sorted((time for *_, time in log), reverse=True)
    cut = times[len(times) // 10]
    before = [row for row in log if row[2] <= cut]
    late = [row for row in log if row[2] > cut]
    assert 0 < len(late) <= len(log) // 10
    known = {user for user, *_ in before}
    user, item, _ = zip(*(row for row in late if row[0] in known), strict=True)
    for number in (0, 9, 25, 44):
        naive = Naive(scores, before, BLENDS[number])
        expected = hit_rate(naive, list(user), list(item), 45)
        assert blend["trials"][number]["HR@20"] == pytest.approx(expected, abs=1e-12)


def test_the_past_is_the_whole_logs_where_the_last_days_alone_are_examples(tmp_path: Path) -> None:
    size: dict[str, Any] = {"users": 60, "items": 90, "interactions": 1_500, "repeats": 0.5}
    prepare(Synthetic(out=tmp_path / "whole", **size))
    prepare(Synthetic(out=tmp_path / "last", **size, train_from="2020-03-11"))
    kept = np.arange(60) % 3 > 0
    found, wanted = (
        read_past(Dataset.open(tmp_path / name), kept[: Dataset.open(tmp_path / name).schema.users])
        for name in ("last", "whole")
    )
    assert len(wanted.age) > 500
    for mine, whole in zip(found, wanted, strict=True):
        assert np.array_equal(mine, whole)


def test_the_table_has_a_row_and_a_line_of_the_blend(validated: Path) -> None:
    metrics = evaluate(validated, fitted_baselines=False, blend_history=True)
    metrics["blend"]["settings"] |= {"weight": 0.5, "half_life": 0.25}
    said = text(metrics).splitlines()
    rows = [number for number, line in enumerate(said) if "model + history  " in line]
    assert len(rows) == 8 + 1 + 1
    assert all(" model  " in said[row - 1] for row in rows)
    assert said[rows[0]].split()[3:] == [
        f"{metrics['blend']['all'][name]:.4f}" for name in ("HR@50", "HR@100", "MRR")
    ]
    (line,) = (line for line in said if line.startswith("model + history, fitted on validation"))
    assert "weight 0.5, half-life 0.25 of training's time." in line
    metrics["blend"]["settings"]["half_life"] = None
    assert "weight 0.5, no half-life." in text(metrics)


def test_the_past_of_some_users_is_theirs_alone_and_in_order(validated: Path) -> None:
    data = validated.parent / "data"
    kept = np.arange(USERS) % 3 == 0
    past = read_past(Dataset.open(data), kept)
    log = read_log(data)
    begin, end = min(time for *_, time in log), max(time for *_, time in log)
    pairs: dict[tuple[int, int], list[float]] = defaultdict(list)
    for user, item, time in sorted(log):
        if kept[user]:
            pairs[user, item].append((end - time) / (end - begin))
    assert list(zip(past.user, past.item, strict=True)) == list(pairs)
    ages = np.split(past.age, past.first[1:])
    assert [list(of_pair) for of_pair in ages] == list(pairs.values())


def test_a_log_without_times_has_nothing_to_fit_on(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    path = data / "examples" / "part-0.parquet"
    examples = pq.read_table(path)
    same = pa.array(np.full(len(examples), 5))
    pq.write_table(examples.set_column(2, "time", same), path)
    run = write_run(tmp_path / "run", data)
    with pytest.raises(UserError, match=r"--blend-history: nothing in the last tenth .* can tell"):
        evaluate(run, fitted_baselines=False, blend_history=True)
    assert not (run / "metrics.json").exists()


def test_examples_that_contradict_seen_are_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    path = data / "examples" / "part-0.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    dataset = Dataset.open(data)
    with pytest.raises(UserError, match=r"part-0.parquet: \d+ rows, schema.json says"):
        past_of(dataset, Protocol.read(dataset))
    files = dataset.schema.example_files
    fewer = (replace(files[0], rows=files[0].rows - 1),)
    dataset = replace(dataset, schema=replace(dataset.schema, example_files=fewer))
    with pytest.raises(UserError, match=r"the examples and seen\.parquet tell different") as error:
        past_of(dataset, Protocol.read(dataset))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", [1, 10, ITEMS])
def test_lists_are_the_best_by_hand(run: Path, blended: Path, tmp_path: Path, k: int) -> None:
    settings = json.loads((blended / "export.json").read_text("utf-8"))["blend"]
    assert settings.pop("fitted_on") == "the last tenth of training"
    assert settings["weight"] > 0
    naive = Naive(model_scores(run), read_log(run.parent / "data"), Blend(**settings))
    ids = [f"u{user}" for user in range(USERS)]
    assert recommend(blended, k, tmp_path / "recs", blend_history=True) == (USERS, 0, 0, 0, "")
    found = pq.read_table(tmp_path / "recs")
    items = found["item_id"].to_numpy().reshape(USERS, k) - 1000
    scores = found["score"].to_numpy().reshape(USERS, k)
    assert found["user_id"].to_pylist() == [user for user in ids for _ in range(k)]
    for user in range(USERS):
        best = sorted((naive(user, item) for item in range(ITEMS)), reverse=True)[:k]
        assert scores[user] == pytest.approx(best, abs=2e-5)
        assert scores[user] == pytest.approx([naive(user, i) for i in items[user]], abs=2e-5)
        order = np.lexsort((items[user], -scores[user]))
        assert len(set(items[user])) == k
        assert order.tolist() == list(range(k))
    api = load_export(blended).recommend(ids, k, blend_history=True)
    assert np.array_equal(api.item_ids - 1000, items)
    assert np.array_equal(api.scores, scores)


def test_the_same_export_gives_the_models_own_lists_too(
    exported: Path, blended: Path, tmp_path: Path
) -> None:
    recommend(exported, 9, tmp_path / "plain")
    recommend(blended, 9, tmp_path / "also plain")
    plain = pq.read_table(tmp_path / "plain")
    assert pq.read_table(tmp_path / "also plain").equals(plain)
    recommend(blended, 9, tmp_path / "blended", blend_history=True)
    assert not pq.read_table(tmp_path / "blended").equals(plain)


def test_a_stranger_gets_what_the_model_says(blended: Path) -> None:
    loaded = load_export(blended)
    plain = loaded.recommend(["nobody", "u1"], 9)
    found = loaded.recommend(["nobody", "u1"], 9, blend_history=True)
    assert np.array_equal(found.item_ids[0], plain.item_ids[0])
    assert np.array_equal(found.scores[0], plain.scores[0])


def test_an_export_without_own_items_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no own items.* `dat-rec export --blend") as error:
        recommend(exported, 3, tmp_path / "recs", blend_history=True)
    assert str(error.value).startswith(str(exported))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^the export has no own items"):
        load_export(exported).recommend(["u1"], 3, blend_history=True)
    assert list(tmp_path.iterdir()) == []


def test_damaged_own_items_are_refused(blended: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(blended, tmp_path / "export")
    path = folder / "own_items" / "part-00000.parquet"
    shutil.copy(path, path.with_name("part-00001.parquet"))
    with pytest.raises(UserError, match=r"own_items/part-00001\.parquet: export\.json does not"):
        Export.open(folder)
    path.with_name("part-00001.parquet").unlink()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"own_items/part-00000\.parquet: damaged"):
        Export.open(folder)


def test_nothing_is_exported_where_nothing_can_be_fitted(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data / "examples" / "part-0.parquet").unlink()
    run = write_run(tmp_path / "run", data)
    with pytest.raises(UserError, match=r"part-0\.parquet: cannot be read"):
        export(run, tmp_path / "out", blend_history=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]
