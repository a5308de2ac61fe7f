"""Learned survival: labels, cost model, scores against the exact ones, gradient, warm-up, resuming, trust."""

import copy
import json
import pickle
import warnings
from contextlib import nullcontext
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.features import features_of, n_features
from sb3_forecast.scorers.learned.transitions import Transitions, label_costs
from sb3_forecast.scorers.learned.trust import Trust
from tests.conftest import SMALL_PPO


def brute_force_labels(costs, dones, delay):
    failed, known = np.zeros_like(costs), np.ones_like(costs)
    for t, e in np.ndindex(costs.shape):
        for late in range(delay + 1):
            if t + late >= len(costs):
                known[t, e] = False
                break
            failed[t, e] |= costs[t + late, e]
            if dones[t + late, e]:
                break
    return failed, known


@pytest.mark.parametrize("delay", [0, 1, 3, 9])
def test_labels(delay):
    generator = np.random.default_rng(delay)
    for _ in range(20):
        costs, dones = generator.random((8, 5)) < 0.15, generator.random((8, 5)) < 0.2
        failed, known = label_costs(costs, dones, delay)
        expected, expected_known = brute_force_labels(costs, dones, delay)
        np.testing.assert_array_equal(known, expected_known)
        np.testing.assert_array_equal(failed[known], expected[known])


def test_the_reservoir_is_uniform():
    counts = np.zeros(1000)
    for seed in range(200):
        kept = Transitions(1, np.random.default_rng(seed), capacity=100)
        for begin in range(0, 1000, 130):
            part = np.arange(begin, min(begin + 130, 1000), dtype=np.float32)[:, None]
            kept.add(part, np.zeros(len(part), dtype=np.int64), np.zeros(len(part), dtype=bool))
        assert len(kept.others[1]) == 100
        counts[kept.others[0][:, 0].astype(int)] += 1
    thirds = counts.reshape(10, 100).mean(axis=1)
    assert np.abs(thirds - 20).max() < 2.5


def test_the_cost_model_is_calibrated():
    """Half the moves off a ledge fail, one in a hundred elsewhere by chance; probabilities come out as such."""
    generator = np.random.default_rng(0)
    model = CostModel(2, 2, seed=0)
    for _ in range(4):
        features = generator.random((4000, 2)).astype(np.float32)
        actions = generator.integers(2, size=4000)
        p = np.where((features[:, 0] > 0.8) & (actions == 1), 0.5, 0.01)
        model.transitions.add(features, actions, generator.random(4000) < p)
        model.fit(100)
    ledge = model.probabilities(np.array([[0.95, 0.5], [0.9, 0.1]], dtype=np.float32))
    assert np.abs(ledge[:, 1] - 0.5).max() < 0.2
    safe = model.probabilities(generator.random((500, 2)).astype(np.float32) * np.array([0.7, 1.0], dtype=np.float32))
    assert safe.mean() < 0.05


@pytest.fixture(scope="module")
def learnt(agent, pool):
    scorer = sf.EpisodeScorer(pool, episodes=20, probes=300, seed=0)
    for _ in range(5):
        scorer.learn(agent)
    return scorer


def test_scores_are_close_to_the_exact_ones(agent, pool, learnt):
    exact = sf.ExactScorer(pool).score(agent).numpy()
    scores = learnt.score(agent).numpy()
    top = np.argsort(-exact)[:30]
    error = np.abs(sf.log_failure_probability(scores[top]) - sf.log_failure_probability(exact[top]))
    assert np.median(error) < 0.15
    assert learnt.ready
    # a scorer that has learnt nothing has no idea
    blank = sf.EpisodeScorer(pool, episodes=20, seed=0).score(agent).numpy()
    worse = np.abs(sf.log_failure_probability(blank[top]) - sf.log_failure_probability(exact[top]))
    assert np.median(worse) > 3 * np.median(error)


