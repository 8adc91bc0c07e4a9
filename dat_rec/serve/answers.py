"""Requests in, lists as JSON out: computed in threads, many together, from one export each.

Two lanes: what needs a product with the item vectors and little more is answered together with all
that has come meanwhile; what has to look at all items first (filters, quotas, many users) has a
thread of its own, so that others do not wait for it. The list of a user is that of
``Recommender.top`` for this user alone, to the last bit: no vector follows who else asks.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic_core import to_json

from dat_rec.errors import UserError
from dat_rec.retrieval.answer import best_items, check_k, check_own_items
from dat_rec.retrieval.given import as_array
from dat_rec.retrieval.item_table import ID
from dat_rec.retrieval.option_names import FIELDS
from dat_rec.retrieval.queries import as_ids
from dat_rec.retrieval.restricted_lists import similar_lists, user_lists
from dat_rec.retrieval.restrictions import ALL_ITEMS, ItemRules, Restrictions, UserRules
from dat_rec.retrieval.seen_items import ItemsOfUsers
from dat_rec.serve.current import Current, Served
from dat_rec.serve.lanes import Ask, BusyError, Lane
from dat_rec.serve.limits import ANSWER_S, AT_ONCE, TOGETHER_USERS
from dat_rec.serve.metrics import Metrics
from dat_rec.serve.requests import Body, Recommend, Similar

Found = tuple[NDArray[np.int64], NDArray[np.float32]]


class Answers:
    """Computes answers from the export that is served.

    Args:
        current: the export.
        waiting: maximum number of requests that wait.
        metrics: where batches are counted.
    """

    def __init__(self, current: Current, waiting: int, metrics: Metrics) -> None:
        self._current, self._most, self._metrics = current, waiting, metrics
        self._quick = Lane("quick", AT_ONCE, self._compute)
        self._slow = Lane("slow", 1, self._compute)

    async def of(self, body: Body) -> bytes:
        """The answer's JSON.

        Raises:
            BusyError: too many wait.
            UserError: the export cannot answer it; says why.
        """
        lane = self._quick if _is_quick(body) else self._slow
        if len(self._quick.waiting) + len(self._slow.waiting) >= self._most:
            raise BusyError
        answer = asyncio.get_running_loop().create_future()
        lane.put(Ask(body, answer))
        try:
            with self._metrics.waiting.track_inprogress():
                async with asyncio.timeout(ANSWER_S):
                    result: bytes = await answer
        except TimeoutError as error:
            raise BusyError from error
        return result

    def close(self) -> None:
        """Compute no more."""
        self._quick.close()
        self._slow.close()

    def _compute(self, asked: Sequence[Ask]) -> list[bytes | Exception]:
        """The answers of requests, all of one export; or why there is none."""
        served = self._current.served
        self._metrics.together.observe(len(asked))
        results: list[bytes | Exception] = []
        free = _free_together(served, [one.body for one in asked])
        for one, found in zip(asked, free, strict=True):
            try:
                results.append(found if isinstance(found, bytes) else _answer(served, one.body))
            except Exception as error:
                results.append(error)
        return results


def _is_quick(body: Body) -> bool:
    """Whether it is answered from a product and little more."""
    if not isinstance(body, Recommend):
        return False
    if len(body.user_ids or body.queries or ()) > TOGETHER_USERS:
        return False
    return not (body.filter is not None or body.available is not None or _quotas(body))


def _is_free(body: Body) -> TypeGuard[Recommend]:
    """Whether it is quick, of known users, and leaves nothing out."""
    if not isinstance(body, Recommend) or not _is_quick(body) or body.user_ids is None:
        return False
    return not body.exclude and not body.exclude_seen


def _free_together(served: Served, bodies: Sequence[Body]) -> list[bytes | None]:
    """Answers of requests that leave nothing out, by one search for each K; None of others."""
    answers: list[bytes | None] = [None] * len(bodies)
    groups: dict[tuple[int, bool], list[int]] = {}
    recommender = served.recommender
    for number, body in enumerate(bodies):
        if _is_free(body):
            k = body.length(len(recommender.item_ids))
            groups.setdefault((k, body.blend_history), []).append(number)
    for (k, blend), numbers in groups.items():
        try:
            check_k(k, len(recommender.item_ids))
            if blend:
                check_own_items(recommender.export)
        except UserError:
            continue  # Each says so itself.
        users = []
        for number in list(numbers):
            try:
                users.append(_users(served, _user_ids(bodies[number])))
            except UserError:
                numbers.remove(number)
        if not numbers:
            continue
        rows = np.concatenate([one.rows for one in users])
        vectors = np.concatenate([one.vectors for one in users])
        found = best_items(recommender.export, rows, vectors, k, blend_history=blend)
        lists = list(zip(*found, strict=True))
        for number, one in zip(numbers, users, strict=True):
            mine, lists = lists[: len(one.rows)], lists[len(one.rows) :]
            answers[number] = _users_json(served, one, mine)
    return answers


def _answer(served: Served, body: Body) -> bytes:
    """One request's answer.

    Raises:
        UserError: there is none.
    """
    recommender = served.recommender
    wanted = Restrictions(
        filter=body.filter,
        allow=None if body.available is None else as_array(body.available, "available"),
        quotas=_quotas(body),
    )
    if isinstance(body, Similar):
        k = body.length(len(recommender.item_ids) - 1)
        check_k(k, len(recommender.item_ids) - 1)
        rows = recommender.item_rows(body.item_ids, "item_ids")
        blocks = similar_lists(recommender.export, rows, k, served.item_rules(wanted))
        lists = [one for block in blocks for one in block.lists]
        found = [
            {"item_id": name, **one}
            for name, one in zip(body.item_ids, map(_listing(served), lists), strict=True)
        ]
        return to_json({"export": served.id, "items": found})
    assert isinstance(body, Recommend)
    if body.queries is not None:
        return _answer_fresh(served, body, body.queries)
    k = body.length(len(recommender.item_ids))
    check_k(k, len(recommender.item_ids))
    if body.blend_history:
        check_own_items(recommender.export, option=FIELDS.blend_history)
    users = _users(served, body.user_ids)
    blocks = user_lists(
        recommender.export,
        users.vectors,
        k,
        _item_rules(served, wanted),
        _user_rules(served, body, users.rows),
        blend_history=body.blend_history,
    )
    return _users_json(served, users, [one for block in blocks for one in block.lists])


def _answer_fresh(served: Served, body: Recommend, queries: Sequence[dict[str, Any]]) -> bytes:
    """The answer for raw values, which is that of ``Recommender.top_fresh``."""
    recommender = served.recommender
    exclude = None
    if body.exclude:
        numbers = np.repeat(np.arange(len(queries)), len(body.exclude))
        items = as_array(list(body.exclude) * len(queries), "exclude")
        exclude = pa.table({"query": numbers, "item_id": items})
    top = recommender.top_fresh(
        _query_table(queries),
        body.length(len(recommender.item_ids)),
        exclude_seen=body.exclude_seen,
        exclude=exclude,
        filter=body.filter,
        available=None if body.available is None else as_array(body.available, "available"),
        quotas=_quotas(body),
    )
    bounds = np.searchsorted(top["query"].to_numpy(), np.arange(len(queries) + 1))
    items, scores = top["item_id"].to_pylist(), top["score"].to_pylist()
    users = [
        {"user_id": query.get("user_id"), "known": None}
        | {"items": items[start:stop], "scores": scores[start:stop]}
        for query, start, stop in zip(queries, bounds, bounds[1:], strict=False)
    ]
    return to_json({"export": served.id, "users": users})


def _query_table(queries: Sequence[dict[str, Any]]) -> pa.Table:
    """A row of each query; what one does not say is null.

    Raises:
        UserError: values of one name are of several types.
    """
    names = list(dict.fromkeys(name for query in queries for name in query))
    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([query.get(name) for query in queries])
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"queries: {name}: {reason}: give values of one type") from error
    if not names:
        return pa.table({"user_id": pa.nulls(len(queries))})
    return pa.table(columns)


def _quotas(body: Body) -> dict[str, int]:
    of_category = {} if body.per_category is None else {"category": body.per_category}
    return {**body.quotas, **of_category}


def _item_rules(served: Served, wanted: Restrictions) -> ItemRules:
    if wanted.filter is None and wanted.allow is None and not wanted.quotas:
        return served.recommender.item_rules(ALL_ITEMS)
    return served.item_rules(wanted)


def _user_rules(served: Served, body: Recommend, rows: NDArray[np.int64]) -> UserRules:
    recommender = served.recommender
    excluded = None
    if body.exclude:
        items = as_array(body.exclude, "exclude")
        items = as_ids("exclude", ID, items, recommender.item_ids.type, ID)
        found = np.unique(recommender.export.rows_of_items.of(items))
        found = found[found >= 0]
        excluded = ItemsOfUsers(np.array([0, len(found)]), found.astype(np.int32))
    seen = recommender.seen if body.exclude_seen else None
    return UserRules(rows, seen, np.zeros(len(rows), np.int64), excluded, None)


class _Users(NamedTuple):
    """B users."""

    names: Sequence[int | str]
    rows: NDArray[np.int64]
    """(B,) in the export's users; the last row is the unknown one."""
    vectors: NDArray[np.float32]
    """(B, D), each encoded alone: its last bits follow nobody else who asks."""


