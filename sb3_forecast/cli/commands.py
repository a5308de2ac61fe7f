"""The commands and their options. What runs them is imported when it is needed: ``--help`` must not wait for torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sb3_forecast.statistics.names import InputKind, OutlookMethod

ScorerName = Literal["auto", "exact", "survival", "frequency"]


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
    method: OutlookMethod = "blue"
    """Point forecast: blue (unbiased), jones, direct, pareto (tail may bend) or lognormal (all scores, not just the tail)."""
    k: int | None = None
    """Worst tasks used by the fit; 2 sqrt(m) if left out."""
    level: float = 0.9
    """Coverage of intervals and limits."""
    plot: Path | None = None
    """Also draw the tail, with its fit and forecast, into this file."""
    json: bool = False
    """Print JSON instead of a table."""


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
    method: OutlookMethod = "blue"
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


@dataclass(frozen=True)
class Version:
    """Print the version."""
