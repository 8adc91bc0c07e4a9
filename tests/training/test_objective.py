"""The objective against equation (5) in NumPy loops, term by term, and its gradients."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.config import LossConfig, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Items
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.model.dat import DATOutput
from dat_rec.model.losses import moments
from dat_rec.training.build import reader_options
from dat_rec.training.objective import TERMS, Exchange, Objective, TrainTask

B, S, D, K = 5, 3, 4, 4
Array = NDArray[np.float64]

ITEMS = np.array([[1, 2, 3, 4], [2, 5, 6, 1], [7, 8, 1, 3], [1, 2, 9, 5], [6, 6, 4, 8]])
"""With accidental hits: item 1 is a positive twice, item 6 its own example's negative."""
CATEGORIES = np.array([[1, 2, 1, 3], [2, 2, 1, 1], [0, 3, 1, 0], [1, 2, 3, 2], [1, 0, 0, 1]])
"""Category 1 is the largest; 0 is the unknown one, of which equation (3) knows nothing."""
OFFSET = np.log(np.linspace(0.01, 0.4, B * (1 + S))).reshape(B, 1 + S)
OWN_OFFSET = np.linspace(-0.5, 0.3, B)
"""Of own positives, where they are not corrected as candidates are."""

WEIGHTS = {
    "alike": None,
    "weighted": np.array([1.0, 3.0, 0.25, 5.0, 1.5], np.float32),
}

LAMBDAS = {
    "none": (0.0, 0.0, 0.0),
    "user": (0.7, 0.0, 0.0),
    "item": (0.0, 0.2, 0.0),
    "alignment": (0.0, 0.0, 1.3),
    "all": (0.7, 0.2, 1.3),
}
"""λ1, λ2, λ3."""
MAIN = {
    "bce": LossConfig(main="bce", negatives=S),
    "softmax": LossConfig(main="softmax", negatives=S, temperature=0.3),
    "negatives alone": LossConfig(negatives=S, in_batch=False, temperature=0.3),
    "own positive for itself": LossConfig(negatives=S, temperature=0.3, log_q=0.8, own_log_q=False),
    "negatives alone, own positive for itself": LossConfig(
        negatives=S, temperature=0.3, in_batch=False, log_q=0.8, own_log_q=False
    ),
    "contrastive": LossConfig("contrastive", negatives=S, margin=0.1, negative_weight=5.0),
    "contrastive, negatives alone": LossConfig(
        "contrastive", negatives=S, in_batch=False, margin=0.1, negative_weight=5.0
    ),
    "bpr": LossConfig("bpr", negatives=S, temperature=0.3),
}


def configured(main: str, lambdas: str) -> LossConfig:
    user, item, alignment = LAMBDAS[lambdas]
    return replace(MAIN[main], mimic_user=user, mimic_item=item, alignment=alignment)


@pytest.fixture(scope="module", autouse=True)
def group_of_one() -> Iterator[None]:
    with process_group(60):
        yield


@dataclass
class Vectors:
    """p_u (B, D), p_v (B, 1 + S, D), a_u and a_v of the positives (B, D)."""

    p_u: Array
    p_v: Array
    a_u: Array
    a_v: Array


def vectors() -> Vectors:
    rng = np.random.default_rng(0)
    p_u, p_v = rng.normal(size=(B, D)), rng.normal(size=(B, 1 + S, D))
    return Vectors(
        p_u / np.linalg.norm(p_u, axis=-1, keepdims=True),
        p_v / np.linalg.norm(p_v, axis=-1, keepdims=True),
        rng.normal(size=(B, D)),
        rng.normal(size=(B, D)),
    )


def equation_4(x: Vectors) -> list[float]:
    costs = []
    for i in range(B):
        total = 0.0
        for j in range(1 + S):
            probability = 1 / (1 + math.exp(-(x.p_u[i] @ x.p_v[i, j])))
            total -= math.log(probability if j == 0 else 1 - probability)
        costs.append(total / (1 + S))
    return costs


def softmax(x: Vectors, config: LossConfig) -> list[float]:
    """Yi et al. (RecSys 2019), with what is the positive's item elsewhere left out."""
    costs, tau = [], config.temperature
    draws = B * S + (B - 1 if config.in_batch else 0)
    for i in range(B):
        logits = {}
        for k in range(B):
            for j in range(1 + S):
                candidate = ITEMS[k, j] != ITEMS[i, 0] and (j > 0 or config.in_batch)
                if (k, j) == (i, 0) or candidate:
                    logits[k, j] = x.p_u[i] @ x.p_v[k, j] / tau + OFFSET[k, j]
                    if not config.own_log_q and (k, j) == (i, 0):
                        logits[k, j] += OWN_OFFSET[i] - OFFSET[k, j]
                    elif not config.own_log_q:
                        logits[k, j] -= config.log_q * math.log(draws)
        total = sum(math.exp(logit) for logit in logits.values())
        costs.append(math.log(total) - logits[i, 0])
    return costs


