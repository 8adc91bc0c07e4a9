"""Answers of a store that is wrong, made by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import Catalogue
from dat_rec.publish.check import Best, best_items, check_answers
from dat_rec.publish.store import Answer
from tests.publish.world import read_catalogue

K = 20


@pytest.fixture
def catalogue(today: Path) -> Iterator[Catalogue]:
    with Catalogue.open(today) as opened:
        yield opened


@pytest.fixture
def best(catalogue: Catalogue) -> Best:
    return best_items(catalogue, catalogue.queries()[:3], K)


def right(catalogue: Catalogue, best: Best) -> list[Answer]:
    """By brute force, equal scores in the other order."""
    ids, vectors, _ = read_catalogue(catalogue.folder)
    answers = []
    for query in best.query_QD.astype(np.float64):
        scores = vectors @ query
        order = np.lexsort((-np.arange(len(ids)), -scores.round(12)))[:K]
        answers.append(Answer([ids[item] for item in order], scores[order]))
    return answers


def test_the_right_answer_is_right_whatever_the_order_of_ties(
    catalogue: Catalogue, best: Best
) -> None:
    answers = right(catalogue, best)
    # There are ties: a twentieth of the vectors stand there twice.
    assert any(
        answer.ids != ids and set(answer.ids) == set(ids)
        for answer, ids in zip(answers, best.ids, strict=True)
    )
    assert check_answers("store", catalogue, best, answers, exact=True) == 1


def refused(catalogue: Catalogue, best: Best, answer: Answer, *, exact: bool = True) -> str:
    answers = right(catalogue, best)
    with pytest.raises(UserError) as error:
        check_answers("store", catalogue, best, [answers[0], answer, answers[2]], exact=exact)
    assert str(error.value).startswith("store: query 2 of 3: ")
    return str(error.value)


@pytest.mark.parametrize("exact", [True, False])
def test_a_wrong_answer_is_refused(catalogue: Catalogue, best: Best, *, exact: bool) -> None:
    ids, scores = right(catalogue, best)[1]
    said = refused(catalogue, best, Answer(ids[:-1], scores[:-1]), exact=exact)
    assert said.endswith("19 items of 20 came back")
    said = refused(catalogue, best, Answer([*ids[:-1], ids[0]], scores), exact=exact)
    assert said.endswith("19 items of 20 came back")
    said = refused(catalogue, best, Answer([5, *ids[1:]], scores), exact=exact)
    assert said.endswith("item 5 is not in the export")
    said = refused(catalogue, best, Answer(ids, scores + 1e-4), exact=exact)
    assert "has the score" in said
    said = refused(catalogue, best, Answer(ids[::-1], scores[::-1]), exact=exact)
    assert said.endswith("scores do not fall")


def test_items_that_are_not_the_best_are_refused_of_exact_search_alone(
    catalogue: Catalogue, best: Best
) -> None:
    ids, vectors, _ = read_catalogue(catalogue.folder)
    scores = vectors @ best.query_QD[1].astype(np.float64)
    order = np.argsort(-scores)
    worse = [*order[: K - 1], order[-1]]
    answer = Answer([ids[item] for item in worse], scores[worse])
    assert refused(catalogue, best, answer).endswith("are not the best 20 of exact search")
    answers = right(catalogue, best)
    recall = check_answers("store", catalogue, best, [answers[0], answer, answers[2]], exact=False)
    assert recall == pytest.approx(59 / 60)
