"""ForecastEvalCallback: evaluates forecasts during training and saves the best model, as SB3's EvalCallback does for returns."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.logger import Figure

from sb3_forecast.checks import check_seed, real, whole
from sb3_forecast.files import write_whole
from sb3_forecast.measuring.evaluate import evaluate_forecast
from sb3_forecast.measuring.report import ForecastReport
from sb3_forecast.measuring.selection import quality
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Scorer, TellsTasksApart
from sb3_forecast.statistics.names import METHODS, Method, NoForecastError
from sb3_forecast.statistics.partitions import check_partition


class ForecastEvalCallback(EventCallback):
    """Evaluate the forecast on held-out tasks every ``eval_freq`` calls, and save the best model.

    A model can be the best only if it reaches ``min_success``. Among such models, the one whose 95% limit holds in more splits is better, and
    then the one that fails less; see :func:`sb3_forecast.measuring.selection.quality`.

    Logger keys: ``eval/limit_holds``, ``eval/interval_holds``, ``eval/within_10x``, ``eval/forecast_error``, ``eval/signed_error``,
    ``eval/worst_failure``, ``eval/mean_failure``, ``eval/success``, ``eval/rare_success``, and the figure ``eval/tail``.

    :param pool: held-out tasks, on which the model is not trained
    :param eval_size: evaluation set size m of a split
    :param min_success: a model with less success is never the best. Without this, an agent that does not move would win: it never fails, and its
        limit holds
    :param callback_on_new_best: called when there is a new best model
    :param callback_after_eval: called after every evaluation
    :param eval_freq: evaluate at every n-th call of the callback, as in ``EvalCallback``: steps of the vectorised environment
    :param log_path: folder of ``evaluations.npz``
    :param best_model_save_path: folder of ``best_model.zip``
    :param n_splits: as in :func:`evaluate_forecast`
    :param seed: seed of the splits, and of a scorer that samples. Every evaluation samples the same episodes, unless you pass a scorer object
    :param deploy_size: as in :func:`evaluate_forecast`
    :param k: as in :func:`evaluate_forecast`
    :param method: as in :func:`evaluate_forecast`
    :param scorer: as in :func:`evaluate_forecast`
    :param exclude: as in :func:`evaluate_forecast`
    :param figures: draw ``eval/tail`` for TensorBoard
    :param verbose: 0 for no output, 1 for a line per evaluation
    :raises ValueError: if an argument is out of range, or the sizes do not fit the pool
    """

    def __init__(
        self,
        pool: Any,
        eval_size: int,
        min_success: float = 0.0,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        eval_freq: int = 10_000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        n_splits: int = 400,
        seed: int = 0,
        deploy_size: int | None = None,
        k: int = 10,
        method: Method = "blue",
        scorer: str | FailureScorer | Scorer = "auto",
        exclude: TellsTasksApart | None = None,
        figures: bool = True,
        verbose: int = 1,
    ) -> None:
        super().__init__(callback_after_eval, verbose=verbose)
        # find every mistake now, not at the first evaluation
        check_partition(len(pool), eval_size, k)
        if deploy_size is not None:
            whole("deploy_size", deploy_size, low=1, high=len(pool) - eval_size, use="None for the rest of the pool")
        real("min_success", min_success, low=0.0, high=1.0, use="the least success that you accept")
        whole("eval_freq", eval_freq, low=1, use="a number of steps")
        whole("n_splits", n_splits, low=1, use="for example 400")
        check_seed(seed)
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}; use 'blue'")
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.pool, self.eval_size, self.min_success, self.eval_freq = pool, eval_size, min_success, eval_freq
        self.log_path, self.best_model_save_path = log_path, best_model_save_path
        self.n_splits, self.seed, self.deploy_size, self.k, self.method = n_splits, seed, deploy_size, k, method
        self.scorer, self.exclude = scorer, exclude
        self.figures = figures
        #: report of the last evaluation, and of the best model; ``None`` before the first
        self.last_report: ForecastReport | None = None
        self.best_report: ForecastReport | None = None
        self._history: dict[str, list[float]] = {}

    def _init_callback(self) -> None:
        for folder in (self.log_path, self.best_model_save_path):
            if folder is not None:
                os.makedirs(folder, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)
        # make the scorer once: it enumerates the states of the tasks, which takes long
        self._scorer = make_measuring_scorer(self.scorer, self.pool, self.model, self.seed)

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq:
            return True
        try:
            # make a scorer that samples anew, so that every evaluation samples the same episodes
            scorer = self.scorer if self._scorer.samples and isinstance(self.scorer, str) else self._scorer
            report = evaluate_forecast(
                self.model,
                self.pool,
                self.eval_size,
                self.n_splits,
                self.seed,
                self.deploy_size,
                self.k,
                self.method,
                scorer,
                self.exclude,
            )
        except NoForecastError as error:
            # an agent that never failed in sampled episodes has no forecast yet; training continues
            warnings.warn(f"no evaluation after {self.num_timesteps} steps: {error}", stacklevel=2)
            return True
        self.last_report = report
        values = {
            "limit_holds": report.limit_holds,
            "interval_holds": report.interval_holds,
            "within_10x": report.within_10x,
            "forecast_error": report.error.mean_abs,
            "signed_error": report.error.signed,
            "worst_failure": report.worst_failure,
            "mean_failure": report.mean_failure,
            "success": report.success,
            "rare_success": report.rare_success,
        }
        for key, value in values.items():
            if not math.isnan(value):
                self.logger.record(f"eval/{key}", value)
        if self.figures:
            figure = report.plot()
            self.logger.record("eval/tail", Figure(figure, close=False), exclude=("stdout", "log", "json", "csv"))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        self._keep({"timesteps": float(self.num_timesteps), **values})
        if self.verbose:
            print(  # noqa: T201  # as SB3's EvalCallback does
                f"Eval num_timesteps={self.num_timesteps}, limit holds={report.limit_holds:.0%}, success={report.success:.4f}, "
                f"worst failure={report.worst_failure:.2e}"
            )
        going_on = True
        found = quality(report, self.min_success)
        # without enough success, or without a forecast, a model is never the best
        usable = found[0] and report.mean_scale > 0.0
        if usable and (self.best_report is None or found > quality(self.best_report, self.min_success)):
            self.best_report = report
            if self.best_model_save_path is not None:
                write_whole(os.path.join(self.best_model_save_path, "best_model.zip"), lambda file: self.model.save(file))
            if self.callback_on_new_best is not None:
                going_on = self.callback_on_new_best.on_step()
        if self.callback is not None:
            going_on = going_on and self._on_event()
        return going_on

    def _keep(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._history.setdefault(key, []).append(value)
        if self.log_path is not None:
            columns: dict[str, Any] = {key: np.array(column) for key, column in self._history.items()}
            write_whole(os.path.join(self.log_path, "evaluations.npz"), lambda file: np.savez(file, **columns))

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """Update the references to the local variables.

        :param locals_: the local variables during rollout collection
        """
        if self.callback:
            self.callback.update_locals(locals_)
