"""The ``forecast`` command: read a file of scores, and print in plain words what to expect of a deployment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_forecast.cli.commands import Forecast, command_of
from sb3_forecast.cli.readers import read_scores
from sb3_forecast.files import check_output
from sb3_forecast.statistics.names import OutlookMethod
from sb3_forecast.statistics.outlook import gumbel_tail, outlook_of_counts, outlook_of_scores
from sb3_forecast.statistics.words import probability_in_words

#: what a figure can be written as
FIGURES = (".png", ".pdf", ".svg", ".jpg")


def run(args: Forecast, console: Console) -> None:
    """Read the scores, make the forecast and print it.

    :param args: the options of the command
    :param console: where to print
    :raises ValueError: if the input cannot be used
    """
    if not 1 <= args.deploy_size <= 1e15:
        raise ValueError(f"deploy_size must be from 1 to 1e15, got {args.deploy_size}; use another --deploy-size")
    check_output("plot", args.plot, FIGURES)
    check_output("html", args.html, (".html",))
    data = read_scores(args.scores, args.column, args.input, args.trials)
    if data.values is not None:
        result = outlook_of_scores(data.values, args.deploy_size, args.method, args.k, args.level)
    elif data.failures is not None and data.trials is not None:
        refuse_for_counts(args.plot, args.k, args.method)
        result = outlook_of_counts(data.failures, data.trials, args.deploy_size, args.level)
    result = {"source": data.source, "deploy_size": args.deploy_size, **result}
    show(result, args.json, console)
    if args.html is not None:
        write_page(args.html, result, data.values, args.k, command_of(args))
    if args.plot is not None and data.values is not None:
        draw(data.values, args.deploy_size, args.method, args.k, args.level, args.plot)


def write_page(path: Path, result: dict[str, Any], scores: Any, k: int | None, command: str, **parts: Any) -> None:
    """Write a report that one can send.

    :param path: the file
    :param result: as for :func:`show`
    :param scores: failure score of every evaluation task, shape (m,); ``None`` for counts
    :param k: number of worst scores that the tail is fitted to; ``None`` for the default
    :param command: what was run
    :param parts: further parts of :func:`write_html`
    """
    from sb3_forecast.measuring.html.page import write_html

    settings = {"command": command, "read as": result["source"]}
    write_html(
        path,
        answer=result["answer"],
        facts=facts(result),
        scores=scores,
        caveats=result["caveats"],
        settings=settings,
        k=k,
        **parts,
    )


def refuse_for_counts(plot: Path | None, k: int | None, method: OutlookMethod) -> None:
    """Refuse options that say nothing about counts.

    :param plot: see :class:`Forecast`
    :param k: see :class:`Forecast`
    :param method: see :class:`Forecast`
    :raises ValueError: if one is given
    """
    for name, value, usual in (("plot", plot, None), ("k", k, None), ("method", method, "blue")):
        if value != usual:
            raise ValueError(
                f"{name} must be left out for counts, which have no tail of scores, got {value}; leave out --{name}, or use log-probabilities"
            )


def draw(scores: Any, n_deploy: float, method: OutlookMethod, k: int | None, level: float, path: Path) -> None:
    """Draw the tail of the scores, its fit and the forecast into a file.

    :param scores: failure score of every evaluation task, shape (m,)
    :param n_deploy: deployment set size n
    :param method: see :func:`outlook_of_scores`
    :param k: number of top scores; ``None`` for the default
    :param level: coverage of the interval
    :param path: the file; its suffix decides the format
    """
    from sb3_forecast.statistics.plots import tail_plot

    tail_plot(gumbel_tail(scores, k, method), [n_deploy], level=level, path=path)


def show(result: dict[str, Any], as_json: bool, console: Console) -> None:
    """Print a forecast as a table, or as JSON.

    :param result: result of :func:`outlook_of_scores` or :func:`outlook_of_counts`, with the entries ``source`` and
        ``deploy_size`` added
    :param as_json: print JSON instead of a table; numbers that are not finite become null
    :param console: where to print
    """
    if as_json:
        console.print_json(json.dumps({key: _jsonable(value) for key, value in result.items()}))
    else:
        _print(result, console)


def _jsonable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _print(result: dict[str, Any], console: Console) -> None:
    table = Table(
        title=f"From {result['n_eval']:,} evaluated tasks to a deployment of {result['deploy_size']:,.0f}",
        caption=f"read as {result['source']}",
        show_header=False,
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in facts(result):
        table.add_row(what, escape(value))
    console.print(escape(result["answer"]), highlight=False)
    console.print(table)
    for caveat in result["caveats"]:
        console.print(f"[yellow]Note:[/yellow] {escape(caveat)}", highlight=False)


def facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What a forecast says, in words, the limit first.

    :param result: as for :func:`show`
    :return: what, and its value
    """
    n = f"{result['deploy_size']:,.0f}"
    rows = _worst_rows(result, n) if "worst_probability" in result else []
    rows.append(
        (
            "the worst task seen in evaluation fails with probability",
            probability_in_words(result["observed_worst_probability"]),
        )
    )
    if "share_above_half" in result:
        rows.append(
            (
                "share of tasks that fail more than half of the time",
                f"{probability_in_words(result['share_above_half'])}, at most {probability_in_words(result['share_above_half_limit'])}",
            )
        )
    if "exceeds_observed_worst" in result:
        more = (
            "some task is worse than the worst one seen"
            if "k" in result
            else "some task fails in more of as many episodes than any seen"
        )
        rows.append((f"{more} (needs no tail model)", probability_in_words(result["exceeds_observed_worst"])))
    if "fit_p" in result:
        rows.append(("method; p-value of the fit (below 5% is bad)", f"{result['method']}; {result['fit_p']:.2g}"))
    if "k" in result:
        rows.append(
            (
                "method; number of worst tasks used; p-values of the fit (below 5% is bad)",
                f"{result['method']}; {result['k']}; {_fit(result)}",
            )
        )
    return rows


def _worst_rows(result: dict[str, Any], n: str) -> list[tuple[str, str]]:
    """The rows about the worst task of the deployment and about the fitted mean."""
    low, high = result["interval_probability"]
    forecast = (
        f"the worst of {n} tasks is forecast to fail with probability",
        probability_in_words(result["worst_probability"]),
    )
    rows = [forecast]
    if not math.isnan(low):
        rows = [
            (
                f"with {50.0 * (1.0 + result['level']):g}% confidence, the worst of {n} tasks fails with probability at most",
                probability_in_words(high),
            ),
            forecast,
            (
                f"  {result['level']:.0%} interval of this probability",
                f"{probability_in_words(low)} to {probability_in_words(high)}",
            ),
        ]
    return [
        *rows,
        ("mean failure probability of a task, by the fit", probability_in_words(result["mean_failure"])),
        (f"probability of at least one failure in {n} tasks, each tried once", probability_in_words(result["any_failure"])),
    ]


def _fit(result: dict[str, Any]) -> str:
    return f"{result['anderson_darling_p']:.2g} shape, {result['curvature_p']:.2g} curvature"
