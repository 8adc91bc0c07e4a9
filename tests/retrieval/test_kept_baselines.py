"""Baselines are tuned once for a dataset, and anew when what they were made of has changed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Schema
from dat_rec.data.validate.files import file_faults
from dat_rec.errors import UserError
from dat_rec.retrieval import kept_baselines, tuning
from dat_rec.retrieval.baselines import Settings
from dat_rec.retrieval.fitted import read_training
from dat_rec.retrieval.kept_baselines import Found, baselines
from dat_rec.retrieval.protocol import Known, Protocol
from dat_rec.retrieval.ranks import Threads, one_thread_each
from tests.retrieval import brute_force
from tests.retrieval.world import random_protocol, write_dataset


@pytest.fixture
def threads() -> Iterator[Threads]:
    with one_thread_each() as found:
        yield found


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials, as they are made."""
    found: list[str] = []
    figure = tuning._figure

    def told(name: str, *rest: Any) -> Any:
        found.append(name)
        return figure(name, *rest)

    monkeypatch.setattr(tuning, "_figure", told)
    return found


def found_for(
    data: Path,
    run: Path,
    threads: Threads,
    cutoffs: tuple[int, ...] = (20,),
    known: Known | None = None,
) -> Found:
    dataset = Dataset.open(data)
    settings = Settings(replace(Protocol.read(dataset), known=known), cutoffs)
    return baselines(run, dataset, settings, threads, fitted=True)


def test_a_second_evaluation_finds_what_the_first_has_kept(
    tmp_path: Path, threads: Threads, tried: list[str]
) -> None:
    data = write_dataset(tmp_path / "data")
    first = found_for(data, tmp_path / "run", threads)
    trials = len(tried)
    assert trials == sum(1 + sum(len(v) - 1 for v in g.values()) for g in tuning.GRIDS.values())
    assert found_for(data, tmp_path / "other", threads) == first
    # Other cutoffs need other figures, and no other settings.
    more = found_for(data, tmp_path / "other", threads, (5, 20))
    assert len(tried) == trials
    for name, of_baseline in first.figures.items():
        both = more.figures[name]["per_user"]
        assert {key: both[key] for key in of_baseline["per_user"]} == of_baseline["per_user"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    faults = file_faults(data, Dataset.open(data).schema)
    assert not [one for one in faults if "baselines" in one]


@pytest.mark.parametrize("table", ["seen", "test"])
def test_what_has_changed_is_made_anew(
    tmp_path: Path, threads: Threads, tried: list[str], table: str
) -> None:
    data = write_dataset(tmp_path / "data")
    first = found_for(data, tmp_path, threads)
    trials = len(tried)
    path = data / f"{table}.parquet"
    rows = pq.read_table(path)
    changed = rows.to_pandas()
    if table == "seen":
        changed["count"] += np.arange(len(changed)) % 3
    else:
        changed.loc[:20, "item_index"] = 0
    pq.write_table(pa.Table.from_pandas(changed, preserve_index=False), path)
    second = found_for(data, tmp_path, threads)
    assert len(tried) == 2 * trials
    assert second.figures["ItemCF"] != first.figures["ItemCF"]


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"ranked_for": 3}'])
def test_a_file_that_holds_something_else_is_written_anew(
    tmp_path: Path, threads: Threads, kept: str
) -> None:
    data = write_dataset(tmp_path / "data")
    (data / ".baselines.json").write_text(kept)
    found = found_for(data, tmp_path, threads)
    again = json.loads((data / ".baselines.json").read_text())
    assert again["figures"] == found.figures
    assert again["tuned"]["iALS"]["settings"] == found.figures["iALS"]["settings"]


def test_a_dataset_that_cannot_be_written_has_its_figures_with_the_run(
    tmp_path: Path, threads: Threads, tried: list[str]
) -> None:
    data = write_dataset(tmp_path / "data")
    (data / ".baselines.json").mkdir()  # root may write in any folder
    first = found_for(data, tmp_path / "run", threads)
    trials = len(tried)
    assert found_for(data, tmp_path / "run", threads) == first
    assert len(tried) == trials
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "baselines.json"]


