import json
from pathlib import Path
from typing import Any

import pytest

from dat_rec.errors import UserError
from dat_rec.runs.compare import compare


def write_run(
    folder: Path,
    config: dict[str, Any],
    train: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> Path:
    folder.mkdir()
    for name, content in (("config", config), ("train", train), ("metrics", metrics)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def figures(value: float | None) -> dict[str, Any]:
    return {"HR@50": value, "HR@100": 0.75, "MRR": 0.125, "queries": 8}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that differ in three options; only the first is at its end."""
    first = {"seed": 0, "model": {"hidden": [64], "augment": True}, "pin": [], "out": "/a"}
    second = {"seed": 0, "model": {"hidden": [8, 4], "augment": True}, "data": "x", "out": "/b"}
    blocks = {name: figures(0.5) for name in ("all", "new_pairs", "warm")}
    return (
        write_run(
            tmp_path / "a",
            first | {"launch": ["x"], "job": "1", "row_digest": "0"},
            {"steps": 30, "loss": {"main": 1.25, "alignment": 0.5}, "samples_per_s": 12345.6},
            {"checkpoint": 30, **blocks, "cold": figures(None), "by_category": {}},
        ),
        write_run(tmp_path / "b", second | {"launch": [], "job": "", "row_digest": "0"}),
    )


def test_options_that_differ_and_figures_stand_side_by_side(runs: tuple[Path, Path]) -> None:
    lines = compare(runs).text().splitlines()
    assert lines[0].split() == [str(runs[0]), str(runs[1])]
    rows = [line.rsplit(maxsplit=2) for line in lines[1:-2] if "hidden" not in line]
    assert rows == [
        ["pin", "[]", "-"],
        ["data", "-", "x"],
        ["loss main", "1.2500", "-"],
        ["loss alignment", "0.5000", "-"],
        ["samples/s", "12,346", "-"],
        ["evaluated at step", "30", "-"],
        *(
            [f"{block} {name}", value, "-"]
            for block, first in (
                ("all pairs", "0.5000"),
                ("new pairs", "0.5000"),
                ("warm", "0.5000"),
                ("cold", "-"),
            )
            for name, value in (("HR@50", first), ("HR@100", "0.7500"), ("MRR", "0.1250"))
        ),
    ]
    (hidden,) = (line.split(maxsplit=1) for line in lines if "hidden" in line)
    assert hidden[0] == "model.hidden"
    assert hidden[1].replace(" ", "") == "[64][8,4]"
    assert len({len(line) for line in lines[:-2]}) == 1
    assert lines[-2:] == [
        f"{runs[1]}: has not ended: dat-rec status --run {runs[1]}",
        f"{runs[1]}: not evaluated: dat-rec evaluate --run {runs[1]}",
    ]


def test_json_holds_every_option_and_figure(runs: tuple[Path, Path]) -> None:
    found = json.loads(json.dumps(compare([*runs, runs[0]]).as_json()))
    assert found["differing"] == ["model.hidden", "pin", "data"]
    assert [one["run"] for one in found["runs"]] == [str(runs[0]), str(runs[1]), str(runs[0])]
    assert found["runs"][0]["options"]["model.augment"] is True
    assert found["runs"][0]["training"]["samples_per_s"] == 12345.6
    assert found["runs"][0]["metrics"]["cold"] == figures(None)
    assert found["runs"][1]["training"] is found["runs"][1]["metrics"] is None


def test_runs_of_different_datasets_are_said_not_to_compare(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, {"seed": 1, "row_digest": name}) for name in "ab"]
    lines = compare(runs).text().splitlines()
    assert any(line.startswith("the datasets differ") for line in lines)
    assert not any(line.startswith("row_digest") for line in lines)


def test_runs_that_were_asked_different_queries_are_said_not_to_compare(tmp_path: Path) -> None:
    runs = []
    for name, queries in (("a", 8), ("b", 8), ("c", 5)):
        block = figures(0.5) | {"queries": queries}
        blocks = dict.fromkeys(("all", "new_pairs", "warm", "cold"), block)
        runs.append(write_run(tmp_path / name, {"seed": 1}, {}, {"checkpoint": 3, **blocks}))
    said = "different samples of the test"
    assert said not in compare(runs[:2]).text()
    assert said in compare(runs).text().splitlines()[-1]


@pytest.mark.parametrize(
    ("fact", "values", "said"),
    [
        ("tests", (8, 9), "the runs were evaluated on tests that differ: metrics do not compare"),
        ("examples_an_epoch", (30, 40), "the runs' examples differ: losses do not compare"),
    ],
)
def test_runs_on_another_part_of_one_log_are_said_not_to_compare(
    fact: str, values: tuple[int, int], said: str, tmp_path: Path
) -> None:
    """A dataset of the last days has the rows of the whole log's."""
    blocks = dict.fromkeys(("all", "new_pairs", "warm", "cold"), figures(0.5))
    config = {"seed": 1, "row_digest": "0"}
    runs = [
        write_run(
            tmp_path / str(number), config, {fact: value}, {"checkpoint": 3, fact: value, **blocks}
        )
        for number, value in enumerate((*values, values[0]))
    ]
    assert said in compare(runs).text().splitlines()
    assert said not in compare([runs[0], runs[2]]).text()


def test_figures_of_users_and_of_validations_stand_where_a_run_has_them(tmp_path: Path) -> None:
    blocks = dict.fromkeys(("all", "new_pairs", "warm", "cold"), figures(0.5))
    found = {"metric": "new_pairs/HR@100", "best": 0.625, "best_step": 2000, "last": 0.5}
    per_user = {"Recall@20": 0.25, "NDCG@20": None, "Recall@50": 0.5, "users": 3, "pairs": 8}
    runs = [
        write_run(
            tmp_path / "a",
            {"seed": 0},
            {"validation": found},
            {"checkpoint": 9, **blocks, "per_user": per_user},
        ),
        write_run(tmp_path / "b", {"seed": 0}, {}, {"checkpoint": 9, **blocks}),
        write_run(tmp_path / "c", {"seed": 0}, {"validation": found | {"metric": "all/MRR"}}),
    ]
    rows = [line.rsplit(maxsplit=3) for line in compare(runs).text().splitlines()]
    assert ["validation new_pairs/HR@100", "0.6250", "-", "-"] in rows
    assert ["validation all/MRR", "-", "-", "0.6250"] in rows
    assert [row[1:] for row in rows if row[0] == "  best at step"] == [
        ["2,000", "-", "-"],
        ["-", "-", "2,000"],
    ]
    assert ["users Recall@20", "0.2500", "-", "-"] in rows
    assert ["users NDCG@20", "-", "-", "-"] in rows
    assert not any("Recall@50" in row[0] for row in rows)
    bare = [line.split("  ")[0] for line in compare([runs[1], runs[1]]).text().splitlines()]
    assert not any(label.startswith(("users", "validation")) for label in bare)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not a run"),
        ({"config.json": "["}, "config.json: the run's configuration is not valid JSON"),
        ({"config.json": "[]"}, "config.json: the content is \\[\\]: it must be an object"),
        ({"config.json": "{}", "train.json": "[]"}, "train.json: not the training's summary"),
        ({"config.json": "{}", "metrics.json": "{}"}, "metrics.json: a field is missing"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(
    runs: tuple[Path, Path], tmp_path: Path, files: dict[str, str], message: str
) -> None:
    (tmp_path / "c").mkdir()
    for name, content in files.items():
        (tmp_path / "c" / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        compare([runs[0], tmp_path / "c"])
    assert str(tmp_path / "c") in str(error.value)
    assert "\n" not in str(error.value)


def test_one_run_is_too_few(runs: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="two runs, or more"):
        compare(runs[:1])


OTHER = "evaluated on datasets that differ"
ONE = "losses do not compare, metrics do, but for warm and cold"
QUERIES = "different samples of the test"


@pytest.mark.parametrize(
    ("trained", "ranked", "queries", "said"),
    [
        ("ab", (None, None), (8, 8), ["the datasets differ: losses and metrics do not"]),
        # Yesterday's run on today's data, beside today's.
        ("ab", ("b", None), (8, 8), [ONE]),
        ("ab", ("b", None), (8, 5), [ONE, QUERIES]),
        ("ab", ("c", "c"), (8, 8), [ONE]),
        ("ab", ("c", None), (8, 5), [f"{OTHER}: losses and metrics do not compare"]),
        ("aa", ("b", None), (8, 8), [f"{OTHER}: metrics do not compare"]),
        ("aa", ("b", "b"), (8, 8), []),
    ],
)
def test_it_is_said_what_compares_of_runs_on_other_datasets(
    tmp_path: Path,
    trained: str,
    ranked: tuple[str | None, str | None],
    queries: tuple[int, int],
    said: list[str],
) -> None:
    runs = []
    for number, (digest, on, asked) in enumerate(zip(trained, ranked, queries, strict=True)):
        block = figures(0.5) | {"queries": asked}
        metrics: dict[str, Any] = dict.fromkeys(("all", "new_pairs", "warm", "cold"), block)
        if on is not None:
            metrics["matched"] = {"data": on, "row_digest": on}
        options = {"seed": 1, "row_digest": digest}
        runs.append(write_run(tmp_path / str(number), options, {}, {"checkpoint": 3, **metrics}))
    words = ("datasets", "samples of")
    lines = [one for one in compare(runs).text().splitlines() if any(w in one for w in words)]
    assert len(lines) == len(said)
    assert all(word in line for word, line in zip(said, lines, strict=True)), lines