def test_the_gradient_is_that_of_the_exact_scores(agent, pool, learnt):
    """Summed over the worst tasks, the gradients point the same way."""
    exact = sf.ExactScorer(pool, rescoring="exact")
    top = np.sort(np.argsort(-exact.score(agent).numpy())[:40])
    learnt.score(agent)
    gradients = []
    for scorer in (exact, learnt):
        agent.policy.zero_grad()
        scorer.rescore(agent, top).sum().backward()
        gradients.append(th.cat([p.grad.flatten() for p in agent.policy.parameters() if p.grad is not None]).double())
    agent.policy.zero_grad()
    assert th.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9


def test_partial_scores_and_their_gradients(agent, pool, learnt):
    """A partial scoring replaces its tasks only; the others keep what the full scoring saw."""
    full = learnt.score(agent)
    finite = np.flatnonzero(np.isfinite(full.numpy()))
    np.testing.assert_allclose(learnt.rescore(agent, finite[:9]).detach(), full[finite[:9]], rtol=1e-4)
    some = finite[5:20]
    part = learnt.score(agent, some)
    again = learnt.rescore(agent, finite[:30]).detach()
    np.testing.assert_allclose(again[5:20], part, rtol=1e-4)
    np.testing.assert_allclose(again[:5], full[finite[:5]], rtol=1e-4)
    np.testing.assert_allclose(again[20:], full[finite[20:30]], rtol=1e-4)
    fresh = sf.EpisodeScorer(pool, seed=0)
    with pytest.raises(RuntimeError, match="needs tasks that were scored before, got task"):
        fresh.rescore(agent, np.array([3]))


@pytest.mark.slow
def test_training_with_it(pool, agent):
    """Fifteen rollouts with probes lower the exact forecast error; without probes the scorer waits until it has seen enough."""
    env = sfe.GridVecEnv(pool, 32, seed=5)
    scorer = sf.EpisodeScorer(pool, probes=200, seed=1, n_envs=100)
    model = sf.ForecastPPO.from_ppo(
        agent,
        env,
        device="cpu",
        scorer=scorer,
        forecast_kind="guarded",
        p_floor=1e-10,
        validation_share=0.0,
        forecast_coef=1.0,
        eval_size=60,
        k=5,
        n_partitions=32,
        gradient_every=2,
        full_every=1,
    )
    before = sf.evaluate_forecast(agent, pool, 60, 200, k=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "some of the 10 largest scores are equal")
        model.learn(15 * 16 * 32)
    after = sf.evaluate_forecast(model, pool, 60, 200, k=5)
    assert after.error.mean_abs < 0.7 * before.error.mean_abs
    assert model.objective.n_refreshes >= 10
    patient = sf.EpisodeScorer(pool, seed=1, warm_up_failures=10**6)
    waiting = sf.ForecastPPO.from_ppo(
        agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", scorer=patient, eval_size=60, k=5, validation_share=0.0
    )
    plain = sf.ForecastPPO.from_ppo(agent, sfe.GridVecEnv(pool, 32, seed=5), device="cpu", forecast_coef=0.0)
    for each in (waiting, plain):
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  # SB3's buffers shuffle with it
        idle = pytest.warns(
            UserWarning, match="the forecast is not active: EpisodeScorer needs 3 rollouts, of which it has seen 2 and 1"
        )
        with idle if each is waiting else nullcontext():
            each.learn(2 * 16 * 32)
    assert waiting.objective.n_refreshes == 0
    assert len(patient.cost_model.transitions.failing[1]) > 0
    assert patient.rounds == 2


def test_resuming_goes_on_exactly(agent, pool, learnt):
    state = learnt.state_dict()
    twins = [sf.EpisodeScorer(pool, episodes=20, probes=300, seed=9) for _ in range(2)]
    for twin in twins:
        twin.load_state_dict(state)
        twin.learn(agent)
    assert th.equal(*(twin.score(agent) for twin in twins))
    assert learnt.rounds == twins[0].rounds - 1


def test_another_pool_by_the_same_model(agent, learnt):
    held = sfe.TaskPool("ThinIce-8x8", 200, seed=77, rare_fraction=0.1)
    report = sf.evaluate_forecast(agent, held, 60, 50, k=5, scorer=learnt.on(held, episodes=10))
    exact = sf.evaluate_forecast(agent, held, 60, 50, k=5)
    assert report.scorer == "EpisodeScorer"
    assert report.mean_failure == pytest.approx(exact.mean_failure, rel=0.25)
    assert exact.warnings == ()


