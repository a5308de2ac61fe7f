"""Puts a report together as one HTML file."""

from __future__ import annotations

import json
import math
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_forecast.files import check_output, write_text
from sb3_forecast.measuring.html.parts import Evaluated, Example
from sb3_forecast.measuring.html.pictures import calibration_figure, embedded_figure, embedded_file
from sb3_forecast.measuring.html.sizes import Sizes, forecasts_by_size
from sb3_forecast.measuring.plots import tail_comparison
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.plots import tail_plot
from sb3_forecast.statistics.words import count_in_words, probability_in_words

if TYPE_CHECKING:
    from sb3_forecast.measuring.active.report import ActiveReport
    from sb3_forecast.measuring.recording import Recording

#: width and height of the chart that moves, and its margins
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640.0, 260.0, 90.0, 34.0


def write_html(
    path: str | pathlib.Path,
    title: str = "Failure forecast",
    *,
    answer: str | None = None,
    facts: Sequence[tuple[str, str]] = (),
    report: Evaluated | None = None,
    before: Evaluated | None = None,
    scores: Any = None,
    caveats: Sequence[str] = (),
    examples: Sequence[Example] = (),
    recording: Recording | None = None,
    active: ActiveReport | None = None,
    settings: Mapping[str, Any] | None = None,
    k: int | None = None,
) -> pathlib.Path:
    """Write a report that one can send: a single file, readable without a network.

    :param path: the file to write, ``.html``
    :param title: its title
    :param answer: its first sentence; ``None`` for one that is made from the rest
    :param facts: rows of a table under it: what, and its value
    :param report: what held on held-out tasks; ``None`` if nothing was held out
    :param before: the report of the model before the training, to compare with
    :param scores: failure score of every evaluated task, shape (m,); ``None`` for those of ``report``
    :param caveats: further warnings
    :param examples: tasks that fail, worst first
    :param recording: a film of the worst tasks, as :func:`sb3_forecast.record_worst` returns it
    :param active: kinds of task that fail, found by active evaluation
    :param settings: what is needed to repeat it, by name
    :param k: number of worst scores that the tail is fitted to; ``None`` for the default
    :return: the file
    :raises ValueError: if there is nothing to report, or the file cannot be written
    """
    check_output("path", path, (".html", ".htm"))
    if answer is None and report is None and scores is None and active is None:
        raise ValueError("report, scores or active must be given, got none of them; pass the report of evaluate_forecast")
    used = report.scores if scores is None and report is not None else scores
    sizes, why_not = _sizes(report, used, k)
    environment = Environment(
        loader=PackageLoader("sb3_forecast.measuring.html", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("report.html.jinja").render(
        title=title,
        sentence=_sentence(report, sizes, active) if answer is None else answer,
        facts=facts,
        held=None if report is None else report.held,
        slider=None if sizes is None else _slider(sizes),
        why_not=why_not,
        tail_picture=None if sizes is None else embedded_figure(tail_plot(sizes.tail, [sizes.sizes[len(sizes.sizes) // 2]])),
        splits=_splits(report, before),
        before=before is not None,
        calibration=None if report is None else embedded_figure(calibration_figure(report)),
        comparison=_tails(report, before),
        tails_title="Before and after" if before is not None else "One split",
        examples=[_example(example) for example in examples],
        film=None if recording is None else embedded_file(recording.path),
        film_text=None if recording is None else _film_text(recording),
        modes=_modes(active),
        caveats=_caveats(report, caveats),
        settings=_settings(report, settings),
    )
    write_text(path, text)
    return pathlib.Path(path)


def _sizes(report: Evaluated | None, scores: Any, k: int | None) -> tuple[Sizes | None, str]:
    if scores is None:
        return None, "no scores of a random sample were given"
    if report is not None and report.scorer == "FrequencyScorer":
        return None, "failures were counted, which shows no tail"
    try:
        return forecasts_by_size(scores, k), ""
    except NoForecastError as error:
        return None, str(error)


def _sentence(report: Evaluated | None, sizes: Sizes | None, active: ActiveReport | None) -> str:
    parts = []
    if report is not None and report.held is False:
        # what follows cannot be trusted, so this comes first
        parts.append(report.verdict())
    if sizes is not None:
        near = int(np.argmin(np.abs(np.log(sizes.sizes / 1e6))))
        parts.append(sizes.answer[near])
        parts.append(
            f"The worst of these tasks is forecast to fail with probability {_p(sizes.forecast[near])}, and with 95% confidence "
            f"at most {_p(sizes.limit[near])}, if the tail goes on as it is."
        )
    if active is not None:
        mean = active.mean_failure
        parts.append(
            f"Of {active.n_tasks:,} tasks, {len(active.scores):,} were chosen and scored: the mean failure probability of all is "
            f"{_p(mean.value)} ({active.level:.0%} interval: {_p(mean.low)} to {_p(mean.high)})."
        )
    if report is not None and report.held is not False:
        parts.append(report.verdict())
    return " ".join(parts)


def _p(p: float) -> str:
    return probability_in_words(float(p))


def _slider(sizes: Sizes) -> dict[str, Any]:
    """Rows of the slider, and the chart in which it moves a mark."""
    rows = [
        {
            "size": f"{size:,.0f}",
            "answer": answer,
            "forecast": _p(forecast),
            "limit": _p(limit),
            "any": _p(chance),
        }
        for size, answer, forecast, limit, chance in zip(
            sizes.sizes, sizes.answer, sizes.forecast, sizes.limit, sizes.any_failure, strict=True
        )
    ]
    # log10 of p: what happens below 1e-15 happens too far down to matter in a picture
    lowest = max(math.log10(max(float(sizes.forecast.min()), 1e-300)), -15.0)
    bottom = min(math.floor(lowest), -1)

    def y(p: float) -> float:
        share = (math.log10(max(p, 10.0**bottom)) - bottom) / -bottom
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 10.0), 1)

    xs = np.round(np.linspace(_LEFT, _WIDTH - 14.0, len(rows)), 1).tolist() if len(rows) > 1 else [_LEFT]
    forecasts, limits = [y(p) for p in sizes.forecast], [y(p) for p in sizes.limit]
    step = max(1, -bottom // 5)
    return {
        "rows": rows,
        "data": json.dumps({"rows": rows, "x": xs, "forecast": forecasts, "limit": limits}),
        "start": int(np.argmin(np.abs(np.log(sizes.sizes / 1e6)))),
        "static": [row for row, size in zip(rows, sizes.sizes, strict=True) if f"{size:.0e}".startswith("1e")],
        "forecast_line": " ".join(f"{x},{v}" for x, v in zip(xs, forecasts, strict=True)),
        "limit_line": " ".join(f"{x},{v}" for x, v in zip(xs, limits, strict=True)),
        "x_marks": [(x, count_in_words(size)) for x, size in zip(xs, sizes.sizes, strict=True) if f"{size:.0e}"[0] == "1"][
            ::2
        ],
        "y_marks": [(y(10.0**power), _p(10.0**power) if power else "1") for power in range(0, bottom - 1, -step)],
        "floor": _HEIGHT - _BOTTOM,
        "left": _LEFT,
        "width": _WIDTH,
        "height": _HEIGHT,
        "n_eval": f"{sizes.tail.n_eval:,}",
        "k": sizes.tail.k,
    }


#: what the table of the splits shows, and how: share, probability or number
_MEASURES = (
    ("95% limit holds (95% would be right)", "limit_holds", "share"),
    ("90% interval holds (90% would be right)", "interval_holds", "share"),
    ("forecast within a factor of 10 of the worst failure", "within_10x", "share"),
    ("forecast too low", "under_predicted", "share"),
    ("worst failure probability of a task", "worst_failure", "p"),
    ("mean failure probability", "mean_failure", "p"),
    ("mean failure probability of rare tasks", "rare_mean_failure", "p"),
    ("success", "success", "number"),
    ("success on rare tasks", "rare_success", "number"),
)


def _splits(report: Evaluated | None, before: Evaluated | None) -> list[tuple[str, list[str]]]:
    """Rows of the table of measures: name, and a value for each report."""
    if report is None:
        return []
    shown = [report] if before is None else [before, report]
    rows = []
    for title, name, kind in _MEASURES:
        values = [float(getattr(entry, name)) for entry in shown]
        if not all(math.isnan(value) for value in values):
            rows.append((title, [_shown(value, kind) for value in values]))
    return rows


def _shown(value: float, kind: str) -> str:
    if math.isnan(value):
        return "unknown"
    return f"{value:.1%}" if kind == "share" else _p(value) if kind == "p" else f"{value:.4f}"


def _tails(report: Evaluated | None, before: Evaluated | None) -> str | None:
    if report is None:
        return None
    return embedded_figure(tail_comparison({"": report} if before is None else {"before": before, "after": report}))


def _example(example: Example) -> dict[str, Any]:
    return {
        "label": example.label,
        "failure": _p(example.failure),
        "text": example.text,
        "replies": list(example.replies),
        "picture": None if example.picture is None else embedded_file(example.picture),
    }


def _film_text(recording: Recording) -> str:
    shown = ", ".join(f"task {task} ({_p(p)})" for task, p in zip(recording.tasks, recording.failure, strict=True))
    return f"The worst tasks, with their failure probabilities: {shown}."


def _modes(active: ActiveReport | None) -> list[dict[str, str]]:
    if active is None:
        return []
    return [
        {"rule": mode.rule, "share": _p(mode.share), "failure": _p(mode.failure), "scored": str(mode.scored)}
        for mode in active.found
    ]


def _caveats(report: Evaluated | None, caveats: Sequence[str]) -> list[str]:
    assumed = [
        "The deployment is drawn like the evaluation: the same kinds of task, in the same shares.",
        "The tail is exponential in the failure score: it goes on as the worst tasks begin it.",
        "A rare kind of task that fails for its own reason, and that the evaluation missed, is seen by no extrapolation.",
    ]
    return [*assumed, *([] if report is None else report.warnings), *caveats]


def _settings(report: Evaluated | None, settings: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What is needed to repeat the report."""
    rows: dict[str, Any] = {}
    if report is not None:
        for name in ("scorer", "n_tasks", "n_rare", "eval_size", "deploy_size", "k", "method", "n_splits", "seed"):
            rows[name] = getattr(report, name)
    rows |= settings or {}
    for package in ("sb3-forecast", "stable-baselines3", "gymnasium", "torch", "numpy"):
        rows[package] = version(package)
    rows["Python"] = platform.python_version()
    return [(name, str(value)) for name, value in rows.items()]
