"""Ranks and figures as one would do them by hand: one query, one item at a time."""

from collections.abc import Callable, Iterable
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


def metrics(protocol: Protocol, score: Score) -> dict[str, Any]:
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
        if not protocol.user_trained[user]:
            found.setdefault("new_users", []).append(whole)
        if item not in trained:
            found.setdefault("new_items", []).append(whole)
        if not protocol.user_trained[user] or item not in trained:
            unanswerable += 1
            found.setdefault("cold", []).append(whole)
            continue
        found.setdefault("warm", []).append(whole)
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
    }


def approximately(value: Any) -> Any:
    """``value`` with its floats rounded, so that sums in another order compare equal."""
    if isinstance(value, dict):
        return {name: approximately(part) for name, part in value.items()}
    return round(value, 9) if isinstance(value, float) else value
