import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.utils import set_random_seed

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.actor import Actor, log_probabilities
from sb3_forecast.scorers.make import make_scorer
from sb3_forecast.scorers.memo import PolicyMemo
from sb3_forecast.scorers.recursion import log_odds_and_gradients, outcome_probabilities, score_from_log_odds
from sb3_forecast.scorers.views import ViewIndex, distinct_views


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


def random_chain(rng, n_tasks, n_states, n_actions, branches, log10_p):
    """Random finite models whose failing columns are as improbable as wished."""
    size = n_tasks * n_states
    successors = rng.integers(0, n_states, (size, n_actions * branches)).astype(np.int32)
    successors[rng.random(successors.shape) < 0.1] = -1
    successors[:, -1] = np.where(rng.random(size) < 0.3, -2, successors[:, -1])
    policy = rng.dirichlet(np.ones(n_actions), size)
    policy[:, -1] = 10.0**log10_p * rng.random(size)
    policy[:, 0] += 1.0 - policy.sum(axis=1)
    chances = (
        rng.dirichlet(np.ones(branches), (size, n_actions)).reshape(size, -1) if branches > 1 else np.empty((0, n_actions))
    )
    return np.arange(n_tasks + 1) * n_states, successors, chances, np.arange(size, dtype=np.int32), policy


@pytest.mark.parametrize("log10_p", [-1, -6, -12])
@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("timeout_fails", [False, True])
def test_recursion_to_ten_digits(log10_p, branches, timeout_fails):
    """Against the textbook backward recursion, in p and in 1 - p, with several outcomes per action."""
    first, successors, chances, view, policy = random_chain(np.random.default_rng(0), 20, 15, 3, branches, log10_p)
    columns = np.repeat(policy, branches, axis=1) * (chances if branches > 1 else 1.0)
    fail, success, survive = outcome_probabilities(first, successors, chances, view, policy, 40, timeout_fails)
    for task in range(20):
        rows = slice(first[task], first[task + 1])
        to, pi = successors[rows], columns[rows]
        values = {-2: np.zeros(15), -1: np.zeros(15), 0: np.ones(15)}
        for _ in range(40):
            for end, value in values.items():
                values[end] = (pi * np.where(to >= 0, value[np.maximum(to, 0)], to == end)).sum(axis=1)
        failing = values[-2][0] + values[0][0] * timeout_fails
        assert fail[task] == pytest.approx(failing, rel=1e-10, abs=0.0)
        assert success[task] == pytest.approx(values[-1][0], rel=1e-10, abs=0.0)
        assert survive[task] == pytest.approx(values[-1][0] + values[0][0] * (not timeout_fails), rel=1e-10, abs=0.0)
    if not timeout_fails:
        assert fail.max() < 100 * 10.0**log10_p


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("timeout_fails", [False, True])
def test_gradient_of_the_recursion(branches, timeout_fails):
    first, successors, chances, view, policy = random_chain(np.random.default_rng(1), 3, 6, 3, branches, -2)
    log_odds, gradient = log_odds_and_gradients(first, successors, chances, view, policy, 12, timeout_fails)
    checked = 0
    for row, action in ((0, 0), (2, 2), (7, 1), (13, 2)):
        task = row // 6
        if not np.isfinite(log_odds[task]):
            continue
        # moving one log-probability alone leaves the simplex: the smaller of p and 1 - p is what is differentiated
        which = 0 if log_odds[task] < 0.0 else 2
        plus, minus = (
            outcome_probabilities(
                first, successors, chances, view, policy * _nudge(policy.shape, row, action, step), 12, timeout_fails
            )
            for step in (1e-6, -1e-6)
        )
        slope = (np.log(plus[which][task]) - np.log(minus[which][task])) / 2e-6
        larger = 1.0 / (1.0 + np.exp(-np.abs(log_odds[task])))
        expected = slope / larger * (1.0 if which == 0 else -1.0)
        assert gradient[row, action] == pytest.approx(expected, rel=1e-5, abs=1e-8)
        checked += 1
    assert checked >= 2


def _nudge(shape, row, action, step):
    factor = np.ones(shape)
    factor[row, action] = np.exp(step)
    return factor


def test_a_policy_memo_forgets_but_does_not_lie(agent, pool):
    model = pool.finite_model()
    _, _, views, _ = model.tables(np.arange(60))
    memo = PolicyMemo(Actor(agent, 3), model, limit=200)
    with th.no_grad():
        for begin in range(0, len(views), 500):
            part = views[begin : begin + 500]
            expected = log_probabilities(agent.policy, model.observations(part)).numpy()
            np.testing.assert_allclose(_remembered(memo, part), expected, rtol=1e-5)
            assert len(memo.index) <= 200 + 500


def _remembered(memo, part):
    numbers = memo.add(part)
    return memo.log_pi[numbers]


def test_view_index_grows_and_keeps_its_numbers():
    rng = np.random.default_rng(0)
    views = rng.integers(0, 3, (30_000, 9), dtype=np.uint8)
    index = ViewIndex(9)
    numbers = np.concatenate([index.add(part) for part in np.array_split(views, 7)])
    np.testing.assert_array_equal(index.views[numbers], views)
    assert len(index) == len(np.unique(views, axis=0))
    np.testing.assert_array_equal(index.add(views), numbers)


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
    with pytest.raises(ValueError, match="got 'magic'"):
        make_scorer("magic", pool)
    with pytest.raises(ValueError, match=r"must be one that the pool can serve \('episodes',\), got 'exact'"):
        make_scorer("exact", NoModel())
    with pytest.raises(ValueError, match="scorer must score the 300 tasks of the pool, got one that scores 10 tasks"):
        make_scorer(sf.ExactScorer(pool.subset(range(10))), pool)


def test_models_that_cannot_be_scored(pool):
    env = sfe.GridVecEnv(pool, 1)
    with pytest.raises(ValueError, match="model must have a stochastic actor-critic policy, got DQN"):
        sf.ExactScorer(pool).score(DQN("MlpPolicy", env, buffer_size=10, device="cpu"))
    with pytest.raises(ValueError, match=r"action_space must be Discrete for 'exact' and 'survival' scores, got Box"):
        sf.ExactScorer(pool).score(PPO("MlpPolicy", "Pendulum-v1", device="cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rescoring": "quadratic"}, "rescoring must be 'linear' or 'exact', got 'quadratic'"),
        ({"neglect": 1.0}, "neglect must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_scorer_arguments(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.ExactScorer(pool, **arguments)


def test_a_model_of_other_actions(pool):
    class Wide(sfe.GridVecEnv):
        """The same observations with five actions."""

    env = Wide(pool, 1)
    env.action_space = spaces.Discrete(5)
    model = PPO("MlpPolicy", env, device="cpu")
    for scorer in (sf.ExactScorer(pool), sf.SurvivalScorer(pool)):
        with pytest.raises(ValueError, match="model must have the 3 actions of the tasks, got one with 5 actions"):
            scorer.score(model)


@pytest.mark.parametrize("rescoring", ["linear", "exact"])
def test_tasks_that_cannot_fail_are_rescored(agent, pool, rescoring):
    scorer = sf.ExactScorer(pool, rescoring=rescoring)
    safe = np.flatnonzero(np.isneginf(scorer.score(agent).numpy()))[:3]
    assert len(safe) == 3
    assert (scorer.rescore(agent, safe).detach().numpy() == -np.inf).all()
