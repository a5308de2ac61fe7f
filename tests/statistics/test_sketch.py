"""Sketches: the same whatever the parts, exact in what they promise, and enough for a forecast."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sb3_forecast as sf
from sb3_forecast.statistics.sketch import THRESHOLDS

N = 6000


@pytest.fixture(scope="module")
def data():
    """Scores with ties and infinities, successes of which some are unknown, rare tasks."""
    generator = np.random.default_rng(0)
    scores = generator.gumbel(-4.0, 0.7, N)
    scores[:40], scores[40:300], scores[300:303] = -np.inf, 1.25, np.inf
    scores = generator.permutation(scores)
    success = np.where(generator.random(N) < 0.3, np.nan, generator.random(N))
    return scores, success, generator.random(N) < 0.05


def sketch(data, ids, **settings):
    scores, success, rare = (column[ids] for column in data)
    return sf.TailSketch.of(scores, ids, success=success, rare=rare, steps=len(ids), **settings)


SIZES = {"top": 100, "sample": 50}


@settings(max_examples=30)
@given(st.lists(st.integers(1, N - 1), max_size=6, unique=True), st.randoms(use_true_random=False))
def test_parts_merge_in_any_order(data, cuts, random):
    order = np.random.default_rng(random.randint(0, 99)).permutation(N)
    parts = [sketch(data, ids, **SIZES) for ids in np.split(order, sorted(cuts))]
    random.shuffle(parts)
    while len(parts) > 1:
        # any tree of merges
        first = parts.pop(random.randrange(len(parts)))
        second = parts.pop(random.randrange(len(parts)))
        parts.append(first.merge(second))
    assert parts[0].to_bytes() == sketch(data, np.arange(N), **SIZES).to_bytes()


def test_what_it_says_is_exact(data):
    scores, success, rare = data
    found = sketch(data, np.arange(N), **SIZES)
    p = sf.failure_probability(scores)
    assert (found.n_tasks, found.n_rare, found.steps) == (N, rare.sum(), N)
    assert found.worst == np.inf
    assert found.mean_failure == pytest.approx(p.mean(), rel=1e-14)
    assert found.rare_mean_failure == pytest.approx(p[rare].mean(), rel=1e-14)
    assert found.success == pytest.approx(np.nanmean(success), rel=1e-14)
    assert found.rare_success == pytest.approx(np.nanmean(success[rare]), rel=1e-14)
    for threshold in (1e-20, 1e-3, 0.01, 0.1, 0.5, 0.999):
        assert found.worse_than(threshold) == (p > threshold).sum()
    for threshold in THRESHOLDS[::13]:
        assert found.worse_than(threshold) == (scores > sf.failure_score(np.log(threshold))).sum()
    # beyond the smallest of the kept scores any threshold is known
    assert found.worse_than(0.9876) == (p > 0.9876).sum()


def test_equal_scores_are_those_of_the_first_tasks(data):
    found = sketch(data, np.arange(N), **SIZES)
    tied = found.top_scores == 1.25
    np.testing.assert_array_equal(found.top_ids[tied], np.flatnonzero(data[0] == 1.25)[: tied.sum()])
    assert 0 < tied.sum() < 260


def test_the_sample_is_a_random_one():
    # by their index, by chance: the mean of the ids of a random sample of 4,096 of a million has a standard error of 4,500
    found = sf.TailSketch.of(np.zeros(1_000_000))
    assert abs(found.sample_ids.mean() - 500_000) < 4 * 4_500
    assert len(np.unique(found.sample_ids)) == found.sample == 4096
    # neighbours are not more often together than chance says
    assert (np.diff(np.sort(found.sample_ids)) == 1).sum() < 40


def test_a_tail_from_a_sketch_is_that_of_the_scores():
    scores = np.random.default_rng(1).gumbel(-9.0, 0.5, 60_000)
    tail, small = sf.GumbelTail.fit(scores, 50), sf.GumbelTail.fit(sf.TailSketch.of(scores), 50)
    assert small.n_eval == 60_000
    assert small.forecast(1e6) == tail.forecast(1e6)
    assert small.interval(10**6) == tail.interval(10**6)
    assert small.log_mean_failure() == pytest.approx(tail.log_mean_failure(), rel=1e-12)
    for p in (1e-4, 1e-30):
        assert small.behavior_frequency(p) == tail.behavior_frequency(p)
        assert small.behavior_frequency_limit(p) == tail.behavior_frequency_limit(p)
    np.testing.assert_array_equal(small.bootstrap(1e6), tail.bootstrap(1e6))
    assert small.diagnostics() == tail.diagnostics()
    assert sf.GumbelTail.fit(sf.TailSketch.of(scores)).k == sf.GumbelTail.fit(scores).k


def test_counted_failures_keep_their_frequencies():
    failure = np.array([0.0, 0.1, 0.0, 0.3])
    found = sf.TailSketch.of(sf.failure_score(np.log((10 * failure + 0.5) / 11)), failure=failure)
    assert found.mean_failure == pytest.approx(0.1)
    # smoothing would say that all of them fail with more than 0.01
    assert found.worse_than(0.01) == 2
    assert found.worse_than(0.1) == 1
    with pytest.raises(ValueError, match="p must be one of THRESHOLDS where failures were counted"):
        found.worse_than(0.123)
    with pytest.raises(ValueError, match="scores must be probabilities, got a sketch of counted failures"):
        sf.GumbelTail.fit(found, 2)
    with pytest.raises(ValueError, match="sketch must hold probabilities"):
        sf.report_of_sketch(found, 2)
    with pytest.raises(ValueError, match="other must have counted=True"):
        found.merge(sf.TailSketch.of([0.0], [9]))


def test_bytes_and_files(data, tmp_path):
    found = sketch(data, np.arange(N), n_errors=3)
    assert sf.TailSketch.from_bytes(found.to_bytes()).to_bytes() == found.to_bytes()
    found.save(tmp_path / "sketch.npz")
    assert sf.TailSketch.load(tmp_path / "sketch.npz").to_bytes() == found.to_bytes()
    content = bytearray((tmp_path / "sketch.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "sketch.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"path must be a file that TailSketch.save wrote"):
        sf.TailSketch.load(tmp_path / "sketch.npz")
    # it stays where it is: it may be a file of the user's
    assert (tmp_path / "sketch.npz").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        sf.TailSketch.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="arrays must be those of a sketch"):
        sf.TailSketch.from_arrays({"rest": np.array("{}")})


def test_its_size_is_bounded():
    """Scores over the whole range of float64: as many powers of two as a sum can hold."""
    generator = np.random.default_rng(0)
    scores = -np.log(generator.uniform(1e-12, 2000.0, 50_000))
    small, large = (
        sf.TailSketch.of(scores[:n], rare=np.arange(n) % 2 == 0, success=generator.random(n)) for n in (10_000, 50_000)
    )
    assert len(large.to_bytes()) < 1.2 * len(small.to_bytes()) < 600_000


def test_an_empty_sketch_merges():
    one = sf.TailSketch.of([0.5, 0.25])
    none = sf.TailSketch.of(np.empty(0), n_errors=4)
    assert np.isnan(none.mean_failure)
    assert none.worst == -np.inf
    merged = one.merge(none)
    assert (merged.n_tasks, merged.n_errors, merged.worst) == (2, 4, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [0.0, np.nan]}, "scores must have shape .* no NaN"),
        ({"scores": [[0.0]]}, "scores must have shape"),
        ({"scores": [0.0, 1.0], "ids": [3, 3]}, "ids must differ"),
        ({"scores": [0.0, 1.0], "ids": [-1, 3]}, "ids must be whole numbers from 0"),
        ({"scores": [0.0, 1.0], "ids": [1]}, "ids must have one entry per score"),
        ({"scores": [0.0, 1.0], "success": [1.0]}, "success must have one entry per score"),
        ({"scores": [0.0], "top": 3}, "top must be at least 10"),
    ],
)
def test_bad_tasks(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.TailSketch.of(**arguments)


def test_bad_merges():
    one = sf.TailSketch.of([0.5, 0.25])
    with pytest.raises(ValueError, match="task 1 in both"):
        one.merge(sf.TailSketch.of([0.5], [1]))
    with pytest.raises(ValueError, match="other must have top=2048"):
        one.merge(sf.TailSketch.of([0.5], [7], top=20))


def test_what_a_sketch_does_not_know():
    found = sf.TailSketch.of(np.random.default_rng(0).gumbel(size=500), top=20)
    with pytest.raises(ValueError, match=r"must be one that the sketch knows, got 0\.0123; use 0\.0126"):
        found.worse_than(0.0123)
    with pytest.raises(ValueError, match="k must be at most the 20 largest"):
        sf.GumbelTail.fit(found, 30)
    with pytest.raises(ValueError, match="k must be well below the 20 scores"):
        sf.GumbelTail.fit(found, 20).bootstrap(1000)
