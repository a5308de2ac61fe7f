"""Learned survival where actions are too many to list: candidates, their weights and gradients, and a training that avoids what is fatal."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import A2C, PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.learned.choices import CANDIDATES, SampledActions, SampledActor, choices_of
from sb3_forecast.scorers.situations import Situations

SETTINGS = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "device": "cpu", "seed": 0}


class Edge(gym.Env):
    """Pushing pays, but a push above the edge fails; where the edge is, the observation shows."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
    horizon = 8

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.edge, self.time = float(self.np_random.random()), 0
        return np.array([self.edge], dtype=np.float32), {}

    def fatal(self, action):
        return float(np.asarray(action).reshape(-1)[0]) > 0.5 + self.edge

    def step(self, action):
        self.time += 1
        failed = self.fatal(action)
        info = {"cost": float(failed), "is_success": not failed}
        reward = 0.1 * float(np.asarray(action, dtype=np.float64).mean())
        return np.array([self.edge], dtype=np.float32), reward, failed, self.time >= self.horizon, info


class Switches(Edge):
    action_space = spaces.MultiDiscrete([3, 2])

    def fatal(self, action):
        return action[0] == 2 and action[1] == 1 and self.edge < 0.5


class Bits(Edge):
    action_space = spaces.MultiBinary(3)

    def fatal(self, action):
        return bool(action.all())


def tasks_of(env, n=60):
    return sfe.SeededTasks(env, n, identity=env.__name__)


def seen(n=400):
    return Situations(np.full((n, 1), 0.5, dtype=np.float32))


def considered(env, seed=0, n=400, model=None):
    model = PPO("MlpPolicy", env(), **SETTINGS) if model is None else model
    choices = choices_of(model.observation_space, model.action_space)
    actor = choices.actor(model)
    assert isinstance(choices, SampledActions)
    assert isinstance(actor, SampledActor)
    return model, actor, choices.considered(actor, seen(n), None, np.random.default_rng(seed))


def test_weights_measure_what_the_policy_rarely_does():
    model, actor, found = considered(Edge, n=2000)
    log_weights, _ = actor.consider(found, None)
    assert log_weights.exp().sum(dim=1).detach().numpy() == pytest.approx(1.0)
    normal = model.policy.get_distribution(th.full((1, 1), 0.5)).distribution
    mean, std = normal.mean.item(), normal.stddev.item()
    for level in (1.0, 2.0, 3.0):
        beyond = found.candidates["points"][:, :, 0] > mean + level * std
        share = (log_weights.exp().detach().numpy() * beyond).sum(axis=1).mean()
        # with 16 of the policy's own actions, 3 sigma would be seen in one of 46 situations
        assert share == pytest.approx(stats.norm.sf(level), rel=0.2)


def test_the_gradient_points_away_from_what_is_fatal():
    model, actor, found = considered(Edge, n=2000)
    log_weights, _ = actor.consider(found, None)
    fatal = th.from_numpy(found.candidates["executed"][:, :, 0] > 1.0)
    risk = (log_weights.exp() * fatal).sum(dim=1).mean()
    (gradient,) = th.autograd.grad(risk, model.policy.action_net.bias)
    # d/d mu of P(a > 1) is the density there
    normal = model.policy.get_distribution(th.full((1, 1), 0.5)).distribution
    assert gradient.item() == pytest.approx(stats.norm.pdf(1.0, normal.mean.item(), normal.stddev.item()), rel=0.2)


@pytest.mark.parametrize(("env", "probability"), [(Switches, 1 / 6), (Bits, 1 / 8)])
def test_discrete_dimensions(env, probability):
    model, actor, found = considered(env, n=3000)
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.zero_()
    model, actor, found = considered(env, n=3000, model=model)
    log_weights, _ = actor.consider(found, None)
    executed = found.candidates["executed"]
    chosen = (executed == np.array([2, 1])).all(axis=2) if env is Switches else executed.all(axis=2)
    share = (log_weights.exp().detach().numpy() * chosen).sum(axis=1).mean()
    assert share == pytest.approx(probability, rel=0.1)
    assert executed.shape == (3000, CANDIDATES, *env.action_space.shape)
    assert all(env.action_space.contains(action) for action in executed[:20].reshape(-1, *env.action_space.shape))


