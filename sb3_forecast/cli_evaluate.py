"""The ``evaluate`` command: from a saved model and an environment to what to expect of a deployment."""

from __future__ import annotations

import importlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from rich.console import Console
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forecast.cli_forecast import CommandMethod, Forecast, forecast_of_counts, forecast_of_scores, show
from sb3_forecast.evaluation import evaluate_forecast
from sb3_forecast.readers import Scores
from sb3_forecast.recording import record_worst
from sb3_forecast.scorers import FrequencyScorer, make_measuring_scorer
from sb3_forecast.scorers.playing import is_stochastic

ScorerName = Literal["auto", "exact", "survival", "frequency"]

#: SB3's own algorithms, and the names of sb3-contrib's
_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC, "td3": TD3, "ddpg": DDPG}
_CONTRIB = {
    "trpo": "TRPO", "maskableppo": "MaskablePPO", "recurrentppo": "RecurrentPPO", "qrdqn": "QRDQN", "tqc": "TQC", "ars": "ARS",
    "crossq": "CrossQ",
}  # fmt: skip
#: entries of a saved model that only some algorithms have; the first that fits
_MARKS = (
    ("ppo", ("clip_range",)), ("trpo", ("cg_max_steps",)), ("qrdqn", ("n_quantiles",)),
    ("dqn", ("exploration_rate",)), ("tqc", ("top_quantiles_to_drop_per_net",)), ("td3", ("target_policy_noise",)), ("sac", ("target_entropy",)),
    ("a2c", ("normalize_advantage",)),
)  # fmt: skip


@dataclass(frozen=True)
class Evaluate:
    """Score a saved model on evaluation tasks and forecast its failures in a deployment."""

    model: Annotated[Path, tyro.conf.Positional]
    """The model, as SB3 saves it (model.zip)."""
    env_id: str
    """Gymnasium id; `module:id` imports the module first. A family's id makes its tasks, any other becomes tasks by reset seeds."""
    eval_size: int = 200
    """Evaluation tasks m."""
    deploy_size: float = 1e6
    """How many tasks the deployment will see."""
    algo: str = "auto"
    """ppo, a2c, dqn, sac, td3, ddpg or one of sb3-contrib's; found from the file if left out."""
    failed: str | None = None
    """`module:function` that tells from a Step whether it failed, such as sb3_forecast_envs:ended_early; by default a positive info["cost"]."""
    scorer: ScorerName = "auto"
    """How tasks are scored: the strongest that fits, or exact, survival, frequency."""
    episodes: int = 20
    """Episodes of each task, for frequency."""
    seed: int = 4242
    """Seed of the tasks, and of the episodes: not one that the model was trained on."""
    vec_normalize: Path | None = None
    """Statistics of VecNormalize, as its save() wrote them, for a model that was trained with it."""
    held_out: int = 0
    """So many further tasks, to compare forecasts with what really happens on them; 0 to forecast only."""
    method: CommandMethod = "blue"
    """Point forecast, as in `forecast`."""
    k: int | None = None
    """Worst tasks used by the fit; 2 sqrt(m) if left out."""
    level: float = 0.9
    """Coverage of intervals and limits."""
    record: Path | None = None
    """Also record the worst tasks as a .gif or .mp4."""
    plot: Path | None = None
    """Also draw the tail, with its fit and forecast, into this file."""
    json: bool = False
    """Print JSON instead of a table."""
    progress_bar: bool = True
    """Show progress of episodes."""


def run(args: Evaluate, console: Console) -> None:
    """Load, score, forecast, print.

    :param args: the command line
    :param console: where to print
    :raises ValueError: for input that cannot be used
    """
    if not args.model.exists():
        raise ValueError(f"model={args.model} does not exist; pass the .zip that model.save() wrote")
    if args.eval_size < 10:
        raise ValueError(f"eval_size={args.eval_size} is too few for a tail; use --eval-size 10 or more")
    if not 1 <= args.deploy_size <= 1e15:
        raise ValueError(f"deploy_size={args.deploy_size} is no deployment; use a --deploy-size from 1 to 1e15")
    model = load_model(args.model, args.algo)
    pool = make_pool(args.env_id, args.eval_size + args.held_out, args.seed, args.failed)
    evaluated = pool.subset(np.arange(args.eval_size))
    _check_spaces(model, evaluated, args)
    if args.vec_normalize is not None:
        if not args.vec_normalize.exists():
            raise ValueError(f"vec_normalize={args.vec_normalize} does not exist; pass what VecNormalize.save() wrote")
        # scorers use the statistics of the model's own environment
        statistics = VecNormalize.load(str(args.vec_normalize), pool.make_vec_env(model.n_envs))
        statistics.training = False
        model.set_env(statistics)

    def scorer_of(tasks: Any) -> Any:
        counting = FrequencyScorer(tasks, args.episodes, args.seed, progress_bar=args.progress_bar and not args.json)
        if args.scorer == "frequency":
            return counting
        found = make_measuring_scorer(args.scorer, tasks, model, args.seed)
        return counting if isinstance(found, FrequencyScorer) else found

    scorer = scorer_of(evaluated)
    command = Forecast(
        args.model,
        deploy_size=args.deploy_size,
        method=args.method,
        k=args.k,
        level=args.level,
        plot=args.plot,
        json=args.json,
    )
    if isinstance(scorer, FrequencyScorer):
        try:
            failures = scorer.failures(model)
        except KeyError as error:
            raise ValueError(
                f"{args.env_id} reports no info['cost'] to tell failures by; pass --failed, such as sb3_forecast_envs:ended_early"
            ) from error
        source = f"failures of {args.episodes} episodes of each task"
        data = Scores(None, failures, np.full(len(failures), args.episodes), source)
        result = forecast_of_counts(command, data)
        result["success"] = float(scorer.success().mean())
    else:
        source = f"{args.scorer if args.scorer != 'auto' else type(scorer).__name__} scores of the stochastic policy"
        result = forecast_of_scores(command, scorer.score(model).numpy())
    acts = "by chance" if is_stochastic(model) else "greedily"
    source = f"{source}; {type(model).__name__} acts {acts} in {args.env_id}"
    result = {"source": source, "deploy_size": args.deploy_size, **result}
    if args.held_out:
        report = evaluate_forecast(model, pool, args.eval_size, 200, args.seed, scorer=scorer_of(pool))
        result["held_out"] = report.to_dict()
    show(result, command, console)
    if args.held_out and not args.json:
        console.print(report.summary())
    if args.record is not None:
        recorded = record_worst(model, evaluated, path=args.record, scorer=scorer, seed=args.seed)
        console.print(f"The worst tasks {recorded.tasks} are in {recorded.path}.")


