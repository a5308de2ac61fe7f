"""ForecastReport: the results of an evaluation, with its splits."""

from __future__ import annotations

import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.files import without_nan, write_text, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sb3_forecast.measuring.active.report import ActiveReport
    from sb3_forecast.measuring.html.parts import Example
    from sb3_forecast.measuring.recording import Recording

#: a report says "The forecast held" if the 95% limit holds in at least this share of the splits
HELD = 0.9


@dataclass(frozen=True)
class ErrorSummary:
    """Summary of forecast minus realised worst score over the splits, in one unit.

    :param mean_abs: mean absolute error
    :param median_abs: median absolute error
    :param signed: mean error; negative if forecasts are too low on average
    """

    mean_abs: float
    median_abs: float
    signed: float

    @classmethod
    def of(cls, errors: NDArray[np.float64]) -> ErrorSummary:
        """Summarise errors. All values are NaN if there are none.

        :param errors: error of each split, shape (splits,)
        """
        if not len(errors):
            return cls(math.nan, math.nan, math.nan)
        return cls(float(np.abs(errors).mean()), float(np.median(np.abs(errors))), float(errors.mean()))


@dataclass(frozen=True)
class Splits:
    """The R splits of a report, with the forecast and the realised worst score of each. Scores are in psi, float64, shape (R,).

    :param tasks: indices of the tasks of each split, evaluation set first, shape (R, m + n), int32
    :param location: psi_k, the score at which the fitted tail starts
    :param scale: the fitted scale
    :param forecast: forecast of the worst deployment score
    :param limit: one-sided 95% limit of the worst deployment score
    :param low: lower end of the 90% interval
    :param high: upper end of the 90% interval
    :param realised: realised worst deployment score
    """

    tasks: NDArray[np.int32]
    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    forecast: NDArray[np.float64]
    limit: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    realised: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.forecast)

    @property
    def typical(self) -> int:
        """Index of the split whose absolute forecast error is the median, so that a figure shows neither luck nor bad luck."""
        return int(np.argsort(np.abs(self.forecast - self.realised), kind="stable")[len(self) // 2])


@dataclass(frozen=True)
class ForecastReport:
    """The result of :func:`evaluate_forecast`.

    Probabilities are those of the stochastic policy. Off-policy models act without exploration.

    :param eval_size: evaluation set size m of a split
    :param deploy_size: deployment set size n of a split
    :param k: number of top evaluation scores that the forecast uses
    :param method: forecast method
    :param n_splits: number of splits
    :param seed: seed of the splits
    :param n_tasks: number of tasks that were used
    :param n_rare: number of rare tasks among them
    :param scorer: class of the scorer
    :param limit_holds: share of the splits whose realised worst score is at most the one-sided 95% limit
    :param interval_holds: share of the splits whose realised worst score lies in the 90% interval
    :param within_10x: share of the splits whose forecast, as a failure probability, is within a factor of ten of the realised worst one (the
        measure of Jones et al.)
    :param error: forecast error in psi
    :param error_in_scale: forecast error in units of the fitted scale of each split; splits with scale 0 are left out (NaN if all are)
    :param ideal_error_in_scale: mean absolute error, in units of the scale, that the method has on an exactly exponential tail of these sizes
    :param error_log10: forecast error in log10 of the failure probability of the worst task
    :param under_predicted: share of the splits whose forecast is below the realised worst score
    :param mean_scale: mean fitted scale, in psi
    :param worst_failure: largest failure probability of any task
    :param mean_failure: mean failure probability
    :param rare_worst_failure: largest failure probability of a rare task; NaN without rare tasks
    :param rare_mean_failure: mean failure probability of the rare tasks; NaN without rare tasks
    :param success: mean success probability. If the scorer gives failures only, success is counted in one episode per task. NaN if unknown
    :param rare_success: mean success probability of the rare tasks; NaN if unknown or without rare tasks
    :param scores: score of every task, in psi, shape (N,), float64; not in the JSON
    :param rare: which tasks are rare, shape (N,), bool; not in the JSON
    :param splits: the splits and their forecasts; not in the JSON
    :param overlap: share of the given tasks that occur in ``exclude`` and were left out; NaN if nothing was excluded
    :param warnings: reasons not to trust the scores
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
    limit_holds: float
    interval_holds: float
    within_10x: float
    error: ErrorSummary
    error_in_scale: ErrorSummary
    ideal_error_in_scale: float
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
    splits: Splits = field(repr=False)
    overlap: float = math.nan
    warnings: tuple[str, ...] = ()

    @property
    def n_independent(self) -> int:
        """Number of splits without a common task that the tasks are enough for.

        All splits share the same tasks. Together they say about as much as this number of independent splits.
        """
        return self.n_tasks // (self.eval_size + self.deploy_size)

    def to_dict(self) -> dict[str, Any]:
        """The report without its arrays, as a dictionary for JSON. NaN and infinity become ``None``."""
        kept = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in _ARRAYS}
        content: dict[str, Any] = without_nan(
            {name: asdict(value) if isinstance(value, ErrorSummary) else value for name, value in kept.items()}
        )
        return content

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """The report without its arrays, as JSON.

        :param path: also write the text to this file
        :return: the text
        """
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            write_text(path, text + "\n")
        return text

    def save(self, path: str | pathlib.Path) -> None:
        """Write the whole report, with its arrays.

        :param path: the file to write, ``.npz``
        """
        arrays: dict[str, Any] = {"scores": self.scores, "rare": self.rare, "report": np.array(json.dumps(self.to_dict()))}
        arrays |= {f"splits_{entry.name}": getattr(self.splits, entry.name) for entry in fields(Splits)}
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> ForecastReport:
        """Read a report.

        :param path: a file that :meth:`save` wrote
        :return: the report
        :raises ValueError: if it is another file, or damaged
        """
        with pathlib.Path(path).open("rb") as raw:
            try:
                with np.load(raw, allow_pickle=False) as file:
                    arrays = dict(file)
                splits = Splits(**{entry.name: arrays[f"splits_{entry.name}"] for entry in fields(Splits)})
                return cls.from_dict(json.loads(str(arrays["report"])), arrays["scores"], arrays["rare"], splits)
            except Exception as error:  # zipfile, zlib, numpy and json raise many kinds
                raise ValueError(
                    f"path must be a file that ForecastReport.save wrote, got {str(path)!r}, which is another or damaged ({error}); "
                    "evaluate again"
                ) from error

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], scores: NDArray[np.float64], rare: NDArray[np.bool_], splits: Splits
    ) -> ForecastReport:
        """Make a report from the result of :meth:`to_dict` and the arrays, which it does not hold.

        :param content: the result of :meth:`to_dict`; other keys are ignored
        :param scores: score of every task, in psi, shape (N,), float64
        :param rare: which tasks are rare, shape (N,), bool
        :param splits: the splits
        :return: the report
        """
        values: dict[str, Any] = {entry.name: content[entry.name] for entry in fields(cls) if entry.name in content}
        for name in ("error", "error_in_scale", "error_log10"):
            values[name] = ErrorSummary(**{key: math.nan if value is None else value for key, value in content[name].items()})
        values = {name: math.nan if value is None else value for name, value in values.items()}
        values["warnings"] = tuple(content.get("warnings", ()))
        return cls(**values, scores=scores, rare=rare, splits=splits)

    @property
    def held(self) -> bool | None:
        """Whether the 95% limit held in at least 90% of the splits; ``None`` if nothing was forecast, because all top scores are equal."""
        return None if self.mean_scale == 0.0 else self.limit_holds >= HELD

    def verdict(self) -> str:
        """One sentence: whether the forecast held."""
        if self.held is None:
            return "Nothing was forecast: in every split the top evaluation scores are equal, as for an agent that always or never fails."
        said = "The forecast held" if self.held else "The forecast did NOT hold"
        return (
            f"{said}: the worst of {self.deploy_size:,} deployment tasks stayed below the 95% limit in {self.limit_holds:.0%} of "
            f"{self.n_splits} splits (95% would be right), and inside the 90% interval in {self.interval_holds:.0%}."
        )

    def summary(self) -> str:
        """The report as text: the verdict, then a table."""
        from rich.console import Console
        from rich.table import Table

        table = Table(
            title=f"Forecast from {self.eval_size} tasks to {self.deploy_size}, {self.n_splits} splits of {self.n_tasks} tasks"
        )
        table.add_column("measure")
        table.add_column("value", justify="right")
        for name, value in (
            ("95% limit holds", f"{self.limit_holds:.1%}"),
            ("90% interval holds", f"{self.interval_holds:.1%}"),
            ("forecast within a factor of 10 of the worst failure", f"{self.within_10x:.1%}"),
            ("forecast too low", f"{self.under_predicted:.1%}"),
            ("mean |forecast - worst|, in log10 of p", f"{self.error_log10.mean_abs:.2f}"),
            ("... in units of the fitted scale", _known(self.error_in_scale.mean_abs, "{:.2f}")),
            ("... on an exactly exponential tail it would be", f"{self.ideal_error_in_scale:.2f}"),
            ("... in psi", f"{self.error.mean_abs:.3f}"),
            ("worst failure probability of a task", f"{self.worst_failure:.2e}"),
            ("... of a rare task", _known(self.rare_worst_failure, "{:.2e}")),
            ("mean failure probability", f"{self.mean_failure:.2e}"),
            ("... of rare tasks", _known(self.rare_mean_failure, "{:.2e}")),
            ("success", _known(self.success) if not math.isnan(self.success) else "unknown"),
            ("... on rare tasks", _known(self.rare_success)),
        ):
            table.add_row(name, value)
        text = io.StringIO()
        console = Console(width=90, file=text)
        console.print(self.verdict(), markup=False, highlight=False)
        console.print(
            f"All splits share {self.n_tasks:,} tasks: together they say about as much as {_count(max(self.n_independent, 1))}.",
            markup=False,
            highlight=False,
        )
        if not math.isnan(self.overlap):
            console.print(
                f"{self.overlap:.1%} of the given tasks occur in training and were left out.", markup=False, highlight=False
            )
        console.print(table)
        for warning in self.warnings:
            console.print(f"Warning: {warning}", markup=False)
        return text.getvalue()

    def to_html(
        self,
        path: str | pathlib.Path,
        title: str = "Failure forecast",
        *,
        before: ForecastReport | None = None,
        recording: Recording | None = None,
        examples: Sequence[Example] = (),
        active: ActiveReport | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> pathlib.Path:
        """Write a report that one can send: one HTML file that needs no network, with a slider for the size of the deployment.

        :param path: the file to write, ``.html``
        :param title: its title
        :param before: the report of the model before the training, to compare with
        :param recording: a film of the worst tasks, from :func:`sb3_forecast.record_worst`
        :param examples: further tasks to show, such as prompts with replies
        :param active: the kinds of task that active evaluation found
        :param settings: what else is needed to repeat it, by name, such as the command
        :return: the file
        :raises ValueError: if the file cannot be written there
        """
        from sb3_forecast.measuring.html.page import write_html

        return write_html(
            path, title, report=self, before=before, recording=recording, examples=examples, active=active, settings=settings
        )

    def plot(self, path: str | pathlib.Path | None = None) -> Figure:
        """Draw the tail of one split: scores, fitted line, forecast with interval, realised worst score.

        :param path: also save the figure in this file
        :return: the figure
        """
        from sb3_forecast.measuring.plots import tail_comparison

        return tail_comparison({"": self}, path)


#: fields that are not in the JSON
_ARRAYS = ("scores", "rare", "splits")


def _known(value: float, form: str = "{:.4f}") -> str:
    return "-" if math.isnan(value) else form.format(value)


def _count(n: int) -> str:
    return "one independent split" if n == 1 else f"{n} independent ones"
