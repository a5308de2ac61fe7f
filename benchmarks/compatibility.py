"""What was run with what: writes docs/compatibility.md.

    python benchmarks/compatibility.py

Every cell of the first table is a run of a few hundred steps: parity with PPO at ``forecast_coef=0`` (equal parameters, bit for bit),
fine-tuning with learned survival, stopping and resuming (equal parameters, bit for bit), and counting failures. A cell says what happened.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# it holds the package `tests`
sys.path[0] = str(ROOT)

import numpy as np
import torch as th
from sb3_contrib import QRDQN, TQC, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.utils import set_random_seed

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from tests.combinations import COMBINATIONS, Combination, pendulum

SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "seed": 1, "device": "cpu"}


def parameters(model: Any) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def attempt(run: Callable[[], str]) -> str:
    """What a run says, or the beginning of its error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run()
    except ValueError as error:
        return f"refused: {str(error).split(';')[0][:90]}"


def parity(case: Combination) -> str:
    found = []
    for algorithm, extra in ((PPO, {}), (sf.ForecastPPO, {"forecast_coef": 0.0})):
        set_random_seed(0)
        env = case.env(case.tasks(), 4)
        model: Any = algorithm(case.policy, env, **SETTINGS, **case.settings, **extra)  # type: ignore[abstract]  # classes
        found.append(parameters(model.learn(256)))
        env.close()
    return "equal" if th.equal(*found) else "DIFFERS"


def tuned(case: Combination) -> str:
    tasks = case.tasks()
    plays = tasks.make_vec_env(4) if "Normalize" in case.name else case.wrap(tasks.make_vec_env(4))
    scorer = sf.EpisodeScorer(tasks, env=plays, probes=10, warm_up_rounds=1, warm_up_failures=3, delay=2)
    env = case.env(tasks, 4)
    model = sf.ForecastPPO(
        case.policy, env, scorer=scorer, eval_size=12, k=3, n_partitions=8, full_every=1, **SETTINGS, **case.settings
    )
    model.learn(512)
    env.close()
    assert model.objective is not None
    return f"{model.objective.n_refreshes} refreshes" if model.objective.n_refreshes else "NOT READY"


def resumed(case: Combination) -> str:
    with tempfile.TemporaryDirectory() as folder:
        keep = sf.TrainingCheckpoints(folder, every=2)
        env = case.env(case.tasks(), 4)
        whole = sf.ForecastPPO(case.policy, env, forecast_coef=0.0, **SETTINGS, **case.settings).learn(4 * 64, callback=keep)
        env.close()
        again = sf.resume_training(sf.ForecastPPO, folder, case.env(case.tasks(), 4), device="cpu", unpickle=True)
        again.learn(4 * 64 - again.num_timesteps, reset_num_timesteps=False)
        assert again.env is not None
        again.env.close()
        if case.subprocess:
            return "new episodes"
        # convolutions may round differently from one allocation of memory to the next
        difference = float((parameters(whole) - parameters(again)).abs().max())
        return "equal" if difference == 0.0 else f"within {difference:.0e}"


def counted(case: Combination) -> str:
    tasks = case.tasks()
    env = case.env(tasks, 4)
    model = PPO(case.policy, env, **SETTINGS, **case.settings)
    own = tasks.make_vec_env(4) if "Normalize" in case.name else case.wrap(tasks.make_vec_env(4))
    scores = sf.FrequencyScorer(tasks, 1, env=own).score(model)
    env.close()
    return "counted" if np.isfinite(scores.numpy()).all() else "NOT FINITE"


def algorithms() -> list[tuple[str, str, str, str]]:
    """Rows of the second table."""
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=0, rare_fraction=0.2)
    swing = sfe.SeededTasks(pendulum, 6, lambda step: step.reward < -10.0)
    rows = []
    for algorithm in (PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, DQN, QRDQN, SAC, TD3, DDPG, TQC):
        grid = algorithm in (PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, DQN, QRDQN)
        policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
        tasks: Any = pool if grid else swing
        model = algorithm(policy, tasks.make_vec_env(1), device="cpu", seed=0)

        def exact(model: Any = model) -> str:
            sf.ExactScorer(pool).score(model)
            return "exact"

        def counted_(model: Any = model, tasks: Any = tasks) -> str:
            sf.FrequencyScorer(tasks, 1, n_envs=4).score(model)
            return "counted"

        def injected(algorithm: Any = algorithm, policy: str = policy) -> str:
            settings = {"n_steps": 16} if algorithm in (A2C, PPO, TRPO, MaskablePPO, RecurrentPPO) else {}
            learner = algorithm(policy, pool.make_vec_env(8 if settings else 1), device="cpu", seed=0, **settings)
            by_episodes = algorithm is RecurrentPPO
            scorer: Any = (
                sf.EpisodeScorer(pool, probes=60, n_envs=20, warm_up_rounds=1, warm_up_failures=3)
                if by_episodes
                else sf.ExactScorer(pool)
            )
            objective = sf.ForecastObjective(scorer, sf.ForecastLoss(20, 3, 8))
            learner.learn(256, callback=sf.ForecastCallback(objective, forecast_coef=0.3))
            assert objective.n_refreshes
            return "trained, by learned survival" if by_episodes else "trained"

        rows.append(
            (
                algorithm.__name__,
                attempt(injected) if grid else "off-policy, continuous actions",
                attempt(exact) if grid else "no finite model",
                attempt(counted_),
            )
        )
    return rows


def main() -> None:
    """Run everything and write the page."""
    th.set_num_threads(1)
    packages = ("stable-baselines3", "sb3-contrib", "gymnasium", "minigrid", "torch", "numpy")
    lines = [
        "# What was run with what", "",
        "Written by `python benchmarks/compatibility.py`; every cell is a short run. "
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages) + ".", "",
        "## ForecastPPO", "",
        "| policy, spaces, wrappers | `forecast_coef=0` against PPO | learned survival | stopped and resumed | `FrequencyScorer` |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for case in COMBINATIONS:
        cells = [attempt(lambda run=run, case=case: run(case)) for run in (parity, tuned, resumed, counted)]  # type: ignore[misc]
        lines.append(f"| {case.policy}: {case.name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "## Other algorithms",
        "",
        "| algorithm | `ForecastCallback` | `ExactScorer` | `FrequencyScorer` |",
        "|---|---|---|---|",
    ]
    for row in algorithms():
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    (ROOT / "docs" / "compatibility.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
