import numpy as np
import pytest

import sb3_forecast as sf


def brute_force(n_pool, eval_size, k, n_partitions, rng):
    """Partitions by shuffling, the slow and obvious way."""
    evaluation = np.empty((n_partitions, k), dtype=np.int64)
    deployment = np.empty(n_partitions, dtype=np.int64)
    for r in range(n_partitions):
        order = rng.permutation(n_pool)
        evaluation[r] = np.sort(order[:eval_size])[:k]
        deployment[r] = order[eval_size:].min()
    return evaluation, deployment


@pytest.mark.parametrize(("n_pool", "eval_size", "k"), [(30, 10, 4), (30, 25, 6), (12, 11, 3)])
def test_same_law_as_shuffling(n_pool, eval_size, k):
    repeats = 20_000
    ranks = sf.sample_partitions(n_pool, eval_size, k, repeats, np.random.default_rng(0))
    evaluation, deployment = brute_force(n_pool, eval_size, k, repeats, np.random.default_rng(1))
    for ours, theirs in ((ranks.evaluation, evaluation), (ranks.deployment[:, None], deployment[:, None])):
        error = np.sqrt((ours.var(0) + theirs.var(0)) / repeats)
        assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 4 * error + 1e-12).all()
        # and jointly: rank by rank, the whole distribution of the last column
        counts = [np.bincount(x[:, -1], minlength=n_pool) / repeats for x in (ours, theirs)]
        assert np.abs(counts[0] - counts[1]).max() < 4 * np.sqrt(2 * 0.25 / repeats)


def test_expected_ranks_and_structure():
    n_pool, m, k = 4000, 200, 10
    ranks = sf.sample_partitions(n_pool, m, k, 20_000, np.random.default_rng(0))
    expected = np.arange(1, k + 1) * (n_pool + 1) / (m + 1) - 1  # docs/method.md eq. 35, counted from 0
    np.testing.assert_allclose(ranks.evaluation.mean(0), expected, rtol=0.02)
    assert (np.diff(ranks.evaluation, axis=1) > 0).all()
    assert not (ranks.evaluation == ranks.deployment[:, None]).any()
    assert (ranks.deployment == 0).mean() == pytest.approx(1 - m / n_pool, abs=0.006)


def test_same_seed_same_partitions():
    a, b = (sf.sample_partitions(500, 50, 5, 64, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(a.evaluation, b.evaluation)
    np.testing.assert_array_equal(a.deployment, b.deployment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 100, 10, 5), "eval_size must be below the pool size 100, got 100"),
        ((100, 50, 1, 5), "k must be at least 2, got 1"),
        ((100, 50, 51, 5), "k must be at most eval_size=50, got 51"),
        ((100, 50, 10, 0), "n_partitions must be at least 1, got 0"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.sample_partitions(*arguments, np.random.default_rng(0))


def test_touched_ranks_are_those_of_either_side():
    ranks = sf.PartitionRanks(np.array([[0, 2], [2, 5]]), np.array([1, 0]))
    assert ranks.touched().tolist() == [0, 1, 2, 5]


def test_a_deployment_of_one_task_may_come_last():
    """Then its rank is the evaluation set size."""
    ranks = sf.sample_partitions(4, 3, 3, 400, np.random.default_rng(0))
    assert sorted(set(ranks.deployment.tolist())) == [0, 1, 2, 3]
    for evaluation, deployment in zip(ranks.evaluation, ranks.deployment, strict=True):
        assert sorted([*evaluation, deployment]) == [0, 1, 2, 3]
    assert ranks.evaluation.dtype == ranks.deployment.dtype == np.int64


def test_the_smallest_sizes():
    assert sf.sample_partitions(3, 2, 2, 1, np.random.default_rng(0)).evaluation.shape == (1, 2)
