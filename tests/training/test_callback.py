"""What the callback does at each step and rollout, with an objective, a validation and a model that only say what they are told."""

import warnings
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.logger import Logger

import sb3_forecast as sf
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.training.callback import check_injection, forecast_metrics
from sb3_forecast.training.losses import LossTerms, TooFewScoresError
from sb3_forecast.training.validation import Look, Snapshot

TERMS = LossTerms(
    th.tensor(2.5), th.tensor([1.0, 2.0]).double(), th.tensor([2.0, 0.0]).double(), th.tensor([0.2, 0.4]).double(), th.ones(3).double()
)  # fmt: skip
LOOK = Look(limit_holds=0.9, mean_scale=0.2, mean_failure=0.01, worst_failure=0.3, success=float("nan"))


def scorer(**changes):
    given = {
        "trusted": True,
        "learns": False,
        "plays": False,
        "gentle": False,
        "ready": True,
        "may_play": True,
        "warnings": lambda scores, count: [],
    }
    return SimpleNamespace(**{"may_move": changes.get("trusted", True), **given, **changes})


def objective(**changes):
    given = {
        "scorer": scorer(), "has_partitions": True, "scores": th.tensor([-1.0, 0.0]).double(),
        "touched": np.arange(3), "missed_top": float("nan"),
        "refresh": lambda model: TERMS, "starts": lambda share: ("weights", share), "validation": np.zeros(0, dtype=int),
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


class Env:
    """Notes which methods of the environments are called."""

    num_envs = 2

    def __init__(self):
        self.called = []

    def env_method(self, *args):
        self.called.append(args)


def callback(objective=None, **kwargs):
    found = sf.ForecastCallback(objective, **kwargs)
    env = Env()
    found.model = SimpleNamespace(
        logger=Logger(None, []), get_env=lambda: env, ep_success_buffer=None, _current_progress_remaining=0.5, device="cpu", loaded=[],
        set_parameters=lambda *args, **kwargs: found.model.loaded.append((args, kwargs)),
    )  # fmt: skip
    found._cost = np.zeros(2)
    return found


def logged(found):
    return found.model.logger.name_to_value


def test_metrics_of_a_refresh():
    found = forecast_metrics(objective(), TERMS, 1.5)
    assert found == {
        "forecast/loss": 2.5,
        "forecast/worst_failure": pytest.approx(np.exp(-1.0)),
        "forecast/tasks_touched": 3,
        "forecast/seconds": 1.5,
        "forecast/error": 1.5,
        "forecast/forecast": 1.5,
        "forecast/realised_max": 1.0,
        "forecast/scale": pytest.approx(0.3),
    }
    assert forecast_metrics(objective(missed_top=0.2), TERMS, 1.5)["forecast/missed_top"] == 0.2


def test_a_loss_without_a_forecast_has_fewer_metrics():
    none = th.zeros(0).double()
    found = forecast_metrics(objective(), LossTerms(th.tensor(2.5), none, none, none, none), 0.0)
    assert set(found) == {f"forecast/{name}" for name in ("loss", "worst_failure", "tasks_touched", "seconds")}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-0.1, 8, 0.0), ValueError, "forecast_coef must be at least 0, got -0.1"),
        (("1", 8, 0.0), TypeError, "forecast_coef must be a number"),
        ((1.0, 0, 0.0), ValueError, "gradient_every must be at least 1, got 0"),
        ((1.0, 8, -0.1), ValueError, r"drawn_share must be in \[0, 1\], got -0.1"),
        ((1.0, 8, 1.1), ValueError, r"drawn_share must be in \[0, 1\], got 1.1"),
    ],
)
def test_bad_injections(arguments, error, message):
    with pytest.raises(error, match=message):
        check_injection(*arguments)
    check_injection(lambda progress: progress, 1, 1.0)
    check_injection(0.0, 1, 0.0)


def test_what_is_usual_for_a_callback():
    found = sf.ForecastCallback(None)
    assert (found.drawn_share, found.verbose, found.forecast_coef, found.gradient_every) == (0.0, 0, 0.0, 8)
    assert (found.validation, found.validate_every, found.restore_best) == (None, 10, True)
    with pytest.raises(ValueError, match="validate_every must be at least 1, got 0"):
        sf.ForecastCallback(None, validate_every=0)


