"""A tower of one's own: scaled to unit vectors, and refused where it could not be kept."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dat_rec.config import ModelConfig
from dat_rec.data.stream.batch import to_kjt
from dat_rec.errors import UserError
from dat_rec.model.dat import DAT
from dat_rec.model.towers import GivenTower, Tower
from tests.model.test_dat import SCHEMA, columns


def linear(input_dim: int, output_dim: int) -> nn.Module:
    return nn.Linear(input_dim, output_dim)


def test_its_outputs_are_scaled_to_length_1() -> None:
    tower = GivenTower(linear, 5, 3)
    inputs = torch.randn(4, 5, generator=torch.manual_seed(0))
    outputs = inputs @ tower.given.weight.T + tower.given.bias
    expected = outputs / outputs.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(tower(inputs), expected)


def test_the_model_calls_it_for_queries_and_items_with_the_widths_that_they_have() -> None:
    asked = []

    def noted(input_dim: int, output_dim: int) -> nn.Module:
        asked.append((input_dim, output_dim))
        return linear(input_dim, output_dim)

    config = ModelConfig(embedding_dim=8, output_dim=4, precision="float64")
    model = DAT(SCHEMA, config, tower=noted)
    ours = DAT(SCHEMA, config)
    widths = [tower.layers[0].in_features for tower in (ours.query_tower, ours.item_tower)]
    assert asked == [(width, 4) for width in widths]
    assert model.query_tower.given.weight.dtype == torch.float64
    assert isinstance(ours.query_tower, Tower)


def test_none_of_its_parameters_could_pass_for_ours() -> None:
    def as_ours(input_dim: int, output_dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(input_dim, 6), nn.Tanh(), nn.Linear(6, output_dim))

    own = Tower(5, (6,), 3, last_relu=False)
    given = GivenTower(as_ours, 5, 3)
    shapes = [tuple(parameter.shape) for parameter in own.parameters()]
    assert shapes == [tuple(parameter.shape) for parameter in given.parameters()]
    assert not set(own.state_dict()) & set(given.state_dict())


def test_residual_ways_begin_as_a_factorisation_and_add_the_layers() -> None:
    torch.manual_seed(0)
    tower = Tower(8, (6,), 3, last_relu=False, residual=(0, 5))
    inputs = torch.randn(4, 8)
    parts = inputs[:, :3] + inputs[:, 5:]
    torch.testing.assert_close(tower(inputs), parts / parts.norm(dim=1, keepdim=True))
    assert tower.gates is not None
    with torch.no_grad():
        tower.gates.copy_(torch.tensor([2.0, 0.5, -3.0]))
    first, _, last = tower.layers
    hidden = (inputs @ first.weight.T + first.bias).clamp(min=0)
    sums = 2 * (hidden @ last.weight.T + last.bias) + 0.5 * inputs[:, :3] - 3 * inputs[:, 5:]
    torch.testing.assert_close(tower(inputs), sums / sums.norm(dim=1, keepdim=True))


def test_the_models_residual_ways_are_ids_history_and_augmented_vectors() -> None:
    config = ModelConfig(embedding_dim=8, output_dim=8, residual=True)
    model = DAT(SCHEMA, config)
    given = columns(5, 0, np.random.default_rng(0))
    inputs = model.look_up(to_kjt(given, list(given), 5))
    output = model.queries(inputs, *model.items(inputs))
    user, history, a_u = inputs.query_BF.split(8, dim=1)
    item, _, a_v = inputs.items_BF[0].split(8, dim=1)
    for found, parts in ((output.query_BD, user + history + a_u), (output.item_BD, item + a_v)):
        torch.testing.assert_close(found, parts / parts.norm(dim=1, keepdim=True))


def test_residual_ways_beside_a_tower_of_ones_own_are_refused() -> None:
    config = ModelConfig(embedding_dim=8, output_dim=8, residual=True)
    with pytest.raises(UserError, match="residual with a tower of your own"):
        DAT(SCHEMA, config, tower=linear)


@pytest.mark.parametrize("residual", [(), (0, 5)])
def test_a_linear_way_is_added_to_the_layers_whose_first_weights_stay(
    residual: tuple[int, ...],
) -> None:
    plain, tower = (seeded(residual, linear) for linear in (False, True))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, tower.state_dict()[name])
    inputs = torch.randn(4, 8)
    assert tower.linear is not None
    first, _, last = tower.layers
    hidden = (inputs @ first.weight.T + first.bias).clamp(min=0)
    sums = hidden @ last.weight.T + last.bias
    if residual:
        sums = inputs[:, :3] + inputs[:, 5:]
    sums = sums + inputs @ tower.linear.weight.T + tower.linear.bias
    torch.testing.assert_close(tower(inputs), sums / sums.norm(dim=1, keepdim=True))


def seeded(residual: tuple[int, ...], linear: bool) -> Tower:
    torch.manual_seed(0)
    return Tower(8, (6,), 3, last_relu=False, residual=residual, linear=linear)


def test_the_models_linear_ways_read_all_that_its_towers_do() -> None:
    config = ModelConfig(embedding_dim=8, output_dim=4, linear=True, precision="float64")
    model = DAT(SCHEMA, config)
    for tower in (model.query_tower, model.item_tower):
        assert isinstance(tower, Tower)
        assert tower.linear is not None
        assert tower.linear.in_features == tower.layers[0].in_features
        assert tower.linear.weight.dtype == torch.float64
    given = columns(5, 0, np.random.default_rng(0))
    model(to_kjt(given, list(given), 5)).query_BD.sum().backward()
    assert model.query_tower.linear.weight.grad.abs().min() > 0
    assert DAT(SCHEMA, config, tower=linear).query_tower.given.in_features > 0


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features * self.weight, features


class Fixed(nn.Linear):
    """Gives two rows, whatever it is given."""

    def __init__(self) -> None:
        super().__init__(5, 3)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features[:2])


class Idle(nn.Linear):
    """Has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.idle = nn.Linear(5, 3)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("no module", "tower: returns str: it must return a torch.nn.Module"),
        (nn.Identity(), "Identity has no parameters to train"),
        (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), "keeps the buffer '1.running_mean'"),
        (nn.Linear(5, 4), r"maps \(2, 5\) to \(2, 4\): it must give \(2, 3\)"),
        (Pair(), r"maps \(2, 5\) to tuple"),
        (nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.1)), "has dropout in '1'"),
        (nn.Linear(6, 3), r"fails on \(2, 5\): mat1 and mat2"),
        (Fixed(), r"maps \(3, 5\) to \(2, 3\): it must give \(3, 3\)"),
        (Idle(), "does not learn its parameter 'idle.weight'"),
        (nn.Sequential(nn.Linear(5, 4).requires_grad_(False), nn.Linear(4, 3)), "'0.weight'"),
    ],
    ids=[
        *("no module", "no parameters", "buffers", "width", "pair", "dropout", "input width"),
        *("fixed batch", "idle", "frozen"),
    ],
)
def test_what_could_not_be_trained_or_kept_is_refused(made: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GivenTower(lambda *_: made, 5, 3)
