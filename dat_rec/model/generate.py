"""What stands beside an unknown id in, its embedding and augmented vector out.

Shapes: B rows, F width of what stands beside the id, E ``embedding_dim``, D ``output_dim``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dat_rec.data.schema import UNKNOWN

HIDDEN = 64
"""Width of the head's hidden layer."""


class Generator(nn.Module):
    """ê ‖ â = W_2 ReLU(W_1 x + b_1) + b_2: one side's vectors for ids that no row stands for.

    x is all that the tower reads beside the id and its augmented vector. Where the id is unknown, ê
    stands in place of e, the row of the unknown in the id's table, and â in place of a. A known id
    keeps its rows to the last bit, and nothing of it reaches the head. It is DropoutNet (Volkovs et
    al., NeurIPS 2017), whose unknown rows are generated as Meta-Embedding's are (Pan et al., SIGIR
    2019).

    Args:
        place: of the id among the embeddings.
        beside_dim: F.
        id_dim: E.
        augmented_dim: D; 0 without augmented vectors.
    """

    def __init__(self, place: int, beside_dim: int, id_dim: int, augmented_dim: int) -> None:
        super().__init__()
        self._place = place
        self._id_dim = id_dim
        self.hidden = nn.Linear(beside_dim, HIDDEN)
        self.output = nn.Linear(HIDDEN, id_dim + augmented_dim)

    def forward(
        self, embeddings: Sequence[Tensor], augmented_BD: Tensor | None, known_B1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put in place what is generated where the id is unknown.

        Args:
            embeddings: (B, …) each, all that the tower reads but the augmented vector.
            augmented_BD: of the ids; None without augmented vectors.
            known_B1: bool, of ``known``.

        Returns:
            The embeddings side by side (B, F + E), and the augmented vectors, (B, 0) without. (No
            list, for TorchRec's pipeline traces the model, and could not look into it.)
        """
        dtype = self.hidden.weight.dtype
        beside = [one for number, one in enumerate(embeddings) if number != self._place]
        made = self.output(self.hidden(torch.cat(beside, dim=-1).to(dtype)).relu())
        own_BE, made_BE = embeddings[self._place].to(dtype), made[:, : self._id_dim]
        filled = list(embeddings)
        filled[self._place] = torch.where(known_B1, own_BE, made_BE)
        made_BD = made[:, self._id_dim :]
        if augmented_BD is not None:
            made_BD = torch.where(known_B1, augmented_BD.to(dtype), made_BD)
        return torch.cat(filled, dim=-1).to(dtype), made_BD


def known(values: Tensor, offsets: Tensor) -> Tensor:
    """(B, 1) bool: whether each bag holds a known id; an empty one does not.

    Args:
        values: (V,) row numbers of the ids, bag after bag.
        offsets: (B + 1,): bag i holds values[offsets[i]:offsets[i + 1]].
    """
    counts = torch.cat([values.new_zeros(1), (values != UNKNOWN).long().cumsum(0)])
    return (counts[offsets[1:]] > counts[offsets[:-1]]).unsqueeze(1)
