"""The Dual Augmented Two-tower model: ids in, unit vectors and augmented vectors out.

Shapes: B examples, N negatives, D output width. Single-device code: the two
EmbeddingBagCollections are sharded from outside (``dat_rec.sharding``).
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dat_rec.config import ModelConfig, Pooling
from dat_rec.data.schema import ITEM, SIDES, USER, Feature, Schema, Side
from dat_rec.data.stream.batch import negative_key
from dat_rec.errors import UserError
from dat_rec.model.dense import projections
from dat_rec.model.generate import Generator, known
from dat_rec.model.towers import GivenTower, Tower, TowerFactory

AUGMENTED = {USER: "augmented_user", ITEM: "augmented_item"}
"""Tables of the augmented vectors, by the id feature that looks them up."""


class TowerInputs(NamedTuple):
    """The towers' inputs, of one batch."""

    query_BF: Tensor
    """z_u, (B, F)."""
    items_BF: list[Tensor]
    """z_v, (B, F) each: of the positives and the shared negatives, then of the examples' first
    negatives, then of their second ones, …"""
    augmented_user_BD: Tensor | None
    """a_u; None without augmented vectors."""
    augmented_item_BD: Tensor | None
    """a_v of the positive; None without augmented vectors."""


class DATOutput(NamedTuple):
    """The vectors that the losses need of one batch."""

    query_BD: Tensor
    """p_u, unit vectors."""
    item_BD: Tensor
    """p_v of each example's positive, unit vectors."""
    negative_ND: Tensor
    """p_v of the negatives, unit vectors."""
    augmented_user_BD: Tensor | None
    """a_u, not normalised; None without augmented vectors."""
    augmented_item_BD: Tensor | None
    """a_v of the positive, not normalised; None without augmented vectors."""

    def first(self, examples: int, negatives: int) -> "DATOutput":
        """The output for the first ``examples`` and ``negatives`` of the batch."""
        if examples == len(self.query_BD) and negatives == len(self.negative_ND):
            return self
        return DATOutput(
            query_BD=self.query_BD[:examples],
            item_BD=self.item_BD[:examples],
            negative_ND=self.negative_ND[:negatives],
            augmented_user_BD=_first(self.augmented_user_BD, examples),
            augmented_item_BD=_first(self.augmented_item_BD, examples),
        )


def _without_last(vectors: Tensor | None, rows: int) -> Tensor | None:
    return None if vectors is None else vectors[:-rows]


def _first(vectors: Tensor | None, examples: int) -> Tensor | None:
    return None if vectors is None else vectors[:examples]


