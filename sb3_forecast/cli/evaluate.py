"""The ``evaluate`` command: measure a saved model in an environment, and print its forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from rich.console import Console
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forecast.cli.cluster import check_cluster, run_cluster
from sb3_forecast.cli.commands import Evaluate, command_of
from sb3_forecast.cli.counting import check_max_episodes, counter, use_of
from sb3_forecast.cli.forecast import FIGURES, draw, refuse_for_counts, show, write_page
from sb3_forecast.cli.models import load_model, statistics_file
from sb3_forecast.cli.pools import make_pool
from sb3_forecast.files import check_output
from sb3_forecast.measuring.active.evaluation import ActiveEvaluation
from sb3_forecast.measuring.active.examples import record_modes
from sb3_forecast.measuring.evaluate import evaluate_forecast
from sb3_forecast.measuring.recording import record_worst
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.playing import is_stochastic
from sb3_forecast.scorers.protocols import Measurement, Pool, Scorer, SupportsEpisodes
from sb3_forecast.scorers.splitting.keeping import MakesEnvs
from sb3_forecast.scorers.splitting.scorer import SplittingScorer
from sb3_forecast.statistics.names import METHODS
from sb3_forecast.statistics.outlook import outlook_of_counts, outlook_of_scores
from sb3_forecast.statistics.tails import default_k


def run(args: Evaluate, console: Console) -> None:
    """Load the model, score the tasks, make the forecast and print it.

    :param args: the options of the command
    :param console: where to print
    :raises ValueError: if the input cannot be used
    """
    check_output("plot", args.plot, FIGURES)
    check_output("record", args.record, (".gif", ".mp4"))
    check_output("html", args.html, (".html",))
    if not args.model.exists():
        raise ValueError(f"model must be an existing file, got {args.model}; pass the .zip that model.save() wrote")
    if args.eval_size < 10:
        raise ValueError(f"eval_size must be at least 10 to fit a tail, got {args.eval_size}; use --eval-size 10 or more")
    if not 1 <= args.deploy_size <= 1e15:
        raise ValueError(f"deploy_size must be from 1 to 1e15, got {args.deploy_size}; use another --deploy-size")
    if not args.active and args.budget != 1000:
        raise ValueError(f"budget must be left out without active, got {args.budget}; use --active, or --eval-size")
    if args.max_steps is not None and args.scorer != "splitting":
        raise ValueError(
            f"max_steps must be left out without splitting, got {args.max_steps}; use --scorer splitting, or --episodes"
        )
    if args.scorer == "splitting" and (args.active or args.cluster is not None):
        raise ValueError("scorer must be another one with active or cluster, got splitting; leave out --active and --cluster")
    check_max_episodes(args)
    check_cluster(args)
    normalize = statistics_file(args.model, args.vec_normalize)
    model = load_model(args.model, args.algo)
    if args.active or args.cluster is not None:
        tasks = _deployment(args, model, normalize)
        run_active(args, model, tasks, console) if args.active else run_cluster(args, model, tasks, console)
        return

    def make(n_tasks: int) -> SupportsEpisodes:
        made = make_pool(args.env_id, n_tasks, args.seed, args.failed, args.timeout_fails, args.wrapper, contexts=args.context)
        check_spaces(model, made.subset(np.arange(1)), args)
        _use_statistics(model, made, normalize)
        return made

    if args.max_episodes is not None:
        pool, scorer = counter(args, model, make)
        evaluated = pool
    else:
        pool = make(args.eval_size + args.held_out)
        evaluated = pool.subset(np.arange(args.eval_size))
        scorer = _scorer(args, evaluated, model)
    if scorer.counts_failures:
        refuse_for_counts(args.plot, args.k, args.method)
    found = _measure(args, scorer, model)
    acts = "samples its actions" if is_stochastic(model) and not args.deterministic else "takes its likeliest actions"
    if found.counts is not None:
        counts = found.counts
        source = f"failures of {args.episodes} episodes of each task" if counts.design is None else use_of(counts)
        result = outlook_of_counts(counts.failures, counts.trials, args.deploy_size, args.level, counts.first, counts.design)
        result["success"] = float(found.success.mean())
    else:
        source = f"{args.scorer if args.scorer != 'auto' else type(scorer).__name__} scores"
        result = outlook_of_scores(found.scores, args.deploy_size, args.method, args.k, args.level)
    if scorer.reason:
        result["caveats"].insert(0, f"failures were counted, because no stronger scorer fits: {scorer.reason}")
    if args.scorer == "splitting":
        result["caveats"] = [*found.warnings, *result["caveats"]]
    source = f"{source}; {type(model).__name__} {acts} in {args.env_id}"
    result = {"source": source, "deploy_size": args.deploy_size, **result}
    report = None
    if args.held_out:
        method = args.method if args.method in METHODS else "blue"
        k = result.get("k", default_k(args.eval_size))
        report = evaluate_forecast(
            model, pool, args.eval_size, 200, args.seed, k=k, method=method, scorer=_scorer(args, pool, model)
        )
        result["held_out"] = report.to_dict()
    show(result, args.json, console)
    if report is not None and not args.json:
        console.print(report.summary(), markup=False)
    if args.plot is not None:
        draw(found.scores, args.deploy_size, args.method, args.k, args.level, args.plot)
    recorded = None
    if args.record is not None:
        recorded = record_worst(model, evaluated, path=args.record, scorer=scorer, seed=args.seed)
        console.print(f"The worst tasks {recorded.tasks} are in {recorded.path}.", markup=False)
    if args.html is not None:
        scores = None if scorer.counts_failures else found.scores
        film = recorded if recorded is not None and recorded.path.suffix == ".gif" else None
        write_page(args.html, result, scores, args.k, command_of(args), report=report, recording=film)
        if not args.json:
            console.print(f"The report is in {args.html}.", markup=False)


def _scorer(args: Evaluate, tasks: Pool, model: BaseAlgorithm) -> Scorer:
    """The scorer that ``--scorer`` names, or the strongest that fits. ``--episodes`` applies if it counts failures."""
    counting: dict[str, Any] = {"episodes": args.episodes, "progress_bar": args.progress_bar and not args.json}
    name = args.scorer
    if name == "splitting":
        shown = args.progress_bar and not args.json
        return SplittingScorer(
            cast(MakesEnvs, tasks),
            budget=args.max_steps,
            seed=args.seed,
            deterministic=args.deterministic or None,
            progress_bar=shown,
        )
    if args.deterministic:
        if name not in ("auto", "frequency"):
            raise ValueError(
                f"scorer must be frequency or splitting for a model that takes its likeliest actions, got {name}; leave out "
                "--scorer or --deterministic"
            )
        name, counting["deterministic"] = "frequency", True
    return make_measuring_scorer(name, tasks, model, args.seed, counting)


def _measure(args: Evaluate, scorer: Scorer, model: BaseAlgorithm) -> Measurement:
    try:
        return scorer.measure(model, seed=args.seed)
    except KeyError as error:
        raise ValueError(
            f"{args.env_id} must report failures in info['cost'], got an info without it; pass --failed, "
            "for example --failed sb3_forecast_envs:ended_early"
        ) from error


def _use_statistics(model: BaseAlgorithm, pool: Any, file: Path | None) -> None:
    """Give the model an environment with the statistics of VecNormalize, where scorers look for them."""
    if file is not None:
        statistics = VecNormalize.load(str(file), pool.make_vec_env(model.n_envs))
        statistics.training = False
        model.set_env(statistics)


def _deployment(args: Evaluate, model: BaseAlgorithm, statistics: Path | None) -> Any:
    """All tasks of the deployment, drawn when they are needed."""
    way = "active" if args.active else "cluster"
    for name, value, usual in (
        ("plot", args.plot, None),
        ("html", args.html, None),
        ("record", args.record, None),
        ("held_out", args.held_out, 0),
    ):
        if value != usual and not (name == "record" and args.active):
            raise ValueError(
                f"{name} must be left out with {way}, got {value}; leave out --{name.replace('_', '-')}, or --{way}"
            )
    if args.deploy_size > 1e9:
        raise ValueError(
            f"deploy_size must be at most 1e9 with {way}, which looks at every task, got {args.deploy_size:g}; use a smaller one"
        )
    tasks = make_pool(
        args.env_id,
        int(args.deploy_size),
        args.seed,
        args.failed,
        args.timeout_fails,
        args.wrapper,
        stream=True,
        contexts=args.context,
    )
    few = tasks.subset(np.arange(min(len(tasks), 10)))
    check_spaces(model, few, args)
    _use_statistics(model, few, statistics)
    return tasks


def run_active(args: Evaluate, model: BaseAlgorithm, tasks: Any, console: Console) -> None:
    """Choose tasks of the deployment, score them, and print what was found.

    :param args: the options of the command
    :param model: the model
    :param tasks: the deployment
    :param console: where to print
    :raises ValueError: if an option does nothing here, or the input cannot be used
    """
    for name, value, usual in (("k", args.k, None), ("method", args.method, "blue"), ("eval_size", args.eval_size, 200)):
        if value != usual:
            raise ValueError(
                f"{name} must be left out with active, got {value}; leave out --{name.replace('_', '-')}, or --active"
            )
    scorer = "frequency" if args.deterministic else args.scorer
    counting: dict[str, Any] = {"episodes": args.episodes} if scorer in ("auto", "frequency") else {}
    if args.deterministic:
        counting["deterministic"] = True
    report = ActiveEvaluation(
        scorer, tasks, args.budget, level=args.level, seed=args.seed, counting=counting,
        progress_bar=args.progress_bar and not args.json,
    ).run(model)  # fmt: skip
    if args.json:
        console.print_json(report.to_json())
    else:
        console.print(report.summary(console.width), markup=False, highlight=False, soft_wrap=True)
    if args.record is not None and report.found:
        films = record_modes(model, tasks, report, args.record, seed=args.seed)
        console.print(f"Failures of each kind are in {', '.join(str(film.path) for film in films.values())}.", markup=False)


def check_spaces(model: BaseAlgorithm, pool: Any, args: Evaluate) -> None:
    """See that a model and the environment of some tasks fit.

    :param model: the model
    :param pool: some tasks
    :param args: the options of the command
    :raises ValueError: if they do not
    """
    env = pool.make_vec_env(1)
    for name, mine, theirs in (
        ("observation_space", model.observation_space, env.observation_space),
        ("action_space", model.action_space, env.action_space),
    ):
        if mine != theirs and not _transposed(mine, theirs):
            raise ValueError(
                f"{args.env_id} must have the {name} of the model, {mine}, got {theirs}; use the id that the model was trained on. "
                "If it was trained with wrappers, name them with --wrapper module:class"
            )
    env.close()


def _transposed(mine: Any, theirs: Any) -> bool:
    """Whether two image spaces differ only in the position of the channels: first in ``mine``, last in ``theirs``."""
    return (
        isinstance(mine, gym.spaces.Box)
        and isinstance(theirs, gym.spaces.Box)
        and len(mine.shape) == 3
        and mine.shape == (theirs.shape[-1], *theirs.shape[:-1])
    )
