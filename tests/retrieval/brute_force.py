"""Ranks and figures as one would do them by hand: one query, one item at a time."""

from collections.abc import Callable, Iterable, Sequence
from math import log2
from typing import Any

from dat_rec.retrieval.protocol import Protocol

Score = Callable[[int, int], Any]
"""(user_row, item_index) → something that can be compared."""


def rank(score: Score, user: int, item: int, corpus: Iterable[int]) -> float:
    mine = score(user, item)
    result = 1.0
    for other in corpus:
        if other == item:
            continue
        theirs = score(user, other)
        if theirs > mine:
            result += 1
        elif theirs == mine:
            result += 0.5
    return result


def figures(ranks: list[float]) -> dict[str, Any]:
    if not ranks:
        return {"HR@50": None, "HR@100": None, "MRR": None, "queries": 0}
    total = len(ranks)
    return {
        "HR@50": sum(rank <= 50 for rank in ranks) / total,
        "HR@100": sum(rank <= 100 for rank in ranks) / total,
        "MRR": sum(1 / rank for rank in ranks) / total,
        "queries": total,
    }


def seen_items(protocol: Protocol, user: int) -> dict[int, int]:
    """Item → count of the user's training pairs."""
    own = range(protocol.seen_offsets[user], protocol.seen_offsets[user + 1])
    return {int(protocol.seen_item[pair]): int(protocol.seen_count[pair]) for pair in own}


def per_user(protocol: Protocol, score: Score, cutoffs: Sequence[int]) -> dict[str, Any]:
    """Recall and NDCG of each user with a new pair, position by position; and their means."""
    found: dict[str, list[float]] = {
        f"{name}@{k}": [] for k in cutoffs for name in ("Recall", "NDCG")
    }
    pairs = 0
    trained = [item for item, count in enumerate(protocol.train_count) if count > 0]
    asked = list(zip(protocol.user_row.tolist(), protocol.item_index.tolist(), strict=True))
    for user in sorted({user for user, _ in asked if protocol.user_trained[user]}):
        own = seen_items(protocol, user)
        corpus = [item for item in trained if item not in own]
        relevant = {item for who, item in asked if who == user} & set(corpus)
        pairs += len(relevant)
        if not relevant:
            continue
        for k in cutoffs:
            hits = gain = 0.0
            for item in relevant:
                mine = score(user, item)
                above = sum(score(user, other) > mine for other in corpus)
                tied = sum(score(user, other) == mine for other in corpus)
                for position in range(above + 1, above + tied + 1):
                    if position <= k:
                        hits += 1 / tied
                        gain += 1 / tied / log2(position + 1)
            ideal = sum(1 / log2(position + 1) for position in range(1, min(k, len(relevant)) + 1))
            found[f"Recall@{k}"].append(hits / len(relevant))
            found[f"NDCG@{k}"].append(gain / ideal)
    users = len(found[f"NDCG@{cutoffs[0]}"])
    means = {name: sum(values) / users if users else None for name, values in found.items()}
    return means | {"users": users, "pairs": pairs}


def lists(protocol: Protocol, score: Score, cutoffs: Sequence[int]) -> dict[str, Any]:
    """Coverage and ARP of the lists of all who are asked: sorted, equal ones by item_index."""
    trained = [item for item, count in enumerate(protocol.train_count) if count > 0]
    shown: dict[int, set[int]] = {k: set() for k in cutoffs}
    popularity: dict[int, list[float]] = {k: [] for k in cutoffs}
    for user in sorted(set(protocol.user_row.tolist())):
        corpus = [item for item in trained if item not in seen_items(protocol, user)]
        ordered = sorted(corpus, key=lambda item: score(user, item), reverse=True)
        for k in cutoffs if corpus else ():
            shown[k] |= set(ordered[:k])
            counts = [int(protocol.train_count[item]) for item in ordered[:k]]
            popularity[k].append(sum(counts) / len(counts))
    users = len(popularity[cutoffs[0]])
    return {
        **{f"Coverage@{k}": len(items) / len(trained) for k, items in shown.items()},
        **{f"ARP@{k}": sum(v) / users if users else None for k, v in popularity.items()},
        "users": users,
    }


def metrics(
    protocol: Protocol,
    score: Score,
    cutoffs: Sequence[int] = (20, 50, 100),
    known: tuple[set[int], set[int]] | None = None,
) -> dict[str, Any]:
    """Every figure; ``known`` names users and items that the model knows: otherwise the trained."""
    everything = range(len(protocol.train_count))
    trained = [item for item in everything if protocol.train_count[item] > 0]
    found: dict[str, list[float]] = {}
    per_category: dict[str, list[float]] = {}
    per_name = dict.fromkeys(protocol.category_names, 0)
    for item in everything:
        per_name[protocol.category_names[protocol.category[item]]] += protocol.train_count[item]
    largest = max(per_name, key=lambda name: per_name[name])
    unanswerable = 0
    for user, item in zip(protocol.user_row, protocol.item_index, strict=True):
        whole = rank(score, user, item, everything)
        new_user = user not in known[0] if known else not protocol.user_trained[user]
        new_item = item not in (known[1] if known else trained)
        if new_user:
            found.setdefault("new_users", []).append(whole)
        if new_item:
            found.setdefault("new_items", []).append(whole)
        found.setdefault("cold" if new_user or new_item else "warm", []).append(whole)
        if not protocol.user_trained[user] or item not in trained:
            unanswerable += 1
            continue
        among_trained = rank(score, user, item, trained)
        found.setdefault("all", []).append(among_trained)
        name = protocol.category_names[protocol.category[item]]
        per_category.setdefault(name, []).append(among_trained)
        found.setdefault("largest" if name == largest else "others", []).append(among_trained)
        own = seen_items(protocol, user)
        if item not in own:
            corpus = [other for other in trained if other not in own]
            found.setdefault("new_pairs", []).append(rank(score, user, item, corpus))

    def block(name: str) -> dict[str, Any]:
        return figures(found.get(name, []))

    return {
        "all": block("all") | {"unanswerable": unanswerable},
        "new_pairs": block("new_pairs"),
        "warm": block("warm"),
        "cold": block("cold") | {"new_users": block("new_users"), "new_items": block("new_items")},
        "by_category": {name: figures(ranks) for name, ranks in per_category.items()},
        "largest_category": {
            "name": largest,
            "largest": block("largest"),
            "others": block("others"),
        },
        "per_user": per_user(protocol, score, cutoffs),
        "lists": lists(protocol, score, cutoffs),
    }


def approximately(value: Any) -> Any:
    """``value`` with its floats rounded, so that sums in another order compare equal."""
    if isinstance(value, dict):
        return {name: approximately(part) for name, part in value.items()}
    return round(value, 9) if isinstance(value, float) else value
