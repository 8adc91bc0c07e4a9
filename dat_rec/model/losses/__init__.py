"""The losses, one file each and pure: float tensors in, one scalar out.

======================  ==============================================================
``bce.py``              equation (4): binary cross entropy of positives and negatives
``bpr.py``              Bayesian personalised ranking, another main loss
``contrastive.py``      SimpleX's cosine contrastive loss, another main loss
``softmax.py``          sampled softmax, the usual main loss
``temperature.py``      τ of both of these, as a parameter
``blockwise.py``        … and how it is computed without all logits at once
``fused.py``            … and for GPUs without any logits in memory
``pairwise.py``         the same for losses in which each candidate costs something by itself
``blocks.py``           … how both cut logits into blocks
``queue.py``            candidates of the last batches, for losses over candidates
``accidental_hits.py``  … candidates that are the query's own item, so not negatives
``adaptive_mimic.py``   equation (2): the augmented vector follows the other tower
``alignment.py``        equation (3): compares covariances of the categories' items
``moments.py``          … sums over the items of each category, which add up over ranks
======================  ==============================================================

Equation (2) and the main losses are means, which may weigh the examples; what a mean is over is an
argument, since the caller may hold a part of the examples alone, of any size, none included.

Shapes: B examples, S negatives for each, D width of the vectors, N candidates, K categories.
Equation numbers are the paper's (Yu et al., DLP-KDD 2021).
"""

from dat_rec.model.losses.adaptive_mimic import mimic
from dat_rec.model.losses.alignment import category_alignment
from dat_rec.model.losses.bce import binary_cross_entropy
from dat_rec.model.losses.bpr import bayesian_personalised_ranking
from dat_rec.model.losses.contrastive import cosine_contrastive
from dat_rec.model.losses.moments import CategoryMoments, category_moments, max_categories
from dat_rec.model.losses.queue import CandidateQueue
from dat_rec.model.losses.softmax import sampled_softmax
from dat_rec.model.losses.temperature import LearnedTemperature

__all__ = [
    "CandidateQueue",
    "CategoryMoments",
    "LearnedTemperature",
    "bayesian_personalised_ranking",
    "binary_cross_entropy",
    "category_alignment",
    "category_moments",
    "cosine_contrastive",
    "max_categories",
    "mimic",
    "sampled_softmax",
]
