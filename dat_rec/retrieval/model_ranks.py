"""A model and queries in, the rank of each query's item out; on one rank or several."""

from tqdm import tqdm

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import Dataset
from dat_rec.model.dat import DAT
from dat_rec.retrieval.blended_ranks import BlendedRanks
from dat_rec.retrieval.divided import BETWEEN_RANKS
from dat_rec.retrieval.encode import (
    each_ranks_block,
    encode_blocks,
    encode_items,
    query_tower,
    rounds,
    user_kinds,
)
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import Ranking, Ranks, item_columns
from dat_rec.retrieval.ranks import Threads
from dat_rec.retrieval.top_lists import TopLists


def model_ranks(
    model: DAT,
    dataset: Dataset,
    protocol: Protocol,
    threads: Threads,
    lists: TopLists | None = None,
    blended: BlendedRanks | None = None,
    *,
    shown: bool = True,
) -> Ranks:
    """Rank every query's item by the model's vectors. Collective: ranks divide users and items.

    Each rank encodes some of the users, block by block; every block goes to all ranks.

    Args:
        model: of ``load_model``, or a ``LiveModel``'s.
        dataset: the catalogue and the users.
        protocol: the queries.
        threads: that compute side by side.
        lists: takes the best items of each user, if they are wanted.
        blended: counts with own history blended in, if that is wanted.
        shown: show the progress, on rank 0.

    Raises:
        UserError: a vector is not finite, or a file cannot be read.
    """
    rows, kind = encode_items(model, dataset, threads)
    items = item_columns(rows, kind, protocol.trained_items)
    source, users = user_kinds(dataset, protocol.users)
    first_rows = protocol.users[users.first]
    ranking = Ranking(
        protocol, items, users.kind, threads, BETWEEN_RANKS, lists=lists, blended=blended
    )
    encoded = encode_blocks(model, dataset.schema, source, first_rows, query_tower, threads)
    hidden = not shown or rank_and_ranks()[0] > 0
    for block in tqdm(encoded, "rank", rounds(len(first_rows)), unit="block", disable=hidden):
        for start, vectors in each_ranks_block(block):
            ranking.add(vectors, start)
    return ranking.ranks()
