import os
from pathlib import Path

import duckdb
import numpy as np
import pytest

from dat_rec.retrieval.baselines import RULES, Settings, rules
from dat_rec.retrieval.protocol import Protocol
from tests.retrieval import brute_force
from tests.retrieval.world import random_protocol


@pytest.mark.parametrize("seed", range(4))
def test_both_rules_equal_a_loop_over_queries_and_items(seed: int) -> None:
    protocol = random_protocol(seed)

    def popularity(_user: int, item: int) -> int:
        return int(protocol.train_count[item])

    def history(user: int, item: int) -> tuple[int, int]:
        return brute_force.seen_items(protocol, user).get(item, 0), popularity(user, item)

    found = rules(Settings(protocol, (3, 20)))
    assert list(found) == list(RULES)
    for name, score in (("MostPop", popularity), ("own history", history)):
        expected = brute_force.metrics(protocol, score, (3, 20))
        del expected["all"]["unanswerable"], expected["by_category"]
        assert brute_force.approximately(found[name]) == brute_force.approximately(expected)


@pytest.mark.skipif(
    "DAT_REC_KUAIRAND" not in os.environ, reason="DAT_REC_KUAIRAND names no KuaiRand folder"
)
def test_kuairand_figures_that_others_computed() -> None:
    log = Path(os.environ["DAT_REC_KUAIRAND"]) / "interactions.parquet"
    pairs = duckdb.sql(
        f"SELECT user_id, item_id, split = 'test' AS test FROM '{log}' WHERE long_watch = 1"
    ).fetchnumpy()
    protocol = _protocol(pairs["user_id"], pairs["item_id"], pairs["test"])
    found = rules(Settings(protocol, (20,)))
    # Printed with four digits, half the ties rounded down: at these ranks that moves < 0.001.
    expected = {
        ("MostPop", "all"): (0.1411, 0.2207, 0.0238, 40_700),
        ("MostPop", "new_pairs"): (0.1517, 0.2292, 0.0264, 40_678),
        ("own history", "all"): (0.0943, 0.1974, 0.0084, 40_700),
    }
    for (name, block), (*numbers, queries) in expected.items():
        got = found[name][block]
        assert [got["HR@50"], got["HR@100"], got["MRR"]] == pytest.approx(numbers, abs=8e-4)
        assert got["queries"] == queries


def _protocol(user: np.ndarray, item: np.ndarray, test: np.ndarray) -> Protocol:
    _, user = np.unique(user, return_inverse=True)
    _, item = np.unique(item, return_inverse=True)
    order = np.argsort(-np.bincount(item[~test], minlength=item.max() + 1), kind="stable")
    item = np.argsort(order)[item]
    users, items = user.max() + 1, item.max() + 1
    pairs, count = np.unique(user[~test] * items + item[~test], return_counts=True)
    return Protocol(
        user_row=user[test],
        item_index=item[test],
        user_trained=np.isin(np.arange(users), user[~test]),
        train_count=np.bincount(item[~test], minlength=items),
        category=np.zeros(items, np.int64),
        category_names=("all",),
        seen_offsets=np.searchsorted(pairs // items, np.arange(users + 1)),
        seen_item=pairs % items,
        seen_count=count,
    )
