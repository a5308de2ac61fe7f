"""The ``forecast`` command: from a file of scores to what to expect of a deployment, in plain words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from sb3_forecast.alternatives import ParetoTail, lognormal_forecast
from sb3_forecast.conformal import exceedance_probability
from sb3_forecast.counts import CountTail
from sb3_forecast.readers import InputKind, Scores, read_scores
from sb3_forecast.scores import failure_probability, log_survival_probability
from sb3_forecast.tails import GumbelTail

CommandMethod = Literal["blue", "jones", "direct", "pareto", "lognormal"]


@dataclass(frozen=True)
class Forecast:
    """Forecast the failures of a deployment from the failure scores of an evaluation set."""

    scores: Annotated[Path, tyro.conf.Positional]
    """CSV, JSONL, Parquet or npy file with one number per task; also RePULSe, lm-evaluation-harness and Inspect logs."""
    deploy_size: float = 1e6
    """How many tasks the deployment will see."""
    column: str | None = None
    """Column to read; found by its name if left out."""
    input: InputKind = "auto"
    """What the numbers are; found by the column's name or range if left out."""
    trials: str | None = None
    """For counts: the column of the trials, or their number."""
    method: CommandMethod = "blue"
    """Point forecast: blue (unbiased), jones, direct, pareto (tail may bend) or lognormal (all scores, not just the tail)."""
    k: int | None = None
    """Worst tasks used by the fit; 2 sqrt(m) if left out."""
    level: float = 0.9
    """Coverage of intervals and limits."""
    plot: Path | None = None
    """Also draw the tail, with its fit and forecast, into this file."""
    json: bool = False
    """Print JSON instead of a table."""


def run(args: Forecast, console: Console) -> None:
    """Read, forecast, print.

    :param args: the command line
    :param console: where to print
    :raises ValueError: for input that cannot be used
    """
    if not 1 <= args.deploy_size <= 1e15:
        raise ValueError(f"deploy_size={args.deploy_size} is no deployment; use a --deploy-size from 1 to 1e15")
    data = read_scores(args.scores, args.column, args.input, args.trials)
    result = forecast_of_counts(args, data) if data.values is None else forecast_of_scores(args, data.values)
    show({"source": data.source, "deploy_size": args.deploy_size, **result}, args, console)


def show(result: dict[str, Any], args: Forecast, console: Console) -> None:
    """Print a forecast as a table, or as JSON.

    :param result: of :func:`forecast_of_scores` or :func:`forecast_of_counts`, with ``source`` and ``deploy_size``
    :param args: the command line
    :param console: where to print
    """
    if args.json:
        console.print_json(json.dumps({key: _jsonable(value) for key, value in result.items()}))
    else:
        _print(result, args, console)


def _jsonable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _gumbel(args: Forecast, scores: Any) -> GumbelTail:
    return GumbelTail.fit(scores, args.k, args.method if args.method in ("blue", "jones", "direct") else "blue")


def _worst(forecast: float, low: float, high: float, level: float) -> dict[str, Any]:
    """What every method says of the worst task."""
    return {
        "worst_score": forecast,
        "worst_probability": float(failure_probability(forecast)),
        "worst_log_survival": float(log_survival_probability(forecast)),
        "interval": [low, high],
        "interval_probability": [float(failure_probability(v)) for v in (low, high)],
        "level": level,
    }


def forecast_of_scores(args: Forecast, scores: Any) -> dict[str, Any]:
    """What to expect of a deployment; draws the tail if that is asked for.

    :param args: the command line
    :param scores: failure score of every evaluation task
    :return: numbers and caveats, by name
    """
    if args.plot is not None:
        from sb3_forecast.tail_plots import tail_plot

        tail_plot(_gumbel(args, scores), [args.deploy_size], level=args.level, path=args.plot)
    n, tail = args.deploy_size, _gumbel(args, scores)
    if args.method == "pareto":
        pareto = ParetoTail.fit(scores, args.k)
        forecast, extra = pareto.forecast(n), {"pareto_shape": pareto.shape}
    elif args.method == "lognormal":
        forecast, extra = lognormal_forecast(scores, n), {}
    else:
        forecast, extra = float(tail.forecast(n)), {}
    low, high = (
        (float(v) for v in tail.interval(int(n), args.level))
        if args.method in ("blue", "jones", "direct")
        else (math.nan, math.nan)
    )
    checks = tail.diagnostics()
    caveats = list(checks.warnings)
    zeros = int((~np.isfinite(tail.scores)).sum())
    if zeros:
        caveats.append(
            f"{zeros} of {tail.n_eval} tasks have p = 0: they count as below the tail. If they are frequencies, give counts (--trials)."
        )
    if n > 1000 * tail.n_eval:
        caveats.append(
            f"the deployment is {n / tail.n_eval:.0f} times the evaluation: small departures from an exponential tail matter much."
        )
    mode = 1.0 - 0.5 ** (1.0 / tail.n_eval)
    caveats.append(
        f"a kind of task that fails in its own way and makes up less than {mode:.2g} of all is more likely than not absent from "
        f"these {tail.n_eval} tasks; no extrapolation can see it."
    )
    return {
        "method": args.method,
        "n_eval": tail.n_eval,
        "k": tail.k,
        **_worst(forecast, low, high, args.level),
        "observed_worst_probability": float(failure_probability(tail.scores[0])),
        "any_failure": float(tail.aggregate_risk(n)),
        "mean_failure": float(np.exp(tail.log_mean_failure())),
        "share_above_half": float(tail.behavior_frequency(0.5)),
        "share_above_half_limit": tail.behavior_frequency_limit(0.5, args.level),
        "exceeds_observed_worst": exceedance_probability(tail.n_eval, int(n), 1),
        "curvature_p": checks.curvature_p,
        "anderson_darling_p": checks.anderson_darling_p,
        "caveats": caveats,
        **extra,
    }


