"""Scores from the training's own episodes: bookkeeping, the policy gradient, every kind of agent, resuming, errors."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.preferences import Preferences
from sb3_forecast.scorers.learned.running import RunningEpisodes, Steps
from sb3_forecast.scorers.learned.trust import Trust
from sb3_forecast.scorers.protocols import Rollout
from sb3_forecast.scorers.situations import Situations
from tests.conftest import SMALL_PPO

LENGTH, RISK = 4, 0.3


class Chain(gym.Env):
    """Action 1 fails with a probability; the observation is the step."""

    observation_space = spaces.Box(0.0, 1.0, (LENGTH,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._see(), {}

    def _see(self):
        return np.eye(LENGTH, dtype=np.float32)[min(self.t, LENGTH - 1)]

    def step(self, action):
        failed = bool(action == 1 and self.np_random.random() < RISK)
        self.t += 1
        return self._see(), -1.0 if failed else 0.0, failed or self.t == LENGTH, False, {}


def chain_failed(step):
    return step.reward < 0.0


def random_steps(generator, episode, costs):
    n = len(episode)
    marks = generator.random((n, 1)).astype(np.float32)
    return Steps(episode, episode % 7, costs, Situations(marks), marks, marks, np.zeros(n, dtype=np.int64))


@pytest.mark.parametrize("seed", range(5))
def test_episodes_are_put_together_across_rollouts(seed):
    generator = np.random.default_rng(seed)
    envs, running = 3, RunningEpisodes()
    going, expected, found = [[] for _ in range(envs)], [], {}
    for rollout in range(12):
        dones, costs = generator.random((4, envs)) < 0.3, generator.random((4, envs)) < 0.2
        starts = np.array([not going[e] for e in range(envs)])
        if rollout == 6:  # the environments were reset
            starts[:] = True
            going = [[] for _ in range(envs)]
        numbers = running.numbers(dones, starts)
        steps = random_steps(generator, numbers.reshape(-1), costs.reshape(-1))
        marks = steps.features[:, 0].reshape(4, envs)
        for t in range(4):
            for e in range(envs):
                going[e].append((marks[t, e], costs[t, e]))
                if dones[t, e]:
                    bad = [cost for _, cost in going[e]]
                    end = bad.index(True) + 1 if any(bad) else len(bad)
                    expected.append([mark for mark, _ in going[e][:end]])
                    going[e] = []
        over = running.add(steps, numbers[dones])
        for number, mark in zip(over.episode, over.features[:, 0], strict=True):
            found.setdefault(number, []).append(mark)
        assert (np.diff(over.episode) >= 0).all()
    assert sorted(found.values()) == sorted(expected)


class Oracle(CostModel):
    """The true failure critic of the chain, for a given policy; it learns nothing."""

    def __init__(self, policy_risks):
        super().__init__(LENGTH, 2)
        value, self.table = 0.0, np.zeros((LENGTH, 2))
        for t in reversed(range(LENGTH)):
            self.table[t] = value, RISK + (1.0 - RISK) * value
            value = (1.0 - policy_risks[t]) * self.table[t, 0] + policy_risks[t] * self.table[t, 1]

    def probabilities(self, features):
        return self.table[features.argmax(axis=1)]

    def fit(self, steps=60, batch=512):
        return 0.0


def test_the_gradient_is_that_of_the_failure_probability():
    """With the true critic: against the derivative of the exact failure probability of the chain."""
    pool = sfe.SeededTasks(Chain, 1, chain_failed)
    env = pool.make_vec_env(16, 0)
    model = PPO("MlpPolicy", env, n_steps=500, batch_size=4000, n_epochs=1, learning_rate=0.0, seed=0, device="cpu")
    seen = th.eye(LENGTH)
    with th.no_grad():
        before = model.policy.get_distribution(seen).distribution.probs[:, 1].double().numpy()
    scorer = sf.RolloutScorer(pool, episodes=4000, tau=1e-6, cost_model=Oracle(before))
    objective = sf.ForecastObjective(scorer, sf.MeanFailureLoss(n_tasks=1))
    model.learn(8000, callback=sf.ForecastCallback(objective, forecast_coef=0.0))
    risks = model.policy.get_distribution(seen).distribution.probs[:, 1].double()
    exact = 1.0 - (1.0 - RISK * risks).prod()
    scorer.score(model)
    score = scorer.rescore(model, np.array([0]))[0]
    p = sf.failure_probability(score)
    # not without bias: episodes that fail are short, and the steps of each are averaged
    assert p.item() == pytest.approx(exact.item(), rel=0.2)
    chosen = [q for name, q in model.policy.named_parameters() if "policy_net" in name or "action_net" in name]
    ours, truth = (th.cat([g.flatten() for g in th.autograd.grad(x, chosen)]).double() for x in (p, exact))
    assert (ours @ truth / ours.norm() / truth.norm()).item() > 0.995
    assert (ours.norm() / truth.norm()).item() == pytest.approx(1.0, rel=0.1)


class Watched(sf.RolloutScorer):
    """Compares the probabilities at what it keeps with those of the rollout."""

    differences = ()

    def _steps_of(self, rollout):
        steps, ended = super()._steps_of(rollout)
        actor = self.choices(rollout.model).actor(rollout.model)
        with actor.evaluating(), th.no_grad():
            log_pi, _ = actor.consider(steps.situations, rollout.model.get_vec_normalize_env())
        taken = log_pi[th.arange(len(steps)), th.from_numpy(steps.outputs)]
        self.differences += ((taken - th.from_numpy(rollout.model.rollout_buffer.log_probs.reshape(-1))).abs().max().item(),)
        return steps, ended


@pytest.mark.parametrize("kind", ["plain", "a2c", "normalised", "masked", "recurrent"])
def test_what_is_kept_is_what_the_agent_saw(kind):
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0, rare_fraction=0.2)
    env = sfe.GridVecEnv(pool, 16, seed=0)
    settings = {"seed": 0, "device": "cpu"}
    if kind == "recurrent":
        model = RecurrentPPO(
            "MlpLstmPolicy", env, n_steps=32, batch_size=128, policy_kwargs={"lstm_hidden_size": 16}, **settings
        )
    elif kind == "masked":
        model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=128, **settings)
    elif kind == "a2c":
        model = A2C("MlpPolicy", env, n_steps=32, **settings)
    else:
        env = VecNormalize(env, norm_reward=False) if kind == "normalised" else env
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=128, **settings)
    scorer = Watched(pool, warm_up_failures=1)
    loss = sf.ForecastLoss(eval_size=20, k=3, n_partitions=8, kind="guarded", p_floor=1e-4)
    model.learn(
        (4 if kind == "recurrent" else 8) * 512,
        callback=sf.ForecastCallback(sf.ForecastObjective(scorer, loss), forecast_coef=0.3, drawn_share=0.25),
    )
    # VecNormalize's statistics go on changing during a rollout
    assert max(scorer.differences[1:]) < (0.2 if kind == "normalised" else 1e-4)
    assert np.isfinite(scorer.score(model).numpy()).any()
    assert scorer.steps_played == 0


def test_continuous_actions():
    pool = sfe.SeededTasks(Slope, 40, chain_failed)
    env = pool.make_vec_env(8)
    model = sf.ForecastPPO("MlpPolicy", env, scorer=sf.RolloutScorer(pool, warm_up_failures=1), n_steps=64, batch_size=128, seed=0,
                           validation_share=0.0, device="cpu", full_every=1, k=3, eval_size=5)  # fmt: skip
    model.learn(6 * 512)
    scores = model.objective.scorer.score(model).numpy()
    assert np.isfinite(scores).any()


class Slope(gym.Env):
    """A point that runs away unless it is pushed back."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(-0.5, 0.5)), 0
        return np.array([self.x], dtype=np.float32), {}

    def step(self, action):
        self.x = 1.3 * self.x + 0.5 * float(action[0])
        self.t += 1
        failed = abs(self.x) > 2.0
        return np.array([self.x], dtype=np.float32), -1.0 if failed else 0.1, failed, self.t >= 20, {}


