"""Validation: its tasks are not trained on; harm is found, taken back, and the best policy is left behind."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.training.validation import DIP, PATIENCE, TOLERANCE, Validation, kept_back

FORECAST = {"eval_size": 40, "k": 5, "gradient_every": 4, "validate_every": 2}


def parameters(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def test_equal_tasks_are_kept_back_together():
    pool = sfe.TaskPool("ThinIce-5x5", 400, seed=0)
    aside = kept_back(pool, 0.3, seed=1)
    keys = np.array(pool.task_keys())
    assert len(set(keys)) < len(keys)
    assert not set(keys[aside]) & set(np.delete(keys, aside))
    assert len(set(keys[aside])) == int(0.3 * len(set(keys)))
    np.testing.assert_array_equal(aside, kept_back(pool, 0.3, seed=1))
    assert len(kept_back(pool, 0.0, seed=1)) == 0


class Starts(BaseCallback):
    """Notes on which tasks episodes are played."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def _on_step(self):
        self.seen |= {info["task"] for info in self.locals["infos"]}
        return True


def test_no_gradient_and_no_episode_sees_them(pool, agent):
    env = sfe.GridVecEnv(pool, 32, seed=5)
    model = sf.ForecastPPO.from_ppo(agent, env, device="cpu", drawn_share=0.5, **FORECAST)
    aside = set(model.objective.validation.tolist())
    assert len(aside) > 40
    starts = Starts()
    touched = set()

    class Touched(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            touched.update(model.objective.touched.tolist() if model.objective.has_partitions else [])

    env.reset()
    model.learn(4 * 16 * 32, callback=[starts, Touched()])
    assert touched
    assert not touched & aside
    assert len(starts.seen) > 30
    assert not starts.seen & aside
    # afterwards the environment draws from all tasks again
    drawn = set()
    for _ in range(40):
        env.reset()
        drawn |= {info["task"] for info in env.step(np.full(32, 2))[3]}
    assert drawn & aside


def test_a_look_is_a_report_on_these_tasks(pool, agent):
    part = pool.subset(np.arange(0, 300, 3))
    validation = Validation(part, 200, 10)
    report, reasons = validation.look(agent)
    exact = sf.ExactScorer(part).outcomes(agent)
    assert reasons == []
    assert report.success == pytest.approx(exact.success.mean())
    assert report.mean_failure == pytest.approx(sf.failure_probability(exact.psi).mean())
    assert (validation.eval_size, validation.k) == (25, 10)  # as much as 100 tasks allow


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"success": -DIP - 1e-4}, "far below the best so far"),
        ({"success": -DIP + 1e-4}, None),
        ({"mean_failure": 0.4}, None),
        ({"mean_failure": 0.6}, "the mean failure is"),
    ],
)
def test_what_harm_is(pool, agent, change, reason):
    validation = Validation(pool, 40, 5)
    report, _ = validation.look(agent)
    (name, step), value = *change.items(), getattr(report, next(iter(change)))
    found = validation.harm(dataclasses.replace(report, **{name: value + step if name == "success" else value * (1 + step)}))
    assert (len(found), all(reason in text for text in found)) == ((0, True) if reason is None else (1, True))


def test_success_may_not_fall_far_below_the_best_so_far(pool, agent):
    validation = Validation(pool, 40, 5)
    report, _ = validation.look(agent)
    validation.best = dataclasses.replace(
        validation.best, look=dataclasses.replace(report, success=report.success + DIP + 1e-4)
    )
    assert "far below the best so far" in validation.harm(report)[0]
    asked = Validation(pool, 40, 5, min_success=0.9)
    asked.look(agent)
    assert "below min_success=0.9" in asked.harm(report)[0]
    assert (asked.floor, validation.floor) == (0.9, report.success - TOLERANCE)


class Ruin(BaseCallback):
    """Makes the policy wander, in one rollout or in all."""

    def __init__(self, rollouts):
        super().__init__()
        self.rollouts, self.count = rollouts, 0

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.count += 1
        if self.count in self.rollouts:
            with th.no_grad():
                self.model.policy.action_net.weight.zero_()
                self.model.policy.action_net.bias.zero_()
                self.model.policy.action_net.bias[2] = 3.0  # forward, whatever comes


