import numpy as np
import pytest
from scipy import stats

import sb3_forecast as sf
from sb3_forecast.statistics.diagnostics import anderson_darling, anderson_darling_p, curvature_score, diagnose
from sb3_forecast.statistics.tails import default_k


def exact_tails(repeats, k, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([np.sort(rng.exponential(size=(repeats, k - 1)), axis=1)[:, ::-1], np.zeros((repeats, 1))], axis=1)


@pytest.mark.parametrize("k", [5, 20, 50])
def test_curvature_has_mean_0_and_variance_1_under_the_null(k):
    z = np.array([curvature_score(top) for top in exact_tails(20_000, k)])
    assert abs(z.mean()) < 4 / np.sqrt(20_000)
    assert z.var() == pytest.approx(1.0, abs=0.05)
    assert (np.abs(z) > 1.645).mean() == pytest.approx(0.0975, abs=0.012)  # docs/method.md after eq. 47: .094 to .101


@pytest.mark.parametrize(("critical", "p"), [(0.738, 0.25), (1.072, 0.10), (1.320, 0.05), (1.954, 0.01)])
def test_anderson_darling_critical_values_of_the_method(critical, p):
    assert anderson_darling_p(critical) == pytest.approx(p, rel=0.08)


def test_anderson_darling_p_is_uniform_under_the_null():
    p = np.array([anderson_darling_p(anderson_darling(top)) for top in exact_tails(10_000, 20, seed=1)])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p < level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 10_000))


def test_warnings_say_what_is_wrong():
    rng = np.random.default_rng(0)
    heavy = sf.GumbelTail.fit(rng.standard_t(2, size=2000), k=100).diagnostics()
    assert heavy.curvature > 3
    assert any("heavier than exponential" in text for text in heavy.warnings)
    light = sf.GumbelTail.fit(rng.uniform(size=2000), k=100).diagnostics()
    assert light.curvature < -3
    assert any("lighter than exponential" in text for text in light.warnings)
    tied = sf.GumbelTail.fit(np.round(rng.exponential(size=500), 1), k=40).diagnostics()
    assert tied.ties > 0
    assert any("tied" in text for text in tied.warnings)
    assert any("only 5 scores" in text for text in sf.GumbelTail.fit(rng.exponential(size=500), k=5).diagnostics().warnings)
    fine = sf.GumbelTail.fit(rng.exponential(size=500)).diagnostics()
    assert fine.warnings == ()
    assert fine.k == 45


def test_all_scores_equal():
    result = sf.GumbelTail.fit(np.full(60, 1.0), k=10).diagnostics()
    assert np.isnan(result.curvature)
    assert np.isnan(result.anderson_darling_p)
    assert result.ties == 9
    assert "no tail to extrapolate" in result.warnings[0]


@pytest.mark.parametrize(("m", "k"), [(100, 20), (300, 35), (2000, 89), (60, 15), (30, 7), (5, 2), (2, 2)])
def test_default_k(m, k):
    assert default_k(m) == k


def test_forward_stop():
    rng = np.random.default_rng(3)
    assert sf.forward_stop_k(rng.exponential(size=2000)) == 500  # nothing to reject
    # exponential beyond 3, something else below: k is cut back to about the exponential part
    mixture = np.concatenate([3 + rng.exponential(size=60), rng.uniform(0, 3, size=1940)])
    assert sf.forward_stop_k(mixture) < 200
    with pytest.raises(ValueError, match=r"smallest must be at most .* evaluate more tasks"):
        sf.forward_stop_k(rng.exponential(size=30))
    with pytest.raises(ValueError, match="alpha must be strictly between 0 and 1, got 2"):
        sf.forward_stop_k(rng.exponential(size=300), alpha=2)


def test_stability_scan():
    scores = np.random.default_rng(0).exponential(size=1000)
    scan = sf.stability_scan(scores, 1e5)
    i = int(np.argmin(np.abs(scan.k - 50)))
    assert scan.forecast[i] == pytest.approx(sf.GumbelTail.fit(scores, k=int(scan.k[i])).forecast(1e5))
    assert scan.scale[-5:] == pytest.approx(1.0, abs=0.2)
    with pytest.raises(ValueError, match="smallest and largest must be within 2 and 1000"):
        sf.stability_scan(scores, 1e5, smallest=1)


def test_the_checks_are_those_of_the_top_scores():
    scores = -np.sort(-np.random.default_rng(5).gumbel(size=300))
    found, top = diagnose(scores, 30), scores[:30]
    z = curvature_score(top)
    assert (found.k, found.n_eval, found.ties) == (30, 300, 0)
    assert (found.curvature, found.curvature_p) == (z, pytest.approx(2 * stats.norm.sf(abs(z))))
    assert found.anderson_darling == anderson_darling(top)
    assert found.anderson_darling_p == anderson_darling_p(anderson_darling(top))


def test_ties_are_the_scores_that_another_one_equals():
    found = diagnose(np.array([5.0, 4.0, 4.0, 4.0, 3.0, 2.0, 2.0, 1.0, 0.5, 0.2, 0.1]), 10)
    assert found.ties == 3
    assert found.warnings[0].startswith("3 of the 10 top scores are tied")


