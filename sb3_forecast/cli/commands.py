"""The commands and their options. The code that runs them is imported later, so that ``--help`` does not wait for torch."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sb3_forecast.statistics.names import InputKind, OutlookMethod

ScorerName = Literal["auto", "exact", "survival", "frequency", "splitting"]


@dataclass(frozen=True)
class Forecast:
    """Forecast the failures of a deployment from a file with one number per evaluated task.

    You evaluated m tasks (the lines of the file), and n tasks are to come (--deploy-size). The k worst of the m show how the tail falls; the
    forecast follows it down to 1 in n. The answer comes first: how many failures to expect; then the limit for the worst task.

    What people run:
    python -m sb3_forecast forecast scores.csv

    python -m sb3_forecast forecast scores.csv --column log_p --deploy-size 1e8 --html report.html

    python -m sb3_forecast forecast failures.csv --input count --trials 20
    """

    scores: Annotated[Path, tyro.conf.Positional]
    """CSV, JSONL, Parquet or npy file with one number per task, or a log of RePULSe, lm-evaluation-harness or Inspect."""
    deploy_size: float = 1e6
    """Number of tasks in the deployment, n."""
    column: str | None = None
    """Column to read. If left out, the only numeric column or one with a known name."""
    input: InputKind = "auto"
    """Kind of the numbers. auto: decided by the name of the column, or else by the range of the numbers."""
    trials: str | None = None
    """For counts: the column with the number of trials, or one number of trials for all tasks."""
    method: OutlookMethod = "blue"
    """How the worst task is forecast. blue: unbiased, leave it so. jones, direct: as in the paper of Jones et al., and its direct variant.
    pareto: the tail may bend. lognormal: uses all scores, not just the tail."""
    k: int | None = None
    """Number of worst tasks that the tail is fitted to. More: less noise, but tasks that do not belong to the tail. If left out, about 2 sqrt(m)
    of m tasks: 28 of 200."""
    level: float = 0.9
    """Coverage of the two-sided intervals. 0.9 gives a one-sided limit of 95%."""
    plot: Path | None = None
    """Also draw the tail, its fit and the forecast into this file."""
    html: Path | None = None
    """Also write a report that one can send into this .html file: one file, no network, with a slider for the size of the deployment."""
    json: bool = False
    """Print JSON instead of a table."""
    traceback: bool = False
    """Show where in the code an error came from."""


@dataclass(frozen=True)
class Evaluate:
    """Play or compute how a saved model fails on m evaluation tasks, and forecast its failures in a deployment of n tasks.

    A task is a start situation: a layout of a family, or a reset seed of any Gymnasium environment. The answer comes first: how many failures
    to expect; then the limit for the worst task.

    What people run:
    python -m sb3_forecast evaluate model.zip --env-id SB3Forecast/ThinIce-8x8-v0 --html report.html

    python -m sb3_forecast evaluate model.zip --env-id LunarLander-v3 --failed sb3_forecast_envs:ended_without_reward --max-episodes 4000

    python -m sb3_forecast evaluate model.zip --env-id Hopper-v5 --failed sb3_forecast_envs:ended_early --scorer splitting

    python -m sb3_forecast evaluate model.zip --env-id SB3Forecast/Decoy-8x8-v0 --active --deploy-size 1e5 --budget 1000
    """

    model: Annotated[Path, tyro.conf.Positional]
    """The model file that model.save() wrote (model.zip). Loading it executes code that it may hold: use only files that you trust."""
    env_id: str
    """Gymnasium id. `module:id` imports the module first. The id of a family gives its tasks; for other ids each reset seed is a task."""
    eval_size: int = 200
    """Number of evaluation tasks m."""
    deploy_size: float = 1e6
    """Number of tasks in the deployment, n."""
    algo: str = "auto"
    """ppo, a2c, dqn, sac, td3, ddpg or an algorithm of sb3-contrib. auto: recognised from the model file."""
    failed: str | None = None
    """`module:function` that decides from a Step if it failed, e.g. sb3_forecast_envs:ended_early for falls,
    ended_without_reward for crashes of LunarLander. If left out, a positive info["cost"]."""
    scorer: ScorerName = "auto"
    """How tasks are scored: exact, survival, frequency (counts failed episodes) or splitting (resolves rare failures in simulators whose state
    can be kept). auto: the strongest one that fits the model and the tasks, but not splitting."""
    episodes: int = 20
    """Number of episodes per task, for the scorer frequency."""
    max_episodes: int | None = None
    """Number of episodes of all tasks together, for the scorer frequency. Most of them play another task each, the others repeat tasks that
    failed. Instead of --eval-size and --episodes: it says more for the same work."""
    max_steps: int | None = None
    """Environment steps after which the scorer splitting begins no further repetition."""
    deterministic: bool = False
    """Let the model take its likeliest action, and count failures. Without it, on-policy models sample their actions."""
    timeout_fails: bool = False
    """Count an episode that reaches its time limit as failed."""
    wrapper: tuple[str, ...] = ()
    """`module:class` of the wrappers that the model was trained with, the innermost first, e.g. minigrid.wrappers:FlatObsWrapper."""
    context: tuple[str, ...] = ()
    """Numbers of the environment that differ from task to task, e.g. gravity=normal(-10,1), wind_power=uniform(0,15) or mass*=uniform(0.8,1.2).
    docs/your_tasks.md says more."""
    seed: int = 4242
    """Seed of the tasks and of the episodes. Use a seed that the model was not trained on."""
    vec_normalize: Path | None = None
    """File that VecNormalize.save() wrote, for a model that was trained with VecNormalize. Loading it executes code that it may hold.
    "none": there is such a file beside the model, but it belongs to another one."""
    held_out: int = 0
    """Number of further tasks on which forecasts are compared with what really happens. 0: only forecast."""
    active: bool = False
    """Look at all --deploy-size tasks, choose --budget of them to score, and say which kinds of task fail (extra `active`)."""
    budget: int = 1000
    """Number of tasks to score with --active."""
    cluster: str | None = None
    """Score every one of the --deploy-size tasks with Ray (extra `cluster`): `local` for this machine, `auto` for the cluster that it
    belongs to, or host:port. A run that was stopped goes on."""
    output: str | None = None
    """Folder for the scores of --cluster, which all machines share, or an address such as s3://bucket/scores."""
    method: OutlookMethod = "blue"
    """Point forecast, as in `forecast`."""
    k: int | None = None
    """Number of worst tasks that the tail is fitted to. If left out, about 2 sqrt(m) of m tasks."""
    level: float = 0.9
    """Coverage of the two-sided intervals. 0.9 gives a one-sided limit of 95%."""
    record: Path | None = None
    """Also record the worst tasks in this .gif or .mp4 file; with --active, a file for each kind of task that fails."""
    plot: Path | None = None
    """Also draw the tail, its fit and the forecast into this file."""
    html: Path | None = None
    """Also write a report that one can send into this .html file: one file, no network, with a slider for the size of the deployment."""
    json: bool = False
    """Print JSON instead of a table."""
    progress_bar: bool = True
    """Show a progress bar while episodes are played."""
    traceback: bool = False
    """Show where in the code an error came from."""


@dataclass(frozen=True)
class Version:
    """Print the version."""


def command_of(args: Forecast | Evaluate) -> str:
    """The command line that gives some options, for a report that is to be repeated.

    :param args: the options
    :return: the command, with every option that is not the usual one
    """
    words = ["python", "-m", "sb3_forecast", type(args).__name__.lower()]
    for entry in fields(args):
        value, option = getattr(args, entry.name), f"--{entry.name.replace('_', '-')}"
        if value == entry.default:
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
            continue
        values = [str(part) for part in value] if isinstance(value, tuple) else [str(value)]
        positional = entry.default is MISSING and entry.name in ("scores", "model")
        words += values if positional else [option, *values]
    return shlex.join(words)