def test_costs_are_summed_up_by_episode():
    found = callback()
    found._episode_costs = deque()
    for costs, dones in (
        ((1, 2), (False, False)),
        ((4, None), (True, False)),
        ((8, 16), (False, True)),
        ((0, 0), (True, True)),
    ):
        infos = [{} if cost is None else {"cost": float(cost)} for cost in costs]
        found.locals = {"infos": infos, "dones": np.array(dones)}
        assert found._on_step() is True
    assert list(found._episode_costs) == [5.0, 18.0, 8.0, 0.0]
    found._on_rollout_end()
    assert logged(found)["rollout/ep_cost_mean"] == 31 / 4


def test_the_coefficient_follows_schedule_and_validation():
    found = callback(objective(), forecast_coef=lambda progress: 3.0 * progress)
    assert found._coef() == 1.5
    found.validation = SimpleNamespace(factor=0.5)
    assert found._coef() == 0.75
    assert callback(objective(), forecast_coef=0.8)._coef() == 0.8
    assert callback(objective(), forecast_coef=lambda progress: 0.0)._coef() == 0.0
    with pytest.raises(ValueError, match=r"forecast_coef must be at least 0, got -1\.0 from the schedule"):
        callback(objective(), forecast_coef=lambda progress: -1.0)._coef()


@pytest.mark.parametrize("silent", [None, objective(has_partitions=False), objective(scorer=scorer(trusted=False))])
def test_no_gradient_where_there_is_nothing_to_trust(silent):
    assert callback(silent, forecast_coef=1.0)._coef() == 0.0


def test_a_kind_of_warning_comes_once():
    found = callback()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in ("3 of 10", "4 of 12", "another"):
            found._warn(text)
    assert [str(each.message) for each in caught] == ["3 of 10", "another"]


def test_a_refresh_is_logged_and_starts_are_set():
    asked = []
    mine = objective(refresh=lambda model: asked.append(model) or TERMS)
    found = callback(mine, drawn_share=0.3, forecast_coef=0.4)
    found._injector = SimpleNamespace(restart=lambda: asked.append("restart"))
    found._on_rollout_end()
    assert asked == [found.model, "restart"]
    assert found.training_env.called == [("set_task_weights", "weights", 0.3)]
    assert logged(found)["forecast/coef"] == 0.4
    assert logged(found)["forecast/loss"] == 2.5
    assert logged(found)["forecast/seconds"] >= 0.0
    plain = callback(objective())
    plain._on_rollout_end()
    assert plain.training_env.called == []
    assert "forecast/coef" not in logged(plain)


def test_a_scorer_that_is_not_ready_is_not_asked():
    found = callback(objective(scorer=scorer(ready=False), refresh=None))
    found._on_rollout_end()
    assert logged(found) == {}


def test_a_scorer_that_learns_sees_the_rollout():
    seen = []
    learner = scorer(learns=True, after_rollout=lambda rollout: seen.append(rollout) or {"scorer/loss": 0.1})
    found = callback(objective(scorer=learner))
    for costs, dones in (((1.0, 0.0), (False, True)), ((0.0, 0.0), (True, False))):
        found.locals = {
            "infos": [{"cost": cost} for cost in costs], "dones": np.array(dones), "new_obs": np.zeros((2, 1)), "rewards": np.zeros(2),
        }  # fmt: skip
        found._on_step()
    found._on_rollout_end()
    (rollout,) = seen
    assert rollout.model is found.model
    assert rollout.costs.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert rollout.dones.tolist() == [[False, True], [True, False]]
    assert rollout.observations is None
    assert logged(found)["scorer/loss"] == 0.1


