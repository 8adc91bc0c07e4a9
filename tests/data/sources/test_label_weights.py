"""Labels that weigh: what becomes an example, with which weight, and what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.commands.prepare import run
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import digest, error_of, own, raw, refused, write
from tests.data.validate.test_validate import edit, set_value

EVENTS = ("view", "click", "cart", "purchase", "remove")
WEIGHTS = {"click": 1.0, "cart": 3.0, "purchase": 0.1}
OPTION = "click=1, cart=3,purchase=.1"
ROWS = 400


def log(folder: Path, events: Any = None, seed: int = 0, **more: Any) -> list[tuple[Any, ...]]:
    """(user, item, time, event): pairs and times come again, with the same event and others."""
    rng = np.random.default_rng(seed)
    columns = {
        "user_id": rng.integers(0, 12, ROWS).tolist(),
        "item_id": rng.integers(0, 9, ROWS).tolist(),
        "time": rng.integers(0, 40, ROWS).tolist(),
        "event": rng.choice(EVENTS, ROWS).tolist() if events is None else events,
    }
    write(folder / "log.parquet", **columns, **more)
    return list(zip(*columns.values(), strict=True))


def interactions(out: Path, name: str) -> Counter[tuple[Any, ...]]:
    """User, item, time and weight of each row of the examples or of what is held out."""
    users, items = (
        pq.read_table(out / f"{side}s.parquet")[f"{side}_id"].to_pylist()
        for side in ("user", "item")
    )
    rows = pq.read_table(out / name).to_pylist()
    return Counter(
        (
            users[row["user_row"] if "user_row" in row else row["user"] - 1],
            items[row["item_index"]],
            row["time"],
            row["example_weight"],
        )
        for row in rows
    )


def as_float32(weight: float) -> float:
    return float(np.float32(weight))


@pytest.mark.parametrize(
    ("made_of", "names"),
    [
        (str, {name: name for name in EVENTS}),
        (int, {name: number for number, name in enumerate(EVENTS)}),
    ],
)
def test_each_named_event_is_an_example_of_its_weight(
    tmp_path: Path, made_of: type, names: dict[str, Any]
) -> None:
    rng = np.random.default_rng(3)
    rows = log(tmp_path, [names[event] for event in rng.choice(EVENTS, ROWS)])
    weights = {names[name]: as_float32(weight) for name, weight in WEIGHTS.items()}
    text = ",".join(f"{names[name]}={weight}" for name, weight in WEIGHTS.items())
    options = own(tmp_path, label="event", label_weights=text, split="time", validation_share=0.1)
    schema = prepare(options)
    expected = Counter(
        (user, item, time, weights[event]) for user, item, time, event in rows if event in weights
    )
    parts = [interactions(options.out, name) for name in ("examples", "test.parquet")]
    parts.append(interactions(options.out, "validation.parquet"))
    assert all(parts)
    assert sum(parts, Counter()) == expected
    assert schema.example_weights == {str(names[name]): weight for name, weight in WEIGHTS.items()}
    assert Schema.load(options.out) == schema
    counts = Counter(row[3] for row in rows)
    left_out = sum(count for event, count in counts.items() if event not in weights)
    words = [
        f"{names[name]} (weight {weight:g}, {counts[names[name]]} rows)"
        for name, weight in WEIGHTS.items()
    ]
    note = f"positives: event is {' or '.join(words)}; {left_out} rows of others are left out"
    assert schema.notes[0] == note
    assert validate(options.out, threads=1) == []
    column = pq.read_schema(options.out / schema.example_files[0].path).field("example_weight")
    assert str(column.type) == "float"


def test_all_else_is_as_without_weights(tmp_path: Path) -> None:
    log(tmp_path)
    positives = own(tmp_path, label="event", positive_labels=tuple(WEIGHTS), seed=4)
    weights = own(tmp_path, label="event", label_weights=OPTION, seed=4, out=tmp_path / "two")
    plain, weighted = prepare(positives), prepare(weights)
    assert plain.examples == weighted.examples
    one, two = digest(positives.out), digest(weights.out)
    differ = {name for name in one if one[name] != two[name]}
    examples = weighted.example_files[0].path
    assert differ == {"schema.json", "sha256.json", "test.parquet", examples}
    for name in ("test.parquet", examples):
        without = pq.read_table(weights.out / name).drop_columns("example_weight")
        assert "example_weight" not in pq.read_schema(positives.out / name).names
        # Rows that are equal but for their weight may change places in the test.
        assert sorted(without.to_pylist(), key=str) == sorted(
            pq.read_table(positives.out / name).to_pylist(), key=str
        )
    assert "example_weights" not in (positives.out / "schema.json").read_text()


@pytest.mark.parametrize("more", [{}, {"sequence": "place"}, {"unordered": True}])
def test_equal_rows_of_other_weights_stand_in_one_order_whatever_theirs_was(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    made = []
    for backwards in (False, True):
        folder = tmp_path / str(backwards)
        folder.mkdir()
        # All rows of a pair are of one time, and no order but that of their weights.
        step = -1 if backwards else 1
        write(
            folder / "log.parquet",
            user_id=[n % 5 for n in range(60)][::step],
            item_id=[n % 3 for n in range(60)][::step],
            time=[0 if "unordered" in more else n % 15 for n in range(60)][::step],
            place=[n % 15 for n in range(60)][::step],
            event=[EVENTS[1 + n // 15 % 3] for n in range(60)][::step],
        )
        split = {"split": "random"} if "unordered" in more else {}
        options = own(folder, label="event", label_weights=OPTION, **split, **more)
        schema = prepare(options)
        files = ("test.parquet", schema.example_files[0].path)
        made.append([(options.out / name).read_bytes() for name in files])
    assert made[0] == made[1]


def test_an_equal_row_of_another_weight_is_held_out_with_the_test(tmp_path: Path) -> None:
    """What has the user, item and time of a test row would leak from training."""
    places = range(60)
    write(
        tmp_path / "log.parquet",
        user_id=[n % 5 for n in places],
        item_id=[n % 3 for n in places],
        time=[n % 30 for n in places],
        event=[EVENTS[1 + n // 30] for n in places],
        part=["test" if n > 55 else "train" for n in places],
    )
    options = own(tmp_path, label="event", label_weights="click=1,cart=3", split_column="part")
    schema = prepare(options)
    assert schema.tests == 8
    assert validate(options.out, threads=1) == []


def test_a_row_without_a_label_is_a_bad_one_and_true_and_false_are_labels(tmp_path: Path) -> None:
    rows = log(tmp_path, [True, False, None, False] * 100)
    options = own(tmp_path, label="event", label_weights="TRUE=2,false=1", max_rejected=0.3)
    found = raw(options, "problem", "example_weight")
    weights = {True: 2.0, False: 1.0, None: None}
    assert [weight for _, weight in found] == [weights[row[3]] for row in rows]
    assert [problem for problem, _ in found] == [
        None if row[3] is not None else "missing label" for row in rows
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("click=1,cart", "'cart' is no LABEL=WEIGHT"),
        ("", "'' is no LABEL=WEIGHT"),
        ("=3", "'=3' is no LABEL=WEIGHT"),
        ("click=1,click=2", "'click' stands there twice"),
        ("click=1,cart=three", "cart=three: 'three' is no number"),
        ("click=1,cart=", "cart=: '' is no number"),
        ("click=0", "click=0: must be above 0"),
        ("click=-1", "click=-1: must be above 0"),
        ("click=nan", "click=nan: must be above 0"),
        ("click=inf", "click=inf: must lie between 1e-06 and 1e+06"),
        ("click=1,cart=1e-7", "cart=1e-7: must lie between"),
        ("click=1,buy=5", "--label-weights buy: "),
        ("click=1,buy=5", "no row has it: 'event' holds "),
    ],
)
def test_what_are_no_weights_is_refused(tmp_path: Path, text: str, words: str) -> None:
    log(tmp_path)
    refused(own(tmp_path, label="event", label_weights=text), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": None}, "--label-weights needs --label"),
        ({"min_label": 1.0}, "--min-label and --label-weights: both name the positives"),
        ({"positive_labels": ("click",)}, "--positive-labels and --label-weights: both name"),
        ({"label": "price"}, "--label-weights: "),
        ({"label": "price"}, "label 'price' is DOUBLE: name a column of text or integers"),
        ({"label": "sure", "label_weights": "true=1,True=2"}, "true or false: name each once"),
    ],
)
def test_options_that_contradict_weights(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    log(tmp_path, price=[0.5] * ROWS, sure=[True] * ROWS)
    refused(own(tmp_path, **{"label": "event", "label_weights": OPTION, **changes}), words)


def test_the_option_is_given_once() -> None:
    twice = ["--label-weights", "click=1", "--label-weights", "cart=3"]
    assert "--label-weights" in error_of(run, ["parquet", *twice])


@pytest.mark.parametrize("name", ["test.parquet", "examples"])
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), None, 2.0, "text", "missing"])
def test_validate_finds_a_weight_that_is_none(tmp_path: Path, name: str, bad: Any) -> None:
    log(tmp_path)
    options = own(tmp_path, label="event", label_weights=OPTION)
    examples = prepare(options).example_files[0].path
    path = options.out / (examples if name == "examples" else name)
    (options.out / "sha256.json").unlink()

    def change(columns: dict[str, list[Any]]) -> None:
        if bad == "missing":
            del columns["example_weight"]
        elif bad == "text":
            columns["example_weight"] = ["text"] * len(columns["time"])
        else:
            set_value("example_weight", 3, bad)(columns)

    edit(path, change)
    faults = [str(fault) for fault in validate(options.out, threads=1)]
    whole = isinstance(bad, str)
    assert any(str(path) in one and "example_weight" in one for one in faults), faults
    assert whole or any(f"{path}: row 3" in one for one in faults), faults
