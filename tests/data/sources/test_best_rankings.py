"""What the two oracles can expect, against brute force and against what was drawn."""

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dat_rec.data.sources.planted_world import World
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.sources.taste_oracle import taste_hit_rates
from tests.data.sources.prepared import Prepared

Floats = NDArray[np.float64]
ITEMS, TASTES = 120, 6


class Brute:
    """A world and its log, user by user and item by item."""

    def __init__(self, options: Synthetic) -> None:
        self.options, self.rows = options, Prepared(options)
        self.world: World = options.world()
        self.repeats = options.numbers().repeats
        self.trained = sorted({row["item_id"] for row in self.rows.train})
        self.history: dict[int, list[int]] = defaultdict(list)
        for user, item, _ in self.rows.triples("train"):
            self.history[user].append(item)
        self.later: dict[int, list[tuple[str, int]]] = defaultdict(list)
        spans = [
            (t, u, i, span)
            for span in ("validation", "test")
            for u, i, t in self.rows.triples(span)
        ]
        for _, user, item, span in sorted(spans):
            self.later[user].append((span, item))
        vectors = self.world.group[self.world.group_of]
        logits = self.world.sharpness * self.world.taste @ vectors.T
        weights = np.exp(logits) * self.world.popularity
        self.chance_TV: Floats = weights / weights.sum(1, keepdims=True)

    def posterior(self, user: int) -> Floats:
        """(T,) p(taste | training interactions), one after the other."""
        logs = [0.0] * len(self.chance_TV)
        seen: list[int] = []
        for item in self.history[user]:
            own = seen.count(item) / len(seen) if seen else 0.0
            repeats = self.repeats if seen else 0.0
            for taste, chance in enumerate(self.chance_TV):
                logs[taste] += math.log(repeats * own + (1 - repeats) * chance[item])
            seen.append(item)
        weights = [math.exp(one - max(logs)) for one in logs]
        return np.array(weights) / sum(weights)

    def chances(self, user: int, fresh: Floats) -> list[tuple[Floats, int]]:
        """(V,) the probabilities of each query among trained items, and its item."""
        history = self.history[user]
        counts = np.bincount(history, minlength=ITEMS).astype(np.float64)
        found = []
        for place, (span, item) in enumerate(self.later[user]):
            repeated = counts / (len(history) + place)
            chance = self.repeats * repeated + (1 - self.repeats) * fresh
            counts += chance
            if span == "test" and item in self.trained:
                known = np.zeros(ITEMS)
                known[self.trained] = chance[self.trained]
                found.append((known / known.sum(), item))
        return found

    def expected(self, oracle: str, cutoff: int) -> tuple[float, float, float]:
        """HR@cutoff of the oracle's lists: as expected, its variance, and as drawn."""
        hits: list[float] = []
        drawn: list[bool] = []
        for user in self.later:
            if not self.history[user]:
                continue
            true = self.chances(user, self.chance_TV[self.world.taste_of[user]])
            if not true:
                continue
            believed = true
            if oracle == "Bayes":
                believed = self.chances(user, self.posterior(user) @ self.chance_TV)
            score = np.sum([chance for chance, _ in believed], axis=0)
            best = np.argsort(-score, kind="stable")[:cutoff]
            hits += [float(chance[best].sum()) for chance, _ in true]
            drawn += [item in best for _, item in true]
        variance = sum(hit * (1 - hit) for hit in hits) / len(hits) ** 2
        return float(np.mean(hits)), variance, float(np.mean(drawn))


