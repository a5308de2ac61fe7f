import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.utils import set_random_seed

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers import make_scorer
from sb3_forecast.scorers.policies import log_probabilities
from sb3_forecast.scorers.recursion import outcome_probabilities, score_from_log_odds
from sb3_forecast.scorers.views import distinct_views


def plain_recursion(agent, pool):
    """P(failure) and P(success) by the textbook backward recursion in torch over all reachable states, task by task."""
    model = pool.finite_model()
    out = []
    for task in range(len(pool)):
        _, successors, views, _ = model.tables(np.array([task]))
        with th.no_grad():
            pi = log_probabilities(agent.policy, model.observations(views)).exp()
        succ = th.from_numpy(successors.astype(np.int64))
        fail, success = th.zeros(len(views), dtype=th.float64), th.zeros(len(views), dtype=th.float64)
        for _ in range(model.horizon):
            fail = (pi * th.where(succ >= 0, fail[succ.clamp(min=0)], (succ == -2).double())).sum(1)
            success = (pi * th.where(succ >= 0, success[succ.clamp(min=0)], (succ == -1).double())).sum(1)
        out.append((fail[0].item(), success[0].item()))
    return np.array(out).T


def test_exact_is_the_plain_recursion(agent, pool):
    some = pool.subset(range(40))
    fail, success = plain_recursion(agent, some)
    outcomes = sf.ExactScorer(some).outcomes(agent)
    np.testing.assert_allclose(outcomes.failure, fail, rtol=1e-10)
    np.testing.assert_allclose(outcomes.success, success, rtol=1e-10)
    assert fail.min() < 0.05 < fail.max()  # the agent is neither perfect nor hopeless, so both ends are tried


def test_exact_agrees_with_played_episodes(agent, pool):
    """The MiniGrid rules themselves: frequencies of failure in real episodes."""
    even = int(np.argmin(np.abs(sf.ExactScorer(pool).outcomes(agent).failure - 0.5)))
    env = sfe.GridVecEnv(pool.subset([even]), 2000, seed=0)
    p = sf.ExactScorer(env.pool).outcomes(agent).failure[0]
    set_random_seed(0)
    observations, failed, done = env.reset(), np.zeros(2000), np.zeros(2000, dtype=bool)
    for _ in range(env.pool.family.horizon):
        actions, _ = agent.predict(observations, deterministic=False)
        observations, _, dones, infos = env.step(actions)
        failed += [info["cost"] * (not over) for info, over in zip(infos, done, strict=True)]
        done |= dones
    assert done.all()
    assert 0.2 < p < 0.8
    assert abs(failed.mean() - p) < 4 * np.sqrt(p * (1 - p) / 2000)


def test_blocks_and_parts_change_nothing(agent, pool):
    whole = sf.ExactScorer(pool).score(agent)
    streamed = sf.ExactScorer(pool, block_size=37, cache_tasks=0).score(agent)
    np.testing.assert_allclose(streamed.numpy(), whole.numpy(), rtol=1e-6)  # float32 network, other batch sizes
    some = np.array([5, 250, 17])
    np.testing.assert_allclose(sf.ExactScorer(pool).score(agent, some).numpy(), whole[some].numpy(), rtol=1e-6)


@pytest.mark.parametrize("rescoring", ["exact", "linear"])
def test_gradient_against_finite_differences(agent, pool, rescoring):
    tasks = np.argsort(-sf.ExactScorer(pool).score(agent).numpy())[[0, 3, 10, 40]]
    scorer = sf.ExactScorer(pool, rescoring=rescoring, neglect=0.0)
    bias = agent.policy.action_net.bias
    scorer.score(agent)
    scores = scorer.rescore(agent, tasks)
    np.testing.assert_allclose(scores.detach().numpy(), scorer.score(agent, tasks).numpy(), rtol=1e-5)
    scorer.score(agent)
    for task in range(len(tasks)):
        (gradient,) = th.autograd.grad(scorer.rescore(agent, tasks)[task], bias)
        for action in range(3):
            values = []
            for step in (1e-2, -1e-2):
                with th.no_grad():
                    bias[action] += step
                    values.append(sf.ExactScorer(pool).score(agent, tasks)[task].item())
                    bias[action] -= step
            assert gradient[action].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=2e-3)


def test_linear_rescoring_neglects_no_more_than_promised(agent, pool):
    tasks = np.sort(np.argsort(-sf.ExactScorer(pool).score(agent).numpy())[:50])
    gradients = []
    for neglect in (0.0, 1e-3):
        scorer = sf.ExactScorer(pool, neglect=neglect)
        scorer.score(agent)
        total = scorer.rescore(agent, tasks).sum()
        gradients.append(th.cat([g.flatten() for g in th.autograd.grad(total, agent.policy.action_net.parameters())]))
    assert th.linalg.vector_norm(gradients[1] - gradients[0]) < 0.01 * th.linalg.vector_norm(gradients[0])