def test_a_scorer_that_learns_sees_observations_as_they_were_before_normalising():
    seen, originals = [], iter(["second", "third"])
    learner = scorer(learns=True, after_rollout=lambda rollout: seen.append(rollout) or {})
    found = callback(objective(scorer=learner))
    found._normalize, found._current = SimpleNamespace(get_original_obs=lambda: next(originals)), "first"
    for _ in range(2):
        found.locals = {
            "infos": [{}, {}],
            "dones": np.zeros(2, dtype=bool),
            "new_obs": np.zeros((2, 1)),
            "rewards": np.zeros(2),
        }
        found._on_step()
    found._on_rollout_end()
    assert seen[0].observations == ["first", "second"]


@pytest.mark.parametrize("learns", [True, False])
def test_too_few_scores_are_an_error_unless_the_scorer_may_learn_more(learns):
    def refresh(model):
        raise TooFewScoresError("too few")

    found = callback(objective(scorer=scorer(learns=learns, after_rollout=lambda rollout: {}), refresh=refresh))
    found._costs, found._dones, found._tasks = [np.zeros(2)], [np.zeros(2)], [np.zeros(2, dtype=int)]
    if learns:
        with pytest.warns(sf.TrainingWarning, match="this rollout has no forecast: too few"):
            found._on_rollout_end()
        assert "forecast/loss" not in logged(found)
    else:
        with pytest.raises(TooFewScoresError):
            found._on_rollout_end()


