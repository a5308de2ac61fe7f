import itertools

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.statistics.bias import bias_constants
from sb3_forecast.statistics.estimators import linear_weights
from sb3_forecast.statistics.exact_partitions import block_ends


def brute_force(x, m, k, weights):
    """Every subset: mean, second moment and gradient."""
    n_pool = len(x)
    errors, gradients = [], []
    for chosen in itertools.combinations(range(n_pool), m):
        best = min(set(range(n_pool)) - set(chosen))
        row = np.zeros(n_pool)
        row[list(chosen[:k])] += weights
        row[best] -= 1.0
        errors.append(row @ x)
        gradients.append(2 * (row @ x) * row)
    return np.mean(errors), np.mean(np.square(errors)), np.mean(gradients, axis=0)


@pytest.mark.parametrize("method", ["direct", "blue"])
@pytest.mark.parametrize(("n_pool", "m", "k"), [(9, 3, 2), (10, 5, 5), (11, 8, 3), (12, 4, 4), (13, 6, 3), (8, 7, 2)])
def test_brute_force_over_all_subsets(method, n_pool, m, k):
    x = -np.sort(-np.random.default_rng(n_pool).normal(size=n_pool))
    loss = sf.ExpectedSquaredError(n_pool, m, k, method=method)
    mean, second, gradient = brute_force(x, m, k, linear_weights(method, k, m, n_pool - m))
    value, ours = loss.value_and_gradient(x)
    assert value == pytest.approx(second, rel=1e-12)
    assert loss.mean(x) == pytest.approx(mean, rel=1e-10, abs=1e-12)
    assert loss.variance(x) == pytest.approx(second - mean**2, rel=1e-9)
    np.testing.assert_allclose(ours, gradient, rtol=1e-10, atol=1e-12)


def test_vectors(vectors):
    case = vectors["partition_exact_small"]
    x, out = np.array(case["inputs"]["x"]), case["outputs"]
    for method, key in (("direct", "dir"), ("blue", "blu")):
        loss = sf.ExpectedSquaredError(12, case["inputs"]["m"], case["inputs"]["k"], method=method)
        value, gradient = loss.value_and_gradient(x)
        assert value == pytest.approx(out[key]["second_moment"], rel=case["rtol"])
        assert loss.mean(x) == pytest.approx(out[key]["mean"], rel=case["rtol"])
        np.testing.assert_allclose(gradient, out[key]["grad"], rtol=case["rtol"], atol=1e-12)
        if method == "direct":
            evaluation, deployment = loss.gradient_sides(x)
            np.testing.assert_allclose(evaluation, out[key]["grad_eval_side"], rtol=case["rtol"], atol=1e-12)
            np.testing.assert_allclose(deployment, out[key]["grad_deploy_side"], rtol=case["rtol"], atol=1e-12)
            np.testing.assert_allclose(loss.weights, out[key]["w"], rtol=case["rtol"])


@pytest.mark.parametrize(("n_pool", "m"), [(4000, 200), (20_000, 1000)])
def test_sampled_partitions_converge_to_it(n_pool, m):
    x = th.from_numpy(-np.sort(-np.random.default_rng(0).gumbel(size=n_pool)))
    exact = sf.ExpectedSquaredError(n_pool, m, 10, method="blue")(x).item()
    sampled = sf.ForecastLoss(m, 10, 40_000, kind="squared", method="blue")
    terms = sampled.evaluate(*_touched(sampled, x))
    squares = (terms.forecast - terms.realised) ** 2
    assert exact == pytest.approx(squares.mean().item(), abs=4 * squares.std().item() / np.sqrt(len(squares)))


def _touched(loss, x):
    partitions = loss.draw(x, np.random.default_rng(1))
    return x[partitions.touched], partitions, len(x)


def test_link_to_the_bias_of_an_exact_tail():
    """docs/method.md eq. 44: the mean error of an exponential pool is the bias of the estimator."""
    n_pool, m, k = 2000, 100, 10
    loss = sf.ExpectedSquaredError(n_pool, m, k, method="direct", prefix=n_pool, single=n_pool)
    spacing = 1.0 / np.arange(1, n_pool + 1)  # expected gaps of an exponential sample
    x = np.cumsum(spacing[::-1])[::-1]
    assert loss.mean(x) == pytest.approx(bias_constants(k, m, n_pool - m, "direct").maximum, rel=1e-9)


def test_rank_blocks_report_their_error():
    n_pool, m = 101_000, 1000
    x = -np.sort(-np.random.default_rng(0).gumbel(size=n_pool))
    blocked = sf.ExpectedSquaredError(n_pool, m, 10, method="blue", single=64)
    fine = sf.ExpectedSquaredError(n_pool, m, 10, method="blue", single=4000, prefix=6000)
    value, gradient = blocked.value_and_gradient(x)
    reference, exact = fine.value_and_gradient(x)
    actual = abs(value / reference - 1)
    assert len(blocked.ends) < 200
    assert actual < 5e-3
    assert 0.2 * actual < blocked.relative_error(x) < 5 * actual + 1e-6
    # within a block the gradient is shared by the ranks that it reads: blocks are what can be compared
    begins = np.concatenate([[0], blocked.ends[:-1]])
    ours, theirs = (np.add.reduceat(g[: blocked.prefix], begins) for g in (gradient, exact))
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.999


