"""Programs of torch.export, run operator by operator, beside the same ones loaded by it."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dat_rec.data.columns import Column
from dat_rec.errors import UserError
from dat_rec.retrieval.run_program import Program, UnknownProgramError, tensor_of
from dat_rec.retrieval.tower_file import QueryTower

Given = dict[str, Tensor]


class Tower(nn.Module):
    """Of towers' operators, those with odd arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)
        self.register_buffer("scale", torch.rand(4, dtype=torch.float64))

    def forward(self, values: Given, offsets: Given) -> Tensor:
        left, right = values["a"].split([2, 4], dim=1)
        inputs = torch.cat([right, left.relu_()], dim=-1)
        with torch.autocast("cpu", torch.bfloat16, enabled=True):
            hidden = torch.tanh(self.layer(inputs))
        rows = torch.zeros(inputs.shape[0], 1, dtype=torch.float64)
        known = torch.where(offsets["b"] > 0, 1.0, rows)
        highest, place = hidden.double().max(dim=1, keepdim=True)
        return torch.cat([hidden.float() * self.scale, known, highest, place], dim=1)


def given(rows: int) -> tuple[Given, Given]:
    random = torch.Generator().manual_seed(rows)
    a = torch.randn(rows, 6, generator=random)
    return {"a": a}, {"b": torch.randint(0, 2, (rows, 1), generator=random)}


def saved(tower: nn.Module) -> io.BytesIO:
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(tower, given(5), dynamic_shapes=({"a": batch}, {"b": batch}))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file


def read(file: io.BytesIO, change: Callable[[dict], None] = lambda model: None) -> Program:
    with zipfile.ZipFile(file) as archive:
        (root,) = {name.split("/")[0] for name in archive.namelist()}
        text = archive.read(f"{root}/data/weights/model_weights_config.json")
        weights = {
            name: tensor_of(meta, archive.read(f"{root}/data/weights/{meta['path_name']}"))
            for name, meta in json.loads(text)["config"].items()
        }
        model = json.loads(archive.read(f"{root}/models/model.json"))
    change(model)
    return Program(json.dumps(model).encode(), weights)


def test_a_program_gives_the_bits_that_it_gives_loaded_by_torch_export() -> None:
    file = saved(Tower())
    ours = read(file)
    file.seek(0)
    plain = torch.export.load(file).module()
    for rows in (5, 2, 7):
        values, offsets = given(rows)
        expected = plain({"a": values["a"].clone()}, offsets)
        with torch.no_grad():
            found = ours(values, offsets)
        assert found.dtype == expected.dtype == torch.float64
        assert torch.equal(found, expected)


def _later(model: dict) -> None:
    model["schema_version"]["major"] += 1


def _other_operator(model: dict) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mine.special.default"


def _no_such_operator(model: dict) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.no_such.default"


def _other_argument(model: dict) -> None:
    model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_custom_obj": {}}


def _no_graph(model: dict) -> None:
    del model["graph_module"]["graph"]


def _reaches_for_a_file(model: dict) -> None:
    node = model["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.from_file.default"


@pytest.mark.parametrize(
    "change",
    [_reaches_for_a_file, _later, _other_operator, _no_such_operator, _other_argument, _no_graph],
)
def test_what_is_not_known_is_said_before_it_is_run(change: Callable[[dict], None]) -> None:
    file = saved(Tower())
    with pytest.raises(UnknownProgramError):
        read(file, change)


def test_a_program_that_is_not_known_is_loaded_by_torch_export(tmp_path: Path) -> None:
    class Constant(nn.Module):
        """A query tower in form, of a user's values and offsets."""

        def forward(self, values: Given, offsets: Given) -> Tensor:
            lengths = offsets["b"].diff().unsqueeze(1)
            return values["b"][: lengths.shape[0]].unsqueeze(1) * torch.tensor([1.0, 2.0])

    example = ({"b": torch.arange(4)}, {"b": torch.arange(5)})
    free = {"b": {0: torch.export.Dim.AUTO}}
    program = torch.export.export(Constant(), example, dynamic_shapes=(free, free))
    path = tmp_path / "query_tower.pt2"
    torch.export.save(program, path)
    with pytest.raises(UnknownProgramError):
        read(io.BytesIO(path.read_bytes()))
    found = QueryTower(path).encode({"b": Column(np.array([3, 5, 7]), None)})
    assert found.tolist() == [[3, 6], [5, 10], [7, 14]]
    # Whoever does not trust the file has it refused: to load it may run what it says.
    with pytest.raises(UserError, match="such a tower is not served"):
        QueryTower(path, trusted=False)
