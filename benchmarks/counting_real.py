"""Does the interval of `evaluate --max-episodes` hold? Agents are trained, measured with few episodes, and then really play 5,000 others.

    python -m benchmarks.counting_real [--where LunarLander Hopper DoorKey] [--seeds 10] [--max-episodes 600]

LunarLander needs Box2D, Hopper needs MuJoCo. Agents are kept in the folder `runs/counting_real`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from minigrid.wrappers import FlatObsWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.__main__ import main as command

#: first reset seed of the episodes that are really played; the command's seeds are elsewhere
FIRST_SEED = 50_000_000


@dataclass(frozen=True)
class Where:
    """An environment, and what a failure is in it.

    :param env_id: its id
    :param failed: what decides that a step failed
    :param steps: environment steps of the agent's training
    :param wrapper: the wrapper around it
    :param timeout_fails: whether an episode that reaches its time limit has failed
    """

    env_id: str
    failed: str
    steps: int
    wrapper: Any = None
    timeout_fails: bool = False


ENVIRONMENTS = {
    "LunarLander": Where("LunarLander-v3", "ended_without_reward", 600_000),
    "Hopper": Where("Hopper-v5", "ended_early", 400_000),
    "DoorKey": Where("MiniGrid-DoorKey-5x5-v0", "ended_without_reward", 60_000, FlatObsWrapper, timeout_fails=True),
}


def agent(where: Where, path: Path) -> None:
    """Train an agent, unless it exists."""
    if path.exists():
        return
    env = make_vec_env(where.env_id, 16, seed=100, wrapper_class=where.wrapper)
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=512, n_epochs=6, gamma=0.995, ent_coef=0.003, seed=100, device="cpu")
    model.learn(where.steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)


def really(where: Where, path: Path, deterministic: bool, episodes: int) -> float:
    """Share of failed episodes."""
    wrappers = [] if where.wrapper is None else [where.wrapper]

    def make() -> Any:
        import gymnasium as gym

        env = gym.make(where.env_id)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    pool = sfe.SeededTasks(
        make, episodes, first_seed=FIRST_SEED, failed=getattr(sfe, where.failed), timeout_fails=where.timeout_fails
    )
    found = sf.play(PPO.load(path, device="cpu"), pool.make_vec_env(16), np.arange(episodes), 1, deterministic)
    return float(found.failed.mean())


def measured(where: Where, path: Path, deterministic: bool, max_episodes: int, seed: int) -> dict[str, Any]:
    """What the command prints."""
    line = ["evaluate", str(path), "--env-id", where.env_id, "--failed", f"sb3_forecast_envs:{where.failed}", "--scorer", "frequency",
            "--max-episodes", str(max_episodes), "--seed", str(seed), "--json", "--algo", "ppo"]  # fmt: skip
    if where.wrapper is not None:
        line += ["--wrapper", f"{where.wrapper.__module__}:{where.wrapper.__name__}"]
    line += ["--timeout-fails"] * where.timeout_fails + ["--deterministic"] * deterministic
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = command(line)
    assert status == 0, printed.getvalue()
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", nargs="+", default=list(ENVIRONMENTS), choices=list(ENVIRONMENTS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--max-episodes", type=int, default=600)
    parser.add_argument("--episodes", type=int, default=5000)
    args = parser.parse_args()
    print(
        "| agent | acts | failures per million, by 5,000 episodes | 90% interval holds | ends of the intervals, median | tasks played |"
    )
    print("|---|---|---|---|---|---|")
    for name in args.where:
        where, path = ENVIRONMENTS[name], Path("runs/counting_real") / f"{name}.zip"
        agent(where, path)
        for deterministic in (False, True):
            real = really(where, path, deterministic, args.episodes)
            rows = [measured(where, path, deterministic, args.max_episodes, seed) for seed in range(1, args.seeds + 1)]
            ends = np.array([row["observed_mean_interval"] for row in rows])
            holds = ((ends[:, 0] <= real) & (real <= ends[:, 1])).sum()
            low, high = np.median(ends, axis=0) * 1e6
            acts = "likeliest actions" if deterministic else "sampled actions"
            print(
                f"| {name} | {acts} | {real * 1e6:,.0f} | {holds} of {len(rows)} | {low:,.0f} to {high:,.0f} | {rows[0]['n_eval']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