@pytest.fixture(scope="module", params=["taste alone", "repeats", "ids", "end"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Brute:
    """A world of six tastes, of which a user's five interactions tell little."""
    changes = {
        "taste alone": {},
        "repeats": {"repeats": 0.6},
        "ids": {"shape": "ids"},
        "end": {"test_until": "2020-04-05"},
    }[request.param]
    sizes = {"users": 300, "items": ITEMS, "interactions": 2_500, "categories": 6, "dim": 8}
    out = tmp_path_factory.mktemp("world") / "out"
    values: dict[str, Any] = {**sizes, "tastes": TASTES, "sharpness": 4.0, "skew": 0.6, **changes}
    return Brute(Synthetic(out=out, validation_share=0.3, **values))


@pytest.mark.parametrize("oracle", ["best", "Bayes"])
def test_an_oracle_has_the_hit_rate_of_brute_force(made: Brute, oracle: str) -> None:
    facts = made.rows.schema.facts
    assert facts is not None
    mean, _, _ = made.expected(oracle, 50)
    assert facts[f"{oracle} HR@50"] == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("oracle", ["best", "Bayes"])
def test_an_oracle_hits_what_was_drawn_as_often_as_stated(made: Brute, oracle: str) -> None:
    """Within four standard deviations; of one world's drawing, with a user's repeats together."""
    mean, variance, drawn = made.expected(oracle, 50)
    assert abs(drawn - mean) < 4 * (variance * (3 if made.repeats else 1)) ** 0.5


def test_the_taste_is_worth_more_than_its_posterior(made: Brute) -> None:
    facts = made.rows.schema.facts
    assert facts is not None
    assert 0.3 < facts["Bayes HR@50"] < facts["best HR@50"] - 0.001 < 0.99


def test_users_of_whom_much_is_known_have_their_taste_known(tmp_path: Path) -> None:
    """A hundred interactions each: the posterior of six tastes is certain."""
    sizes = {"users": 100, "items": ITEMS, "interactions": 10_000, "tastes": TASTES, "skew": 0.0}
    facts = Prepared(Synthetic(out=tmp_path / "out", **sizes)).schema.facts  # type: ignore[arg-type]
    assert facts is not None
    assert facts["Bayes HR@50"] == pytest.approx(facts["best HR@50"], rel=1e-6)


def test_both_ways_to_the_best_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By groups, as for large worlds, and user by user."""
    sizes: dict[str, Any] = {"users": 300, "items": 200, "interactions": 4_000}
    sizes |= {"train_from": "2020-03-01", "test_until": "2020-04-06"}
    both = Prepared(Synthetic(out=tmp_path / "a", **sizes)).schema.facts
    monkeypatch.setattr("dat_rec.data.sources.best_rankings.MOST_WORK", 0)
    large = Prepared(Synthetic(out=tmp_path / "b", **sizes)).schema.facts
    assert both is not None
    assert large is not None
    assert large.keys() == {"best HR@50", "best HR@100"}
    for name, rate in large.items():
        assert rate == pytest.approx(both[name], rel=1e-9)
    repeating = Prepared(Synthetic(out=tmp_path / "c", **sizes, repeats=0.5)).schema
    assert repeating.facts == {}


def test_without_a_query_the_best_is_nothing(tmp_path: Path) -> None:
    world = Synthetic(out=tmp_path, users=5, items=5, interactions=20).world()
    nobody = np.zeros(len(world.taste), np.int64)
    assert taste_hit_rates(world, nobody, np.ones(5, np.bool_), (3,)) == {3: 0.0}


def test_repeats_are_drawn_as_the_urn_says(tmp_path: Path) -> None:
    """Fresh items never meet again: the first one's count is a known product, in the mean."""
    sizes: dict[str, Any] = {"users": 400, "items": 50_000, "interactions": 16_000}
    options = Synthetic(out=tmp_path, **sizes, repeats=0.7, sharpness=0.0, skew=0.0)
    world = options.world()
    user, item, time = world.draw(0, 1 << 18)
    assert np.array_equal(np.lexsort((time, user)), np.arange(len(user)))
    counts, expected, distinct = [], [], []
    for number in range(400):
        mine = item[user == number].tolist()
        counts.append(Counter(mine)[mine[0]])
        expected.append(math.prod(1 + 0.7 / k for k in range(1, len(mine))))
        distinct.append(len(set(mine)) - 1 - 0.3 * (len(mine) - 1))
    off = np.array(counts) - expected
    assert abs(off.mean()) < 4 * off.std() / 400**0.5
    assert abs(sum(distinct)) < 4 * (0.3 * 0.7 * (16_000 - 400)) ** 0.5