def test_reports_say_what_speaks_against_their_scores(agent, pool, learnt):
    """Also of other tasks, by what was seen of the cost model on its own."""
    doubtful = copy.deepcopy(learnt)
    for _ in range(10):
        # ten rounds in which a third of the failures were foreseen
        doubtful.trust.add(np.array([0.9, 0.0, 0.0]), np.ones(3, dtype=bool), 0.1, probing=True)
    report = sf.evaluate_forecast(agent, pool, 60, 20, k=5, scorer=doubtful.on(pool, episodes=5))
    assert any("the cost model has foreseen only 33% of the failures" in warning for warning in report.warnings)
    assert "Warning: the cost model has foreseen only 33%" in report.summary()
    content = json.loads(report.to_json())
    assert sf.ForecastReport.from_dict(content, report.scores, report.rare, report.splits).warnings == report.warnings


class Dictionary(gym.Wrapper):
    """CartPole with a dictionary of observations, where falling costs."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"pole": env.observation_space, "step": spaces.Discrete(4)})

    def reset(self, **arguments):
        self.count = 0
        observation, info = self.env.reset(**arguments)
        return {"pole": observation, "step": 0}, info

    def step(self, action):
        self.count += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return (
            {"pole": observation, "step": self.count % 4},
            reward,
            terminated,
            truncated,
            {**info, "cost": float(terminated)},
        )


def test_dictionaries_of_observations():
    tasks = sfe.SeededTasks(lambda: Dictionary(gym.make("CartPole-v1", max_episode_steps=40)), 40)
    assert tasks.scorers == ("episodes", "frequency", "splitting")
    env = tasks.make_vec_env(8)
    scorer = sf.EpisodeScorer(tasks, probes=20, warm_up_rounds=1, warm_up_failures=5, n_envs=8, delay=3)
    model = sf.ForecastPPO(
        "MultiInputPolicy", env, seed=0, scorer=scorer, eval_size=12, k=4, n_partitions=8, full_every=1, **SMALL_PPO
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # such a scorer is not to be trusted yet, and says so
        model.learn(16 * 8 * 3)
    assert model.objective.n_refreshes >= 1
    assert scorer.cost_model.transitions.failing[0].shape[1] == 8


def test_features_of_every_space():
    space = spaces.Dict(
        {"a": spaces.Discrete(3), "b": spaces.MultiDiscrete([2, 3]), "c": spaces.Box(0, 255, (4, 5, 3), np.uint8)}
    )
    batch = {"a": np.array([0, 2]), "b": np.array([[1, 0], [0, 2]]), "c": np.full((2, 4, 5, 3), 255, dtype=np.uint8)}
    rows = features_of(batch, space)
    assert rows.shape == (2, n_features(space)) == (2, 3 + 5 + 60)
    np.testing.assert_array_equal(rows[:, :8], [[1, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 1]])
    assert (rows[:, 8:] == 1).all()
    picture = np.random.default_rng(0).integers(0, 255, (2, 40, 36, 3), dtype=np.uint8)
    last, first = (
        spaces.Box(0, 255, (40, 36, 3), np.uint8),
        VecTransposeImage.transpose_space(spaces.Box(0, 255, (40, 36, 3), np.uint8)),
    )
    np.testing.assert_array_equal(features_of(picture, last), features_of(picture.transpose(0, 3, 1, 2), first))


def test_normalised_training(pool):
    env = VecNormalize(sfe.GridVecEnv(pool, 32, seed=0))
    scorer = sf.EpisodeScorer(pool, probes=200, seed=0, warm_up_rounds=1)
    model = sf.ForecastPPO(
        "MlpPolicy", env, seed=0, scorer=scorer, eval_size=60, k=5, n_partitions=16, full_every=1, **SMALL_PPO
    )
    model.learn(16 * 32 * 3)
    # the cost model sees what the environment gives, not the moving normalisation of it
    seen = np.unique(np.round(scorer.cost_model.transitions.failing[0], 3))
    np.testing.assert_allclose(seen, [0.0, 1.0], atol=0.02)


@pytest.mark.parametrize("max_share", [0.5, 0.9, 1.0])
def test_scoring_takes_its_share_of_the_steps(pool, agent, max_share):
    """While the share is used up, no episode is played, the cost model learns on, and the gradient of the last scoring stays."""
    few = pool.subset(np.arange(80))
    scorer = sf.EpisodeScorer(few, probes=10, warm_up_rounds=1, warm_up_failures=1, n_envs=16, max_share=max_share)
    model = sf.ForecastPPO.from_ppo(
        agent, sfe.GridVecEnv(few, 8, seed=3), scorer=scorer, eval_size=20, k=5, seed=0, device="cpu",
        validation_share=0.0, n_steps=16, batch_size=64, n_epochs=1,
    )  # fmt: skip
    played, ready, moved = [], [], []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            played.append(scorer.steps_played)
            ready.append(model.objective.n_refreshes)
            moved.append(model.policy.action_net.weight.detach().clone())

    model.learn(15 * 128, callback=Watch())
    assert scorer.rounds == 15
    scorings = np.flatnonzero(np.diff(played) > 0)
    if max_share == 1.0:
        assert len(scorings) == 14
    else:
        # a scoring begins while less than the share is used, and only then
        own = 128 * (1 + np.arange(14))[scorings]
        assert (np.array(played)[scorings] <= max_share * (np.array(played)[scorings] + own + 128)).all()
        assert 1 <= len(scorings) < 14
        assert ready[-1] < 15
    assert not any(th.equal(a, b) for a, b in pairwise(moved))


def test_trust():
    trust = Trust()
    generator = np.random.default_rng(0)
    scores = generator.random(50)
    assert "has seen 3 failing transitions, but needs 30" in trust.warnings(3, scores, 5)[0]
    # failures that nobody foresaw
    trust.add(np.full(1000, 0.03), generator.random(1000) < 0.03, 0.1, probing=True)
    found = " ".join(trust.warnings(100, scores, 5))
    assert "the cost model has foreseen only 0% of the failures" in found
    assert "expects" not in found
    over = Trust()
    over.add(np.full(1000, 0.3), generator.random(1000) < 0.03, 0.1, probing=True)
    assert "times the failures that happen" in " ".join(over.warnings(100, scores, 5))
    tied, silent = np.ones(50), np.full(50, -np.inf)
    good = Trust()
    assert "some of the 5 largest scores are equal" in good.warnings(100, tied, 5)[0]
    assert "there is no forecast from the top 5 scores" in good.warnings(100, silent, 5)[0]
    assert good.warnings(100, scores, 5) == []
    assert (good.share(1.0), good.share(0.5)) == (1.0, 0.5)
    assert not trust.holds
    assert (trust.share(1.0), trust.share(0.05)) == (0.1, 0.05)


def test_bad_arguments(pool, agent):
    for name, value in (("episodes", 0), ("tau", 1.0), ("probes", -1), ("delay", -1), ("n_envs", 0)):
        with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
            sf.EpisodeScorer(pool, **{name: value})


def test_cvar(pool):
    def learn(weight):
        model = sf.CVaRPPO(
            "MlpPolicy", sfe.GridVecEnv(pool, 16, seed=1), seed=0, weight=weight, alpha=0.9, failure_penalty=2.0, **SMALL_PPO
        )
        return model.learn(20_000)

    plain = PPO("MlpPolicy", sfe.GridVecEnv(pool, 16, seed=1), seed=0, **SMALL_PPO).learn(20_000)
    assert all(th.equal(a, b) for a, b in zip(plain.policy.parameters(), learn(0.0).policy.parameters(), strict=True))
    failure = [sf.ExactScorer(pool).outcomes(model).failure.mean() for model in (plain, learn(1.0))]
    assert failure[1] < 0.8 * failure[0]
    for wrong in ({"alpha": 0.0}, {"weight": -1.0}, {"window": 3}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .*, got {next(iter(wrong.values()))}"):
            sf.CVaRPPO("MlpPolicy", sfe.GridVecEnv(pool, 2), **wrong)
    with pytest.raises(ValueError, match=r"env must report info\['cost'\] at every step for CVaRPPO"):
        sf.CVaRPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu").learn(32)


class Coin(gym.Env):
    """One step; the first action fails with probability 0.3, the second never."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(1).astype(np.float32), {}

    def step(self, action):
        bad = bool(action == 0 and self.np_random.random() < 0.3)
        return np.zeros(1, dtype=np.float32), 0.0, True, False, {"cost": float(bad)}


