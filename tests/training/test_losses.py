import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.statistics.estimators import forecast_top, jones_forecast, jones_gradient
from sb3_forecast.statistics.intervals import pivot_quantile
from sb3_forecast.training.losses import Partitions, TooFewScoresError

N, M, K = 400, 40, 5


def gumbel_pool(seed=0, outlier=None):
    scores = 0.3 * np.random.default_rng(seed).gumbel(size=N) - 2.0
    if outlier is not None:
        scores[17] = outlier
    return th.from_numpy(scores)


def by_hand(scores, partitions):
    """The squared loss and its gradient, partition by partition, from the closed form of docs/method.md eq. 8."""
    x = scores.numpy()
    value, gradient = 0.0, np.zeros(len(x))
    count = len(partitions.deployment)
    for tasks, worst in zip(partitions.evaluation.numpy(), partitions.deployment.numpy(), strict=True):
        tasks = tasks[np.argsort(-x[tasks])]
        error = jones_forecast(x[tasks], M, N - M) - x[worst]
        value += error**2 / count
        gradient[tasks] += 2 * error * jones_gradient(x[tasks], M, N - M) / count
        gradient[worst] -= 2 * error / count
    return value, gradient


@pytest.mark.parametrize("outlier", [None, 3.0])
def test_squared_is_the_mean_squared_error_with_its_gradient(outlier):
    scores = gumbel_pool(outlier=outlier).requires_grad_()
    loss = sf.ForecastLoss(M, K, 64, kind="squared")
    value, touched = loss(scores, np.random.default_rng(3))
    value.backward()
    expected, gradient = by_hand(scores.detach(), loss.draw(scores, np.random.default_rng(3)))
    assert value.item() == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(scores.grad.numpy(), gradient, rtol=1e-8, atol=1e-12)
    assert set(np.flatnonzero(scores.grad.numpy())) <= set(touched)


def test_guard_drops_exactly_the_directions_that_raise_a_task():
    scores = gumbel_pool(outlier=3.0).requires_grad_()
    squared, _ = sf.ForecastLoss(M, K, 64, kind="squared")(scores, np.random.default_rng(3))
    (full,) = th.autograd.grad(squared, scores)
    guarded, _ = sf.ForecastLoss(M, K, 64, kind="guarded", p_floor=0.0)(scores, np.random.default_rng(3))
    (kept,) = th.autograd.grad(guarded, scores)
    assert guarded.item() == pytest.approx(squared.item())
    np.testing.assert_allclose(kept.numpy(), full.clamp(min=0).numpy(), rtol=1e-10)
    assert (full < 0).any()  # else the test would show nothing
    floor = 1e-3
    floored, _ = sf.ForecastLoss(M, K, 64, kind="guarded", p_floor=floor)(scores, np.random.default_rng(3))
    (left,) = th.autograd.grad(floored, scores)
    harmless = sf.failure_probability(scores.detach()) <= floor
    assert (left[harmless] == 0).all()
    np.testing.assert_array_equal(left[~harmless].numpy(), kept[~harmless].numpy())


def test_hinge_moves_deployment_tasks_only_and_only_down():
    scores = gumbel_pool(outlier=4.0).requires_grad_()
    loss = sf.ForecastLoss(M, K, 200, kind="hinge", p_floor=0.0)
    value, _ = loss(scores, np.random.default_rng(0))
    (gradient,) = th.autograd.grad(value, scores)
    assert (gradient >= 0).all()
    assert value.item() > 0
    worst = set(loss.draw(scores, np.random.default_rng(0)).deployment.tolist())
    assert set(np.flatnonzero(gradient.numpy()).tolist()) <= worst


def test_hinge_fires_at_its_nominal_rate_on_an_ideal_tail():
    fired = []
    for seed in range(60):
        scores = th.from_numpy(np.random.default_rng(seed).exponential(size=N))
        loss = sf.ForecastLoss(M, K, 200, kind="hinge", level=0.9)
        terms = loss.evaluate(*_touched(scores, loss, seed))
        limit = pivot_quantile(0.9, K, M, N - M)
        partitions = loss.draw(scores, np.random.default_rng(seed))
        top = scores[partitions.evaluation].sort(dim=1, descending=True).values
        fired.append((terms.realised > top[:, -1] + limit * terms.scale).double().mean().item())
    # one pool's partitions are not independent: the standard error is taken over pools
    assert abs(np.mean(fired) - 0.1) < 3 * np.std(fired) / np.sqrt(len(fired))


def _touched(scores, loss, seed):
    partitions = loss.draw(scores, np.random.default_rng(seed))
    return scores[partitions.touched], partitions, len(scores)