def load_model(path: Path, algo: str = "auto") -> BaseAlgorithm:
    """A saved model of SB3 or sb3-contrib, on the CPU.

    :param path: the file
    :param algo: name of the algorithm; ``"auto"`` to find it from the file
    :raises ValueError: if the file is no model or the algorithm unknown
    """
    if algo == "auto":
        algo = _algorithm_of(path)
    name = algo.lower().replace("_", "").replace("-", "")
    if name == "forecastppo":
        name = "ppo"
    if name in _ALGORITHMS:
        return _ALGORITHMS[name].load(path, device="cpu")
    if name not in _CONTRIB:
        raise ValueError(f"algo={algo!r} is unknown; use one of {[*_ALGORITHMS, *_CONTRIB]}")
    try:
        contrib = importlib.import_module("sb3_contrib")
    except ImportError as error:
        raise ValueError(f"algo={algo!r} needs sb3-contrib: pip install sb3-contrib") from error
    algorithm: type[BaseAlgorithm] = getattr(contrib, _CONTRIB[name])
    return algorithm.load(path, device="cpu")


def _algorithm_of(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = set(json.loads(archive.read("data")))
            policy = str(json.loads(archive.read("data"))["policy_class"])
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"model={path} is no model that SB3 has saved ({error}); pass the .zip that model.save() wrote"
        ) from error
    for name, package in (("maskableppo", "sb3_contrib.common.maskable"), ("recurrentppo", "sb3_contrib.common.recurrent")):
        if package in policy:
            return name
    for name, marks in _MARKS:
        if entries.issuperset(marks):
            return name
    raise ValueError(f"model={path} does not tell its algorithm; pass --algo, one of {[*_ALGORITHMS, *_CONTRIB]}")


def make_pool(env_id: str, n_tasks: int, seed: int, failed: str | None = None) -> Any:
    """Tasks of an environment.

    :param env_id: see :class:`Evaluate`
    :param n_tasks: how many
    :param seed: seed of the tasks
    :param failed: ``module:function``, see :class:`Evaluate`
    :raises ValueError: if there is no such environment or function
    """
    try:
        import sb3_forecast_envs as sfe
    except ImportError as error:
        raise ValueError("the environments package is missing: install sb3-forecast whole") from error
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"env_id={env_id!r}: module {module!r} cannot be imported ({error})") from error
    family = name.removeprefix("SB3Forecast/").removesuffix("-v0")
    if name == "SB3Forecast/CartPole-v0" and failed is None:
        return sfe.CartPoleTasks(n_tasks, seed)
    if name.startswith("SB3Forecast/") and failed is None:
        return sfe.TaskPool(family, n_tasks, seed)
    if name not in gym.registry:
        raise ValueError(
            f"env_id={env_id!r} is not registered; check its name, or write module:id to import what registers it"
        )
    predicate = None
    if failed is not None:
        where, _, what = failed.partition(":")
        try:
            predicate = getattr(importlib.import_module(where), what)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"failed={failed!r} is no function ({error}); write module:function") from error
    return sfe.SeededTasks(name, n_tasks, predicate, first_seed=seed * 1_000_000)


def _check_spaces(model: BaseAlgorithm, pool: Any, args: Evaluate) -> None:
    env = pool.make_vec_env(1)
    for name, mine, theirs in (
        ("observation_space", model.observation_space, env.observation_space),
        ("action_space", model.action_space, env.action_space),
    ):
        if mine != theirs and not _transposed(mine, theirs):
            raise ValueError(
                f"the model was trained on {name}={mine}, but {args.env_id} has {theirs}; use the id it was trained on, or, for wrappers, "
                "sb3_forecast.evaluate_forecast with FrequencyScorer(pool, env=...)"
            )
    env.close()


def _transposed(mine: Any, theirs: Any) -> bool:
    """Whether two image spaces differ by where the channels are."""
    return (
        isinstance(mine, gym.spaces.Box)
        and isinstance(theirs, gym.spaces.Box)
        and len(mine.shape) == 3
        and mine.shape == (theirs.shape[-1], *theirs.shape[:-1])
    )