def test_a_foreseen_failure_counts_once():
    """With a calibrated cost model, the mean of the scores is the mean failure probability, also where failing is chance."""
    tasks = sfe.SeededTasks(Coin, 400)
    model = PPO("MlpPolicy", tasks.make_vec_env(4), seed=0, n_steps=16, batch_size=32, device="cpu")
    scorer = sf.EpisodeScorer(tasks, episodes=20, seed=0)
    scorer.cost_model.probabilities = lambda features: np.tile([0.3, 0.0], (len(features), 1))
    p = sf.failure_probability(scorer.score(model).numpy())
    assert p.mean() == pytest.approx(0.5 * 0.3, abs=0.02)


def test_certain_failures_have_finite_scores(pool, agent):
    scorer = sf.EpisodeScorer(pool, seed=0)
    scorer.cost_model.probabilities = lambda features: np.ones((len(features), 3))
    scores = scorer.score(agent).numpy()
    assert np.isfinite(scores).all()
    assert scores.min() > 15


def test_saved_scorers_come_back(pool, agent, learnt, tmp_path):
    """With their cost model and the failures that make them ready, without environments of the user's."""
    again = pickle.loads(pickle.dumps(learnt))
    assert again.ready
    assert again.env.num_envs == learnt.env.num_envs
    features = np.eye(5, 125, dtype=np.float32)
    np.testing.assert_array_equal(again.cost_model.probabilities(features), learnt.cost_model.probabilities(features))
    assert len(pickle.dumps(learnt)) < 5e6
    own = sf.EpisodeScorer(pool, env=VecFrameStack(pool.make_vec_env(4), 1))
    back = pickle.loads(pickle.dumps(own))
    with pytest.raises(ValueError, match=r"scorer\.env must be set, got None.* set model\.scorer\.env = "):
        back.score(agent, np.array([0]))
    with pytest.raises(ValueError, match=r"env must not normalise observations.*, got an env with VecNormalize"):
        sf.EpisodeScorer(pool, env=VecNormalize(pool.make_vec_env(4)))


