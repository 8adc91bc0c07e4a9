"""What came of a case in, what is wrong with it out; nothing where all is as it must be.

Each oracle works without the code that it judges: ranks by comparing float64 products one by one,
lists by sorting them, files by other libraries.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.files import PARTIAL_SUFFIX
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.trained import Trained
from tests.retrieval.whole import encode_items, encode_users

NEAR = 4e-6
"""More than float32 rounding moves the inner product of two unit vectors."""
CUTOFFS = (50, 100)

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


def outcome(codes: Sequence[int], printed: str, folder: Path) -> str:
    """What is wrong with how a command ended, whatever it was.

    Args:
        codes: exit code of each rank.
        printed: what all ranks have printed.
        folder: where it should have left nothing half-written.
    """
    if "Traceback" in printed:
        return f"a traceback: {printed[printed.index('Traceback') :][-1500:]}"
    refused = any(code == 2 for code in codes)
    if not refused and any(codes):
        return f"exit codes {list(codes)}: {printed[-1500:]}"
    if refused and not any(line.startswith("dat-rec") for line in printed.splitlines()):
        return f"refused without a line that says why: {printed[-1500:]}"
    if any(code not in (0, 1, 2) for code in codes):
        return f"exit codes {list(codes)}"
    left = [path.name for path in folder.rglob("*") if path.name.endswith(PARTIAL_SUFFIX)]
    return f"left {left[0]}" if left else ""


def ranks(
    protocol: Protocol, user_UD: Floats, item_ND: Floats, number: int, corpus: Flags
) -> tuple[float, float]:
    """The best and the worst rank that query ``number`` may have among the items of ``corpus``.

    Equal vectors tie, exactly; what differs by rounding alone may stand on either side.
    """
    who = int(np.searchsorted(protocol.users, protocol.user_row[number]))
    item = int(protocol.item_index[number])
    others = corpus.copy()
    others[item] = False
    scores = item_ND.astype(np.float64) @ user_UD[who].astype(np.float64)
    tied = others & (item_ND == item_ND[item]).all(axis=1)
    others &= ~tied
    above = int((scores[others] > scores[item] + NEAR).sum())
    not_below = int((scores[others] >= scores[item] - NEAR).sum())
    half = tied.sum() / 2
    return 1 + above + half, 1 + not_below + half


def blocks(protocol: Protocol) -> Iterator[tuple[tuple[str, ...], list[int], bool, bool]]:
    """Block of metrics.json, its queries, whether among trained items alone, and without own."""
    known_user = protocol.user_trained[protocol.user_row]
    known_item = protocol.train_count[protocol.item_index] > 0
    answerable = known_user & known_item
    pairs = set()
    for user in range(len(protocol.user_trained)):
        own = protocol.seen_item[protocol.seen_offsets[user] : protocol.seen_offsets[user + 1]]
        pairs |= {(user, int(item)) for item in own}
    asked = zip(protocol.user_row.tolist(), protocol.item_index.tolist(), strict=True)
    new = answerable & np.array([pair not in pairs for pair in asked], bool)
    yield ("all",), np.flatnonzero(answerable).tolist(), True, False
    yield ("new_pairs",), np.flatnonzero(new).tolist(), True, True
    yield ("warm",), np.flatnonzero(answerable).tolist(), False, False
    yield ("cold",), np.flatnonzero(~answerable).tolist(), False, False
    yield ("cold", "new_users"), np.flatnonzero(~known_user).tolist(), False, False
    yield ("cold", "new_items"), np.flatnonzero(~known_item).tolist(), False, False


def evaluation(trained: Trained, metrics: dict[str, Any]) -> str:
    """How metrics.json differs from ranks by hand."""
    protocol = Protocol.read(trained.dataset)
    user_UD = encode_users(trained.model, trained.dataset, protocol.users)
    item_ND = encode_items(trained.model, trained.dataset)
    trained_items = protocol.train_count > 0
    for path, queries, among_trained, without_own in blocks(protocol):
        found = metrics
        for name in path:
            found = found[name]
        if found["queries"] != len(queries):
            return f"{path}: {found['queries']} queries, by hand {len(queries)}"
        if not queries:
            continue
        best, worst = [], []
        for query in queries:
            corpus = trained_items.copy() if among_trained else np.ones(len(item_ND), bool)
            if without_own:
                corpus[protocol.seen_item[protocol.seen_slice(protocol.user_row[query])]] = False
            low, high = ranks(protocol, user_UD, item_ND, query, corpus)
            best.append(low)
            worst.append(high)
        bounds = {f"HR@{k}": [np.mean(np.array(r) <= k) for r in (worst, best)] for k in CUTOFFS}
        bounds["MRR"] = [np.mean(1 / np.array(r)) for r in (worst, best)]
        for name, (low, high) in bounds.items():
            if not low - 1e-9 <= found[name] <= high + 1e-9:
                return f"{path}: {name} {found[name]}, by hand {low} to {high}"
    return ""


def exported(trained: Trained, folder: Path, tolerance: float) -> str:
    """How an export differs from the model that it was made of."""
    opened = Export.open(folder)
    if not np.array_equal(opened.item_vectors, encode_items(trained.model, trained.dataset)):
        return "the export's item vectors are not the model's"
    rows = np.arange(trained.dataset.schema.users)
    ours = encode_users(trained.model, trained.dataset, rows)
    columns = {name: column.take(rows) for name, column in opened.user_columns.items()}
    theirs = opened.tower.encode(columns)
    apart = float(np.abs(ours - theirs).max(initial=0.0))
    return f"the query tower's vectors are {apart} from the model's" if apart > tolerance else ""


def recommended(trained: Trained, path: Path, k: int, tolerance: float) -> str:
    """How a file of recommendations differs from sorting all scores by hand."""
    dataset = trained.dataset
    recs = pq.read_table(path)
    users = dataset.table("users", ["user_id"]).column("user_id").to_pylist()
    item_ids = dataset.table("items", ["item_id"]).column("item_id").to_pylist()
    place = {item: number for number, item in enumerate(item_ids)}
    if recs.column("user_id").to_pylist() != [user for user in users for _ in range(k)]:
        return "the users of the recommendations are not those of the dataset, k times each"
    if recs.column("rank").to_pylist() != list(range(1, k + 1)) * len(users):
        return "the ranks are not 1 to k"
    query_UD = encode_users(trained.model, dataset, np.arange(len(users))).astype(np.float64)
    all_UN = query_UD @ encode_items(trained.model, dataset).astype(np.float64).T
    found = np.array([place[item] for item in recs.column("item_id").to_pylist()]).reshape(-1, k)
    told = np.array(recs.column("score").to_pylist()).reshape(-1, k)
    for user, (items, scores) in enumerate(zip(found, told, strict=True)):
        if len(set(items.tolist())) != k:
            return f"user {users[user]}: an item stands twice"
        if np.abs(all_UN[user, items] - scores).max() > tolerance:
            return f"user {users[user]}: scores {scores[:3]}, by hand {all_UN[user, items[:3]]}"
        if (np.diff(scores) > 0).any():
            return f"user {users[user]}: scores rise"
        best = np.sort(all_UN[user])[::-1][:k]
        if np.abs(best - scores).max() > tolerance:
            return f"user {users[user]}: the best scores by hand are {best[:3]}, not {scores[:3]}"
    return ""


def losses(other: Path, run: Path) -> str:
    """How a run's last losses differ from those of the same run on other ranks."""
    ours, theirs = (json.loads((one / "train.json").read_text()) for one in (run, other))
    for name in ("steps", "examples_an_epoch"):
        if ours[name] != theirs[name]:
            return f"{name}: {ours[name]}, on other ranks {theirs[name]}"
    for name, value in theirs["loss"].items():
        if abs(ours["loss"][name] - value) > 1e-3 * max(1.0, abs(value)):
            return f"loss {name}: {ours['loss'][name]}, on other ranks {value}"
    return ""