@pytest.mark.parametrize(
    ("bound", "left", "words"),
    [
        ("MOST_PAIRS", {"ItemCF", "iALS"}, "training pairs, over 10"),
        ("MOST_SCORES", {"ItemCF", "iALS"}, "scores of asked users, over 10"),
        ("MOST_NEIGHBOURS", {"ItemCF"}, "pairs of items to compare, over 10"),
    ],
)
def test_what_would_take_too_long_is_left_out_with_the_reason(
    tmp_path: Path,
    threads: Threads,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    left: set[str],
    words: str,
) -> None:
    monkeypatch.setattr(kept_baselines, bound, 10)
    found = found_for(write_dataset(tmp_path / "data"), tmp_path, threads)
    assert set(found.left_out) == left
    assert all(words in why for why in found.left_out.values())
    assert set(found.figures) == {"MostPop", "own history", "ItemCF", "iALS"} - left


def test_a_tenth_of_the_pairs_of_those_who_are_asked_is_held_out(
    tmp_path: Path, threads: Threads
) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "data"))
    protocol = Protocol.read(dataset)
    training = read_training(dataset, protocol, threads)
    held = tuning.validation_of(dataset, protocol, training)
    wanted = set(
        zip(held.protocol.user_row.tolist(), held.protocol.item_index.tolist(), strict=True)
    )
    left = set(zip(*(axis.tolist() for axis in held.training.pairs.nonzero()), strict=True))
    every = set(zip(*(axis.tolist() for axis in training.pairs.nonzero()), strict=True))
    assert wanted | left == every
    assert not wanted & left
    assert {user for user, _ in wanted} <= set(protocol.users.tolist())
    assert 0.05 < len(wanted) / len(every) < 0.15
    assert held.protocol.new_pair.all()
    again = tuning.validation_of(dataset, protocol, training)
    assert np.array_equal(again.protocol.item_index, held.protocol.item_index)


def with_validation(folder: Path, user_row: list[int], item_index: list[int]) -> Path:
    data = write_dataset(folder)
    held_out = {"user_row": user_row, "item_index": item_index, "time": list(range(len(user_row)))}
    pq.write_table(pa.table(held_out), data / "validation.parquet")
    replace(Schema.load(data), validation=len(user_row)).save(data)
    return data


def test_a_validation_of_the_dataset_is_used_and_nothing_else_held_out(
    tmp_path: Path, threads: Threads
) -> None:
    dataset = Dataset.open(with_validation(tmp_path / "data", [3, 3, 5], [1, 50, 2]))
    protocol = Protocol.read(dataset)
    training = read_training(dataset, protocol, threads)
    held = tuning.validation_of(dataset, protocol, training)
    assert held.training is training
    assert held.protocol.user_row.tolist() == [3, 3, 5]
    for user in (3, 5):
        own = held.protocol.seen_item[held.protocol.seen_slice(user)].tolist()
        assert own == sorted(brute_force.seen_items(random_protocol(0), user))


def test_a_validation_that_names_no_row_is_refused(tmp_path: Path, threads: Threads) -> None:
    data = with_validation(tmp_path / "data", [30], [1])
    with pytest.raises(UserError, match=r"validation.parquet: .* names row 30, outside 0 … 29"):
        found_for(data, tmp_path, threads)


def test_figures_for_runs_of_another_dataset_stand_beside(
    tmp_path: Path, threads: Threads, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuned once, whichever comes first; and neither is made anew because of the other."""
    data = write_dataset(tmp_path / "data")
    protocol = Protocol.read(Dataset.open(data))
    users = np.arange(len(protocol.user_trained)) % 2 == 0
    items = np.arange(len(protocol.train_count)) % 3 > 0
    known, other = Known(users, items), Known(~users, items)
    matched = found_for(data, tmp_path, threads, known=known)
    trials = len(tried)
    own = found_for(data, tmp_path, threads)
    for found in (matched, own):
        assert list(found.figures) == ["MostPop", "own history", "ItemCF", "iALS"]
    expected = int((users[protocol.user_row] & items[protocol.item_index]).sum())
    for name, blocks in matched.figures.items():
        assert blocks["warm"]["queries"] == expected
        assert blocks["warm"] != own.figures[name]["warm"]
        same = set(blocks) - {"warm", "cold"}
        assert {key: blocks[key] for key in same} == {key: own.figures[name][key] for key in same}
    assert len(tried) == trials
    with monkeypatch.context() as patch:
        patch.setattr(kept_baselines, "rules", lambda _: pytest.fail("made anew"))
        assert found_for(data, tmp_path, threads, known=known) == matched
        assert found_for(data, tmp_path, threads) == own
    turned = found_for(data, tmp_path, threads, known=other)
    assert turned.figures["MostPop"]["warm"] != matched.figures["MostPop"]["warm"]
    assert len(tried) == trials