def _user_ids(body: Body) -> Sequence[int | str] | None:
    return body.user_ids if isinstance(body, Recommend) else None


def _users(served: Served, names: Sequence[int | str] | None) -> _Users:
    names = names or ()
    found = [served.user(name) for name in names]
    empty = np.empty((0, served.recommender.export.item_vectors.shape[1]), np.float32)
    rows = np.array([row for row, _ in found], np.int64)
    return _Users(names, rows, np.concatenate([empty, *(vector for _, vector in found)]))


def _users_json(served: Served, users: _Users, lists: Sequence[Found]) -> bytes:
    unknown, listing = len(served.recommender.user_ids), _listing(served)
    found = [
        {"user_id": name, "known": row != unknown, **listing(one)}
        for name, row, one in zip(users.names, users.rows.tolist(), lists, strict=True)
    ]
    return to_json({"export": served.id, "users": found})


def _listing(served: Served) -> Callable[[Found], dict[str, Any]]:
    """Makes what stands in the JSON of item_index and scores."""
    ids = served.recommender.item_ids
    numbers = ids.to_numpy() if pa.types.is_integer(ids.type) else None

    def listing(found: Found) -> dict[str, Any]:
        items, scores = found
        if numbers is not None:
            names = numbers[items].tolist()
        else:
            names = ids.take(pa.array(items, pa.int64())).to_pylist()
        return {"items": names, "scores": scores.tolist()}

    return listing
