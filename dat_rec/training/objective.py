"""Section 2.3 of the paper over the global batch: model outputs in, loss and its terms out.

Each of W ranks holds its part of the global batch's examples, padded to B rows. The loss is
that of one process on all the examples; padding has no part in it. Shapes: B examples and N
negatives of this rank, padding included, M of both on all ranks without it, D output width.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dat_rec.config import LossConfig, ModelConfig
from dat_rec.data.schema import Schema
from dat_rec.data.stream.batch import Batch, Items
from dat_rec.model.dat import DAT, DATOutput
from dat_rec.model.losses import (
    CandidateQueue,
    CategoryMoments,
    LearnedTemperature,
    bayesian_personalised_ranking,
    binary_cross_entropy,
    category_alignment,
    category_moments,
    cosine_contrastive,
    max_categories,
    mimic,
    sampled_softmax,
)
from dat_rec.model.towers import TowerFactory
from dat_rec.sharding.gather import gather_rows, sum_over_ranks

TERMS = ("main", "mimic_user", "mimic_item", "alignment")
"""The loss terms before weighting: the main loss, (2) for u, (2) for v, (3)."""


def logged_terms(model: ModelConfig, loss: LossConfig) -> tuple[str, ...]:
    """The names of the terms that this configuration computes; the others stay zero."""
    return tuple(
        name
        for name in TERMS
        if not (name.startswith("mimic") and not model.augment)
        and not (name == "alignment" and loss.alignment == 0)
    )


class Global(NamedTuple):
    """What the losses need of all ranks' items, on its way: calling a field waits for it."""

    candidates: Callable[[], tuple[Tensor, Items]] | None
    """(M, D) candidates' vectors and which items they are: rank after rank, the positives of each
    and then its negatives. None where each query is scored with its own items alone."""
    moments: Callable[[], Sequence[Tensor]] | None
    """The fields of ``CategoryMoments``, summed over ranks; None without alignment."""
    weight: Callable[[], Sequence[Tensor]] | None = None
    """Sum of all examples' weights, a float64 scalar; None where there are none."""


class Exchange(nn.Module):
    """Sends this rank's item vectors and items to all ranks, while the query tower computes.

    Args:
        config: which losses there are, and so what is sent.
        categories: K, number of categories that equation (3) compares, the unknown one included.
    """

    def __init__(self, config: LossConfig, categories: int) -> None:
        super().__init__()
        self._config = config
        self._categories = categories

    def forward(
        self,
        item_BD: Tensor,
        negative_ND: Tensor,
        positives: Items,
        negatives: Items,
        counts: tuple[int, ...],
        negative_counts: tuple[int, ...],
        weight_B: Tensor | None = None,
    ) -> Global:
        """Start to send; what comes back waits for the messages.

        Args:
            item_BD: (B, D) p_v of this rank's positives, then padding.
            negative_ND: (N, D) p_v of this rank's negatives, then padding.
            positives: the items of the B rows.
            negatives: the items of the N rows.
            counts: number of examples on each rank; the rest of its B rows is padding.
            negative_counts: number of negatives on each rank; the rest of its N rows is padding.
            weight_B: (B,) how much the examples count; None: all alike.
        """
        config, rank = self._config, dist.get_rank()
        own, own_negatives = counts[rank], negative_counts[rank]
        candidates = moments = weight = None
        if config.main != "bce":
            parts = [(negative_ND, negatives, negative_counts)]
            if config.in_batch:
                parts.insert(0, (item_BD, positives, counts))
            candidates = _send(parts)
        if config.alignment > 0:
            item_MD = torch.cat([item_BD[:own], negative_ND[:own_negatives]])
            category_M = torch.cat([positives.category[:own], negatives.category[:own_negatives]])
            moments = sum_over_ranks(category_moments(item_MD, category_M, self._categories))
        if weight_B is not None:
            weight = sum_over_ranks([weight_B[:own].double().sum()])
        return Global(candidates, moments, weight)