class DAT(nn.Module):
    """Two towers, each fed with its features' embeddings and its id's augmented vector.

    z_u = [e_1 ‖ … ‖ e_m ‖ a_u], z_v = [e_1 ‖ … ‖ e_n ‖ a_v] (paper, section 2.3). Dense features
    stand between the embeddings and the augmented vector, d = W·x + b each (``dense.py``). The
    augmented vectors have tables of their own: in a row shared with the id's embedding
    the mimic loss makes training collapse (tests/model/test_dat.py shows it).

    With ``generate``, e and a of an unknown id are made of the other embeddings (``generate.py``).

    Args:
        schema: names the features, their towers and tables.
        config: widths and switches.
        negatives: S, number of negatives that each example brings, in keys of their own.
        shared_negatives: number of rows behind the examples' that hold negatives.
        embedding_device: where the tables are made; ``meta`` if they are to be sharded.
        tower: makes towers of your own, in place of those that ``config`` describes.

    Raises:
        UserError: a pattern of ``fp16_tables`` fits no table, ``tower`` makes none that can be
            trained, or is given beside ``residual``.
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        negatives: int = 0,
        shared_negatives: int = 0,
        embedding_device: torch.device | None = None,
        tower: TowerFactory | None = None,
    ) -> None:
        super().__init__()
        self.pooling = config.pooling
        self._shared_negatives = shared_negatives
        self._query_keys = [feature.name for feature in schema.side("query")]
        item_keys = [feature.name for feature in schema.side("item")]
        self._candidate_keys = [
            [_key(name, candidate) for name in item_keys] for candidate in range(1 + negatives)
        ]
        self._pooled_keys = {
            _key(feature.name, candidate)
            for feature in schema.features
            for candidate in range(1 + negatives if feature.side == "item" else 1)
            if feature.multi_valued
        }
        self.embeddings = _collection(
            {feature: feature.table for feature in schema.features},
            config.embedding_dim,
            negatives,
            embedding_device,
            config.fp16_tables,
        )
        self.augmented: EmbeddingBagCollection | None = None
        if config.augment:
            self.augmented = _collection(
                {schema.feature(name): table for name, table in AUGMENTED.items()},
                config.output_dim,
                negatives,
                embedding_device,
                config.fp16_tables,
            )
        _check_patterns(config.fp16_tables, schema, config)
        self.query_tower, self.item_tower = (_tower(schema, side, config, tower) for side in SIDES)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.query_dense, self.item_dense = (
            projections(
                schema.dense_side(side),
                config.embedding_dim,
                self.dtype,
                bfloat16=config.precision == "bfloat16",
            )
            for side in SIDES
        )
        self.query_tower.to(self.dtype)
        self.item_tower.to(self.dtype)
        # Behind the towers, whose first weights stay what they are without.
        self.query_generator, self.item_generator = (
            _generator(schema, side, config, self.dtype) for side in SIDES
        )
        self.popularity_R: Tensor | None = None
        """(rows of the item table,) float32: what is served behind p_v, beside a 1 behind p_u
        (``dat_rec.retrieval.popularity``); None while the model is trained."""

    def forward(
        self, features: KeyedJaggedTensor, dense: Mapping[str, Tensor] | None = None
    ) -> DATOutput:
        """Embed one batch.

        Args:
            features: query, item and negatives' item features; stride B, and the shared
                negatives. A key with empty bags counts as zero vectors.
            dense: values of the dense features, as ``Batch.dense``; None: there are none.
        """
        inputs = self.look_up(features, dense)
        item_BD, negative_ND = self.items(inputs)
        return self.queries(inputs, item_BD, negative_ND)

    def look_up(
        self, features: KeyedJaggedTensor, dense: Mapping[str, Tensor] | None = None
    ) -> TowerInputs:
        """Look up one batch's embeddings, and join them to the towers' inputs."""
        # Both lookups are on their way before either is waited for.
        pooled = self.embeddings(features)
        augmented = None if self.augmented is None else self.augmented(features)
        keyed = pooled.to_dict()
        query = [self._pooled(keyed, features, key) for key in self._query_keys]
        candidates = [
            [self._pooled(keyed, features, key) for key in keys] for keys in self._candidate_keys
        ]
        if self.query_dense is not None:
            query.append(self.query_dense(dense, query[0]))
        if self.item_dense is not None:
            for number, embeddings in enumerate(candidates):
                embeddings.append(self.item_dense(dense, embeddings[0], number))
        a_u: Tensor | None = None
        a_items: list[Tensor | None] = [None] * len(candidates)
        if augmented is not None:
            vectors = augmented.to_dict()
            a_u = vectors[USER].to(self.dtype)
            a_items = [
                vectors[_key(ITEM, number)].to(self.dtype) for number in range(len(candidates))
            ]
        query, a_u = _filled(self.query_generator, query, a_u, features, USER)
        for number, embeddings in enumerate(candidates):
            candidates[number], a_items[number] = _filled(
                self.item_generator, embeddings, a_items[number], features, _key(ITEM, number)
            )
        a_v = a_items[0]
        query_BF = self._joined(query, a_u)
        items = [self._joined(*pair) for pair in zip(candidates, a_items, strict=True)]
        if shared := self._shared_negatives:
            # The rows behind are negatives, and no queries.
            query_BF = query_BF[:-shared]
            a_u, a_v = _without_last(a_u, shared), _without_last(a_v, shared)
        return TowerInputs(query_BF, items, a_u, a_v)

    def items(self, inputs: TowerInputs) -> tuple[Tensor, Tensor]:
        """p_v of the positives (B, D) and of the negatives (N, D), unit vectors."""
        first_BF, *more = inputs.items_BF
        item_ND = self.item_tower(first_BF)
        if shared := self._shared_negatives:
            return item_ND[:-shared], item_ND[-shared:]
        if not more:
            return item_ND, item_ND[:0]
        return item_ND, self.item_tower(torch.cat(more) if len(more) > 1 else more[0])

    def queries(self, inputs: TowerInputs, item_BD: Tensor, negative_ND: Tensor) -> DATOutput:
        """Compute the query vectors, and complete the output."""
        return DATOutput(
            query_BD=self.query_tower(inputs.query_BF),
            item_BD=item_BD,
            negative_ND=negative_ND,
            augmented_user_BD=inputs.augmented_user_BD,
            augmented_item_BD=inputs.augmented_item_BD,
        )

    def _joined(self, embeddings: Sequence[Tensor], augmented_BD: Tensor | None) -> Tensor:
        """A tower's input: the embeddings, and behind them the augmented vector."""
        behind = [] if augmented_BD is None else [augmented_BD]
        return torch.cat([*embeddings, *behind], dim=-1).to(self.dtype)

    def _pooled(self, keyed: dict[str, Tensor], features: KeyedJaggedTensor, key: str) -> Tensor:
        """One feature's vectors, bags of several values as their mean or sum / √n: (B, dim)."""
        if key not in self._pooled_keys:
            return keyed[key]
        values_B: Tensor = features[key].lengths()
        return pooled(keyed[key], values_B, self.pooling)


