"""A report from a sketch: random evaluation sets of a deployment that was scored as a whole, against what really happens in it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, whole
from sb3_forecast.measuring.report import ForecastReport
from sb3_forecast.measuring.splits import measures_of, splits_of
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.statistics.sketch import TailSketch


def report_of_sketch(
    sketch: TailSketch,
    eval_size: int,
    n_splits: int = 400,
    seed: int = 0,
    k: int = 10,
    method: Method = "blue",
    scorer: str = "",
) -> ForecastReport:
    """What :func:`~sb3_forecast.evaluate_forecast` says, of a deployment of any size that was scored as a whole.

    The evaluation sets are drawn from the sketch's random sample, and the deployment of a split is every other task. So all splits share one
    deployment, and say together about as much as one.

    :param sketch: sketch of the scores
    :param eval_size: evaluation set size m of a split, at most a quarter of the sketch's sample
    :param n_splits: number of splits
    :param seed: seed of the splits
    :param k: number of top evaluation scores that the forecast uses
    :param method: forecast method
    :param scorer: what scored the tasks, for the report
    :return: the report. Its ``scores`` and ``rare`` are those of the sample and of the largest scores, not of all tasks; whether one of the
        largest is rare is known only if it is in the sample
    :raises ValueError: if an argument is out of range, or too few scores are finite
    """
    largest = len(sketch.sample_ids) // 4
    if sketch.counted:
        raise ValueError(
            "sketch must hold probabilities, got counted failures, which have no tail; use their counts beyond thresholds"
        )
    if largest < 2:
        raise ValueError(f"sketch must hold at least 8 tasks, got {sketch.n_tasks}; score more tasks")
    whole("eval_size", eval_size, low=2, high=largest, use="a smaller one, or make the sketch with a larger sample")
    whole("k", k, low=2, high=eval_size, use="fewer top scores, or a larger eval_size")
    whole("n_splits", n_splits, low=1, use="400")
    generator = np.random.default_rng(check_seed(seed))
    ids, first = np.unique(np.concatenate([sketch.sample_ids, sketch.top_ids]), return_index=True)
    scores = np.concatenate([sketch.sample_scores, sketch.top_scores])[first]
    known_rare = np.concatenate([sketch.sample_rare, np.zeros(len(sketch.top_ids), dtype=np.bool_)])[first]
    sample, top = np.searchsorted(ids, sketch.sample_ids), np.searchsorted(ids, sketch.top_ids)
    drawn = np.array([generator.permutation(sample)[:eval_size] for _ in range(n_splits)])
    deploy_size = sketch.n_tasks - eval_size
    tasks = np.concatenate([drawn, _rest(top, drawn)], axis=1).astype(np.int32)
    splits = splits_of(scores, tasks, eval_size, deploy_size, k, method)
    return ForecastReport(
        eval_size=eval_size,
        deploy_size=deploy_size,
        k=k,
        method=method,
        n_splits=n_splits,
        seed=seed,
        n_tasks=sketch.n_tasks,
        n_rare=sketch.n_rare,
        scorer=scorer,
        worst_failure=float(failure_probability(sketch.worst)),
        mean_failure=sketch.mean_failure,
        rare_worst_failure=float(failure_probability(sketch.rare_worst)) if sketch.n_rare else math.nan,
        rare_mean_failure=sketch.rare_mean_failure,
        success=sketch.success,
        rare_success=sketch.rare_success,
        scores=scores,
        rare=known_rare,
        splits=splits,
        warnings=_warnings(sketch),
        **measures_of(splits, eval_size, deploy_size, k, method),
    )


def _rest(top: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each split the largest scores that its evaluation set does not hold, as many in each."""
    left = [top[~np.isin(top, row)] for row in drawn]
    return np.array([row[: min(map(len, left))] for row in left])


def _warnings(sketch: TailSketch) -> tuple[str, ...]:
    if not sketch.n_errors:
        return ()
    return (f"{sketch.n_errors:,} tasks raised an error and have no score: what they would have shown is unknown.",)