def test_survival_is_unbiased(agent, pool):
    """400 episodes a task: each task with 0.05 < p < 0.95 within 4.5 standard errors of exact, all tasks pooled within 3.5.

    By chance the first fails with probability 7e-6 per task, the second with 5e-4. Outside that range survival is so skewed (a
    rarely taken branch holds all the risk) that 400 episodes of one task do not give a standard error; the pooled test covers them.
    """
    exact = sf.ExactScorer(pool).outcomes(agent).failure
    sampled = np.exp(sf.SurvivalScorer(pool, episodes=400, seed=0).log_survival(agent).numpy())
    error = np.maximum(sampled.std(axis=1, ddof=1) / np.sqrt(sampled.shape[1]), 1e-6)  # the network is float32
    likely = (exact > 0.05) & (exact < 0.95)
    assert likely.sum() > 50
    assert (np.abs((1 - sampled.mean(axis=1)) - exact)[likely] < 4.5 * error[likely]).all()
    # and on average over the tasks, where a bias would add up
    pooled = ((1 - sampled.mean(axis=1)) - exact).mean() / (np.sqrt((error**2).sum()) / len(exact))
    assert abs(pooled) < 3.5


def test_survival_rescoring_repeats_the_score_with_a_graph(agent, pool):
    for episodes in (1, 3):
        scorer = sf.SurvivalScorer(pool, episodes=episodes, seed=1)
        scores = scorer.score(agent)
        tasks = np.array([3, 7, 120])
        again = scorer.rescore(agent, tasks)
        np.testing.assert_allclose(again.detach().numpy(), scores[tasks].numpy(), rtol=1e-5)
        assert again.requires_grad


def test_survival_gradient_points_where_the_exact_one_does(agent, pool):
    exact, survival = sf.ExactScorer(pool), sf.SurvivalScorer(pool, episodes=8, seed=0)
    top = np.sort(np.argsort(-exact.score(agent).numpy())[:60])
    survival.score(agent)
    parameters = list(agent.policy.mlp_extractor.policy_net.parameters())
    gradients = [
        th.cat([g.flatten() for g in th.autograd.grad(scorer.rescore(agent, top).sum(), parameters)])
        for scorer in (exact, survival)
    ]
    assert th.cosine_similarity(*gradients, dim=0) > 0.9


def test_survival_is_reproducible(agent, pool):
    a, b = (sf.SurvivalScorer(pool, seed=5).score(agent) for _ in range(2))
    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_rescore_before_score(agent, pool):
    with pytest.raises(RuntimeError, match=r"call score\(model\) first"):
        sf.SurvivalScorer(pool).rescore(agent, np.array([0]))


def test_p_zero_and_p_one():
    """A state whose only action fails, one that only succeeds, and one that waits for ever."""
    first = np.arange(4)
    successors = np.array([[-2], [-1], [0]], dtype=np.int32)
    fail, success, survive = outcome_probabilities(
        first, successors, np.empty((0, 1)), np.zeros(3, np.int32), np.ones((1, 1)), 10
    )
    np.testing.assert_array_equal(fail, [1, 0, 0])
    np.testing.assert_array_equal(success, [0, 1, 0])
    np.testing.assert_array_equal(survive, [0, 1, 1])


def test_score_from_log_odds():
    p = np.array([1e-300, 1e-8, 0.3, 1 - 1e-9])
    odds = th.from_numpy(np.log(p) - np.log1p(-p))
    np.testing.assert_allclose(score_from_log_odds(odds).numpy(), sf.failure_score(np.log(p)), rtol=1e-6)
    assert score_from_log_odds(th.tensor([800.0]).double()).item() == 800.0


def test_distinct_views():
    views = np.random.default_rng(0).integers(0, 2, (500, 6), dtype=np.uint8)
    distinct, where = distinct_views(views)
    assert len(distinct) == len({row.tobytes() for row in views})
    np.testing.assert_array_equal(distinct[where], views)


class NoModel:
    """Tasks about which nothing is known."""

    scorers = ("episodes",)
    rare = np.zeros(50, dtype=bool)

    def __len__(self):
        return 50


def test_auto_takes_the_strongest(pool):
    assert isinstance(make_scorer("auto", pool), sf.ExactScorer)
    assert isinstance(make_scorer("survival", pool), sf.SurvivalScorer)
    with pytest.raises(ValueError, match="scorer='magic' is unknown"):
        make_scorer("magic", pool)
    with pytest.raises(ValueError, match=r"scorer='exact' cannot be served by these tasks; they offer \('episodes',\)"):
        make_scorer("exact", NoModel())
    with pytest.raises(ValueError, match="scores 10 tasks but the pool has 300"):
        make_scorer(sf.ExactScorer(pool.subset(range(10))), pool)


def test_models_that_cannot_be_scored(pool):
    env = sfe.GridVecEnv(pool, 1)
    with pytest.raises(ValueError, match="model=DQN has no stochastic actor-critic policy"):
        sf.ExactScorer(pool).score(DQN("MlpPolicy", env, buffer_size=10, device="cpu"))
    with pytest.raises(ValueError, match=r"Box.*is not discrete"):
        sf.ExactScorer(pool).score(PPO("MlpPolicy", "Pendulum-v1", device="cpu"))


@pytest.mark.parametrize("arguments", [{"rescoring": "quadratic"}, {"neglect": 1.0}])
def test_bad_scorer_arguments(pool, arguments):
    with pytest.raises(ValueError, match="="):
        sf.ExactScorer(pool, **arguments)


def test_a_model_of_other_actions(pool):
    class Wide(sfe.GridVecEnv):
        """The same observations with five actions."""

    env = Wide(pool, 1)
    env.action_space = spaces.Discrete(5)
    model = PPO("MlpPolicy", env, device="cpu")
    for scorer in (sf.ExactScorer(pool), sf.SurvivalScorer(pool)):
        with pytest.raises(ValueError, match="the model has 5 actions, but the tasks have 3"):
            scorer.score(model)