def test_ten_million():
    loss = sf.ExpectedSquaredError(10**7, 1000, 10, method="direct", single=64)
    top = -np.log(np.arange(1, loss.prefix + 1) / 10**7)
    assert len(loss.ends) < 300
    assert np.isfinite(loss(top))


def test_torch_gradient_and_prefix():
    loss = sf.ExpectedSquaredError(4000, 200, 10)
    x = -np.sort(-np.random.default_rng(0).gumbel(size=4000))
    whole = th.from_numpy(x.copy()).requires_grad_()
    loss(whole).backward()
    part = th.from_numpy(x[: loss.prefix].copy()).requires_grad_()
    (2.0 * loss(part)).backward()
    np.testing.assert_allclose(part.grad.numpy(), 2 * whole.grad[: loss.prefix].numpy())
    assert (whole.grad[loss.prefix :] == 0).all()
    assert whole.grad.sum().item() == pytest.approx(0.0, abs=1e-9)  # docs/method.md eq. 46
    assert (whole.grad * whole.detach()).sum().item() == pytest.approx(2 * loss(x), rel=1e-9)  # homogeneous of degree 2


def test_forecast_loss_uses_it():
    scores = th.from_numpy(np.random.default_rng(5).gumbel(size=2000) - 3).requires_grad_()
    exact = sf.ForecastLoss(100, 10, "exact", kind="squared", method="blue")
    value, touched = exact(scores, np.random.default_rng(0))
    (gradient,) = th.autograd.grad(value, scores)
    order = scores.detach().argsort(descending=True)
    expectation = sf.ExpectedSquaredError(2000, 100, 10, method="blue")
    reference, by_rank = expectation.value_and_gradient(scores.detach()[order].numpy())
    assert value.item() == pytest.approx(reference)
    np.testing.assert_allclose(gradient[order].numpy(), by_rank, atol=1e-12)
    assert len(touched) >= expectation.prefix
    guarded, _ = sf.ForecastLoss(100, 10, "exact", method="direct", p_floor=0.0)(scores, np.random.default_rng(0))
    (kept,) = th.autograd.grad(guarded, scores)
    assert (kept >= 0).all()
    other, _ = exact(scores, np.random.default_rng(99))
    assert other.item() == value.item()  # no sampling noise


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sf.ExpectedSquaredError(100, 100, 10), "eval_size must be below the pool size 100, got 100"),
        (lambda: sf.ExpectedSquaredError(100, 50, 10, method="jones"), "method must be linear in the scores, got 'jones'"),
        (lambda: sf.ExpectedSquaredError(100, 50, 10, ratio=1.0), r"ratio must be above 1, got 1\.0"),
        (lambda: sf.ExpectedSquaredError(100, 50, 10, single=5), r"single must be at least k \+ 1 = 11, got 5"),
        (lambda: sf.ExpectedSquaredError(100, 50, 10)(np.arange(100.0)), "sorted_scores must be in descending order"),
        (lambda: sf.ExpectedSquaredError(100, 50, 10)(np.full(100, -np.inf)), "sorted_scores must be finite up to rank"),
        (lambda: sf.ExpectedSquaredError(100, 50, 10)(np.zeros(5)), r"sorted_scores must have the shape \(100,\), got \(5,\)"),
        (
            lambda: sf.ForecastLoss(50, 10, "exact"),
            "n_partitions must be a number for kind='guarded' with method='jones', got 'exact'",
        ),
        (
            lambda: sf.ForecastLoss(50, 10, "exact", kind="hinge", method="blue"),
            "n_partitions must be a number for kind='hinge'",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_too_few_finite_scores_for_the_expectation():
    scores = th.from_numpy(np.random.default_rng(5).gumbel(size=2000))
    scores[300:] = -th.inf
    with pytest.raises(
        ValueError, match=r"largest scores must be finite for n_partitions='exact', got 300 finite ones of 2000; use a number"
    ):
        sf.ForecastLoss(100, 10, "exact", method="blue").draw(scores, np.random.default_rng(0))


def test_the_prefix_is_what_was_asked_for_within_its_bounds():
    sizes = (2000, 100, 10)
    assert sf.ExpectedSquaredError(*sizes, prefix=300).prefix == 300
    assert sf.ExpectedSquaredError(*sizes, prefix=3).prefix == 11  # k + 1 ranks at least
    assert sf.ExpectedSquaredError(*sizes, prefix=5000).prefix == 2000
    assert sf.ExpectedSquaredError(*sizes).prefix == np.ceil((10 + 8 * np.sqrt(10)) * 20)


def test_blocks_are_single_and_then_grow():
    assert block_ends(100, 12, 4, 1.5).tolist() == [1, 2, 3, 4, 6, 9, 12]
    assert block_ends(100, 3, 4, 1.5).tolist() == [1, 2, 3]
    assert block_ends(100, 8, 2, 1.01).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_block_reads_evenly_spread_ranks():
    loss = sf.ExpectedSquaredError(1000, 500, 2, prefix=40, single=4, ratio=3.0, per_block=5)
    assert loss.ends.tolist() == [1, 2, 3, 4, 12, 36, 40]
    assert loss.members.tolist() == [0, 1, 2, 3, 4, 6, 8, 9, 11, 12, 18, 24, 29, 35, 36, 37, 38, 39]
    x = -(np.arange(40.0) ** 2)
    means = [0, -1, -4, -9, *(x[r].mean() for r in ([4, 6, 8, 9, 11], [12, 18, 24, 29, 35], [36, 37, 38, 39]))]
    np.testing.assert_allclose(loss.block_means(x), means)


def test_the_relative_error_compares_with_a_finer_setting():
    x = -np.sort(-np.random.default_rng(3).gumbel(size=3000))
    coarse = sf.ExpectedSquaredError(3000, 100, 5, "blue", "quantile", prefix=301, single=20, ratio=1.5, per_block=3)
    finer = sf.ExpectedSquaredError(3000, 100, 5, "blue", "quantile", prefix=452, single=20, ratio=1.5**0.25, per_block=12)
    expected = abs(coarse(x) - finer(x)) / finer(x)
    assert expected > 0.0
    assert coarse.relative_error(x) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("target", ["max", "quantile"])
def test_nothing_is_averaged_or_cut_with_a_whole_prefix(target):
    x = -np.sort(-np.random.default_rng(3).gumbel(size=300))
    loss = sf.ExpectedSquaredError(300, 100, 5, "blue", target, prefix=300)
    assert loss.relative_error(x) == 0.0
    assert loss.relative_error(np.zeros(300)) == 0.0
    assert loss(x) > 0.0


def test_both_sides_add_up_to_the_gradient():
    x = -np.sort(-np.random.default_rng(4).gumbel(size=60))
    loss = sf.ExpectedSquaredError(60, 20, 4, "blue")
    evaluation, deployment = loss.gradient_sides(x)
    np.testing.assert_allclose(evaluation + deployment, loss.value_and_gradient(x)[1], atol=1e-12)
    # the deployment maximum lowers an error that it raises: its side is that of the second term of the error
    step = np.zeros(60)
    step[0] = 1e-6
    value, moved = (loss(each) for each in (x, x + step))
    assert (moved - value) / 1e-6 == pytest.approx(evaluation[0] + deployment[0], rel=1e-3)


@pytest.mark.parametrize("method", ["direct", "blue"])
def test_the_deployment_side_over_all_subsets(method):
    """-2 E[error; deployment maximum at each rank], by enumeration."""
    x = -np.sort(-np.random.default_rng(5).normal(size=10))
    loss = sf.ExpectedSquaredError(10, 4, 3, method=method)
    weights, sides, count = linear_weights(method, 3, 4, 6), np.zeros(10), 0
    for chosen in itertools.combinations(range(10), 4):
        best = min(set(range(10)) - set(chosen))
        sides[best] -= 2 * (weights @ x[list(chosen[:3])] - x[best])
        count += 1
    np.testing.assert_allclose(loss.gradient_sides(x)[1], sides / count, atol=1e-12)


def test_scores_beyond_the_prefix_need_not_be_passed_and_those_within_must():
    loss = sf.ExpectedSquaredError(4000, 2000, 5)
    x = -np.sort(-np.random.default_rng(0).gumbel(size=4000))
    assert loss(x[: loss.prefix]) == loss(x)
    for wrong in (x[: loss.prefix - 1], np.append(x, -9.0), x[None]):
        with pytest.raises(ValueError, match="or at least the"):
            loss(wrong)
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[0] = bad
        with pytest.raises(ValueError, match="sorted_scores must be finite"):
            loss(broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_block": 0}, "per_block must be at least 1, got 0"),
        ({"single": 10}, "single must be at least k [+] 1 = 11, got 10"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.ExpectedSquaredError(100, 50, 10, **arguments)


def test_smallest_settings():
    x = -np.sort(-np.random.default_rng(0).gumbel(size=100))
    smallest = sf.ExpectedSquaredError(100, 50, 10, single=11, per_block=1, ratio=1.5)
    assert smallest(x) == pytest.approx(sf.ExpectedSquaredError(100, 50, 10)(x), rel=0.2)


def test_the_gradient_of_a_tensor_keeps_its_type():
    x = th.from_numpy(-np.sort(-np.random.default_rng(0).gumbel(size=100))).float().requires_grad_()
    value = sf.ExpectedSquaredError(100, 50, 10)(x)
    value.backward()
    assert (value.dtype, x.grad.dtype) == (th.float64, th.float32)
    assert x.grad.abs().sum() > 0
