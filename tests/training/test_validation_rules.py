"""The rules of the validation by themselves: what harm is, what noise allows, what is left behind. No model is trained or scored."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from sb3_forecast.training import validation as module
from sb3_forecast.training.validation import Look, Snapshot, Validation, kept_back

LOOK = Look(limit_holds=0.9, mean_scale=0.2, mean_failure=0.01, worst_failure=0.3, success=0.8)
EXACT, SAMPLED, PLAYED, COUNTED = (
    SimpleNamespace(samples=s, steps_played=p, counts_failures=c)
    for s, p, c in ((False, 0, False), (True, 0, False), (False, 9, False), (True, 9, True))
)


def look(**changes):
    return dataclasses.replace(LOOK, **changes)


def started(n_tasks=100, scorer=EXACT, best=LOOK, min_success=None):
    """A validation that has looked at a start, and has seen a best policy since."""
    found = Validation(range(n_tasks), 20, 4, min_success)
    found._scorer = scorer
    found.start = found.unharmed = Snapshot(LOOK, {"p": 0}, 0)
    found.best = Snapshot(best, {"p": 1}, 10)
    return found


@pytest.mark.parametrize(
    ("n", "eval_size", "k", "expected"),
    [
        (4000, 200, 10, (200, 10)),
        (80, 200, 50, (20, 10)),
        (8, 200, 10, (2, 2)),
        (400, 1, 10, (10, 10)),
        (4000, 300, 7, (300, 7)),
    ],
)
def test_sizes_that_the_pool_allows(n, eval_size, k, expected):
    found = Validation(range(n), eval_size, k)
    assert (found.eval_size, found.k) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((20, 1), "k must be at least 2, got 1"),
        ((0, 4), "eval_size must be at least 1, got 0"),
        ((20, 4, None, -1), "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Validation(range(100), *arguments)


@pytest.mark.parametrize(
    ("scorer", "n", "share", "noise"),
    [
        (EXACT, 100, 0.5, 0.0),
        (SAMPLED, 100, 0.5, 2 * math.sqrt(0.25 / 200)),
        (PLAYED, 100, 0.5, 2 * math.sqrt(0.25 / 200)),
        (SAMPLED, 1000, 0.3, 2 * math.sqrt(0.21 / 1000)),
        (SAMPLED, 100, 0.0, 2 * math.sqrt(1 / 200 / 200)),
        (SAMPLED, 100, 1.2, 2 * math.sqrt(1 / 200 / 200)),
        (SAMPLED, 100, -0.3, 2 * math.sqrt(1 / 200 / 200)),
        (SAMPLED, 100, math.nan, 0.0),
    ],
)
def test_two_standard_errors_of_a_counted_share(scorer, n, share, noise):
    assert started(n, scorer)._noise(share) == pytest.approx(noise)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"success": 0.78 - 1e-9}, ["success is 0.7800, far below the best so far, 0.8000"]),
        ({"success": 0.78 + 1e-9}, []),
        ({"success": math.nan}, []),
        ({"mean_failure": 0.0150001}, ["the mean failure is 0.015, at the start it was 0.01"]),
        ({"mean_failure": 0.0149999}, []),
        (
            {"success": 0.1, "mean_failure": 0.9},
            ["success is 0.1000, far below the best so far, 0.8000", "the mean failure is 0.9, at the start it was 0.01"],
        ),
    ],
)
def test_harm_in_exact_scores(changes, reasons):
    assert started().harm(look(**changes)) == reasons


def test_a_mean_failure_of_nothing_may_be_rounding():
    mine = started()
    mine.start = Snapshot(look(mean_failure=0.0), {}, 0)
    assert mine.harm(look(mean_failure=9e-13)) == []
    assert mine.harm(look(mean_failure=2e-12)) != []


def test_the_mean_failure_is_that_of_the_start_and_the_success_that_of_the_best():
    mine = started(best=look(success=0.9, mean_failure=0.001))
    assert mine.harm(look(success=0.87)) == ["success is 0.8700, far below the best so far, 0.9000"]
    assert mine.harm(look(success=0.89, mean_failure=0.012)) == []


def test_what_the_user_asks_for_comes_first():
    mine = started(min_success=0.7)
    mine.best = Snapshot(look(success=0.71), {}, 0)
    assert mine.harm(look(success=0.7)) == []
    assert mine.harm(look(success=0.6999)) == ["success is 0.6999, below min_success=0.7"]
    assert mine.floor == 0.7
    assert started().floor == pytest.approx(0.795)


def test_noise_is_allowed_for():
    mine = started(scorer=SAMPLED)
    for share, name, step in ((0.8, "success", -0.02), (0.01, "mean_failure", 0.005)):
        edge = share + step + np.sign(step) * mine._noise(share)
        assert mine.harm(look(**{name: edge - step * 0.01})) == []
        assert len(mine.harm(look(**{name: edge + step * 0.01}))) == 1
    asked = started(scorer=SAMPLED, min_success=0.7)
    asked.best = Snapshot(look(success=0.7), {}, 0)
    assert asked.harm(look(success=0.7 - 0.9 * asked._noise(0.7))) == []
    assert asked.harm(look(success=0.7 - asked._noise(0.7) - 1e-9)) == ["success is 0.6352, below min_success=0.7"]


def test_the_coefficient_is_halved_twice_and_then_0():
    mine, seen = started(), []
    for _ in range(4):
        assert mine.restrain() is mine.unharmed
        seen.append(mine.factor)
    assert seen == [0.5, 0.25, 0.0, 0.0]
    assert mine.times_harmed == 4


@pytest.mark.parametrize(
    ("now", "reasons", "kept"),
    [
        (look(), [], True),
        (look(), ["harm"], False),
        (look(limit_holds=0.81), [], True),  # two steps of 5% below the best
        (look(limit_holds=0.79), [], False),
        (look(success=0.796), [], True),
        (look(success=0.794), [], False),  # below the floor
        (look(mean_failure=0.0101), [], False),  # more failures than at the start
        (look(mean_failure=0.0001), [], True),
    ],
)
def test_the_last_policy_is_kept_unless_the_best_is_clearly_better(monkeypatch, now, reasons, kept):
    mine = started()
    monkeypatch.setattr(mine, "look", lambda model: (now, reasons))
    assert mine.to_leave_behind(None) is (None if kept else mine.best)


def test_a_limit_of_counted_failures_decides_nothing(monkeypatch):
    """The fewer failures there are, the more scores are equal: a better policy must not go back to the start because of that."""
    better = look(limit_holds=0.1, mean_scale=0.0, mean_failure=0.002, success=0.95)
    mine = started(scorer=COUNTED)
    monkeypatch.setattr(mine, "look", lambda model: (better, []))
    assert mine.to_leave_behind(None) is None
    mine = started()
    monkeypatch.setattr(mine, "look", lambda model: (better, []))
    assert mine.to_leave_behind(None) is mine.best


def test_a_best_policy_that_fails_more_than_the_start_is_not_left_behind(monkeypatch):
    mine = started(best=look(mean_failure=0.012, limit_holds=0.95))
    monkeypatch.setattr(mine, "look", lambda model: (look(mean_failure=0.02), ["harm"]))
    assert mine.to_leave_behind(None) is mine.start


def test_the_last_policy_may_fail_ten_times_as_often_as_the_best(monkeypatch):
    mine = started(best=look(mean_failure=0.0001))
    for failure, kept in ((0.001, True), (0.0011, False)):
        monkeypatch.setattr(mine, "look", lambda model, failure=failure: (look(mean_failure=failure), []))
        assert mine.to_leave_behind(None) is (None if kept else mine.best)


def test_a_policy_with_too_little_success_is_not_kept_for_its_limit(monkeypatch):
    """Also not if the best one has as little: then the best stays."""
    mine = started(best=look(limit_holds=0.5, success=0.1))
    monkeypatch.setattr(mine, "look", lambda model: (look(success=0.1), []))
    assert mine.to_leave_behind(None) is mine.best


def test_success_below_the_floor_by_no_more_than_noise_is_enough(monkeypatch):
    mine = started(scorer=SAMPLED)
    for step, kept in ((-1e-6, False), (1e-6, True)):
        now = look(success=mine.floor - mine._noise(mine.floor) + step)
        monkeypatch.setattr(mine, "look", lambda model, now=now: (now, []))
        assert (mine.to_leave_behind(None) is None) == kept


class Model:
    """Something with parameters."""

    num_timesteps = 0

    def __init__(self):
        self.parameters = {"w": [0]}

    def get_parameters(self):
        return self.parameters


@pytest.fixture
def looked(monkeypatch):
    """A validation, its model, and a function that looks at given numbers."""
    asked = []

    def evaluate(*args, **kwargs):
        asked.append((args, kwargs))
        return SimpleNamespace(**dataclasses.asdict(asked_look[0]), other=1)

    asked_look = [LOOK]
    monkeypatch.setattr(module, "evaluate_forecast", evaluate)
    mine, model = Validation(range(100), 20, 4, seed=5), Model()
    mine._scorer = EXACT

    def at(found):
        asked_look[0] = found
        model.num_timesteps += 10
        model.parameters["w"][0] += 1
        return mine.look(model)

    at.validation, at.asked, at.model = mine, asked, model
    return at


def test_a_look_asks_for_a_report_with_the_sizes_of_the_validation(looked):
    assert looked(LOOK) == (LOOK, [])
    ((args, kwargs),) = looked.asked
    assert args == (looked.model, range(100), 20)
    assert kwargs == {"n_splits": 100, "seed": 5, "k": 4, "scorer": EXACT}


def test_the_first_look_is_the_start_the_best_and_unharmed(looked):
    looked(LOOK)
    mine = looked.validation
    assert mine.start is mine.best is mine.unharmed
    assert mine.start == Snapshot(LOOK, {"w": [1]}, 10)
    looked.model.parameters["w"][0] = 99
    assert mine.start.parameters == {"w": [1]}


@pytest.mark.parametrize(
    ("found", "best"),
    [
        (look(mean_failure=0.009), True),
        (LOOK, True),
        (look(mean_failure=0.011), False),
        (look(limit_holds=0.8), False),
        (look(limit_holds=0.95, success=0.79), False),
    ],
)
def test_the_best_is_the_latest_of_equal_quality(looked, found, best):
    looked(LOOK)
    assert looked(found) == (found, [])
    mine = looked.validation
    assert mine.unharmed == Snapshot(found, {"w": [2]}, 20)
    assert mine.best is (mine.unharmed if best else mine.start)


def test_a_harmed_policy_is_neither_best_nor_unharmed(looked):
    looked(LOOK)
    _, reasons = looked(look(limit_holds=0.99, mean_failure=0.02))
    assert len(reasons) == 1
    assert looked.validation.best is looked.validation.unharmed is looked.validation.start


def test_the_state_holds_all_that_was_seen():
    mine, again = started(best=look(success=0.9)), Validation(range(100), 20, 4)
    mine.restrain()
    mine.rollouts = 7
    mine.unharmed = Snapshot(look(worst_failure=0.2), {"p": 2}, 30)
    state = mine.state_dict()
    again.load_state_dict(state)
    for name in ("start", "best", "unharmed", "factor", "times_harmed", "rollouts"):
        assert getattr(again, name) == getattr(mine, name)
    assert again.state_dict() == state
    fresh = Validation(range(100), 20, 4)
    again.load_state_dict(fresh.state_dict())
    assert again.start is again.best is again.unharmed is None
    assert (again.factor, again.times_harmed, again.rollouts) == (1.0, 0, 0)


def test_tasks_without_keys_are_kept_back_one_by_one():
    aside = kept_back(range(50), 0.25, seed=3)
    assert len(set(aside.tolist())) == 12
    assert aside.dtype == np.int64
    assert (np.diff(aside) > 0).all()
    assert not np.array_equal(aside, kept_back(range(50), 0.25, seed=4))
