"""A side of a trained model in, a plain PyTorch program out, which torch alone can run.

Tables, augmented vectors and tower are the model's own, without TorchRec, so that
``torch.export`` can write them into one file (``dat_rec.retrieval.tower_file``).
"""

import mmap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config as shape_config

from dat_rec.data.dense import no_values
from dat_rec.data.schema import ITEM, UNKNOWN, USER, DenseFeature, Feature
from dat_rec.model.dat import AUGMENTED, DAT, pooled
from dat_rec.model.dense import DenseProjections
from dat_rec.model.generate import Generator, known
from dat_rec.retrieval.divided import DividedRows, own_range
from dat_rec.retrieval.table_forms import SCALE, Form, StoredTable

DTYPES: dict[Form, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int8": torch.int8,
}
MAP_NORESERVE = 0x4000
"""Of Linux: memory that is never touched counts for nothing. (Python 3.13 names it in mmap.)"""


class Encoder(nn.Module):
    """Vectors of B rows of one side: [e_1 ‖ … ‖ e_m ‖ d_1 ‖ … ‖ a] through its tower.

    e and a of unknown ones are made.

    Its tables have their shapes and no content, which takes no memory: what they hold is divided
    over the ranks (``contents``), and gets into the file block by block.

    Args:
        own: the feature that is the side's own id.
        features: the side's features, in the model's order.
        divided: the rows that each feature looks up, by the features' names.
        augmented: the rows that the own id looks up beside them; None without augmented vectors.
        dense: projections of the dense features; None without any.
        generator: makes what stands for unknown ids; None without.
        tower: the side's tower.
        model: whose pooling and dtype.
        last: a number behind the unit vectors, of what popularity adds to scores; None without.
        form: in which the tables are stored.
    """

    def __init__(
        self,
        own: str,
        features: Sequence[Feature],
        divided: Mapping[str, DividedRows],
        augmented: DividedRows | None,
        *,
        dense: DenseProjections | None,
        generator: Generator | None,
        tower: nn.Module,
        model: DAT,
        last: float | None,
        form: Form,
    ) -> None:
        super().__init__()
        tables: dict[int, DividedRows] = {}
        for feature in sorted(features, key=lambda feature: feature.table):
            tables.setdefault(id(divided[feature.name]), divided[feature.name])
        places = {key: place for place, key in enumerate(tables)}
        self._own = own
        self._lookups = [
            (feature.name, places[id(divided[feature.name])], feature.multi_valued)
            for feature in features
        ]
        self.tables = nn.ModuleList(_bag(rows, form) for rows in tables.values())
        named = {f"tables.{i}": rows for i, rows in enumerate(tables.values())}
        self.dense = dense
        self.augmented = None
        if augmented is not None:
            self.augmented = _bag(augmented, form)
            named["augmented"] = augmented
        ends = (".weight", *([SCALE] if form == "int8" else []))
        self.contents = {name + end: rows for name, rows in named.items() for end in ends}
        """The tables' rows, by the names of the parameters that store something of them."""
        self.generator = generator
        self.tower = tower
        self._pooling = model.pooling
        self._dtype = model.dtype
        self._last = last

    def forward(
        self,
        values: dict[str, Tensor],
        offsets: dict[str, Tensor],
        dense: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Encode B rows as (B, D) float32: unit vectors, and ``last`` behind where there is one.

        Args:
            values: for each feature its row numbers, int64, user after user.
            offsets: for each feature (B + 1,) int64: user i has values[offsets[i]:offsets[i + 1]],
                of a feature that is not multi-valued one at most. An empty bag counts as a zero
                vector.
            dense: for each dense feature (B, width) values as they are, float64 of numbers and
                float32 of vectors; NaN where there is none. None for a model without any.
        """
        inputs = []
        for name, table, multi_valued in self._lookups:
            sum_BD = self.tables[table](values[name], offsets[name])
            if multi_valued:  # The mean of one value is the value.
                sum_BD = pooled(sum_BD, offsets[name].diff(), self._pooling)
            inputs.append(sum_BD)
        if self.dense is not None:
            inputs += [projection((dense or {})[projection.name]) for projection in self.dense]
        augmented = None
        if self.augmented is not None:
            augmented = self.augmented(values[self._own], offsets[self._own])
        if self.generator is not None:
            is_known = known(values[self._own], offsets[self._own])
            inputs = list(self.generator(inputs, augmented, is_known))
        elif augmented is not None:
            inputs.append(augmented)
        vectors: Tensor = self.tower(torch.cat(inputs, dim=-1).to(self._dtype))
        vectors = vectors.float()
        if self._last is not None:
            vectors = F.pad(vectors, (0, 1), value=self._last)
        return vectors


class QueryEncoder(Encoder):
    """p_u of B users; behind it a 1 where popularity counts.

    Args:
        model: of ``load_model``.
        features: the query features, in the model's order.
        form: in which the tables are stored.
    """

    def __init__(self, model: DAT, features: Sequence[Feature], form: Form = "float32") -> None:
        tables = model.embeddings.tables
        super().__init__(
            USER,
            features,
            {feature.name: tables[feature.table] for feature in features},
            None if model.augmented is None else model.augmented.tables[AUGMENTED[USER]],
            dense=model.query_dense,
            generator=model.query_generator,
            tower=model.query_tower,
            model=model,
            last=None if model.popularity_R is None else 1.0,
            form=form,
        )


class ItemEncoder(Encoder):
    """p_v of B items that training never saw; behind it what popularity adds to their scores.

    Of the tables of the item's own id it has row 0 alone, which is that of unknown items: what
    known ones have is in the export's item vectors.

    Args:
        model: of ``load_model``.
        features: the item features, in the model's order.
        form: in which the tables are stored.
    """

    def __init__(self, model: DAT, features: Sequence[Feature], form: Form = "float32") -> None:
        tables = model.embeddings.tables
        divided = {feature.name: tables[feature.table] for feature in features}
        divided[ITEM] = _first_row(divided[ITEM])
        augmented = None
        if model.augmented is not None:
            augmented = _first_row(model.augmented.tables[AUGMENTED[ITEM]])
        super().__init__(
            ITEM,
            features,
            divided,
            augmented,
            dense=model.item_dense,
            generator=model.item_generator,
            tower=model.item_tower,
            model=model,
            last=None if model.popularity_R is None else float(model.popularity_R[UNKNOWN]),
            form=form,
        )


def _first_row(rows: DividedRows) -> DividedRows:
    bounds = np.minimum(rows.bounds, 1)
    start, stop = own_range(bounds)
    return DividedRows(rows.local[: stop - start], bounds)


def _bag(rows: DividedRows, form: Form) -> nn.EmbeddingBag | StoredTable:
    count = int(rows.bounds[-1])
    weight = _untouched((count, rows.dim), DTYPES[form])
    if form == "float32":
        return nn.EmbeddingBag.from_pretrained(weight, mode="sum", include_last_offset=True)
    return StoredTable(weight, _untouched((count, 1), torch.float32) if form == "int8" else None)


def _untouched(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    memory = mmap.mmap(-1, dtype.itemsize * shape[0] * shape[1], flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def any_size() -> AbstractContextManager[None]:
    """Within it, programs are made that take one user, and an empty history.

    Otherwise sizes 0 and 1 are taken for constants.
    """
    patch: AbstractContextManager[None] = shape_config.patch(  # type: ignore[attr-defined]
        backed_size_oblivious=True
    )
    return patch


def query_program(
    encoder: Encoder, features: Sequence[Feature], dense: Sequence[DenseFeature] = ()
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
    with any_size(), torch.no_grad():
        program = torch.export.export(
            encoder.eval(), tuple(inputs), dynamic_shapes=tuple(any_number)
        )
    for module in program.graph_module.modules():
        # Autocast makes a graph of its own within the program's.
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