def train(seed=0, steps=5 * 512):
    pool = sfe.TaskPool("ThinIce-8x8", 100, seed=0, rare_fraction=0.3)
    env = sfe.GridVecEnv(pool, 16, seed=seed)
    scorer = sf.RolloutScorer(pool, warm_up_failures=1)
    model = sf.ForecastPPO("MlpPolicy", env, scorer=scorer, k=3, eval_size=20, **{**SMALL_PPO, "seed": seed})
    return pool, model.learn(steps)


@pytest.fixture(scope="module")
def played():
    return train()


def test_the_same_seed_gives_the_same_training():
    (_, one), (_, other) = train(), train()
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert th.equal(a, b)


def test_a_state_comes_back(played):
    pool, model = played
    scorer = model.objective.scorer
    again = sf.RolloutScorer(pool, warm_up_failures=1)
    again.load_state_dict(copy.deepcopy(scorer.state_dict()))
    assert th.equal(again.score(model), scorer.score(model))
    assert again.failures == scorer.failures > 0
    # a saved model keeps the critic, not the episodes
    small = pickle.loads(pickle.dumps(scorer))
    assert small.cost_model.logits(np.zeros((1, scorer.cost_model.transitions.failing[0].shape[1]), dtype=np.float32)).any()
    assert np.isneginf(small.score(model).numpy()).all()