def test_warnings_of_the_scorer_and_of_the_guard_are_told():
    asked = []
    mine = objective(scorer=scorer(warnings=lambda scores, count: asked.append((scores.tolist(), count)) or ["be careful"]))
    found = callback(mine)
    successes = []
    found._guard = SimpleNamespace(look=lambda terms, success: successes.append(success) or ["degenerate"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # none; too few episodes to tell; enough; an empty buffer
        for buffer in (None, deque([1.0, 0.0], maxlen=3), deque([1.0, 0.0], maxlen=2), deque(maxlen=0)):
            found.model.ep_success_buffer = buffer
            found._on_rollout_end()
    assert [str(each.message) for each in caught] == ["be careful", "degenerate"]
    assert asked[0] == ([-1.0, 0.0], 10)
    assert successes == [None, None, 0.5, None]


def test_a_forecast_that_is_not_trusted_is_told_where_it_would_act():
    found = callback(objective(scorer=scorer(trusted=False)), forecast_coef=1.0)
    found._on_rollout_end()  # nothing would act
    found._injector = SimpleNamespace(restart=lambda: None)
    with pytest.warns(sf.TrainingWarning, match="the forecast is not active"):
        found._on_rollout_end()
    assert logged(found)["forecast/coef"] == 0.0


class Validated:
    """A validation that finds what it is told."""

    def __init__(self, reasons=(), factor=0.5, error=None, chosen=None):
        self.reasons, self.factor, self.error, self.chosen = list(reasons), factor, error, chosen
        self.rollouts, self.looks, self.start = 0, 0, object()
        self.waits, self.steps_watched = False, 0
        #: steps that a look takes, and of all looks so far
        self.steps, self.steps_played = 0, 0

    def may_look(self, scored):
        return not self.waits

    def look(self, model):
        self.looks += 1
        self.steps_played += self.steps
        if self.error:
            raise self.error
        return LOOK, self.reasons

    def restrain(self):
        return Snapshot(LOOK, {"p": 1}, 70)

    def to_leave_behind(self, model):
        if self.error:
            raise self.error
        return self.chosen


def test_a_look_waits_for_its_share_of_the_steps():
    watched = Validated()
    found = callback(None, validation=watched, validate_every=1)
    watched.waits = True
    found._on_rollout_start()
    assert watched.looks == 0
    watched.waits = False
    found._on_rollout_start()
    assert (watched.looks, watched.rollouts) == (1, 2)


@pytest.mark.parametrize("has_partitions", [True, False])
def test_a_scorer_that_may_not_play_keeps_its_last_forecast(has_partitions):
    """Without one there is nothing to keep, so the first scoring never waits."""
    refreshed = []
    told = objective(
        scorer=scorer(may_play=False), has_partitions=has_partitions, refresh=lambda model: refreshed.append(1) or TERMS
    )
    found = callback(told)
    found._on_rollout_end()
    assert len(refreshed) == (not has_partitions)


@pytest.mark.parametrize(("length", "warned"), [(300.0, True), (5.0, False)])
def test_a_scoring_that_takes_longer_than_the_training_is_warned_of(length, warned):
    told = objective(scorer=scorer(learns=True, plays=True, n_tasks=2000, after_rollout=lambda rollout: {}), scores=None)
    told.refresh = lambda model: setattr(told, "scores", th.tensor([-1.0, 0.0]).double()) or TERMS
    found = callback(told)
    found.model.ep_info_buffer, found.model._total_timesteps = [{"l": length}, {"l": length}], 500_000
    found._costs, found._dones, found._tasks = [np.zeros(2)], [np.zeros(2, dtype=bool)], [np.zeros(2, dtype=int)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found._on_rollout_end()
    said = [str(each.message) for each in caught if "one scoring of the pool takes about" in str(each.message)]
    assert len(said) == warned
    if warned:
        assert said[0] == (
            "one scoring of the pool takes about 600,000 environment steps (2,000 tasks of 300 steps), and the training has 500,000; "
            "use fewer tasks, or EpisodeScorer(max_share=0.5)"
        )


@pytest.mark.parametrize("error", [None, NoForecastError("too few")])
@pytest.mark.parametrize(
    ("steps", "total", "warned"),
    # too long; a small part of a long training; short, whatever it is a part of
    [(150_000, 900_000, True), (150_000, 2_000_000, False), (99_000, 100_000, False)],
)
def test_a_look_that_takes_much_of_the_training_is_warned_of_once(steps, total, warned, error):
    watched = Validated(error=error)
    watched.steps, watched.pool = steps, range(8000)
    found = callback(None, validation=watched, validate_every=1)
    found.model._total_timesteps = total
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            found._on_rollout_start()
    said = [str(each.message) for each in caught if "one look at the validation" in str(each.message)]
    text = (
        "one look at the validation takes 150,000 environment steps (8,000 tasks), and the training has 900,000; "
        "use a smaller validation_share"
    )
    assert said == [text] * warned


def test_scores_that_cannot_be_trusted_draw_no_tasks():
    for trusted, share in ((True, 0.25), (False, 0.0)):
        found = callback(objective(scorer=scorer(trusted=trusted)), drawn_share=0.25)
        found._on_rollout_end()
        assert ("set_task_weights", "weights", share) in found.training_env.called


@pytest.mark.parametrize("has_partitions", [True, False])
def test_a_scorer_that_is_not_trusted_waits_for_its_share_and_says_so(has_partitions):
    refreshed = []
    told = objective(
        scorer=scorer(may_play=False, trusted=False),
        has_partitions=has_partitions,
        refresh=lambda model: refreshed.append(1) or TERMS,
    )
    found = callback(told, drawn_share=0.25)
    with pytest.warns(sf.TrainingWarning, match="the forecast is not active: the scorer's checks failed"):
        found._on_rollout_end()
    assert refreshed == []
    assert found.training_env.called == [("set_task_weights", "weights", 0.0)]


def test_a_look_without_harm_is_logged():
    found = callback(None, validation=Validated())
    found._validate()
    assert logged(found) == {
        "validation/limit_holds": 0.9, "validation/worst_failure": 0.3, "validation/mean_failure": 0.01, "validation/factor": 0.5,
    }  # fmt: skip
    assert found.model.loaded == []


@pytest.mark.parametrize(("factor", "action"), [(0.25, "multiplied by 0.25"), (0.0, "switched off")])
def test_harm_puts_the_policy_back(factor, action):
    found = callback(None, validation=Validated(["one", "two"], factor))
    with pytest.warns(
        UserWarning,
        match=f"no gradient sees: one; two. The policy goes back to that of step 70, and the forecast is {action}$",
    ):
        found._validate()
    assert found.model.loaded == [(({"p": 1},), {"exact_match": True, "device": "cpu"})]
    assert logged(found)["validation/factor"] == factor


def test_a_policy_without_a_forecast_is_not_judged():
    found = callback(None, validation=Validated(["one"], error=NoForecastError("fails too rarely")))
    found._validate()
    assert logged(found) == {"validation/no_forecast": "fails too rarely"}
    assert found.model.logger.name_to_excluded["validation/no_forecast"] == ("tensorboard",)  # which takes no texts
    assert found.model.loaded == []
    with pytest.warns(UserWarning, match="the last policy is kept, because it has no validation: fails too rarely"):
        found._leave_the_best()


def test_every_third_rollout_is_looked_at_beginning_with_the_first():
    mine = Validated()
    found = callback(None, validation=mine, validate_every=3)
    looks = []
    for _ in range(7):
        found._on_rollout_start()
        looks.append(mine.looks)
    assert looks == [1, 1, 1, 2, 2, 2, 3]
    assert mine.rollouts == 7


def test_a_rollout_starts_with_nothing_noted():
    found = callback(None)
    found._costs, found._dones, found._seen = [1], [2], [3]
    found._on_rollout_start()
    assert found._costs == found._dones == found._seen == []


@pytest.mark.parametrize("verbose", [0, 1])
def test_the_best_is_left_behind(capsys, verbose):
    found = callback(None, validation=Validated(chosen=Snapshot(LOOK, {"p": 3}, 90)), verbose=verbose)
    found._on_training_end()
    assert found.model.loaded == [(({"p": 3},), {"exact_match": True, "device": "cpu"})]
    assert capsys.readouterr().out == ("left behind: the policy of step 90, the best on the validation\n" if verbose else "")


def test_the_last_is_left_behind_where_it_is_best_or_asked_for_or_never_looked_at():
    chosen = Snapshot(LOOK, {"p": 3}, 90)
    last, asked, never = (
        callback(None, validation=Validated(chosen=c), restore_best=r)
        for c, r in ((None, True), (chosen, False), (chosen, True))
    )
    never.validation.start = None
    for found in (last, asked, never):
        found._on_training_end()
        assert found.model.loaded == []


@pytest.mark.parametrize(("share", "validation", "reset"), [(0.0, 0, False), (0.2, 0, True), (0.0, 3, True)])
def test_the_environments_are_given_back_as_they_were(share, validation, reset):
    found = callback(objective(validation=np.arange(validation)), drawn_share=share)
    found._on_training_end()
    assert found.training_env.called == ([("set_task_weights", None)] if reset else [])


@pytest.mark.parametrize(("norm", "used"), [(0.7, 0.7), (0.0, 0.5)])
def test_the_gradient_is_clipped_as_that_of_the_algorithm(norm, used):
    """TRPO has 0, because it does not clip: then as PPO."""
    model = A2C("MlpPolicy", "CartPole-v1", max_grad_norm=norm, device="cpu")
    acting, logging, costs = (
        sf.ForecastCallback(objective(), forecast_coef=1.0, gradient_every=3),
        sf.ForecastCallback(objective()),
        sf.ForecastCallback(None, forecast_coef=1.0),
    )
    for each in (acting, logging, costs):
        each.init_callback(model)
    assert (acting._injector.max_grad_norm, acting._injector.every) == (used, 3)
    assert logging._injector is costs._injector is None
    assert acting._cost.tolist() == [0.0]
    assert acting._episode_costs.maxlen == 100


def test_only_on_policy_algorithms_take_a_gradient():
    found = callback(objective(), forecast_coef=1.0)
    found.model._stats_window_size = 100
    with pytest.raises(ValueError, match=r"model must be an on-policy algorithm .* got SimpleNamespace; use forecast_coef=0"):
        found._init_callback()


@pytest.mark.parametrize("normalised", [True, False])
def test_a_rollout_starts_from_the_observations_before_normalising(monkeypatch, normalised):
    normalisation = SimpleNamespace(get_original_obs=lambda: "now") if normalised else None
    monkeypatch.setattr("sb3_forecast.training.callback.normalisation_of", lambda model: normalisation)
    found, other = callback(objective(scorer=scorer(learns=True))), callback(objective())
    for each in (found, other):
        each._on_rollout_start()
    assert (found._normalize, found._current) == (normalisation, "now" if normalised else None)
    assert (other._normalize, other._current) == (None, None)
