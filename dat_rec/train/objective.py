"""Section 2.3 of the paper over the global batch: model outputs in, loss and its terms out.

Each of N ranks holds its part of the global batch's examples, padded to B rows. The loss is
that of one process on all the examples; padding has no part in it. Shapes as in
``dat_rec.model.dat``.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dat_rec.config import LossConfig, ModelConfig
from dat_rec.data.batch import Batch
from dat_rec.data.schema import Schema
from dat_rec.model.dat import DAT, DATOutput
from dat_rec.model.losses import (
    CategoryMoments,
    binary_cross_entropy,
    category_alignment,
    category_moments,
    mimic,
    sampled_softmax,
)
from dat_rec.parallel.gather import gather_rows, sum_over_ranks

TERMS = ("main", "mimic_user", "mimic_item", "alignment")
"""The loss's parts before weighting: equations (4) or softmax, (2) for u, (2) for v, (3)."""


def logged_terms(model: ModelConfig, loss: LossConfig) -> tuple[str, ...]:
    """The terms that say something under this configuration; the others are zero."""
    return tuple(
        name
        for name in TERMS
        if not (name.startswith("mimic") and not model.augment)
        and not (name == "alignment" and loss.alignment == 0)
    )


class Objective(nn.Module):
    """loss = main + λ1·loss_u + λ2·loss_v + λ3·loss_CA (equation 5).

    Args:
        config: which main loss, and the weights λ.
        categories: K, the unknown category included.
    """

    def __init__(self, config: LossConfig, categories: int) -> None:
        super().__init__()
        self._config = config
        self._categories = categories

    def forward(
        self,
        output: DATOutput,
        item_index: Tensor,
        category: Tensor,
        log_q: Tensor,
        counts: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of the global loss, whose mean over ranks is that loss.

        Where the loss is a mean over the global batch's examples, the share is N times what
        this rank's own add to it: their sum divided by 1/N of all examples' number.

        Args:
            output: of the model for this rank's B rows: its examples, then padding.
            item_index: (B, 1 + S) int64, catalogue rows.
            category: (B, 1 + S) int64.
            log_q: (B, 1 + S) float32, log share of each item among the candidates.
            counts: how many of the B rows are examples, on each of the N ranks.

        Returns:
            Scalar loss, and its (detached) terms as a vector in the order of ``TERMS``.
        """
        config = self._config
        own, share = counts[dist.get_rank()], sum(counts) / len(counts)
        pairs = share * item_index.shape[1] if config.main == "bce" else share
        query_BD, item_BSD, a_u, a_v = output.first(own)
        if config.main == "bce":
            terms = {"main": binary_cross_entropy(query_BD, item_BSD, pairs)}
        else:
            terms = {"main": self._softmax(query_BD, output.item_BSD, item_index, log_q, counts)}
        if a_u is not None and a_v is not None:
            terms["mimic_user"] = mimic(a_u, item_BSD[:, 0], pairs)
            terms["mimic_item"] = mimic(a_v, query_BD, pairs)
        if config.alignment > 0:
            moments = category_moments(
                item_BSD.flatten(0, 1), category[:own].flatten(), self._categories
            )
            moments = CategoryMoments(*(sum_over_ranks(moment) for moment in moments))
            terms["alignment"] = category_alignment(moments)
        weights = {
            "main": 1.0,
            "mimic_user": config.mimic_user,
            "mimic_item": config.mimic_item,
            "alignment": config.alignment,
        }
        # A term of weight 0 stays out of the graph.
        used = [weights[name] * term for name, term in terms.items() if weights[name] > 0]
        zero = terms["main"].new_zeros(())
        logged = torch.stack([terms.get(name, zero).detach() for name in TERMS])
        return torch.stack(used).sum(), logged

    def _softmax(
        self,
        query_BD: Tensor,
        item_BSD: Tensor,
        item_index: Tensor,
        log_q: Tensor,
        counts: tuple[int, ...],
    ) -> Tensor:
        """This rank's examples (``query_BD``, no padding) against all ranks' candidates."""
        rank, candidates = dist.get_rank(), item_index.shape[1]
        numbers_B = torch.arange(counts[rank], device=item_index.device) + sum(counts[:rank])
        return sampled_softmax(
            query_BD=query_BD,
            candidate_ND=_all_examples(item_BSD, counts).flatten(0, 1),
            own_B=numbers_B * candidates,
            candidate_item_N=_all_examples(item_index, counts).flatten(),
            log_q_N=_all_examples(log_q, counts).flatten(),
            queries=sum(counts) / len(counts),
            temperature=self._config.temperature,
            log_q_strength=self._config.log_q,
        )


def _all_examples(local: Tensor, counts: tuple[int, ...]) -> Tensor:
    """All ranks' rows, one after another by rank, without padding: (Σ counts, …)."""
    rows = gather_rows(local)
    if sum(counts) == len(rows):
        return rows
    parts = rows.split(len(local))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class TrainTask(nn.Module):
    """The model with its objective: what the pipeline calls for each batch."""

    def __init__(
        self,
        schema: Schema,
        model: ModelConfig,
        loss: LossConfig,
        embedding_device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.dat = DAT(schema, model, loss.negatives, embedding_device)
        self.objective = Objective(loss, schema.feature(schema.category).rows)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of the batch, and its terms."""
        output = self.dat(batch.features)
        loss: tuple[Tensor, Tensor] = self.objective(
            output, batch.item_index, batch.category, batch.log_q, batch.counts
        )
        return loss