def pooled(sum_BD: Tensor, values_B: Tensor, pooling: Pooling) -> Tensor:
    """Make sums of n vectors to what the towers take of a bag: (B, D).

    Args:
        sum_BD: (B, D) sums.
        values_B: (B,) n, number of values of each bag; an empty one's sum of zeros stays so.
        pooling: ``mean`` divides by n, ``sqrt`` by √n (the ``sqrtn`` of TensorFlow's lookups).
    """
    divisor_B = values_B.clamp(min=1)
    if pooling == "sqrt":
        divisor_B = divisor_B.to(sum_BD.dtype).sqrt()
    return sum_BD / divisor_B.unsqueeze(1)


def _tower(
    schema: Schema, side: Side, config: ModelConfig, factory: TowerFactory | None
) -> Tower | GivenTower:
    """A tower for features, behind them dense ones, and behind these the augmented vector."""
    features = schema.side(side)
    behind = (len(features) + len(schema.dense_side(side))) * config.embedding_dim
    input_dim = behind + (config.output_dim if config.augment else 0)
    bfloat16 = config.precision == "bfloat16"
    if factory is not None:
        if config.residual:
            raise UserError(
                "--model.residual with a tower of your own, whose output is its own: let it add "
                "what it wants to, and pass --model.no-residual (residual=False)"
            )
        return GivenTower(factory, input_dim, config.output_dim, bfloat16=bfloat16)
    residual = []
    if config.residual:
        ids = (number for number, one in enumerate(features) if one.table in AUGMENTED)
        residual = [number * config.embedding_dim for number in ids]
        residual += [behind] if config.augment else []
    return Tower(
        input_dim,
        config.hidden,
        config.output_dim,
        last_relu=config.last_relu,
        bfloat16=bfloat16,
        residual=residual,
        linear=config.linear,
    )


def _generator(
    schema: Schema, side: Side, config: ModelConfig, dtype: torch.dtype
) -> Generator | None:
    """A side's head for unknown ids; None without, and where nothing stands beside the id."""
    names = [feature.name for feature in schema.side(side)]
    beside = len(names) - 1 + len(schema.dense_side(side))
    if not config.generate or not beside:
        return None
    place = names.index(USER if side == "query" else ITEM)
    beside_dim = beside * config.embedding_dim
    augmented_dim = config.output_dim if config.augment else 0
    return Generator(place, beside_dim, config.embedding_dim, augmented_dim).to(dtype)


def _filled(
    generator: Generator | None,
    embeddings: list[Tensor],
    augmented_BD: Tensor | None,
    features: KeyedJaggedTensor,
    key: str,
) -> tuple[list[Tensor], Tensor | None]:
    """The same with what is generated where the id, which ``key`` looks up, is unknown."""
    if generator is None:
        return embeddings, augmented_BD
    ids = features[key]
    filled = generator(embeddings, augmented_BD, known(ids.values(), ids.offsets()))
    return [filled[0]], None if augmented_BD is None else filled[1]


def _key(feature: str, candidate: int) -> str:
    """The key of a feature of the positives (candidate 0) or of negatives."""
    return negative_key(feature, candidate) if candidate else feature


def _fits(table: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(table, pattern) for pattern in patterns)


def _check_patterns(patterns: Sequence[str], schema: Schema, config: ModelConfig) -> None:
    names = sorted({feature.table for feature in schema.features})
    names += list(AUGMENTED.values()) if config.augment else []
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"--model.fp16-tables {pattern}: no such table: there are {', '.join(names)}"
            )


def _collection(
    tables: dict[Feature, str],
    dim: int,
    negatives: int,
    device: torch.device | None,
    fp16: Sequence[str],
) -> EmbeddingBagCollection:
    """Tables that pool to the sum; each serves every feature that names it, and its negatives.

    The mean is taken outside (``pooled``), for TorchRec's own depends on the plan: where
    any of a collection's tables with a mean is row-wise, the table-wise ones' bags are divided
    by their lengths twice, and all by 1 + 1e-6 (tests/distributed/test_shard.py). The sum is
    also five times faster in FBGEMM's CPU kernel (benchmarks/LOG.md).
    """
    rows: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    for feature, table in tables.items():
        rows[table] = feature.rows
        keys = names.setdefault(table, [])
        keys.append(feature.name)
        if feature.side == "item":
            keys += [negative_key(feature.name, number + 1) for number in range(negatives)]
    configs = [
        EmbeddingBagConfig(
            name=table,
            embedding_dim=dim,
            num_embeddings=rows[table],
            feature_names=names[table],
            pooling=PoolingType.SUM,
            data_type=DataType.FP16 if _fits(table, fp16) else DataType.FP32,
        )
        for table in rows
    ]
    return EmbeddingBagCollection(tables=configs, device=device)
