"""Section 2.3 of the paper over the global batch: model outputs in, loss and its terms out.

With world size N each rank holds B examples; the loss is that of one process on all N·B of
them. Shapes as in ``dat_rec.model.dat``.
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
        self, output: DATOutput, item_index: Tensor, category: Tensor, log_q: Tensor
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of the global loss, whose mean over ranks is that loss.

        Args:
            output: of the model for this rank's B examples.
            item_index: (B, 1 + S) int64, catalogue rows.
            category: (B, 1 + S) int64.
            log_q: (B, 1 + S) float32, log share of each item among the candidates.

        Returns:
            Scalar loss, and its (detached) terms as a vector in the order of ``TERMS``.
        """
        config = self._config
        terms = {"main": self._main(output, item_index, log_q)}
        if output.augmented_user_BD is not None and output.augmented_item_BD is not None:
            query_BD, positive_BD = output.query_BD, output.item_BSD[:, 0]
            pairs = item_index.numel() if config.main == "bce" else len(item_index)
            terms["mimic_user"] = mimic(output.augmented_user_BD, positive_BD, pairs)
            terms["mimic_item"] = mimic(output.augmented_item_BD, query_BD, pairs)
        if config.alignment > 0:
            moments = category_moments(
                output.item_BSD.flatten(0, 1), category.flatten(), self._categories
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

    def _main(self, output: DATOutput, item_index: Tensor, log_q: Tensor) -> Tensor:
        if self._config.main == "bce":
            return binary_cross_entropy(output.query_BD, output.item_BSD)
        examples, candidates = item_index.shape
        own_B = torch.arange(examples, device=item_index.device) * candidates
        return sampled_softmax(
            query_BD=output.query_BD,
            candidate_ND=gather_rows(output.item_BSD.flatten(0, 1)),
            own_B=own_B + dist.get_rank() * examples * candidates,
            candidate_item_N=gather_rows(item_index.flatten()),
            log_q_N=gather_rows(log_q.flatten()),
            temperature=self._config.temperature,
            log_q_strength=self._config.log_q,
        )


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
            output, batch.item_index, batch.category, batch.log_q
        )
        return loss
