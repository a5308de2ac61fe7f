"""``evaluate --cluster``: score every task of a deployment with Ray, and say what is in it."""

from __future__ import annotations

import importlib
import json
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_forecast.cli.commands import Evaluate
from sb3_forecast.files import without_nan
from sb3_forecast.measuring.sketch_report import report_of_sketch
from sb3_forecast.statistics.names import METHODS, Method
from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.statistics.sketch import SAMPLE, TailSketch

#: failure probabilities for which the table counts tasks
_COUNTED = (1e-6, 1e-4, 1e-2, 1e-1, 0.5)


def check_cluster(args: Evaluate) -> None:
    """Refuse options that do not go together.

    :param args: the options of the command
    :raises ValueError: if something is missing or does nothing
    :raises ImportError: if Ray is missing
    """
    if args.cluster is None:
        if args.output is not None:
            raise ValueError(
                f"output must be left out without cluster, got {args.output}; use --cluster local, or leave out --output"
            )
        return
    if args.active:
        raise ValueError(
            "cluster must be left out with active, got both; in Python, use ActiveEvaluation(workers=sf.cluster.Workers())"
        )
    if args.output is None:
        raise ValueError("output must be given with cluster, got none; use --output and a folder for the scores")
    for name, value, allowed in (("method", args.method, METHODS), ("level", args.level, (0.9,))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed} with cluster, got {value}; leave out --{name}, or --cluster")
    largest = min(SAMPLE, int(args.deploy_size)) // 4
    if args.eval_size > largest:
        raise ValueError(f"eval_size must be at most {largest} with cluster, got {args.eval_size}; use a smaller --eval-size")
    if args.k is not None and not 2 <= args.k <= args.eval_size:
        raise ValueError(f"k must be in [2, {args.eval_size}], got {args.k}; use another --k")
    importlib.import_module("sb3_forecast.cluster")


def run_cluster(args: Evaluate, model: BaseAlgorithm, tasks: Any, console: Console) -> None:
    """Score all tasks, and print what is in the deployment, and what a small evaluation would have said of it.

    :param args: the options of the command
    :param model: the model
    :param tasks: the deployment
    :param console: where to print
    """
    from sb3_forecast.cluster import score

    assert args.output is not None
    scorer = "frequency" if args.deterministic else args.scorer
    counting: dict[str, Any] = {"episodes": args.episodes} if scorer in ("auto", "frequency") else {}
    if args.deterministic:
        counting["deterministic"] = True
    address = None if args.cluster == "local" else args.cluster
    sketch = score(
        model, tasks, args.output, scorer, args.seed, counting, address, progress_bar=args.progress_bar and not args.json
    )
    report, why = None, ""
    k = min(10, args.eval_size) if args.k is None else args.k
    try:
        report = report_of_sketch(
            sketch, args.eval_size, k=k, method=cast(Method, args.method), seed=args.seed, scorer=args.scorer
        )
    except ValueError as error:  # too few tasks, or all scores are equal: what is in the deployment stands
        why = str(error)
    if args.json:
        console.print_json(json.dumps({**content_of(sketch), "held_out": None if report is None else report.to_dict()}))
        return
    console.print(_table(sketch), f"Every score is in {args.output}.", markup=False)
    console.print(f"\nWould {args.eval_size} random tasks have told?\n", markup=False)
    console.print(report.summary() if report is not None else f"No forecast is possible: {why}", markup=False)


def content_of(sketch: TailSketch) -> dict[str, Any]:
    """What is in a deployment, for JSON.

    :param sketch: sketch of all scores
    """
    content: dict[str, Any] = without_nan(
        {
            "n_tasks": sketch.n_tasks,
            "n_errors": sketch.n_errors,
            "worst_task": int(sketch.top_ids[0]),
            "worst_failure": float(failure_probability(sketch.worst)),
            "mean_failure": sketch.mean_failure,
            "worse_than": {f"{p:g}": sketch.worse_than(p) for p in _COUNTED},
            "success": sketch.success,
            "n_rare": sketch.n_rare,
            "rare_mean_failure": sketch.rare_mean_failure,
            "rare_success": sketch.rare_success,
            "steps": sketch.steps,
            "counted": sketch.counted,
        }
    )
    return content


def _table(sketch: TailSketch) -> Table:
    table = Table(title=f"All {sketch.n_tasks:,} tasks of the deployment")
    table.add_column("measure")
    table.add_column("value", justify="right")
    content = content_of(sketch)
    table.add_row(f"worst failure probability, of task {content['worst_task']}", f"{content['worst_failure']:.2e}")
    table.add_row("expected failures if each task is tried once", f"{content['mean_failure'] * sketch.n_tasks:,.2f}")
    table.add_row("mean failure probability", f"{content['mean_failure']:.2e}")
    for p, count in content["worse_than"].items():
        table.add_row(f"tasks that fail with more than {p}", f"{count:,}")
    for name, label in (
        ("success", "success"),
        ("rare_mean_failure", "mean failure of rare tasks"),
        ("rare_success", "success on rare tasks"),
    ):
        table.add_row(label, "unknown" if content[name] is None else f"{content[name]:.4g}")
    if sketch.n_errors:
        table.add_row("tasks without a score, because they raised an error", f"{sketch.n_errors:,}")
    return table
