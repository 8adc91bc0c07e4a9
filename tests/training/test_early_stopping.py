"""The rule of early stopping, against the definition looked up in the whole list of values."""

import random

import pytest

from dat_rec.training.early_stopping import StopRule


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_run_ends_when_so_many_validations_were_no_better(seed: int, patience: int) -> None:
    numbers = random.Random(seed)
    values = [numbers.choice([None, 0.1, 0.2, 0.3, 0.4]) for _ in range(12)]
    rule = StopRule("all/MRR", patience)
    for count, value in enumerate(values, 1):
        known = [(-one, 10 * place) for place, one in enumerate(values[:count], 1) if one]
        best = min(known, default=(0.0, 0))
        better = rule.look(10 * count, value)
        assert better == (best[1] == 10 * count)
        assert (rule.best or 0.0, rule.best_step) == (-best[0], best[1])
        assert rule.since == count - best[1] // 10
        assert rule.is_over == (patience > 0 and rule.since >= patience)
        if rule.is_over:
            return


def test_a_rule_goes_on_from_what_a_checkpoint_states() -> None:
    """A checkpoint that was not validated itself has no value, and so is none of the best."""
    rule, again = StopRule("all/MRR", 2), StopRule("all/MRR", 2)
    for step, value in ((5, 0.2), (10, 0.3), (15, 0.1)):
        rule.look(step, value)
    assert rule.state(15)["value"] == 0.1
    assert rule.state(17)["value"] is None
    again.load_state(rule.state(17))
    assert not again.look(20, 0.3)
    assert again.is_over
    assert again.words() == "all/MRR has not risen in 2 validations: best 0.3000 after step 10"
