"""Probes of the RolloutScorer: which steps count, how many are played, every kind of agent, resuming, errors."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.learned.probes import Probes
from sb3_forecast.scorers.learned.transitions import Transitions
from tests.conftest import SMALL_PPO
from tests.scorers.test_rollout_scorer import LENGTH, Chain, Oracle, Slope, chain_failed


class GoesOn(Chain):
    """The same, but the episode goes on after a failure."""

    def step(self, action):
        seen, reward, _, truncated, info = super().step(action)
        return seen, reward, self.t == LENGTH, truncated, info


@pytest.mark.parametrize("environment", [Chain, GoesOn])
def test_the_labels_are_unbiased(environment):
    """What the critic learns from: the share of failures after each action is its probability under the policy, though probes fail more."""
    pool = sfe.SeededTasks(environment, 6000, chain_failed)
    model = PPO("MlpPolicy", pool.make_vec_env(4), n_steps=16, batch_size=64, seed=0, device="cpu")
    with th.no_grad():
        model.policy.action_net.bias.copy_(th.tensor([1.5, -1.5]))
        probabilities = model.policy.get_distribution(th.eye(LENGTH)).distribution.probs[:, 1].double().numpy()
    critic = Oracle(probabilities)
    probes = Probes(pool, 0.9, 0, None, 16)
    probes.due(1, np.array([LENGTH]))
    choices = sf.RolloutScorer(pool).choices(model)
    told = probes.play(model, choices, critic, lambda features, seen: choices.risks(critic, features, seen), np.arange(6000))
    for steps, failed in (
        (told.seen, np.isin(told.seen.episode, told.seen.episode[told.seen.cost])),
        (told.drawn, told.drawn.cost),
    ):
        at = steps.features.argmax(axis=1)
        for t in range(LENGTH):
            for action in range(2):
                chosen = (at == t) & (steps.outputs == action)
                truth = critic.table[t, action]
                error = np.sqrt(truth * (1.0 - truth) / chosen.sum())
                assert chosen.sum() > 50
                assert failed[chosen].mean() == pytest.approx(truth, abs=4.0 * error + 1e-9)
    steps = told.seen
    # a policy that hardly takes the risky action shows few failures; the probes do not wait for it
    assert (steps.outputs == 1).mean() > 3.0 * probabilities.mean()


class Shows(gym.Env):
    """Action 1 fails, the episode goes on, and the observation shows that it has failed."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.lost = 0, False
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        self.lost |= action == 1
        return np.array([self.t / 8.0, self.lost], dtype=np.float32), -1.0 if action == 1 else 0.0, self.t == 8, False, {}


def test_nothing_is_told_of_what_comes_after_a_failure():
    pool = sfe.SeededTasks(Shows, 300, chain_failed)
    model = PPO("MlpPolicy", pool.make_vec_env(4), n_steps=16, batch_size=64, seed=0, device="cpu")
    probes, choices = Probes(pool, 0.9, 0, None, 16), sf.RolloutScorer(pool).choices(model)
    probes.due(1, np.array([8]))
    critic = choices.new_cost_model(0)
    told = probes.play(model, choices, critic, lambda features, seen: choices.risks(critic, features, seen), np.arange(300))
    for steps in (told.seen, told.drawn):
        assert steps.cost.sum() > 20
        assert (steps.features[:, 1] == 0.0).all()


def train(kind="plain", steps=6 * 512, share=0.3, seed=0):
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0, rare_fraction=0.2)
    env = sfe.GridVecEnv(pool, 16, seed=seed)
    if kind == "continuous":
        pool = sfe.SeededTasks(Slope, 40, chain_failed)
        env = pool.make_vec_env(16)
    env = VecNormalize(env, norm_reward=False) if kind == "normalised" else env
    settings = {"seed": seed, "device": "cpu", "n_steps": 32, "batch_size": 128}
    if kind == "recurrent":
        model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 16}, **settings)
    elif kind == "masked":
        model = MaskablePPO("MlpPolicy", env, **settings)
    else:
        model = PPO("MlpPolicy", env, **settings)
    scorer = sf.RolloutScorer(pool, warm_up_failures=1, probe_share=share, n_envs=4)
    loss = sf.ForecastLoss(eval_size=20, k=3, n_partitions=8, kind="guarded", p_floor=1e-4)
    callback = sf.ForecastCallback(sf.ForecastObjective(scorer, loss), forecast_coef=0.3, drawn_share=0.25)
    return pool, scorer, model.learn(steps, callback=callback)


play = Probes.play


@pytest.mark.parametrize("kind", ["plain", "normalised", "masked", "recurrent", "continuous"])
def test_every_kind_of_agent(kind):
    _, scorer, _ = train(kind, steps=4 * 512)
    assert scorer.steps_played > 0
    assert scorer.cost_model.transitions.n_others_seen > 0
    assert np.isfinite(scorer.preferences.slope)


def test_they_stay_within_their_share():
    for share in (0.1, 0.4):
        _, scorer, model = train(share=share)
        # the last probes of a round leave environments idle, whose steps count
        assert 0.5 * share < scorer.steps_played / (scorer.steps_played + model.num_timesteps) < 1.5 * share


def test_without_a_share_none_is_played():
    _, scorer, _ = train(steps=2 * 512, share=0.0)
    assert scorer.steps_played == 0
    assert scorer.probes.env is None


def test_the_same_seed_gives_the_same_training():
    (_, one, a), (_, other, b) = train(), train()
    assert one.steps_played == other.steps_played
    assert all(th.equal(p, q) for p, q in zip(a.policy.parameters(), b.policy.parameters(), strict=True))


