"""The jobs that are killed: training, scoring, exploring, writing a report, and a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from PIL import Image
from stable_baselines3.common.vec_env import VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.training.checkpoints import checkpoints
from sb3_forecast_envs.seeded import model as seeded
from studies.runner import Study, run_study
from tests.conftest import SMALL_PPO

ROLLOUT = 16 * 8
FORECAST = {"eval_size": 60, "k": 5, "n_partitions": 32, "gradient_every": 2, "validate_every": 2}


def grid(pool: sfe.TaskPool) -> VecMonitor:
    """Eight environments in this process."""
    return VecMonitor(sfe.GridVecEnv(pool, 8, seed=3))


def train(pool: sfe.TaskPool, folder: Path, rollouts: int = 6) -> Any:
    """Train with a checkpoint per rollout, from the last one if there is one; return the parameters."""
    env = grid(pool)
    resumed = bool(checkpoints(folder))
    if resumed:
        model = sf.resume_training(sf.ForecastPPO, folder, env, device="cpu")
    else:
        model = sf.ForecastPPO("MlpPolicy", env, seed=1, **FORECAST, **SMALL_PPO)
    left = rollouts * ROLLOUT - model.num_timesteps
    model.learn(left, callback=sf.TrainingCheckpoints(folder, every=1), reset_num_timesteps=not resumed)
    return th.cat([p.detach().flatten() for p in model.policy.parameters()]).numpy()


def score(agent: Any, folder: Path) -> Any:
    """Score 200 tasks in ten blocks."""
    scores = sf.score_large_pool(agent, sfe.TaskStream("ThinIce-8x8", 200, seed=3, rare_fraction=0.1), folder, block_size=20)
    return np.stack([scores.psi, scores.failure, scores.success, scores.rare])


def explore(folder: Path) -> Any:
    """Find the states of six blocks of two seeds."""
    seeded.BLOCK = 2  # in this process only
    tasks = sfe.SeededTasks("MiniGrid-LavaGapS5-v0", 12, cache_dir=folder)
    _, successors, views, _ = seeded.SeededModel(tasks).tables(np.arange(12))
    return successors, views


def write_report(report: sf.ForecastReport, folder: Path) -> None:
    """Write a report in all of its forms, over what is there."""
    report.to_json(folder / "report.json")
    report.save(folder / "report.npz")
    report.plot(folder / "report.png")


def check_report(report: sf.ForecastReport, folder: Path) -> None:
    """What has its final name is whole."""
    if (folder / "report.json").exists():
        assert (folder / "report.json").read_text() == report.to_json() + "\n"
    if (folder / "report.npz").exists():
        np.testing.assert_array_equal(sf.ForecastReport.load(folder / "report.npz").scores, report.scores)
    if (folder / "report.png").exists():
        with Image.open(folder / "report.png") as picture:
            picture.load()


@dataclass(frozen=True)
class Settings:
    """Options of a study that takes no time."""

    output: Path
    seeds: int = 3
    first_seed: int = 1
    jobs: int = 1
    progress_bar: bool = False

    def check(self) -> None:
        """Nothing can be wrong."""

    def kept(self) -> dict[str, Any]:
        """Nothing depends on the options."""
        return {"size": 3}


def run_method(job: Any) -> dict[str, Any]:
    """The second method starts from what the first one left."""
    from sb3_forecast.files import write_text

    if job.method == "base":
        write_text(job.folder / "base.txt", str(job.seed))
        return {"value": 0.0}
    assert job.record_of("base").result == {"value": 0.0}
    return {"value": 10.0 * int((job.folder / "base.txt").read_text())}


def report_study(settings: Any, records: Any, console: Any) -> None:
    """A table."""
    from sb3_forecast.files import write_text

    write_text(settings.output / "table.md", str([record.result["value"] for record in records]))


def methods(settings: Any) -> tuple[str, ...]:
    """Two methods."""
    return ("base", "ours")


#: all of the study but what is run
STUDY_PARTS = (methods, report_study, ("studies/runner.py",))
STUDY = Study("toy", run_method, *STUDY_PARTS)


def study(folder: Path, jobs: int = 1, seeds: int = 3) -> Any:
    """Run the study; return the results of its records."""
    return [record.result for record in run_study(STUDY, Settings(folder, jobs=jobs, seeds=seeds))]