def test_order_within_the_evaluation_set_is_taken_afresh():
    loss = sf.ForecastLoss(3, 3, 1, kind="squared")
    partitions = Partitions(th.tensor([[0, 1, 2]]), th.tensor([3]), th.tensor([0, 1, 2, 3]))
    one = loss.evaluate(th.tensor([3.0, 2.0, 1.0, 4.0]).double(), partitions, 6).forecast
    other = loss.evaluate(th.tensor([1.0, 3.0, 2.0, 4.0]).double(), partitions, 6).forecast
    assert one == other


def test_tasks_that_cannot_fail():
    scores = gumbel_pool()
    scores[40:] = -th.inf  # 40 finite: an evaluation set of 40 holds 4 of them on average, and k = 5
    loss = sf.ForecastLoss(M, K, 300)
    partitions = loss.draw(scores, np.random.default_rng(0))
    assert 0 < len(partitions.deployment) < 300
    assert (partitions.touched < 40).all()
    assert not partitions.floored
    scores[3:] = -th.inf
    for kind in ("squared", "hinge"):
        with pytest.raises(
            ValueError,
            match=r"the 5 worst scores of 40 evaluation tasks must be finite, got 3 finite ones of 400; use a smaller k",
        ):
            sf.ForecastLoss(M, K, 300, kind).draw(scores, np.random.default_rng(0))


def test_if_only_a_rare_mode_can_fail_the_others_count_as_the_floor():
    scores = gumbel_pool()
    scores[3:], scores[:3] = -th.inf, th.from_numpy(sf.failure_score(np.log([0.9, 0.2, 1e-8])))
    scores.requires_grad_(True)
    loss = sf.ForecastLoss(M, K, 300, p_floor=1e-6)
    partitions = loss.draw(scores, np.random.default_rng(0))
    assert partitions.floored
    assert len(partitions.deployment) == 300
    terms = loss.evaluate(scores[partitions.touched], partitions, 400)
    # an evaluation set without the rare mode foresees the floor, and the worst of the deployment is one of the two
    assert float(terms.forecast.min()) == pytest.approx(loss.score_floor)
    assert float(terms.realised.max()) == pytest.approx(scores[0].item())
    expected = ((terms.forecast - terms.realised) ** 2).mean()
    assert terms.loss.item() == pytest.approx(expected.item())
    (slope,) = th.autograd.grad(terms.loss, scores)
    assert slope[0] > 0.0
    assert (slope[2:] == 0.0).all()


@pytest.mark.parametrize(("worst", "floor"), [(1e-8, 1e-6), (0.9, 0.0)])
def test_no_forecast_without_a_task_above_the_floor(worst, floor):
    scores = th.full((400,), -th.inf, dtype=th.float64)
    scores[0] = sf.failure_score(float(np.log(worst)))
    with pytest.raises(TooFewScoresError):
        sf.ForecastLoss(M, K, 300, p_floor=floor).draw(scores, np.random.default_rng(0))


