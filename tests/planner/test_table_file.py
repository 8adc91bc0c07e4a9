"""Files of tables: what they stand for, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.errors import UserError
from dat_rec.planner.table_file import read_tables

ONE: dict[str, Any] = {"name": "user", "rows": 3_000_000_000, "dim": 64, "pooling_factor": 2}
TWO: dict[str, Any] = {
    "name": "item-2",
    "rows": 10,
    "dim": 4,
    "features": 3,
    "fp16": True,
    "rule": "row_wise,column_wise,min_partition:4",
}


def written(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "tables.json"
    path.write_text(json.dumps(value))
    return path


def test_a_file_stands_for_a_model_whose_tables_take_no_memory(tmp_path: Path) -> None:
    file = read_tables(written(tmp_path, {"tables": [ONE, TWO], "batch_size": 7}))
    assert file.batch_size == 7
    assert file.pins() == ("item-2=row_wise,column_wise,min_partition:4",)
    assert file.pooling_factors() == {
        "user@0": 2,
        "item-2@0": 1.0,
        "item-2@1": 1.0,
        "item-2@2": 1.0,
    }
    for fp16, sizes in (((), [4, 2]), (("u*",), [2, 2]), (("*",), [2, 2])):
        (collection,) = (
            module
            for module in file.model(fp16).modules()
            if isinstance(module, EmbeddingBagCollection)
        )
        user, item = collection.parameters()
        # More rows than int32 counts.
        assert (user.shape, item.shape) == ((3_000_000_000, 64), (10, 4))
        assert [user.element_size(), item.element_size()] == sizes
        assert user.device.type == "meta"


def test_a_pattern_of_no_table_is_refused(tmp_path: Path) -> None:
    file = read_tables(written(tmp_path, {"tables": [ONE, TWO]}))
    with pytest.raises(UserError, match="--fp16-tables shop: no such table: there are user, item"):
        file.model(("shop",))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "tables[1].name is ''"),
        ({"name": "a b"}, "name is 'a b': it must match "),
        ({"name": "a.b"}, "name is 'a.b'"),
        ({"name": "a*"}, "name is 'a*'"),
        ({"name": "a=b"}, "name is 'a=b'"),
        ({"name": "a\nb"}, "name is 'a\\nb'"),
        ({"name": 3}, "name is 3"),
        ({"name": None}, "name is None"),
        ({"name": "user"}, "tables[1]: 'user' stands there twice"),
        ({"rows": 0}, "tables[1].rows is 0: it must be 1 or more"),
        ({"rows": -5}, "rows is -5"),
        ({"rows": 1e9}, "rows is 1000000000.0"),
        ({"rows": "10"}, "rows is '10'"),
        ({"rows": True}, "rows is True"),
        ({"rows": [5]}, "rows is [5]"),
        ({"rows": 2**60}, "rows × dim is above 2^60"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": 32.5}, "dim is 32.5"),
        ({"dim": None}, "dim is None"),
        ({"features": 0}, "features is 0"),
        ({"features": 10**6}, "features is 1000000: it must be at most 10000"),
        ({"pooling_factor": 0}, "pooling_factor is 0: it must be above 0"),
        ({"pooling_factor": -1.5}, "pooling_factor is -1.5"),
        ({"pooling_factor": "3"}, "pooling_factor is '3'"),
        ({"pooling_factor": None}, "pooling_factor is None"),
        ({"pooling_factor": float("nan")}, "pooling_factor is nan"),
        ({"pooling_factor": float("inf")}, "pooling_factor is inf"),
        ({"pooling_factor": True}, "pooling_factor is True"),
        ({"fp16": 1}, "fp16 is 1: it must be a valid boolean"),
        ({"fp16": "yes"}, "fp16 is 'yes'"),
        ({"rule": 5}, "rule is 5: it must be a valid string"),
        ({"rule": ""}, "tables[1]: rule: --pin other=: write TABLE=TYPE"),
        ({"rule": "rowwise"}, "tables[1]: rule: --pin other=rowwise: 'rowwise' is none of"),
        ({"rule": "row_wise,cache_load_factor:2"}, "cache_load_factor must lie in (0, 1]"),
        ({"pooling": 3}, "unknown field 'tables[1].pooling': remove it"),
    ],
)
def test_a_wrong_field_of_a_table_is_refused_with_its_cure(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    other = {"name": "other", "rows": 5, "dim": 8} | changed
    path = written(tmp_path, {"tables": [ONE, other]})
    with pytest.raises(UserError) as raised:
        read_tables(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["name", "rows", "dim"])
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"tables": [{k: v for k, v in ONE.items() if k != name}]})
    with pytest.raises(UserError, match=rf"tables\[0\].{name} is missing: add it"):
        read_tables(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no tables"),
        ([], "no tables"),
        ({}, "no tables"),
        ({"tables": []}, "no tables"),
        ({"tables": {"user": ONE}}, "it must be a valid array"),
        ({"tables": "user"}, "tables is 'user': it must be a valid array"),
        ({"tables": [3]}, "tables[0] is 3: it must be an object"),
        ({"tables": [ONE], "batch": 3}, "unknown field 'batch': remove it"),
        ({"tables": [ONE], "batch_size": 0}, "batch_size is 0: it must be 1 or more"),
        ({"tables": [ONE], "batch_size": "8"}, "batch_size is '8'"),
        ({"tables": [ONE], "batch_size": 1.5}, "batch_size is 1.5"),
        ({"tables": [ONE], "batch_size": 2**40}, "batch_size is 1099511627776"),
    ],
)
def test_a_file_that_is_no_list_of_tables_is_refused(
    value: Any, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, value)
    with pytest.raises(UserError) as raised:
        read_tables(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the tables: No such file"):
        read_tables(tmp_path / "tables.json")
    (tmp_path / "tables.json").write_text("{'tables'")
    with pytest.raises(UserError, match="the tables is not valid JSON"):
        read_tables(tmp_path / "tables.json")