def forecast_of_counts(args: Forecast, data: Scores) -> dict[str, Any]:
    """What to expect of a deployment, from how often each task failed.

    :param args: the command line
    :param data: counts
    :return: numbers and caveats, by name
    :raises ValueError: if a plot is asked for
    """
    if args.plot is not None:
        raise ValueError("--plot draws tails of scores; counts have none: leave it out, or use log-probabilities")
    assert data.failures is not None
    assert data.trials is not None
    tail = CountTail.fit(data.failures, data.trials)
    n = args.deploy_size
    forecast = tail.forecast(n)
    low, high = tail.interval(n, args.level)
    zeros = int((data.failures == 0).sum())
    return {
        "method": "beta-binomial",
        "n_eval": tail.n_eval,
        **_worst(forecast, low, high, args.level),
        "observed_worst_probability": float((data.failures / data.trials).max()),
        "any_failure": -math.expm1(n * math.log1p(-tail.a / (tail.a + tail.b))),
        "mean_failure": tail.a / (tail.a + tail.b),
        "caveats": [
            f"these are counts, {zeros} of {tail.n_eval} of them 0: a beta distribution of failure probabilities was fitted to them "
            f"(a = {tail.a:.3g}, b = {tail.b:.3g}), and everything beyond the largest counts is its extrapolation.",
            "log-probabilities of the failure, where you can have them, resolve the tail far better than counts.",
        ],
    }


def _print(result: dict[str, Any], args: Forecast, console: Console) -> None:
    n = f"{result['deploy_size']:,.0f}"
    table = Table(
        title=f"From {result['n_eval']:,} evaluated tasks to a deployment of {n}",
        caption=f"read as {result['source']}",
        show_header=False,
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    low, high = result["interval_probability"]
    rows = [
        ("the worst task seen in evaluation fails with probability", _p(result["observed_worst_probability"])),
        (f"the worst of {n} tasks is forecast to fail with probability", f"[bold]{_p(result['worst_probability'])}[/bold]"),
        (
            f"  {result['level']:.0%} of the time it lies between",
            f"{_p(low)} and {_p(high)}" if low == low else f"(no interval for {result['method']})",
        ),
        ("a task fails on average with probability", _p(result["mean_failure"])),
        (f"at least one failure in {n} tasks, one try each", _p(result["any_failure"])),
    ]
    if "share_above_half" in result:
        rows += [
            (
                "share of tasks that fail more often than not",
                f"{_p(result['share_above_half'])}, at most {_p(result['share_above_half_limit'])}",
            ),
            ("some task is worse than any seen (without any model)", _p(result["exceeds_observed_worst"])),
            (
                "method; worst tasks used; fit (p-values, below 5% is bad)",
                f"{result['method']}; {result['k']}; {_fit(result)}",
            ),
        ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for caveat in result["caveats"]:
        console.print(f"[yellow]Note:[/yellow] {caveat}", highlight=False)


def _fit(result: dict[str, Any]) -> str:
    return f"{result['anderson_darling_p']:.2g} shape, {result['curvature_p']:.2g} curvature"


def _p(p: float) -> str:
    """A probability for people: 0.9987 rather than 1, 1 in 250,000 rather than 4e-06."""
    if p > 1.0 - 1e-12:
        return "practically 1"
    if p >= 0.5:
        return f"1 - {1 - p:.1e}" if p > 0.999 else f"{p:.3f}"
    if p >= 0.001:
        return f"{p:.2g}"
    if p < 1e-12:
        return f"{p:.1e}"
    return f"1 in {float(f'{1 / p:.2g}'):,.0f}"
