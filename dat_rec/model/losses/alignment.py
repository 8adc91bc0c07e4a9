"""The category-alignment loss, equation (3): rare categories learn the shape of the major one."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_rec.data.schema import UNKNOWN
from dat_rec.model.losses.moments import CategoryMoments


def category_alignment(moments: CategoryMoments) -> Tensor:
    """Equation (3): Σ_{i≥2} ‖C(S_major) − C(S_i)‖²_F over the categories of the batch.

    C is the covariance with the n − 1 normaliser (Deep CORAL's; the paper does not say);
    S_major is the category with most items, the first of equals. A category with fewer
    than two items has no covariance and adds nothing, and neither does the unknown one.
    Gradients flow into both covariances, the major one's too. With fewer than two categories that
    have a covariance it costs 0.

    Args:
        moments: the global batch's; K categories.

    Returns:
        Scalar: a sum over categories, of squared Frobenius norms.
    """
    loss: Tensor = _DistanceOfCovariances.apply(*moments)  # type: ignore[no-untyped-call]
    return loss


class _DistanceOfCovariances(torch.autograd.Function):
    """Equation (3) of moments, in the memory of one more outer product for each category.

    What autograd would keep of each operation is done in place, with the same bits.
    """

    @staticmethod
    def forward(ctx: Any, count_K: Tensor, sum_KD: Tensor, outer_KDD: Tensor) -> Tensor:
        known_K = torch.arange(len(count_K), device=count_K.device) != UNKNOWN
        usable_K = (count_K >= 2) & known_K
        n_K = count_K.clamp(min=2)
        mean_KD = sum_KD / n_K[:, None]
        covariance_KDD = mean_KD.unsqueeze(2) * mean_KD.unsqueeze(1)
        torch.sub(outer_KDD, covariance_KDD.mul_(n_K[:, None, None]), out=covariance_KDD)
        covariance_KDD.div_((n_K - 1)[:, None, None])
        # One row, not a number: the host of a GPU would wait for that.
        major_1 = torch.where(usable_K, count_K, 0).argmax(dim=0, keepdim=True)
        difference_KDD = covariance_KDD.sub_(covariance_KDD.index_select(0, major_1)).neg_()
        distance_K = difference_KDD.square().sum(dim=(1, 2))
        ctx.save_for_backward(difference_KDD, mean_KD, n_K, usable_K, major_1)
        return torch.where(usable_K, distance_K, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        difference_KDD, mean_KD, n_K, usable_K, major_1 = ctx.saved_tensors
        twice_K = 2 * torch.where(usable_K, gradient, 0)
        gradient_KDD = difference_KDD * twice_K[:, None, None]
        of_major_1DD = gradient_KDD.sum(dim=0, keepdim=True)
        gradient_KDD.neg_().index_add_(0, major_1, of_major_1DD)
        gradient_KDD.div_((n_K - 1)[:, None, None])
        of_means_KDD = gradient_KDD * -n_K[:, None, None]
        of_mean_KD = (of_means_KDD * mean_KD.unsqueeze(1)).sum(dim=2)
        of_mean_KD += of_means_KDD.mul_(mean_KD.unsqueeze(2)).sum(dim=1)
        return None, of_mean_KD / n_K[:, None], gradient_KDD
