"""Fixtures shared by the tests: small pools and a briefly trained agent, all seeded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO

import sb3_forecast_envs as sfe

# the order of float32 sums, and so a trained agent, depends on the number of threads: the tests use one everywhere
th.set_num_threads(1)

# numba keeps compiled functions, and looks only at the file that a function is in, not at those that it calls
for _folder in ("envs/sb3_forecast_envs", "sb3_forecast/scorers"):
    _source = Path(__file__).parent.parent / _folder
    _changed = max(path.stat().st_mtime for path in _source.rglob("*.py"))
    for _compiled in [*_source.rglob("*.nbi"), *_source.rglob("*.nbc")]:
        if _compiled.stat().st_mtime < _changed:
            _compiled.unlink()

SMALL_PPO: dict[str, Any] = {"n_steps": 16, "batch_size": 64, "n_epochs": 2, "learning_rate": 1e-3, "device": "cpu"}


@pytest.fixture(scope="session")
def vectors() -> dict[str, dict[str, Any]]:
    """Reference inputs and outputs by name."""
    rows = json.loads((Path(__file__).parent / "vectors" / "tail_vectors.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="session")
def pool() -> sfe.TaskPool:
    """300 tasks, about a tenth of them rare."""
    return sfe.TaskPool("ThinIce-8x8", 300, seed=1, rare_fraction=0.1)


@pytest.fixture(scope="session")
def agent(pool: sfe.TaskPool) -> PPO:
    """An agent that moves with purpose: failures neither certain nor negligible."""
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 32, seed=0), seed=0, **SMALL_PPO)
    return model.learn(40_000)