def test_probes_take_no_action_that_is_masked():
    pool = sfe.TaskPool("Vault-8x8", 30, seed=0)
    model = MaskablePPO("MlpPolicy", sfe.GridVecEnv(pool, 4), n_steps=16, batch_size=32, seed=0, device="cpu")
    scorer = sf.EpisodeScorer(pool, probes=20, seed=0, n_envs=10)
    env, allowed, step = scorer.env, [], scorer.env.step_async

    def watch(actions):
        allowed.append(env.action_masks()[np.arange(10), actions])
        step(actions)

    env.step_async = watch
    scorer.learn(model)
    assert np.concatenate(allowed).all()
    assert len(allowed) > 10
    # the masks do forbid something
    env.reset()
    assert not env.action_masks().all()


@pytest.mark.parametrize(
    ("c", "failed", "holds"),
    [
        (np.r_[np.full(10, 0.9), np.zeros(10)], np.ones(20, dtype=bool), True),  # half of the failures foreseen
        (np.r_[np.full(9, 0.9), np.zeros(11)], np.ones(20, dtype=bool), False),
        (np.zeros(9), np.ones(9, dtype=bool), True),  # too few to judge
        (np.full(100, 0.9), np.arange(100) < 19, True),  # not quite five times as many expected as came
        (np.full(100, 0.9), np.arange(100) < 17, False),
        (np.zeros(0), np.zeros(0, dtype=bool), True),
    ],
)
def test_which_cost_model_may_move_a_policy(pool, c, failed, holds):
    scorer = sf.EpisodeScorer(pool, seed=0)
    scorer.trust.add(c, failed, 0.1, probing=False)
    assert scorer.trusted == holds
