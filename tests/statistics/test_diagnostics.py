import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.statistics.diagnostics import anderson_darling, anderson_darling_p, curvature_score
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
