"""evaluate_forecast: checks on held-out tasks whether the forecast holds, and how well the agent still does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, whole
from sb3_forecast.measuring.report import ForecastReport
from sb3_forecast.measuring.splits import forecast_splits, measures_of
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Pool, Scorer, TellsTasksApart
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.partitions import check_partition
from sb3_forecast.statistics.scores import failure_probability


def evaluate_forecast(
    model: Any,
    pool: Pool,
    eval_size: int,
    n_splits: int = 400,
    seed: int = 0,
    deploy_size: int | None = None,
    k: int = 10,
    method: Method = "blue",
    scorer: str | FailureScorer | Scorer = "auto",
    exclude: TellsTasksApart | None = None,
) -> ForecastReport:
    """Score a pool once, then forecast from many random evaluation sets to the matching deployment sets.

    Use a pool that the model was not trained on. Give the training pool as ``exclude``, because small tasks occur in both by chance.

    :param model: any SB3 or sb3-contrib model
    :param pool: held-out tasks
    :param eval_size: evaluation set size m of a split
    :param n_splits: number of splits
    :param seed: seed of the splits
    :param deploy_size: deployment set size n of a split; ``None`` for the rest of the pool
    :param k: number of top evaluation scores that the forecast uses
    :param method: ``"blue"`` (unbiased on an exactly exponential tail), ``"jones"`` or ``"direct"``
    :param scorer: ``"auto"`` (the strongest that fits the tasks and the model), ``"exact"``, ``"survival"``, ``"frequency"`` or a scorer object,
        such as ``FrequencyScorer(pool, env=env)`` to play in your own environments
    :param exclude: the training pool. Tasks that it holds are left out, and equal tasks are used once; ``None`` to use all tasks
    :return: the report
    :raises ValueError: if an argument is out of range, the sizes do not fit the pool, or too few scores are finite
    """
    used, overlap = _distinct(pool, exclude)
    n_tasks = len(used)
    check_partition(n_tasks, eval_size, k)
    deploy_size = n_tasks - eval_size if deploy_size is None else deploy_size
    if not 1 <= whole("deploy_size", deploy_size) <= n_tasks - eval_size:
        raise ValueError(
            f"deploy_size must be in [1, {n_tasks - eval_size}] for {n_tasks} tasks and eval_size={eval_size}, got {deploy_size}; "
            "use a smaller one, or a larger pool"
        )
    whole("n_splits", n_splits, low=1, use="400")
    check_seed(seed)
    used_scorer = make_measuring_scorer(scorer, pool, model, seed)
    found = used_scorer.measure(model, k, seed)
    scores, frequencies, success = (column[used] for column in (found.scores, found.frequencies, found.success))
    rare = np.asarray(pool.rare, dtype=np.bool_)[used]
    splits = forecast_splits(scores, eval_size, deploy_size, n_splits, seed, k, method)
    failure = failure_probability(scores)

    def of_rare(values: NDArray[np.float64], reduce: Any) -> float:
        return float(reduce(values[rare])) if rare.any() else math.nan

    return ForecastReport(
        eval_size=eval_size,
        deploy_size=deploy_size,
        k=k,
        method=method,
        n_splits=n_splits,
        seed=seed,
        n_tasks=n_tasks,
        n_rare=int(rare.sum()),
        scorer=type(used_scorer).__name__,
        worst_failure=float(failure.max()),
        mean_failure=float(frequencies.mean()),
        rare_worst_failure=of_rare(failure, np.max),
        rare_mean_failure=of_rare(frequencies, np.mean),
        success=float(success.mean()),
        rare_success=of_rare(success, np.mean),
        scores=scores,
        rare=rare,
        splits=splits,
        overlap=overlap,
        warnings=found.warnings,
        **measures_of(splits, eval_size, deploy_size, k, method),
    )


def _distinct(pool: Pool, exclude: TellsTasksApart | None) -> tuple[NDArray[np.int64], float]:
    """Indices of the tasks to use, int64, and the share of all tasks that occur in ``exclude``."""
    if exclude is None:
        return np.arange(len(pool)), math.nan
    if not isinstance(pool, TellsTasksApart):
        raise ValueError(
            f"pool must have task_keys() to tell tasks apart when exclude is given, got {pool!r}; leave exclude out"
        )
    seen = set(exclude.task_keys())
    keys = pool.task_keys()
    overlap = sum(key in seen for key in keys) / len(keys)
    used = []
    for task, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            used.append(task)
    if not used:
        raise ValueError("pool must hold a task that exclude does not hold, got none; draw it with TaskPool(..., exclude=...)")
    return np.array(used, dtype=np.int64), overlap