def test_saving_and_loading_a_model(played, tmp_path):
    pool, model = played
    model.save(tmp_path / "model")
    loaded = sf.ForecastPPO.load(tmp_path / "model", env=sfe.GridVecEnv(pool, 16, seed=0), device="cpu")
    before = model.objective.scorer
    loaded.learn(2 * 512, reset_num_timesteps=False)
    scorer = loaded.objective.scorer
    assert scorer.failures >= before.failures > 0
    assert scorer.rounds > before.rounds
    assert len(scorer.cost_model.transitions.others[1]) > len(before.cost_model.transitions.others[1]) > 0


def test_scores_rank_tasks_as_the_exact_ones_do():
    pool, model = train(steps=14 * 512)
    exact = sf.ExactScorer(pool).score(model).numpy()
    ours = model.objective.scorer.score(model).numpy()
    known = np.isfinite(ours)
    assert known.sum() > 30
    ranks = [np.argsort(np.argsort(x[known])) for x in (exact, ours)]
    assert np.corrcoef(ranks)[0, 1] > 0.3


def test_only_the_latest_episodes_count(played):
    _, model = played
    visits = model.objective.scorer._visits
    assert (np.bincount(visits.tasks) <= 1).all()
    assert set(visits.steps.episode) <= set(visits.episodes)


def test_rescoring_needs_a_scoring_after_the_last_rollout(played, monkeypatch):
    _, model = played
    scorer = model.objective.scorer
    monkeypatch.setattr(scorer, "_c", np.zeros((len(scorer._visits.steps) + 1, 3)))
    with pytest.raises(RuntimeError, match=r"call score\(model\) first"):
        scorer.rescore(model, np.array([0]))


def test_foresight_of_whole_episodes():
    trust = Trust()
    c = np.full(100, 0.02)
    trust.add(c, np.ones(100, dtype=bool), 0.1, False, warned=np.full(20, 0.5))
    assert trust.foresight == 1.0
    trust.add(c, np.ones(100, dtype=bool), 0.1, False)
    assert trust.foresight == pytest.approx(20 / 120)
    calibration, foresight = trust.warnings_of_episodes()
    assert "expects 0.02 times the failures" in calibration
    assert "foreseen only 17% of the failed episodes" in foresight
    assert not trust.holds
    assert not Trust().warnings_of_episodes()


def test_nothing_is_said_of_scoring_steps(recwarn):
    """They would be more than the whole training, if there were any."""
    pool = sfe.SeededTasks(Late, 200, late)
    scorer = sf.RolloutScorer(pool, warm_up_failures=1)
    settings = {**SMALL_PPO, "seed": 0, "k": 3, "eval_size": 10, "validation_share": 0.0}
    sf.ForecastPPO("MlpPolicy", pool.make_vec_env(4), scorer=scorer, **settings).learn(256)
    assert scorer.ready
    assert not [each for each in recwarn if "one scoring of the pool" in str(each.message)]


def test_errors():
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0)
    scorer = sf.RolloutScorer(pool)
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 4), n_steps=16, batch_size=64, device="cpu")
    with pytest.raises(ValueError, match="got a RolloutScorer; use scorer='auto'"):
        sf.evaluate_forecast(model, pool, 20, 10, scorer=scorer, k=3)
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        sf.RolloutScorer(pool, episodes=0)
    with pytest.raises(ValueError, match="tau must be"):
        sf.RolloutScorer(pool, tau=2.0)
    with pytest.raises(ValueError, match="warm_up_failures"):
        sf.RolloutScorer(pool, warm_up_failures=-1)
    with pytest.raises(ValueError, match="info of every step must have `task`"):
        scorer.after_rollout(Rollout(model, np.zeros((16, 4)), np.zeros((16, 4), dtype=bool), None))
    assert "10 failed episodes, of which it has seen 0" in scorer.waits_for
    assert not scorer.ready


