"""A root goes on with what it was begun with."""

import json
from pathlib import Path

import pytest

from dat_rec.daily.root import check_begun
from dat_rec.errors import UserError

OPTIONS = {"--from": "1", "--interactions": ["a", "b"], "--category": None}


def test_other_options_are_refused_once_a_step_is_done(tmp_path: Path) -> None:
    check_begun(tmp_path, {**OPTIONS, "--from": "2"})
    check_begun(tmp_path, OPTIONS)
    (tmp_path / "1" / "data").mkdir(parents=True)
    check_begun(tmp_path, OPTIONS)
    (tmp_path / "1" / "data" / "schema.json").touch()
    check_begun(tmp_path, OPTIONS)
    others = [
        (
            {**OPTIONS, "--from": "2"},
            "was begun with --from 1, and this is --from 2: give the same",
        ),
        (
            {**OPTIONS, "--interactions": ["a"]},
            "begun with --interactions a b, and this is --inter",
        ),
        ({**OPTIONS, "--category": "x"}, "was begun with no --category, and this is --category x:"),
        ({"--from": "1", "--category": None}, "--interactions a b, and this is no --interactions"),
        ({**OPTIONS, "--capacity": "9"}, "was begun with no --capacity, and this is --capacity 9"),
    ]
    for options, words in others:
        with pytest.raises(UserError) as error:
            check_begun(tmp_path, options)
        assert words in str(error.value)
    assert json.loads((tmp_path / "daily.json").read_text()) == OPTIONS


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match=r"holds notes and no daily\.json: choose an empty"):
        check_begun(tmp_path, OPTIONS)
    (tmp_path / "daily.json").write_text("[]")
    (tmp_path / "1" / "data").mkdir(parents=True)
    (tmp_path / "1" / "data" / "schema.json").touch()
    with pytest.raises(UserError, match="is not what a daily training was begun with"):
        check_begun(tmp_path, OPTIONS)
