"""A report of a deployment that is known by its sketch only."""

import numpy as np
import pytest

import sb3_forecast as sf


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(3).gumbel(-5.0, 0.6, 100_000)


def test_it_agrees_with_the_scores(scores):
    rare = np.arange(len(scores)) % 100 == 0
    report = sf.report_of_sketch(sf.TailSketch.of(scores, rare=rare), 200, n_splits=50)
    p = sf.failure_probability(scores)
    assert (report.n_tasks, report.deploy_size, report.n_rare) == (100_000, 99_800, 1000)
    assert report.worst_failure == p.max()
    assert report.mean_failure == pytest.approx(p.mean())
    assert report.rare_mean_failure == pytest.approx(p[rare].mean())
    assert report.n_independent == 1
    splits = report.splits
    for row, location, realised in zip(splits.tasks, splits.location, splits.realised, strict=True):
        evaluation, rest = report.scores[row[:200]], report.scores[row[200:]]
        assert location == np.sort(evaluation)[-10]
        # the worst of the deployment is the worst of all that was not evaluated
        assert realised == rest.max()
        assert len({*row.tolist()}) == len(row)


def test_a_worst_task_that_was_evaluated_is_not_in_the_deployment():
    scores = np.random.default_rng(0).gumbel(-5.0, 0.6, 400)
    report = sf.report_of_sketch(sf.TailSketch.of(scores), 100, n_splits=100)
    worst = np.sort(report.splits.realised)
    assert worst[-1] == scores.max()
    assert worst[0] < scores.max()


def test_pictures_and_files(scores, tmp_path):
    report = sf.report_of_sketch(sf.TailSketch.of(scores, n_errors=7), 200, n_splits=20)
    report.plot(tmp_path / "tail.png")
    report.save(tmp_path / "report.npz")
    assert sf.ForecastReport.load(tmp_path / "report.npz").to_dict() == report.to_dict()
    assert "7 tasks raised an error" in report.summary()


def test_bad_sizes(scores):
    sketch = sf.TailSketch.of(scores, sample=400)
    with pytest.raises(ValueError, match=r"eval_size must be in \[2, 100\], got 200"):
        sf.report_of_sketch(sketch, 200)
    with pytest.raises(ValueError, match=r"k must be in \[2, 20\], got 30"):
        sf.report_of_sketch(sketch, 20, k=30)
    with pytest.raises(ValueError, match="sketch must hold at least 8 tasks, got 7"):
        sf.report_of_sketch(sf.TailSketch.of(scores[:7]), 2)
