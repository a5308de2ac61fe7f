"""Fixtures shared by the tests: small pools and a briefly trained agent, all seeded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# The tests run side by side, so each takes one thread, unless `make test-kernels` asks for another number. What a test starts is to know it too:
# threads that wait in a busy loop for a busy processor take many times as long. It is read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

import sb3_forecast_envs as sfe

th.set_num_threads(int(os.environ.get("SB3_FORECAST_TEST_THREADS", "1")))

# numba keeps compiled functions, and looks only at the file that a function is in, not at those that it calls
_ROOT = Path(__file__).parent.parent
_KERNELS = [
    _ROOT / "sb3_forecast" / "jit.py",
    *(_ROOT / "envs").rglob("*.py"),
    *(_ROOT / "sb3_forecast" / "scorers").rglob("*.py"),
]
_CHANGED = max(path.stat().st_mtime for path in _KERNELS)
for _compiled in [*_ROOT.glob("envs/**/*.nb[ic]"), *_ROOT.glob("sb3_forecast/**/*.nb[ic]")]:
    if _compiled.stat().st_mtime < _CHANGED:
        _compiled.unlink(missing_ok=True)

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


@pytest.fixture
def clumsy(pool: sfe.TaskPool) -> PPO:
    """An agent that takes every action with the same probability, whatever it sees: the same on every machine, and it fails often."""
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), seed=0, **SMALL_PPO)
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.zero_()
    return model


@pytest.fixture(scope="session")
def agent(pool: sfe.TaskPool) -> PPO:
    """An agent that moves with purpose: failures neither certain nor negligible.

    Its weights are stored, since a trained agent comes out otherwise on another processor. They are those of
    ``model.learn(40_000)`` with this seed and one thread.
    """
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 32, seed=0), seed=0, **SMALL_PPO)
    with np.load(Path(__file__).parent / "vectors" / "agent.npz", allow_pickle=False) as weights:
        model.policy.load_state_dict({name: th.from_numpy(weights[name]) for name in weights.files})
    return model
