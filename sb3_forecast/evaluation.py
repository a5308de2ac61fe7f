"""Does the forecast hold on held-out tasks, and what can the agent still do?"""

from __future__ import annotations

import io
import json
import math
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sb3_forecast.estimators import Method
from sb3_forecast.evaluation_splits import split_indices
from sb3_forecast.partitions import check_partition
from sb3_forecast.scorers import (
    EpisodeScorer,
    ExactScorer,
    FailureScorer,
    FrequencyScorer,
    SurvivalScorer,
    make_measuring_scorer,
)
from sb3_forecast.scorers.playing import play
from sb3_forecast.scores import failure_probability, log_failure_probability
from sb3_forecast.tails import GumbelTail


@dataclass(frozen=True)
class ErrorSummary:
    """Forecast minus realised maximum, over the splits, in one unit.

    :param mean_abs: mean absolute error
    :param median_abs: median absolute error
    :param signed: mean error; negative where the forecast is too low
    """

    mean_abs: float
    median_abs: float
    signed: float


@dataclass(frozen=True)
class ForecastReport:
    """What :func:`evaluate_forecast` found. Probabilities are under the stochastic policy; off-policy models act without exploring.

    :param eval_size: evaluation set size m of a split
    :param deploy_size: deployment set size n of a split
    :param k: top scores used
    :param method: forecast method
    :param n_splits: number of splits
    :param seed: seed of the splits
    :param n_tasks: tasks of the pool
    :param n_rare: of these, rare ones
    :param scorer: how the tasks were scored
    :param error: forecast error in psi
    :param error_in_scale: the same in units of each split's fitted scale; splits with scale 0 are left out (NaN if all are)
    :param error_log10: the same for log10 of the worst-query risk
    :param under_predicted: share of the splits whose forecast is below the realised maximum
    :param mean_scale: mean fitted scale, in psi
    :param worst_failure: largest failure probability of any task
    :param mean_failure: mean failure probability
    :param rare_worst_failure: largest in the rare mode; NaN without rare tasks
    :param rare_mean_failure: mean in the rare mode; NaN without rare tasks
    :param success: mean success probability, counted in one episode per task if the scorer knows of failures only; NaN if nothing tells it
    :param rare_success: mean success probability in the rare mode; NaN if unknown or without rare tasks
    :param scores: score of every task, shape (N,); for plots, not in the JSON
    :param rare: which tasks are rare, shape (N,); for plots, not in the JSON
    :param warnings: reasons not to trust scores that were learnt; none for others
    """

    eval_size: int
    deploy_size: int
    k: int
    method: str
    n_splits: int
    seed: int
    n_tasks: int
    n_rare: int
    scorer: str
    error: ErrorSummary
    error_in_scale: ErrorSummary
    error_log10: ErrorSummary
    under_predicted: float
    mean_scale: float
    worst_failure: float
    mean_failure: float
    rare_worst_failure: float
    rare_mean_failure: float
    success: float
    rare_success: float
    scores: NDArray[np.float64] = field(repr=False)
    rare: NDArray[np.bool_] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays; numbers that do not exist are ``None``."""
        content: dict[str, Any] = _without_nan(
            {key: value for key, value in asdict(self).items() if key not in ("scores", "rare")}
        )
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], scores: NDArray[np.float64], rare: NDArray[np.bool_]) -> ForecastReport:
        """A report from what :meth:`to_dict` gave, other keys ignored, and the arrays that it leaves out.

        :param content: as :meth:`to_dict` returns it
        :param scores: score of every task, shape (N,)
        :param rare: which tasks are rare, shape (N,)
        """
        values: dict[str, Any] = {entry.name: content[entry.name] for entry in fields(cls) if entry.name in content}
        for name in ("error", "error_in_scale", "error_log10"):
            values[name] = ErrorSummary(**{key: math.nan if value is None else value for key, value in content[name].items()})
        values = {name: math.nan if value is None else value for name, value in values.items()}
        values["warnings"] = tuple(content.get("warnings", ()))
        return cls(**values, scores=scores, rare=rare)

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """The report as JSON.

        :param path: also write it there
        :return: the text
        """
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            pathlib.Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def summary(self) -> str:
        """The report as a table for people."""
        table = Table(
            title=f"Forecast from {self.eval_size} tasks to {self.deploy_size}, {self.n_splits} splits of {self.n_tasks} tasks"
        )
        table.add_column("measure")
        table.add_column("value", justify="right")
        for name, value in (
            ("mean |forecast - realised worst score|", f"{self.error.mean_abs:.3f}"),
            ("... in units of the fitted scale", f"{self.error_in_scale.mean_abs:.2f}"),
            ("mean signed error (negative: too optimistic)", f"{self.error.signed:+.3f}"),
            ("splits in which the worst failure was under-predicted", f"{self.under_predicted:.1%}"),
            ("worst failure probability of a task", f"{self.worst_failure:.2e}"),
            ("... of a rare task", f"{self.rare_worst_failure:.2e}"),
            ("mean failure probability", f"{self.mean_failure:.2e}"),
            ("... of rare tasks", f"{self.rare_mean_failure:.2e}"),
            ("success", f"{self.success:.4f}"),
            ("... on rare tasks", f"{self.rare_success:.4f}"),
        ):
            table.add_row(name, value)
        text = io.StringIO()
        console = Console(width=90, file=text)
        console.print(table)
        for warning in self.warnings:
            console.print(f"Warning: {warning}", markup=False)
        return text.getvalue()

    def plot(self, path: str | pathlib.Path | None = None) -> Figure:
        """Tail plot of one split: evaluation scores, fitted line, forecast with interval, realised maximum.

        :param path: also save it there
        :return: the figure
        """
        from sb3_forecast.plots import tail_comparison

        return tail_comparison({"": self}, path)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(errors: NDArray[np.float64]) -> ErrorSummary:
    if not len(errors):
        return ErrorSummary(math.nan, math.nan, math.nan)
    return ErrorSummary(float(np.abs(errors).mean()), float(np.median(np.abs(errors))), float(errors.mean()))


def _success(tasks: FailureScorer, model: Any, pool: Any, seed: int) -> NDArray[np.float64]:
    """Share of successful episodes of each task, shape (N,), if need be of a single episode; NaN if the scorer plays none."""
    if isinstance(tasks, FrequencyScorer):
        return tasks.success()
    if not isinstance(tasks, (SurvivalScorer, EpisodeScorer)) or "frequency" not in pool.scorers:
        return np.full(tasks.n_tasks, np.nan)
    env = tasks.env if isinstance(tasks, EpisodeScorer) else pool.make_vec_env(min(64, len(pool)))
    return play(model, env, np.arange(len(pool)), seed).success


def evaluate_forecast(
    model: Any,
    pool: Any,
    eval_size: int,
    n_splits: int = 400,
    seed: int = 0,
    deploy_size: int | None = None,
    k: int = 10,
    method: Method = "jones",
    scorer: str | FailureScorer = "auto",
) -> ForecastReport:
    """Score a pool once, then forecast from many random evaluation sets to the matching deployment sets.

    Use a pool that the model was not trained on.

    :param model: any SB3 or sb3-contrib model
    :param pool: held-out tasks
    :param eval_size: evaluation set size m of a split
    :param n_splits: number of splits
    :param seed: seed of the splits
    :param deploy_size: deployment set size n of a split; ``None`` for the rest of the pool
    :param k: top scores used by the forecast
    :param method: ``"jones"``, ``"blue"`` or ``"direct"``
    :param scorer: ``"auto"`` (the strongest that fits tasks and model), ``"exact"``, ``"survival"``, ``"frequency"`` or a scorer
        object, such as ``FrequencyScorer(pool, env=env)`` to play in environments of your own
    :return: the report
    :raises ValueError: if the sizes do not fit the pool, or too few scores are finite
    """
    n_tasks = len(pool)
    check_partition(n_tasks, eval_size, k)
    deploy_size = n_tasks - eval_size if deploy_size is None else deploy_size
    if not 1 <= deploy_size <= n_tasks - eval_size:
        raise ValueError(
            f"deploy_size={deploy_size} does not fit: the pool has {n_tasks} tasks, {eval_size} of them evaluate; use 1 to {n_tasks - eval_size}"
        )
    if n_splits < 1:
        raise ValueError(f"n_splits={n_splits} measures nothing; use n_splits >= 1")
    tasks = make_measuring_scorer(scorer, pool, model, seed)
    if isinstance(tasks, ExactScorer):
        outcomes = tasks.outcomes(model)
        scores, success = outcomes.psi, outcomes.success
    else:
        scores = tasks.score(model).numpy()
        success = _success(tasks, model, pool, seed)
    splits = split_indices(n_tasks, eval_size, deploy_size, n_splits, seed)
    tail = GumbelTail.fit(scores[splits[:, :eval_size]], k, method)
    forecast = tail.forecast(deploy_size)
    realised = scores[splits[:, eval_size:]].max(axis=1)
    errors = forecast - realised
    scale = tail.scale
    spread = scale > 0.0
    rare = np.asarray(pool.rare, dtype=np.bool_)
    failure = failure_probability(scores)
    # a mean needs no smoothing, which would not average out
    frequency = tasks.frequencies() if isinstance(tasks, FrequencyScorer) else failure
    log10_error = (log_failure_probability(forecast) - log_failure_probability(realised)) / math.log(10.0)

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
        scorer=type(tasks).__name__,
        error=_summary(errors),
        error_in_scale=_summary(errors[spread] / scale[spread]),
        error_log10=_summary(log10_error),
        under_predicted=float((errors < 0.0).mean()),
        mean_scale=float(scale.mean()),
        worst_failure=float(failure.max()),
        mean_failure=float(frequency.mean()),
        rare_worst_failure=of_rare(failure, np.max),
        rare_mean_failure=of_rare(frequency, np.mean),
        success=float(success.mean()),
        rare_success=of_rare(success, np.mean),
        scores=scores,
        rare=rare,
        warnings=tuple(tasks.warnings(scores, k)) if isinstance(tasks, EpisodeScorer) else (),
    )