def other_scores(x: Vectors, config: LossConfig, i: int) -> list[float]:
    """Of query ``i`` and the candidates that are not its own item."""
    return [
        float(x.p_u[i] @ x.p_v[k, j])
        for k in range(B)
        for j in range(1 + S)
        if ITEMS[k, j] != ITEMS[i, 0] and (j > 0 or config.in_batch)
    ]


def contrastive(x: Vectors, config: LossConfig) -> list[float]:
    """Mao et al. (CIKM 2021), equation (1)."""
    found = []
    for i in range(B):
        others = other_scores(x, config, i)
        costs = sum(max(0.0, score - config.margin) for score in others)
        negatives = config.negative_weight * costs / len(others)
        found.append(float(1 - x.p_u[i] @ x.p_v[i, 0] + negatives))
    return found


def bpr(x: Vectors, config: LossConfig) -> list[float]:
    """Rendle et al. (UAI 2009): the mean of −ln σ over an example's pairs."""
    costs = []
    for i in range(B):
        own = x.p_u[i] @ x.p_v[i, 0]
        others = other_scores(x, config, i)
        sigmoids = [1 / (1 + math.exp((score - own) / config.temperature)) for score in others]
        costs.append(-sum(math.log(sigmoid) for sigmoid in sigmoids) / len(others))
    return costs


def main_losses(x: Vectors, config: LossConfig) -> list[float]:
    """What each example costs."""
    if config.main == "bce":
        return equation_4(x)
    return {"softmax": softmax, "contrastive": contrastive, "bpr": bpr}[config.main](x, config)


def equation_2(a: Array, partner: Array, pairs: int) -> list[float]:
    """1/T Σ [y·a + (1 − y)·p − p]² of each example: the pairs with y = 0 cost nothing."""
    return [float(((a[i] - partner[i]) ** 2).sum()) / pairs for i in range(B)]


def equation_3(x: Vectors) -> float:
    groups = [x.p_v[kind == CATEGORIES] for kind in range(1, K)]
    covariances = [np.cov(group, rowvar=False) for group in groups]
    return float(sum(((covariances[0] - other) ** 2).sum() for other in covariances))


def expected_terms(
    config: LossConfig, x: Vectors, held: Vectors, weights: str = "alike"
) -> dict[str, float]:
    """The paper's terms; the mimic losses' targets, into which no gradient flows, are ``held``."""
    pairs = 1 + S if config.main == "bce" else 1
    of_examples = {
        "main": main_losses(x, config),
        "mimic_user": equation_2(x.a_u, held.p_v[:, 0], pairs),
        "mimic_item": equation_2(x.a_v, held.p_u, pairs),
    }
    means = {
        name: float(np.average(costs, weights=WEIGHTS[weights]))
        for name, costs in of_examples.items()
    }
    return {**means, "alignment": equation_3(x)}


def expected_loss(config: LossConfig, x: Vectors, held: Vectors, weights: str = "alike") -> float:
    """Equation (5)."""
    terms = expected_terms(config, x, held, weights)
    return (
        terms["main"]
        + config.mimic_user * terms["mimic_user"]
        + config.mimic_item * terms["mimic_item"]
        + config.alignment * terms["alignment"]
    )


def known() -> tuple[Items, Items]:
    """Positives and negatives."""
    of_all = [torch.tensor(x) for x in (ITEMS, CATEGORIES, OFFSET)]
    return Items(*(x[:, 0] for x in of_all)), Items(*(x[:, 1:].flatten() for x in of_all))


def objective(
    config: LossConfig, output: DATOutput, weights: str = "alike"
) -> tuple[Tensor, dict[str, Tensor]]:
    positives, negatives = known()
    counts = ((B,), (B * S,))
    weight = None if (found := WEIGHTS[weights]) is None else torch.from_numpy(found)
    everywhere = Exchange(config, K)(
        output.item_BD, output.negative_ND, positives, negatives, *counts, weight
    )
    if not config.own_log_q:
        positives = replace(positives, offset=torch.tensor(OWN_OFFSET))
    loss, terms = Objective(config)(output, everywhere, positives, *counts, weight)
    return loss, dict(zip(TERMS, terms, strict=True))


def leaves(x: Vectors) -> dict[str, Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in vars(x).items()}


