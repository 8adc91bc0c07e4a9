"""A tower's program in, an ONNX file out, and its answers by onnxruntime.

An EmbeddingBag becomes a loop over bags in ONNX: 64 users cost 31 times one. Here the sum of each
bag is a difference of running sums, which are float64, so that a bag's sum does not feel those
before it. (A ScatterND that adds is quicker, and wrong: onnxruntime 1.32 runs it on all threads,
and rows of one bag get lost: findings/onnxruntime_loses_rows_that_scatter_adds.sh.)
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from dat_rec.data.dense import AnyColumn
from dat_rec.retrieval.query_encoder import any_size
from dat_rec.retrieval.tower_file import MODEL_ID
from dat_rec.retrieval.tower_inputs import to_inputs

KINDS = ("values", "offsets", "dense")
"""Of inputs, in the towers' order: they are called KIND.FEATURE."""
OUTPUT = "vectors"
PLAIN_SUM = (False, 0, False, None, True, None)
"""The arguments of an EmbeddingBag that sums, behind weight, values and offsets."""


def write_onnx(program: ExportedProgram, path: Path, model_id: str) -> None:
    """Write a tower; what it holds goes beside it, into PATH.data.

    Args:
        program: of ``tower_file.with_mapped_tables``.
        path: the file to write.
        model_id: of the model, in the file's metadata.
    """
    inputs, _ = program.example_inputs or ((), {})
    names = [f"{kind}.{name}" for kind, one in zip(KINDS, inputs, strict=False) for name in one]
    _multiply_in_float32(program)
    with any_size(), torch.no_grad(), _quiet():
        program = program.run_decompositions(
            {torch.ops.aten.embedding_bag.padding_idx: sums_of_bags}
        )
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=names,
            output_names=[OUTPUT],
            custom_translation_table={torch.ops.aten.scalar_tensor.default: exact_number},
            verbose=False,
        )
    assert made is not None
    made.model.metadata_props[MODEL_ID] = model_id
    made.save(path, external_data=True)


def data_of(path: Path) -> Path:
    """Where a file's tables and weights are."""
    return path.with_name(f"{path.name}.data")


def sums_of_bags(weight: Tensor, values: Tensor, offsets: Tensor, *how: Any) -> Any:
    """What ``aten.embedding_bag.padding_idx`` gives of a plain sum, by operators that ONNX has.

    Args:
        weight: (R, D).
        values: (V,) row numbers, bag after bag.
        offsets: (B + 1,).
        how: the other arguments; of others than a plain sum's nothing is made.

    Returns:
        (B, D) sums, and three tensors that nobody reads.
    """
    if how != PLAIN_SUM:
        return NotImplemented
    rows_VD = F.embedding(values, weight).double()
    before = F.pad(rows_VD.cumsum(0), (0, 0, 1, 0))
    at = F.embedding(offsets, before)
    sums_BD = (at[1:] - at[:-1]).to(weight.dtype)
    return sums_BD, offsets.clone(), offsets.clone(), offsets.clone()


def exact_number(
    s: float,
    dtype: int = 1,
    layout: str = "",  # noqa: ARG001
    device: str = "",  # noqa: ARG001
    pin_memory: bool = False,  # noqa: ARG001
) -> Any:
    """What ``aten.scalar_tensor`` gives, whose arguments these are: a number of a dtype.

    torch.onnx 2.13 rounds it to float32 and makes float64 of that: the mean of a dense feature that
    is a time in seconds would be off by up to a minute.
    """
    from onnxscript import ir, opset18

    constant: Any = ir.tensor(s, dtype=ir.DataType(dtype))
    return opset18.Constant(value=constant)


def _multiply_in_float32(program: ExportedProgram) -> None:
    """Switch autocast off: onnxruntime multiplies no bfloat16 on the CPU."""
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in list(module.graph.nodes):
            if node.target is torch.ops.higher_order.wrap_with_autocast:
                device, dtype, _, *others = node.args
                node.args = (device, dtype, False, *others)
            # They say what dtype was found.
            elif node.target is torch.ops.aten._assert_tensor_metadata.default:
                module.graph.erase_node(node)
        module.recompile()


class OnnxTower:
    """A file of ``write_onnx``, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(path, providers=providers)
        self.model_id = self._session.get_modelmeta().custom_metadata_map.get(MODEL_ID)

    def encode(self, columns: Mapping[str, AnyColumn]) -> NDArray[np.float32]:
        """(B, D) float32 vectors of the columns' B rows."""
        given = {
            f"{kind}.{name}": tensor.numpy()
            for kind, one in zip(KINDS, to_inputs(columns), strict=False)
            for name, tensor in one.items()
        }
        (vectors_BD,) = self._session.run([OUTPUT], given)
        found: NDArray[np.float32] = vectors_BD
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of operators of other packages, which no tower has."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