def test_tied_top_scores_have_a_finite_loss_and_gradient():
    scores = th.full((N,), -1.0, dtype=th.float64, requires_grad=True)
    for kind in ("squared", "guarded", "hinge"):
        value, _ = sf.ForecastLoss(M, K, 50, kind=kind)(scores, np.random.default_rng(0))
        (gradient,) = th.autograd.grad(value, scores)
        assert value.item() == 0.0
        assert (gradient == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_unusable_scores(bad):
    scores = gumbel_pool()
    scores[9] = bad
    with pytest.raises(ValueError, match=r"scores\[9\] must not be NaN or \+inf, got (nan|inf)"):
        sf.ForecastLoss(M, K, 50).draw(scores, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 1}, "k must be at least 2, got 1"),
        ({"k": 41}, "k must be at most eval_size=40, got 41"),
        ({"n_partitions": 0}, "n_partitions must be at least 1, got 0; use 128, or 'exact'"),
        ({"kind": "cubic"}, "kind must be one of .* got 'cubic'"),
        ({"p_floor": 1.0}, r"p_floor must be in \[0, 1\), got 1.0"),
        ({"level": 1.5}, "level must be strictly between 0 and 1, got 1.5"),
        ({"min_scale": 0.0}, "min_scale must be above 0, got 0.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.ForecastLoss(M, **arguments)


def test_pool_too_small():
    with pytest.raises(ValueError, match="eval_size must be below the pool size 400, got 400"):
        sf.ForecastLoss(400, K).draw(gumbel_pool(), np.random.default_rng(0))


def test_mean_failure_loss():
    scores = gumbel_pool(outlier=1.0).requires_grad_()
    loss = sf.MeanFailureLoss(n_tasks=20)
    chosen = loss.draw(scores, np.random.default_rng(0))
    assert set(chosen.touched.tolist()) == set(scores.detach().topk(20).indices.tolist())
    terms = loss.evaluate(scores[chosen.touched], chosen, N)
    (gradient,) = th.autograd.grad(terms.loss, scores)
    assert terms.loss.item() == pytest.approx(float(sf.failure_probability(scores.detach()[chosen.touched]).mean()))
    np.testing.assert_allclose(gradient[chosen.touched].numpy(), terms.weights.numpy(), rtol=1e-10)


def test_mean_failure_of_tasks_that_cannot_fail_is_0_with_gradient_0():
    scores = th.tensor([-th.inf, -1.0, 0.5], dtype=th.float64, requires_grad=True)
    loss = sf.MeanFailureLoss(n_tasks=3, worst=False)
    terms = loss.evaluate(scores, loss.draw(scores, np.random.default_rng(0)), 3)
    (gradient,) = th.autograd.grad(terms.loss, scores)
    np.testing.assert_allclose(gradient.numpy(), terms.weights.numpy())
    assert gradient[0] == 0.0
    assert (gradient[1:] > 0).all()


def test_the_guard_drops_tasks_that_are_safe_enough():
    """With a floor among the touched tasks: those at or below it have no weight, the others keep theirs."""
    scores = gumbel_pool(outlier=3.0)
    loss = sf.ForecastLoss(M, K, 64, kind="guarded", p_floor=0.0)
    partitions = loss.draw(scores, np.random.default_rng(3))
    touched = scores[partitions.touched]
    free = loss.evaluate(touched, partitions, N).weights
    floor = float(touched.sort().values[len(touched) // 2])
    floored = sf.ForecastLoss(M, K, 64, kind="guarded", p_floor=float(sf.failure_probability(floor)))
    floored.score_floor = floor  # exactly at a task
    kept = floored.evaluate(touched, partitions, N).weights
    assert (free[touched <= floor] > 0).any()
    assert (kept[touched <= floor] == 0).all()
    assert th.equal(kept[touched > floor], free[touched > floor])


def test_the_floor_is_a_score():
    assert sf.ForecastLoss(M, p_floor=1e-3).score_floor == float(sf.failure_score(np.log(1e-3)))
    assert sf.ForecastLoss(M, p_floor=0.0).score_floor == -np.inf


@pytest.mark.parametrize("min_scale", [0.05, 5.0])
def test_hinge_by_hand(min_scale):
    """The excess over the upper limit, in units of the scale, but of no smaller one than ``min_scale``; one partition."""
    scores = th.tensor([1.0, 0.9, 0.6, 0.5, 9.0, 0.1], dtype=th.float64)
    partitions = Partitions(th.tensor([[0, 1, 2]]), th.tensor([4]), th.tensor([0, 1, 2, 4]))
    loss = sf.ForecastLoss(3, 3, 1, kind="hinge", level=0.8, min_scale=min_scale)
    terms = loss.evaluate(scores[partitions.touched], partitions, 6)
    scale = (0.4 + 0.3) / 2
    excess = 9.0 - (0.6 + pivot_quantile(0.8, 3, 3, 3) * scale)
    assert excess > 0.0
    assert terms.loss.item() == pytest.approx((excess / max(scale, min_scale)) ** 2)
    np.testing.assert_allclose(terms.weights.numpy(), [0, 0, 0, 2 * excess / max(scale, min_scale) ** 2])
    assert (terms.scale.item(), terms.realised.item()) == (pytest.approx(scale), 9.0)


def test_the_parts_of_the_loss_are_those_of_the_method():
    """Of each method, with the deployment set as the rest of the pool."""
    scores = gumbel_pool()
    for method in ("jones", "blue", "direct"):
        loss = sf.ForecastLoss(M, K, 8, kind="squared", method=method)
        partitions = loss.draw(scores, np.random.default_rng(0))
        terms = loss.evaluate(scores[partitions.touched].float(), partitions, N)
        top = scores.float().double()[partitions.evaluation].sort(dim=1, descending=True).values
        assert th.allclose(terms.forecast, forecast_top(top, M, N - M, method))
        assert th.allclose(terms.scale, (top[:, :-1] - top[:, -1:]).sum(1) / (K - 1))
        assert terms.loss.dtype == th.float64
        assert not any(each.requires_grad for each in (terms.forecast, terms.realised, terms.scale, terms.weights))
        assert terms.held == 0.0


def test_reach_covers_nearly_all_partitions():
    """E r_k + 4 sqrt(k) N / m (docs/method.md eq. 35), at most the pool."""
    loss = sf.ForecastLoss(M, K, 4000)
    assert loss.reach(4000) == np.ceil((K + 4 * np.sqrt(K)) * 100)
    assert loss.reach(45) == 16
    assert sf.ForecastLoss(2, 2).reach(3) == 3
    scores = th.arange(N, 0, -1, dtype=th.float64)
    last = loss.draw(scores, np.random.default_rng(0)).evaluation[:, -1].numpy()
    assert (last >= loss.reach(N)).mean() < 2e-3
    exact = sf.ForecastLoss(M, K, "exact", method="blue")
    assert exact.reach(N) == sf.ExpectedSquaredError(N, M, K, "blue").prefix


def test_what_is_usual_for_a_loss():
    loss = sf.ForecastLoss(M)
    assert (loss.k, loss.n_partitions, loss.kind, loss.method) == (10, 128, "guarded", "jones")
    assert (loss.p_floor, loss.level, loss.min_scale) == (1e-6, 0.9, 0.05)
    assert len(loss.draw(gumbel_pool(), np.random.default_rng(0)).deployment) == 128


def test_partitions_are_those_of_the_ranks():
    """Tasks instead of ranks; what is touched is each of them once, ascending."""
    scores = gumbel_pool()
    found = sf.ForecastLoss(M, K, 32).draw(scores, np.random.default_rng(4))
    ranks = sf.sample_partitions(N, M, K, 32, np.random.default_rng(4))
    order = np.argsort(-scores.numpy(), kind="stable")
    np.testing.assert_array_equal(found.evaluation.numpy(), order[ranks.evaluation])
    np.testing.assert_array_equal(found.deployment.numpy(), order[ranks.deployment])
    np.testing.assert_array_equal(found.touched.numpy(), np.unique(order[ranks.touched()]))


def test_a_partition_needs_its_last_score():
    """The k-th evaluation score and the deployment's may be the last finite one."""
    scores = th.tensor([3.0, 2.0, 1.0, *[-th.inf] * 3], dtype=th.float64)
    found = sf.ForecastLoss(3, 2, 500).draw(scores, np.random.default_rng(0))
    assert set(found.touched.tolist()) == {0, 1, 2}
    assert set(found.evaluation[:, -1].tolist()) == {1, 2}
    assert set(found.deployment.tolist()) == {0, 1, 2}


def test_the_exact_expectation_follows_the_size_of_the_pool():
    loss = sf.ForecastLoss(20, 3, "exact", kind="squared", method="blue")
    for n in (100, 100, 60):
        scores = th.from_numpy(np.random.default_rng(n).gumbel(size=n))
        expected = sf.ExpectedSquaredError(n, 20, 3, "blue")(-np.sort(-scores.numpy()))
        assert loss(scores, np.random.default_rng(0))[0].item() == pytest.approx(expected)
    # a few partitions are drawn to have something to log
    assert len(loss.draw(scores, np.random.default_rng(0)).deployment) == 64


@pytest.mark.parametrize("method", ["jones", "blue"])
def test_suggested_partitions_from_the_gradients_one_by_one(method):
    scores = 0.3 * gumbel_pool()
    loss = sf.ForecastLoss(M, K, 64, method=method)
    partitions = sf.ForecastLoss(M, K, 80, "squared", method).draw(scores, np.random.default_rng(2))
    rows = np.zeros((80, N))
    for row, tasks, worst in zip(rows, partitions.evaluation, partitions.deployment, strict=True):
        x = scores.clone().requires_grad_()
        error = forecast_top(x[tasks], M, N - M, method) - x[worst]
        (gradient,) = th.autograd.grad(error**2, x)
        row += gradient.numpy()
    # a task is never on both sides, so the squares of a row add up
    noise = rows.var(axis=0, ddof=1).sum()
    signal = (rows.mean(axis=0) ** 2).sum() - noise / 80
    assert 16 < 10 * noise / signal < 1024
    assert loss.suggest_partitions(scores, np.random.default_rng(2), n_probe=80) == int(10 * noise / signal)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"p_floor": -0.1}, "p_floor must be in"),
        ({"n_partitions": "exact"}, "n_partitions must be a number for kind='guarded' with method='jones'"),
        ({"method": "magic"}, "method must be one of .* got 'magic'"),
        ({"level": 0.0}, "level must be strictly between"),
    ],
)
def test_more_bad_arguments(arguments, error):
    with pytest.raises(ValueError, match=error):
        sf.ForecastLoss(M, **arguments)


def test_smallest_allowed_arguments():
    assert sf.ForecastLoss(2, 2, 1, p_floor=0.0, min_scale=1e-9).k == 2
    sf.ForecastLoss(M, 40)
