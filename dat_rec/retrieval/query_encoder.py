"""A trained model's query side in, a plain PyTorch program out, which torch alone can run.

Tables, augmented vectors and tower are the model's own, without TorchRec, so that
``torch.export`` can write them into one file (``dat_rec.retrieval.tower_file``).
"""

import mmap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config as shape_config

from dat_rec.data.dense import no_values
from dat_rec.data.schema import USER, DenseFeature, Feature
from dat_rec.model.dat import AUGMENTED, DAT, pooled
from dat_rec.model.generate import known
from dat_rec.retrieval.divided import DividedRows

MAP_NORESERVE = 0x4000
"""Of Linux: memory that is never touched counts for nothing. (Python 3.13 names it in mmap.)"""


class QueryEncoder(nn.Module):
    """p_u of B users: [e_1 ‖ … ‖ e_m ‖ d_1 ‖ … ‖ a_u] through the query tower.

    e and a of unknown ones are made.

    Its tables have their shapes and no content, which takes no memory: what they hold is divided
    over the ranks (``contents``), and gets into the file block by block.

    Args:
        model: of ``load_model``.
        features: the query features, in the model's order.
    """

    def __init__(self, model: DAT, features: Sequence[Feature]) -> None:
        super().__init__()
        names = sorted({feature.table for feature in features})
        divided = model.embeddings.tables
        self._lookups = [(feature.name, names.index(feature.table)) for feature in features]
        self.tables = nn.ModuleList(_bag(divided[name]) for name in names)
        self.contents = {f"tables.{i}.weight": divided[name] for i, name in enumerate(names)}
        """The tables' rows, by the names of the parameters."""
        self.dense = model.query_dense
        self.augmented = None
        if model.augmented is not None:
            rows = model.augmented.tables[AUGMENTED[USER]]
            self.augmented = _bag(rows)
            self.contents["augmented.weight"] = rows
        self.generator = model.query_generator
        self.tower = model.query_tower
        self._pooling = model.pooling
        self._dtype = model.dtype
        self._popularity = model.popularity_R is not None

    def forward(
        self,
        values: dict[str, Tensor],
        offsets: dict[str, Tensor],
        dense: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Encode B users as (B, D) float32: unit vectors, and a 1 behind where popularity counts.

        Args:
            values: for each feature its row numbers, int64, user after user.
            offsets: for each feature (B + 1,) int64: user i has values[offsets[i]:offsets[i + 1]].
                An empty bag counts as a zero vector.
            dense: for each dense feature (B, width) values as they are, float64 of numbers and
                float32 of vectors; NaN where there is none. None for a model without any.
        """
        inputs = [
            pooled(
                self.tables[table](values[name], offsets[name]), offsets[name].diff(), self._pooling
            )
            for name, table in self._lookups
        ]
        if self.dense is not None:
            inputs += [projection((dense or {})[projection.name]) for projection in self.dense]
        augmented = None
        if self.augmented is not None:
            augmented = self.augmented(values[USER], offsets[USER])
        if self.generator is not None:
            is_known = known(values[USER], offsets[USER])
            inputs = list(self.generator(inputs, augmented, is_known))
        elif augmented is not None:
            inputs.append(augmented)
        vectors: Tensor = self.tower(torch.cat(inputs, dim=-1).to(self._dtype))
        vectors = vectors.float()
        if self._popularity:
            vectors = F.pad(vectors, (0, 1), value=1.0)
        return vectors


def _bag(rows: DividedRows) -> nn.EmbeddingBag:
    shape = (int(rows.bounds[-1]), rows.dim)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    untouched = mmap.mmap(-1, 4 * shape[0] * shape[1], flags=flags)
    weight = torch.frombuffer(untouched, dtype=torch.float32).view(shape)
    return nn.EmbeddingBag.from_pretrained(weight, mode="sum", include_last_offset=True)


def query_program(
    encoder: QueryEncoder, features: Sequence[Feature], dense: Sequence[DenseFeature] = ()
) -> torch.export.ExportedProgram:
    """Trace the encoder with ``torch.export``; any number of users and values may come in.

    The program does not say where on this machine its source lies: the file would, and would differ
    from machine to machine.
    """
    example = {feature.name: torch.zeros(6, dtype=torch.int64) for feature in features}
    bounds = {feature.name: torch.arange(0, 7, 2) for feature in features}
    free = {feature.name: {0: torch.export.Dim.DYNAMIC} for feature in features}
    inputs, any_number = [example, bounds], [free, free]
    if dense:
        inputs.append({one.name: torch.from_numpy(no_values(one, 3).values) for one in dense})
        any_number.append({one.name: {0: torch.export.Dim.DYNAMIC} for one in dense})
    # Otherwise the program would refuse one user, or an empty history: sizes 0 and 1 are
    # taken for constants.
    any_size = shape_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with any_size, torch.no_grad():
        program = torch.export.export(
            encoder.eval(), tuple(inputs), dynamic_shapes=tuple(any_number)
        )
    for module in program.graph_module.modules():
        # Autocast makes a graph of its own within the program's.
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
