"""A queue of the last batches' candidates, which serve the next ones as further candidates.

More negatives for the price of their inner products: no lookup, no tower, no message (Wang et al.,
"Cross-Batch Negative Sampling for Training Two-Tower Recommenders", SIGIR 2021).
"""

from collections import deque

import torch
from torch import Tensor, nn

from dat_rec.data.stream.batch import Items


class CandidateQueue(nn.Module):
    """Keeps the candidates of the last global batches, the same on all ranks, without gradients.

    A vector is as the model had it then, and at most ``batches`` steps old; it is not computed
    anew. What the queue holds is part of a run's state: a checkpoint has it.

    Args:
        batches: maximum number of batches.
    """

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._batches: deque[tuple[Tensor, Items]] = deque(maxlen=batches)

    def joined(self, vectors_ND: Tensor, items: Items) -> tuple[Tensor, Items]:
        """Return a batch's candidates and, behind them, those of the queue, oldest first.

        Args:
            vectors_ND: (N, D) vectors of the batch's candidates; they keep their gradients.
            items: which items they are.
        """
        vectors = [vectors_ND, *(vectors for vectors, _ in self._batches)]
        known = [items.tensors(), *(items.tensors() for _, items in self._batches)]
        return torch.cat(vectors), Items(*(torch.cat(kind) for kind in zip(*known, strict=True)))

    def push(self, vectors_ND: Tensor, items: Items) -> None:
        """Keep a batch's candidates, and forget those of the oldest batch."""
        # Candidates have no part in equation (3), so that their category does not matter.
        nowhere = torch.zeros_like(items.category)
        self._batches.append((vectors_ND.detach(), Items(items.index, nowhere, items.offset)))

    def state(self) -> dict[str, Tensor]:
        """Return all that is kept: M candidates of F batches, oldest first.

        Returns:
            ``vectors`` (M, D), ``index`` (M,) int64 and ``offset`` (M,) as in ``Items``, and
            ``sizes`` (F,) int64, each batch's number of candidates. Nothing before the first batch.
        """
        if not self._batches:
            return {}
        vectors, items = zip(*self._batches, strict=True)
        return {
            "vectors": torch.cat(vectors),
            "index": torch.cat([one.index for one in items]),
            "offset": torch.cat([one.offset for one in items]),
            "sizes": torch.tensor([len(one) for one in vectors]),
        }

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what ``state`` returned, on ``device``."""
        self._batches.clear()
        sizes = state["sizes"].tolist()
        parts = (state[name].to(device).split(sizes) for name in ("vectors", "index", "offset"))
        for vectors, index, offset in zip(*parts, strict=True):
            self._batches.append((vectors, Items(index, torch.zeros_like(index), offset)))