def as_output(leaf: dict[str, Tensor]) -> DATOutput:
    p_v = leaf["p_v"]
    return DATOutput(leaf["p_u"], p_v[:, 0], p_v[:, 1:].flatten(0, 1), leaf["a_u"], leaf["a_v"])


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("lambdas", LAMBDAS)
@pytest.mark.parametrize("main", MAIN)
def test_loss_is_equation_5_and_logs_its_terms_unweighted(
    main: str, lambdas: str, weights: str
) -> None:
    config = configured(main, lambdas)
    x = vectors()
    loss, terms = objective(config, as_output(leaves(x)), weights)
    assert loss.item() == pytest.approx(expected_loss(config, x, x, weights), abs=1e-12)
    expected = expected_terms(config, x, x, weights)
    if not config.alignment:
        del terms["alignment"]  # not computed where it has no weight; the mimic terms are
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], abs=1e-12), name
        assert not term.requires_grad


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("main", MAIN)
def test_gradients_are_those_of_equation_5_with_the_mimic_targets_held(
    main: str, weights: str
) -> None:
    config = configured(main, "all")
    by_name = leaves(vectors())
    objective(config, as_output(by_name), weights)[0].backward()
    for name, leaf in by_name.items():
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), differences(config, name, weights), atol=1e-8)


def differences(config: LossConfig, name: str, weights: str, step: float = 1e-5) -> Array:
    """∂ expected_loss / ∂ ``name``, by central differences."""
    gradient: Array = np.zeros_like(getattr(vectors(), name))
    for place in np.ndindex(gradient.shape):
        for sign in (1, -1):
            moved = vectors()
            getattr(moved, name)[place] += sign * step
            gradient[place] += sign * expected_loss(config, moved, vectors(), weights) / (2 * step)
    return gradient


@pytest.mark.parametrize("main", ["softmax", "bpr"])
def test_a_learned_temperature_has_the_gradient_of_the_loss_by_its_log(main: str) -> None:
    config, step = configured(main, "all"), 1e-5
    positives, negatives = known()
    output = as_output(leaves(vectors()))
    learns = Objective(replace(config, learn_temperature=True), torch.float64)
    counts = (B,), (B * S,)
    everywhere = Exchange(config, K)(
        output.item_BD, output.negative_ND, positives, negatives, *counts
    )
    loss, _ = learns(output, everywhere, positives, *counts)
    loss.backward()
    (parameter,) = learns.parameters()
    assert parameter.item() == pytest.approx(-math.log(config.temperature))
    around = [
        expected_loss(replace(config, temperature=tau), vectors(), vectors())
        for tau in (config.temperature * math.exp(-step), config.temperature * math.exp(step))
    ]
    assert parameter.grad is not None
    expected = (around[0] - around[1]) / (2 * step)
    assert parameter.grad.item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("lambdas", ["none", "user", "item"])
def test_a_term_of_weight_0_gives_no_gradient(lambdas: str) -> None:
    leaf = leaves(vectors())
    objective(configured("softmax", lambdas), as_output(leaf))[0].backward()
    for name, a in (("user", leaf["a_u"]), ("item", leaf["a_v"])):
        assert (a.grad is not None) == (name == lambdas)


@pytest.mark.parametrize("main", MAIN)
def test_without_augmented_vectors_the_mimic_terms_are_0(main: str) -> None:
    config = configured(main, "all")
    x = vectors()
    output = as_output(leaves(x))._replace(augmented_user_BD=None, augmented_item_BD=None)
    loss, terms = objective(config, output)
    expected = expected_terms(config, x, x)
    assert loss.item() == pytest.approx(expected["main"] + 1.3 * expected["alignment"], abs=1e-12)
    assert terms["mimic_user"] == terms["mimic_item"] == 0


def test_reader_and_exchange_agree_on_the_most_frequent_categories(
    planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "MOST_MOMENTS", 0)
    monkeypatch.setattr(moments, "FEWEST_COMPARED", 3)
    config = preset("modern", planted.folder, planted.folder)
    batch = next(iter(ExampleReader(planted, reader_options(config, 64))))
    exchange = TrainTask(planted.schema, config.model, config.loss).exchange
    items = pq.read_table(planted.folder / "items.parquet").to_pylist()
    times: Counter[int] = Counter()
    for item in items:
        times[item[planted.schema.category]] += item["train_count"]
    kept = sorted(sorted(times, key=lambda row: (-times[row], row))[:3])
    parts = (batch.positives, batch.negatives)
    rows = [items[index][planted.schema.category] for x in parts for index in x.index.tolist()]
    vectors = [torch.randn(len(known.index), config.model.output_dim) for known in parts]
    everywhere = exchange(*vectors, *parts, batch.counts, batch.negative_counts)
    count_K, *_ = everywhere.moments()
    assert count_K.tolist() == [
        sum(row not in kept for row in rows),
        *(rows.count(row) for row in kept),
    ]
