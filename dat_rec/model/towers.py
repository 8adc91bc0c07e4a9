"""Concatenated embeddings in, unit vectors out: one tower, ours or one of your own.

Shapes: B examples, F input width, D output width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from dat_rec.errors import UserError
from dat_rec.model.products import Linear

GIVEN = "given"
"""Attribute of ``GivenTower``, and so part of its parameters' names in checkpoints: they never pass
for those of ``Tower``."""


class TowerFactory(Protocol):
    """How to give ``dat_rec.train`` a tower of your own: a function that makes one.

    It is called twice, for the query tower and for the item tower, after the random seed is set.
    The module that it returns maps (B, input_dim) float to (B, output_dim); dat_rec scales each
    output to length 1. Each of its parameters must learn, and it must have neither buffers nor
    dropout (a LayerNorm, not a BatchNorm, for checkpoints hold parameters and no random state);
    ``torch.export`` must understand it. ``--model.hidden``,
    ``--model.linear`` and ``--model.last-relu`` describe the towers of dat_rec, and mean nothing to
    it; ``--model.residual`` is refused beside it.

    A run does not keep the function: to resume, evaluate or export it, give the same one again.

    Example:
        >>> from torch import nn
        >>> def linear(input_dim: int, output_dim: int) -> nn.Module:
        ...     return nn.Linear(input_dim, output_dim)
        >>> config = dat_rec.TrainConfig(data=Path("data"), out=Path("linear"), epochs=1)
        >>> summary = dat_rec.train(config, tower=linear)
        >>> metrics = dat_rec.evaluate(Path("linear"), tower=linear)
        >>> made = dat_rec.export(Path("linear"), Path("linear-export"), tower=linear)
    """

    def __call__(self, input_dim: int, output_dim: int, /) -> nn.Module:
        """Make a tower from F = ``input_dim`` to D = ``output_dim`` numbers."""


class Tower(nn.Module):
    """h_l = ReLU(W_l h_{l-1} + b_l), p = h_L / ‖h_L‖₂ (paper, section 2.3).

    With residual ways, past the layers: p = r / ‖r‖₂, r = w_0·h_L + Σ_k w_k·x_k, where x_k are
    parts of the input and each w is one number, learned from w_0 = 0 and w_k = 1. So the model
    begins as a factorisation of ids, whose scores are products of (mean) embeddings, and the layers
    add to it what they learn.

    With a linear way, as in wide & deep learning (Cheng et al., DLRS 2016): W·x + b of the whole
    input is added too, before the division by the length.

    Args:
        input_dim: F.
        hidden: widths of the hidden layers.
        output_dim: D.
        last_relu: whether to apply ReLU after the last layer too: the paper's letter, which
            confines scores to [0, 1].
        residual: the columns of the input at which the x_k begin, each D wide.
        linear: whether there is a linear way.
        bfloat16: whether to multiply in bfloat16, and keep weights and outputs in float32
            (autocast).
    """

    def __init__(
        self,
        input_dim: int,
        hidden: Sequence[int],
        output_dim: int,
        *,
        last_relu: bool,
        bfloat16: bool = False,
        residual: Sequence[int] = (),
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.in_bfloat16 = bfloat16
        self._residual = tuple(residual)
        self.gates: nn.Parameter | None = None
        """(1 + K,): w_0, …, w_K; None without residual ways."""
        if residual:
            self.gates = nn.Parameter(torch.tensor([0.0, *[1.0] * len(residual)]))
        widths = [input_dim, *hidden, output_dim]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(Linear(fan_in, fan_out))
            if i < len(hidden) or last_relu:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)
        self.linear: Linear | None = Linear(input_dim, output_dim) if linear else None

    def forward(self, features: Tensor) -> Tensor:
        """Map (…, F) to unit vectors (…, D); a zero vector stays zero."""
        outputs = _outputs(self.layers, features, bfloat16=self.in_bfloat16)
        if self.gates is not None:
            outputs = self.gates[0] * outputs
            for number, begin in enumerate(self._residual, 1):
                part = features[..., begin : begin + self.output_dim]
                outputs = outputs + self.gates[number] * part
        if self.linear is not None:
            outputs = outputs + _outputs(self.linear, features, bfloat16=self.in_bfloat16)
        return F.normalize(outputs, dim=-1)


class GivenTower(nn.Module):
    """A tower of your own, its outputs scaled to length 1.

    Args:
        factory: makes the tower.
        input_dim: F.
        output_dim: D.
        bfloat16: whether to multiply in bfloat16, and keep weights and outputs in float32
            (autocast).

    Raises:
        UserError: what the factory makes is no such tower; names what it is and the cure.
    """

    def __init__(
        self, factory: TowerFactory, input_dim: int, output_dim: int, *, bfloat16: bool = False
    ) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.in_bfloat16 = bfloat16
        self.given = factory(input_dim, output_dim)
        _check(self.given, input_dim, output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, F) to unit vectors (B, D); a zero vector stays zero."""
        outputs = _outputs(self.given, features, bfloat16=self.in_bfloat16)
        return F.normalize(outputs, dim=-1)


def _outputs(layers: nn.Module, features: Tensor, *, bfloat16: bool) -> Tensor:
    with torch.autocast(features.device.type, torch.bfloat16, enabled=bfloat16):
        outputs: Tensor = layers(features)
    return outputs.to(features.dtype)


def _check(tower: nn.Module, input_dim: int, output_dim: int) -> None:
    """Refuse a tower that could not be trained, saved or answered with."""
    name = type(tower).__name__
    if not isinstance(tower, nn.Module):
        raise UserError(f"tower: returns {name}: it must return a torch.nn.Module")
    if not list(tower.parameters()):
        raise UserError(f"tower {name} has no parameters to train: add a layer that has")
    if buffers := [name for name, _ in tower.named_buffers()]:
        raise UserError(
            f"tower {name} keeps the buffer {buffers[0]!r}, which checkpoints do not: use layers "
            "without buffers, e.g. LayerNorm in place of BatchNorm"
        )
    for part, module in tower.named_modules():
        if isinstance(module, _DropoutNd):
            raise UserError(
                f"tower {name} has dropout in {part!r}, whose random state checkpoints do not "
                "hold: leave it out"
            )
    parameters = dict(tower.named_parameters())
    sums = []
    for batch in (2, 3):
        outputs = _tried(tower, batch, input_dim)
        if not isinstance(outputs, Tensor) or outputs.shape != (batch, output_dim):
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise UserError(
                f"tower {name} maps ({batch}, {input_dim}) to {found}: it must give "
                f"({batch}, {output_dim})"
            )
        sums.append(outputs.sum())
    learning = {key: one for key, one in parameters.items() if one.requires_grad}
    gradients = torch.autograd.grad(sums, list(learning.values()), allow_unused=True)
    used = {key for key, one in zip(learning, gradients, strict=True) if one is not None}
    if idle := [key for key in parameters if key not in used]:
        raise UserError(
            f"tower {name} does not learn its parameter {idle[0]!r}: use it in forward, with "
            "requires_grad, or leave it out"
        )


def _tried(tower: nn.Module, batch: int, input_dim: int) -> object:
    """What the tower makes of zeros."""
    parameter = next(tower.parameters())
    example = torch.zeros(batch, input_dim, dtype=parameter.dtype, device=parameter.device)
    try:
        return tower(example)
    except (RuntimeError, TypeError, ValueError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"tower {type(tower).__name__} fails on ({batch}, {input_dim}): {line}: it must map "
            "(B, input_dim) for any B"
        ) from error