def test_anderson_darling_by_its_formula():
    excess = np.sort(np.random.default_rng(0).exponential(size=19))
    log_f, log_s = np.log(1 - np.exp(-excess / excess.mean())), -excess / excess.mean()
    a2 = -19 - sum((2 * i - 1) * (log_f[i - 1] + log_s[19 - i]) for i in range(1, 20)) / 19
    assert anderson_darling(np.append(excess[::-1], 0.0)) == pytest.approx(a2 * (1 + 0.6 / 19))


def test_p_values_end_with_the_table():
    assert (anderson_darling_p(0.0), anderson_darling_p(100.0)) == pytest.approx((1.0, 1e-4))
    assert np.isnan(anderson_darling_p(np.nan))
    # between two points log p is linear
    assert anderson_darling_p((0.9269 + 1.0733) / 2) == pytest.approx(np.sqrt(0.15 * 0.1))


def test_curvature_needs_three_scores():
    assert np.isnan(curvature_score(np.array([2.0, 1.0])))
    assert np.isfinite(curvature_score(np.array([2.0, 1.0, 0.5])))


@pytest.mark.parametrize(("k", "warned"), [(9, True), (10, False)])
def test_fewer_than_ten_scores_are_few(k, warned):
    texts = sf.GumbelTail.fit(np.random.default_rng(2).exponential(size=300), k=k).diagnostics().warnings
    assert any(f"uses only {k} scores" in text for text in texts) == warned


def forward_stop_by_hand(scores, alpha, smallest):
    """From the largest k on, all are rejected up to the last one whose mean of -log(1 - p) is at most alpha."""
    ordered = -np.sort(-scores)
    tried = sorted({round(k) for k in np.geomspace(smallest, len(scores) // 4, 25)}, reverse=True)
    sums, last = 0.0, 0
    for count, k in enumerate(tried, 1):
        sums -= np.log(1 - anderson_darling_p(anderson_darling(ordered[:k])))
        last = count if sums <= alpha * count else last
    return tried[last] if last < len(tried) else smallest


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.7])
def test_forward_stop_is_the_rule_of_bader(alpha):
    found = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scores = np.concatenate([3 + rng.exponential(size=60 + 20 * seed), rng.uniform(0, 3, size=900)])
        found.add(sf.forward_stop_k(scores, alpha, 12))
        assert sf.forward_stop_k(scores, alpha, 12) == forward_stop_by_hand(scores, alpha, 12)
    assert len(found) > 1


def test_forward_stop_returns_the_smallest_where_all_are_rejected():
    assert sf.forward_stop_k(np.repeat([2.0, 1.0], [5, 995]) + 1e-9 * np.arange(1000), smallest=8) == 8


def test_forward_stop_needs_two_scores():
    with pytest.raises(ValueError, match="smallest must be at least 2, got 1"):
        sf.forward_stop_k(np.arange(100.0), smallest=1)
    assert sf.forward_stop_k(np.random.default_rng(0).exponential(size=40), smallest=10) == 10


def test_a_scan_goes_from_the_smallest_to_the_largest_k():
    scores = np.append(np.random.default_rng(0).exponential(size=300), [-np.inf] * 20)
    usual, asked = sf.stability_scan(scores, 1e4), sf.stability_scan(scores, 1e4, "jones", 7, 90)
    assert (usual.k[0], usual.k[-1]) == (5, 150)
    assert (asked.k[0], asked.k[-1]) == (7, 90)
    assert len(usual.k) <= 60
    for i, k in enumerate(asked.k):
        tail = sf.GumbelTail.fit(scores, int(k), "jones")
        assert (asked.forecast[i], asked.scale[i]) == (pytest.approx(tail.forecast(1e4)), pytest.approx(tail.scale))
        assert asked.curvature[i] == pytest.approx(tail.diagnostics().curvature)
    # all finite scores may be used, and no more
    assert sf.stability_scan(scores, 1e4, largest=300).k[-1] == 300
    with pytest.raises(ValueError, match="within 2 and 300, the number of finite scores, got 5 and 301"):
        sf.stability_scan(scores, 1e4, largest=301)
    assert sf.stability_scan(scores, 1e4, smallest=2, largest=2).k.tolist() == [2]


def test_a_missed_mode_in_closed_form():
    found = sf.missed_mode(1e-3, 5.0, 10, 500, 2000, "jones")
    bias = sf.bias_constants(10, 500, 2000, "jones").maximum
    assert found.miss_probability == pytest.approx(0.999**500)
    assert found.hit_probability == pytest.approx(1 - 0.999**2000)
    # docs/method.md eq. 23
    assert found.error_if_missed == pytest.approx(bias - np.log(1 + 1e-3 * (np.exp(5.0) - 1)))
    assert np.log(1 + 1e-3 * (np.exp(found.tolerable_shift) - 1)) == pytest.approx(bias)


def test_an_unbiased_forecast_tolerates_no_missed_mode():
    found = sf.missed_mode(0.01, 3.0, 10, 500, 2000, "blue")
    assert found.tolerable_shift == 0.0
    assert found.error_if_missed == pytest.approx(-np.log(1 + 0.01 * (np.exp(3.0) - 1)))


def test_a_mode_that_lies_very_high():
    """exp(710) is no number; from 700 on the shift itself counts."""
    below, beyond = (sf.missed_mode(0.01, shift, 10, 500, 2000, "blue").error_if_missed for shift in (699.0, 800.0))
    assert below - beyond == pytest.approx(101.0)