class Objective(nn.Module):
    """loss = main + λ1·loss_u + λ2·loss_v + λ3·loss_CA (equation 5).

    Args:
        config: names the main loss, and holds the weights λ.
        dtype: of the losses.
        fused: whether the softmax is computed by Triton's kernels.
    """

    def __init__(
        self, config: LossConfig, dtype: torch.dtype = torch.float32, *, fused: bool = False
    ) -> None:
        super().__init__()
        self._config = config
        self.temperature: LearnedTemperature | None = None
        if config.learn_temperature:
            self.temperature = LearnedTemperature(config.temperature, dtype)
        self.queue = CandidateQueue(config.queue) if config.queue else None
        self._fused = fused

    def forward(
        self,
        output: DATOutput,
        everywhere: Global,
        positives: Items,
        counts: tuple[int, ...],
        negative_counts: tuple[int, ...],
        weight_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of the global loss; the mean of all ranks' shares is that loss.

        Where the loss is a mean over the global batch's examples, the share is W times what
        this rank's own add to it: their sum divided by 1/W of the number of all examples, or, where
        they have weights, of the sum of these.

        Args:
            output: what the model gives for this rank's rows: examples and negatives, then padding.
            everywhere: what ``Exchange`` has sent.
            positives: the items of the B rows, each as its example's own.
            counts: number of examples on each of the W ranks; the rest of its B rows is padding.
            negative_counts: number of negatives on each rank; the rest of its N rows is padding.
            weight_B: (B,) how much the examples count, as ``Exchange`` had it; None: all alike.

        Returns:
            Scalar loss, and its (detached) terms as a vector in the order of ``TERMS``.
        """
        config, rank = self._config, dist.get_rank()
        own, own_negatives = counts[rank], negative_counts[rank]
        own_output = output.first(own, own_negatives)
        # Without shared candidates, (2) and (4) are means over each example's negative pairs too.
        each = 1 if everywhere.candidates is not None else 1 + config.negatives
        share: float | Tensor = sum(counts) / len(counts)
        pairs: float | Tensor = share * each
        weight = None
        if weight_B is not None and everywhere.weight is not None:
            weight = weight_B[:own].to(output.query_BD.dtype)
            exact = everywhere.weight()[0] / len(counts)
            share, pairs = exact.to(weight.dtype), (exact * each).to(weight.dtype)
        terms: dict[str, Tensor] = {}
        if everywhere.candidates is None:
            terms["main"] = self._of_own_items(own_output, pairs, weight)
        else:
            arrived = everywhere.candidates()
            candidates = arrived if self.queue is None else self.queue.joined(*arrived)
            terms["main"] = self._of_candidates(
                own_output, positives.first(own), candidates, share, weight
            )
            if self.queue is not None:
                self.queue.push(*arrived)
        if everywhere.moments is not None:
            terms["alignment"] = category_alignment(CategoryMoments(*everywhere.moments()))
        a_u, a_v = own_output.augmented_user_BD, own_output.augmented_item_BD
        if a_u is not None and a_v is not None:
            terms["mimic_user"] = mimic(a_u, own_output.item_BD, pairs, weight)
            terms["mimic_item"] = mimic(a_v, own_output.query_BD, pairs, weight)
        return self._weighted(terms)

    def _of_own_items(
        self, output: DATOutput, pairs: float | Tensor, weight_B: Tensor | None
    ) -> Tensor:
        """Equation (4): each query with its own positive and negatives."""
        query_BD, item_BD, negative_ND, *_ = output
        shape = (len(query_BD), self._config.negatives, negative_ND.shape[1])
        item_BSD = torch.cat([item_BD.unsqueeze(1), negative_ND.view(shape)], dim=1)
        return binary_cross_entropy(query_BD, item_BSD, pairs, weight_B)

    def _of_candidates(
        self,
        output: DATOutput,
        positive: Items,
        candidates: tuple[Tensor, Items],
        queries: float | Tensor,
        weight_B: Tensor | None,
    ) -> Tensor:
        """Each query with its own positive and all ranks' candidates."""
        config = self._config
        shared = (output.query_BD, output.item_BD, candidates[0], positive, candidates[1], queries)
        if config.main == "contrastive":
            return cosine_contrastive(*shared, config.margin, config.negative_weight, weight_B)
        temperature = config.temperature if self.temperature is None else self.temperature()
        if config.main == "bpr":
            return bayesian_personalised_ranking(*shared, temperature, weight_B)
        less = 0.0
        if not config.own_log_q:
            less = config.log_q * math.log(max(1, len(candidates[0]) - config.in_batch))
        return sampled_softmax(*shared, temperature, -less, weight_B, fused=self._fused)

    def _weighted(self, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of weight times term, and all terms, detached; those that are not there are 0."""
        weights = {
            "main": 1.0,
            "mimic_user": self._config.mimic_user,
            "mimic_item": self._config.mimic_item,
            "alignment": self._config.alignment,
        }
        # A term of weight 0 stays out of the graph.
        used = [weights[name] * term for name, term in terms.items() if weights[name] > 0]
        zero = terms["main"].new_zeros(())
        logged = torch.stack([terms.get(name, zero).detach() for name in TERMS])
        return torch.stack(used).sum(), logged


def _send(
    parts: list[tuple[Tensor, Items, tuple[int, ...]]],
) -> Callable[[], tuple[Tensor, Items]]:
    """Send vectors and items, in two messages; padding is left out when they arrive.

    Args:
        parts: this rank's vectors and items, padding included, with the number on each rank that
            are no padding.

    Returns:
        A function that waits, and gives vectors and items rank after rank, part after part.
    """
    of_parts = (items.tensors() for _, items, _ in parts)
    index, category, offset = (torch.cat(kind) for kind in zip(*of_parts, strict=True))
    bits = offset.double().view(torch.int64)
    arrive_known = gather_rows(torch.stack([index, category, bits], dim=1))
    arrive_vectors = gather_rows(torch.cat([vectors for vectors, _, _ in parts]))
    sizes = [(len(vectors), counts) for vectors, _, counts in parts]

    def arrive() -> tuple[Tensor, Items]:
        vectors, known = arrive_vectors(), arrive_known()
        if any(min(counts) < rows for rows, counts in sizes):
            kept = _rows_before_padding(sizes, vectors.device)
            vectors, known = vectors.index_select(0, kept), known.index_select(0, kept)
        index, category, bits = known.T.contiguous()
        return vectors, Items(index, category, bits.view(torch.float64).to(offset.dtype))

    return arrive


def _rows_before_padding(
    sizes: Sequence[tuple[int, tuple[int, ...]]], device: torch.device
) -> Tensor:
    """Which rows are no padding, (M,) int64: made on the device, for which nobody has to wait.

    Args:
        sizes: of each part, in order: its rows on every rank, and how many of each rank's are none.
        device: of the rows, which stand rank after rank, part after part.
    """
    runs, begin = [], 0
    for rank in range(len(sizes[0][1])):
        for rows, counts in sizes:
            runs.append(torch.arange(begin, begin + counts[rank], device=device))
            begin += rows
    return torch.cat(runs)


def learned_temperature(model: nn.Module) -> float | None:
    """The temperature that a model's losses would take now; None where it is not learned."""
    for module in model.modules():
        if isinstance(module, LearnedTemperature):
            return module.value()
    return None


class TrainTask(nn.Module):
    """The model with its objective: what the pipeline calls for each batch.

    Args:
        schema: names the features.
        model: shape of the towers and tables.
        loss: which losses, and their weights.
        embedding_device: where the tables are made; ``meta`` if they are to be sharded.
        ranks: number of ranks that share each global batch, and its shared negatives.
        tower: makes towers of your own, in place of those that ``model`` describes.
        fused: whether the softmax is computed by Triton's kernels.
    """

    def __init__(
        self,
        schema: Schema,
        model: ModelConfig,
        loss: LossConfig,
        embedding_device: torch.device | None = None,
        ranks: int = 1,
        tower: TowerFactory | None = None,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__()
        shared = loss.shared_rows(ranks)
        negatives = 0 if shared else loss.negatives
        self.dat = DAT(schema, model, negatives, shared, embedding_device, tower)
        categories = schema.feature(schema.category).rows
        self.exchange = Exchange(loss, min(categories, 1 + max_categories(model.output_dim)))
        self.objective = Objective(loss, self.dat.dtype, fused=fused)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """This rank's share of the loss, and its terms in the order of ``TERMS``, detached."""
        inputs = self.dat.look_up(batch.features, batch.dense)
        item_BD, negative_ND = self.dat.items(inputs)
        everywhere = self.exchange(
            item_BD,
            negative_ND,
            batch.positives,
            batch.negatives,
            batch.counts,
            batch.negative_counts,
            batch.weight,
        )
        output = self.dat.queries(inputs, item_BD, negative_ND)
        loss: tuple[Tensor, Tensor] = self.objective(
            output, everywhere, batch.own, batch.counts, batch.negative_counts, batch.weight
        )
        return loss