def test_the_cost_model_sees_what_the_environment_gets():
    _, _, found = considered(Edge)
    assert np.abs(found.candidates["executed"]).max() <= 2.0  # clipped
    assert np.abs(found.candidates["points"]).max() > 2.0
    squashing = PPO("MlpPolicy", Edge(), use_sde=True, policy_kwargs={"squash_output": True}, **SETTINGS)
    _, _, squashed = considered(Edge, model=squashing)
    executed = squashed.candidates["executed"]
    assert np.abs(executed).max() <= 2.0
    assert executed == pytest.approx(2.0 * np.tanh(squashed.candidates["points"]), abs=1e-5)


def test_transitions_of_a_rollout_hold_what_was_executed():
    model, _, _ = considered(Edge)
    choices = choices_of(model.observation_space, model.action_space)
    inputs, outputs = choices.of_buffer(model, np.full((3, 1), 0.5, dtype=np.float32), np.array([[[-7.0]], [[0.5]], [[9.0]]]))
    assert inputs.tolist() == [[0.5, -2.0], [0.5, 0.5], [0.5, 2.0]]
    assert outputs.tolist() == [0, 0, 0]


def test_candidates_stay_with_their_situations():
    _, actor, found = considered(Edge, n=6)
    some = found.take(np.array([4, 1]))
    assert np.array_equal(some.candidates["points"], found.candidates["points"][[4, 1]])
    joined = Situations.joined([some, found])
    assert len(joined.candidates["log_q"]) == 8
    alone, _ = actor.consider(some, None)
    together, _ = actor.consider(found, None)
    assert th.allclose(alone, together[[4, 1]])


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="action_space must be Discrete, Box, MultiDiscrete or MultiBinary"):
        choices_of(Edge.observation_space, spaces.Text(3))
    with pytest.raises(ValueError, match="model must have the action_space of the tasks"):
        sf.EpisodeScorer(tasks_of(Edge)).score(PPO("MlpPolicy", Bits(), **SETTINGS))


def test_a_delay_does_not_count_a_failure_twice():
    choices = choices_of(Edge.observation_space, Edge.action_space)
    assert choices.repeats(3) == 4
    assert choices_of(Edge.observation_space, spaces.Discrete(2)).repeats(3) == 1
    assert sf.EpisodeScorer(tasks_of(Edge)).tau == 0.01


@pytest.mark.parametrize("env", [Edge, Switches, Bits])
def test_training_with_other_algorithms(env):
    tasks = tasks_of(env)
    scorer = sf.EpisodeScorer(tasks, probes=20, warm_up_rounds=1, warm_up_failures=3)
    objective = sf.ForecastObjective(scorer, sf.TailLineLoss(20, 30, 3))
    model = A2C("MlpPolicy", tasks.make_vec_env(8), n_steps=16, device="cpu", seed=0)
    model.learn(1024, callback=sf.ForecastCallback(objective))
    assert objective.n_refreshes >= 1


@pytest.mark.slow
def test_what_is_learnt_agrees_with_counting():
    """The cost model foresees the failures, and its scores of fresh tasks are those of counted episodes."""
    tasks = tasks_of(Edge, 200)
    scorer = sf.EpisodeScorer(tasks, probes=30, seed=0)
    model = sf.ForecastPPO(
        "MlpPolicy", tasks.make_vec_env(16), scorer=scorer, eval_size=40, k=5, validation_share=0.0, n_steps=64, batch_size=256,
        n_epochs=4, learning_rate=1e-3, device="cpu", seed=0,
    )  # fmt: skip
    model.learn(60_000)
    assert scorer.ready
    assert scorer.trusted
    assert scorer.trust.foresight > 0.9
    assert scorer.trust.calibration == pytest.approx(1.0, abs=0.1)
    fresh = sfe.SeededTasks(Edge, 100, first_seed=10_000, identity="Edge")
    counted = sf.FrequencyScorer(fresh, 50).measure(model).frequencies
    learnt = sf.failure_probability(scorer.on(fresh, episodes=50).score(model).numpy())
    assert learnt.mean() == pytest.approx(counted.mean(), abs=0.05)
    assert np.corrcoef(learnt, counted)[0, 1] > 0.9