def test_a_state_comes_back():
    pool, scorer, model = train()
    again = sf.RolloutScorer(pool, warm_up_failures=1, probe_share=0.3, n_envs=4)
    again.load_state_dict(copy.deepcopy(scorer.state_dict()))
    tasks = scorer.probes.tasks(50, np.arange(60), scorer._last)
    np.testing.assert_array_equal(again.probes.tasks(50, np.arange(60), again._last), tasks)
    assert again.steps_played == scorer.steps_played

    def played(of):
        choices = of.choices(model)
        return of.probes.play(model, choices, of.cost_model, lambda *seen: choices.risks(of.cost_model, *seen), tasks)

    one, other = played(scorer), played(again)
    for part in ("seen", "drawn"):
        for name in ("features", "outputs", "cost"):
            np.testing.assert_array_equal(getattr(getattr(one, part), name), getattr(getattr(other, part), name))


def test_environments_do_not_travel_with_the_scorer():
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0)
    own = pickle.loads(pickle.dumps(sf.RolloutScorer(pool, probe_share=0.2, n_envs=3)))
    assert own.probes.env.num_envs == 3
    given = pickle.loads(pickle.dumps(sf.RolloutScorer(pool, probe_share=0.2, env=sfe.GridVecEnv(pool, 5))))
    with pytest.raises(ValueError, match=r"scorer.probes.env must be set, got None"):
        given.probes.due(100_000, np.array([10]))
    given.probes.env = sfe.GridVecEnv(pool, 5)
    assert given.probes.due(100_000, np.array([10])) > 5


def test_half_of_them_play_the_worst_tasks():
    probes = Probes(sfe.TaskPool("ThinIce-8x8", 1000, seed=0), 0.2, 0, None, 4)
    scores = np.full(1000, -np.inf)
    scores[[3, 5, 8]] = 1.0, 2.0, 0.5
    played = np.arange(0, 1000, 2)
    tasks = probes.tasks(400, played, scores)
    assert 195 <= np.isin(tasks, [3, 5, 8]).sum() <= 210
    assert len(np.unique(tasks)) > 130
    assert np.isin(tasks, [*played, 3, 5]).all()
    for nothing in (None, np.full(1000, -np.inf)):
        assert len(np.unique(probes.tasks(400, played, nothing))) > 220


def test_few_are_saved_up_until_all_environments_are_busy():
    probes = Probes(sfe.TaskPool("ThinIce-8x8", 60, seed=0), 0.2, 0, None, 8)
    assert probes.due(1000, np.zeros(0, dtype=np.int64)) == 0  # no episode has ended, so their length is unknown
    assert probes.due(100, np.array([100])) == 0
    assert probes.due(3000, np.array([100])) == int(0.25 * 4100 / 100)


def test_errors():
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0)
    with pytest.raises(ValueError, match=r"probe_share must be below 1, got 1\.0"):
        sf.RolloutScorer(pool, probe_share=1.0)
    with pytest.raises(ValueError, match="probe_share must be"):
        sf.RolloutScorer(pool, probe_share=-0.1)
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        sf.RolloutScorer(pool, probe_share=0.1, n_envs=0)
    with pytest.raises(ValueError, match="env must not normalise observations"):
        sf.RolloutScorer(pool, probe_share=0.1, env=VecNormalize(sfe.GridVecEnv(pool, 4)))


def test_a_training_counts_them():
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0, rare_fraction=0.2)
    scorer = sf.RolloutScorer(pool, warm_up_failures=1, probe_share=0.3, n_envs=4)
    model = sf.ForecastPPO(
        "MlpPolicy", sfe.GridVecEnv(pool, 16, seed=0), scorer=scorer, k=3, eval_size=20, **{**SMALL_PPO, "seed": 0}
    )
    model.learn(6 * 256)
    assert model.objective.scorer.steps_played > 0


def test_they_play_no_task_that_is_kept_back(monkeypatch):
    played = []
    monkeypatch.setattr(Probes, "play", lambda self, *args: played.append(args[-1]) or play(self, *args))
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0, rare_fraction=0.2)
    scorer = sf.RolloutScorer(pool, warm_up_failures=1, probe_share=0.3, n_envs=4)
    settings = {**SMALL_PPO, "seed": 0, "k": 3, "eval_size": 10, "validation_share": 0.4}
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 16, seed=0), scorer=scorer, **settings).learn(6 * 256)
    kept_back = model.objective.validation
    assert len(kept_back) == 24
    assert len(played) > 1
    assert not np.isin(np.concatenate(played), kept_back).any()


def test_the_critic_learns_from_what_they_tell(monkeypatch):
    told, added = [], []
    monkeypatch.setattr(Probes, "play", lambda self, *args: told.append(play(self, *args)) or told[-1])
    add = Transitions.add
    monkeypatch.setattr(Transitions, "add", lambda self, *args: added.append(args) or add(self, *args))
    _, scorer, _ = train(steps=3 * 512)
    for each in told:
        labels = {"seen": np.isin(each.seen.episode, each.seen.episode[each.seen.cost]), "drawn": each.drawn.cost}
        for part, failed in labels.items():
            steps = getattr(each, part)
            (found,) = (args for args in added if np.array_equal(args[0], steps.inputs))
            np.testing.assert_array_equal(found[1], steps.outputs)
            np.testing.assert_array_equal(found[2], failed)
    assert len(told) > 1
    assert scorer.failures >= sum(each.seen.cost.sum() for each in told) > 0