def test_harm_is_taken_back(pool, agent):
    """A policy that is ruined from outside goes back to its last unharmed state; after three times the forecast is off."""
    model = sf.ForecastPPO.from_ppo(agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", learning_rate=1e-9, **FORECAST)
    with pytest.warns(
        sf.TrainingWarning, match="did harm on tasks that no gradient sees: .*goes back to that of step .*multiplied by 0.5"
    ):
        model.learn(4 * 16 * 32, callback=Ruin({1}))
    assert model.validation.factor == 0.5
    assert th.allclose(parameters(model), parameters(agent), atol=1e-4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(12 * 16 * 32, callback=Ruin(set(range(13))), reset_num_timesteps=False)
    assert model.validation.factor == 0.0
    assert model.validation.times_harmed >= PATIENCE
    assert any("the forecast is switched off" in str(w.message) for w in caught)
    assert th.allclose(parameters(model), parameters(agent), atol=1e-4)


def test_the_start_is_left_behind_if_all_else_is_worse(pool, agent):
    """Also if the harm comes after the last look; with restore_best=False the last policy stays."""
    for restore in (True, False):
        model = sf.ForecastPPO.from_ppo(
            agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", learning_rate=1e-9, restore_best=restore, **FORECAST
        )
        model.learn(2 * 16 * 32, callback=Ruin({2}))
        assert th.allclose(parameters(model), parameters(agent), atol=1e-4) == restore


def test_a_scorer_that_is_often_wrong_moves_nothing(pool, agent):
    class Doubtful(sf.ExactScorer):
        trusted = False

    with pytest.warns(sf.TrainingWarning, match="the forecast is not active: the scorer's checks failed"):
        ours = sf.ForecastPPO.from_ppo(
            agent,
            sfe.GridVecEnv(pool, 32, seed=5),
            device="cpu",
            seed=3,
            scorer=Doubtful(pool),
            drawn_share=0.0,
            validation_share=0.0,
        ).learn(2 * 16 * 32)
    plain = sf.ForecastPPO.from_ppo(agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", seed=3, forecast_coef=0.0)
    assert th.equal(parameters(ours), parameters(plain.learn(2 * 16 * 32)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"validation_share": 1.0}, ValueError, r"validation_share must be in \[0, 0.9\], got 1.0"),
        ({"validation_share": "a"}, TypeError, "validation_share must be a number, got 'a'"),
        ({"validate_every": 0}, ValueError, "validate_every must be at least 1, got 0"),
        ({"min_success": 90}, ValueError, r"min_success must be in \[0, 1\], got 90"),
    ],
)
def test_bad_arguments(pool, agent, arguments, error, message):
    with pytest.raises(error, match=message):
        sf.ForecastPPO.from_ppo(agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", **arguments)


def test_the_coefficient_is_halved(pool, agent):
    """What is logged, and added to the optimizer's steps, falls with the factor."""
    model = sf.ForecastPPO.from_ppo(
        agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", forecast_coef=0.8, **{**FORECAST, "validate_every": 100}
    )
    seen = []

    class Halve(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            seen.append(self.logger.name_to_value.get("forecast/coef"))
            model.validation.factor /= 2.0

    logger = Logger(None, [])
    model.set_logger(logger)
    model.learn(3 * 16 * 32, callback=Halve(), log_interval=None)
    assert seen[1:] == [0.4, 0.2]


def test_counted_shares_have_noise(pool, clumsy):
    """A dip that 200 episodes may show by chance is no harm; the same dip in exact scores is."""
    part = pool.subset(np.arange(100))
    for name, harmed in (("frequency", False), ("exact", True)):
        validation = Validation(part, 20, 4)
        validation._scorer = make_measuring_scorer(name, part, clumsy, 0, {"episodes": 2})
        report, _ = validation.look(clumsy)
        start = dataclasses.replace(report, success=0.5, mean_failure=0.3)
        validation.start = validation.best = dataclasses.replace(validation.start, look=start)
        assert bool(validation.harm(dataclasses.replace(start, success=0.45))) == harmed
        assert validation.harm(dataclasses.replace(start, success=0.3))


def test_only_a_ppo_becomes_a_forecast_ppo(pool, tmp_path):
    other = A2C("MlpPolicy", sfe.GridVecEnv(pool, 4, seed=0), device="cpu")
    with pytest.raises(TypeError, match="model_or_path must be a PPO or a file of one, got A2C; use ForecastCallback"):
        sf.ForecastPPO.from_ppo(other, sfe.GridVecEnv(pool, 4))
    other.save(tmp_path / "a2c.zip")
    with pytest.raises(
        ValueError, match=r"model_or_path must be a file of a PPO, got .*a2c\.zip, which another algorithm saved"
    ):
        sf.ForecastPPO.from_ppo(tmp_path / "a2c.zip", sfe.GridVecEnv(pool, 4))


def test_steps_of_counted_looks_are_counted_and_kept(pool, clumsy):
    """A model that only counting fits plays episodes in every look; a resumed run goes on counting."""
    poles = sfe.SeededTasks("CartPole-v1", 12, failed=sfe.ended_early)
    model = PPO("MlpPolicy", poles.make_vec_env(2), n_steps=8, batch_size=8, device="cpu", seed=0)
    counted = Validation(poles, 4, 2)
    assert counted.steps_played == 0
    counted.look(model)
    once = counted.steps_played
    assert once >= 12 * 8  # a pole does not fall sooner
    assert not counted.may_look(0)
    assert counted.may_look(4 * once)
    counted.steps_watched = 4 * once
    assert counted.may_look(0)
    counted.look(model)
    assert not counted.may_look(0)  # two looks are more than a fifth
    counted.steps_watched = 3 * once
    again = Validation(poles, 4, 2)
    again.load_state_dict(counted.state_dict())
    assert again.steps_played == counted.steps_played
    assert again.steps_watched == 3 * once
    exact = Validation(pool, 20, 4)
    exact.look(clumsy)
    assert exact.steps_played == 0
    assert exact.may_look(0)