class Late(gym.Env):
    """The first action decides, and the cost comes with the last step. Nothing is rewarded."""

    observation_space = spaces.Box(0.0, 1.0, (LENGTH + 1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.lost = 0, False
        return self._see(), {}

    def _see(self):
        return np.append(np.eye(LENGTH)[min(self.t, LENGTH - 1)], float(self.lost)).astype(np.float32)

    def step(self, action):
        self.lost |= self.t == 0 and action == 1
        self.t += 1
        over = self.t == LENGTH
        return self._see(), 0.0, over, False, {"late": over and self.lost}


def late(step):
    return step.info["late"]


def test_the_decision_long_before_the_cost_is_credited():
    pool = sfe.SeededTasks(Late, 40, late)
    settings = {**SMALL_PPO, "n_steps": 64, "seed": 0, "k": 3, "eval_size": 10, "gradient_every": 1, "validation_share": 0.0}
    first = th.tensor([[1.0] + [0.0] * LENGTH])
    left = {}
    for name, scorer in {
        "rollouts": sf.RolloutScorer(pool),
        "episodes": sf.EpisodeScorer(pool, n_envs=8, warm_up_rounds=1, warm_up_failures=5),
    }.items():
        model = sf.ForecastPPO("MlpPolicy", pool.make_vec_env(8), scorer=scorer, full_every=1, **settings)
        model.learn(10 * 512)
        left[name] = model.policy.get_distribution(first).distribution.probs[0, 1].item()
    # the immediate cost model blames the last step, where nothing can be done
    assert left["rollouts"] < 0.1 < 0.3 < left["episodes"]


@pytest.mark.parametrize(("worth", "holds"), [(1.0, True), (0.0, False), (-1.0, False)])
def test_what_the_preferences_of_a_critic_are_worth(worth, holds):
    generator = np.random.default_rng(0)
    preferences = Preferences()
    assert not preferences.hold
    assert not preferences.metrics()
    for _ in range(30):
        preferred = generator.normal(0.0, 0.1, 400)
        begin = np.arange(0, 400, 20)
        # all steps of an episode share most of what happened
        happened = worth * preferred + np.repeat(generator.normal(0.0, 0.3, 20), 20)
        preferences.add(preferred, happened, begin)
    assert preferences.hold == holds
    assert preferences.slope == pytest.approx(worth, abs=0.35)
    again = Preferences()
    again.load_state_dict(copy.deepcopy(preferences.state_dict()))
    assert again.metrics() == preferences.metrics()


def test_preferences_that_are_noise_seldom_hold():
    """One-sided 95%: with dependent steps, too."""
    held = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        preferences = Preferences()
        preferred = np.repeat(generator.normal(0.0, 0.1, 100), 5) + generator.normal(0.0, 0.02, 500)
        preferences.add(preferred, np.repeat(generator.normal(0.0, 0.3, 100), 5), np.arange(0, 500, 5))
        held += preferences.hold
    assert 5 <= held <= 28


def test_training_with_it_is_gentle(played):
    pool, model = played
    for scorer, gentle in ((model.objective.scorer, True), (sf.ExactScorer(pool), False)):
        objective = sf.ForecastObjective(scorer, sf.MeanFailureLoss(n_tasks=1))
        callback = sf.ForecastCallback(objective, forecast_coef=1.0)
        callback.init_callback(model)
        assert callback._injector.gentle == gentle


def test_a_critic_whose_preferences_are_noise_moves_nothing(played):
    _, model = played
    scorer = copy.copy(model.objective.scorer)
    scorer.preferences = Preferences()
    assert scorer.trusted
    assert not scorer.may_move
    callback = sf.ForecastCallback(model.objective, forecast_coef=1.0)
    callback.model = model
    model.objective.scorer, kept = scorer, model.objective.scorer
    try:
        assert callback._coef() == 0.0
        scorer.preferences.add(np.ones(50), np.ones(50) + np.random.default_rng(0).normal(0, 0.1, 50), np.arange(50))
        assert callback._coef() == 1.0
    finally:
        model.objective.scorer = kept
