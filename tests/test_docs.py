"""The code in README and docs runs; numbers are made smaller, nothing else is changed."""

import inspect
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe

ROOT = Path(__file__).parent.parent
SMALLER = {
    "n_tasks=20_000": "n_tasks=1_000",
    "n_envs=128": "n_envs=16",
    "500_000, progress_bar=True": "16_384",
    "n_tasks=12_000": "n_tasks=6_000",
}


def blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_readme(capsys):
    scores, code = blocks("README.md")
    exec(compile(scores, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert f"```\n{printed}```" in (ROOT / "README.md").read_text(encoding="utf-8")
    for old, new in SMALLER.items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "README.md", "exec"), {})  # the point of the test
    assert "worst failure probability of a task" in capsys.readouterr().out


def test_moving_from_ppo():
    (code,) = blocks("docs/from_ppo.md")
    for old in ("n_tasks=20_000", "n_envs=128", "500_000, progress_bar=True"):
        assert old in code
        code = code.replace(old, SMALLER[old])
    exec(compile(code, "docs/from_ppo.md", "exec"), namespace := {})
    assert namespace["model"].num_timesteps == 16_384


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_statistics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = np.random.default_rng(0).gumbel(size=300) - 3
    np.savetxt("log_probabilities.txt", -np.exp(-scores))
    first, second = blocks("docs/statistics.md")
    namespace = {}
    exec(first, namespace)
    namespace |= {"scores": scores, "worst_score": 4.0}
    exec(second.replace("terms.universal", "total = terms.universal", 1), namespace)
    assert abs(namespace["total"] - namespace["terms"].total) < 1e-9


def test_your_tasks(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    namespace = {}
    for code in blocks("docs/your_tasks.md"):
        for old, new in {
            "Moat": "Ditch",  # the README registers a Moat, too
            "n_tasks=5_000": "n_tasks=200",
            "learn(300_000)": "learn(2_048)",
            "learn(4_096)": "learn(1_024)",
        }.items():
            code = code.replace(old, new)
        exec(compile(code, "docs/your_tasks.md", "exec"), namespace)  # the point of the test
    assert "worst failure probability of a task" in capsys.readouterr().out
    assert namespace["WideDitch"](width=2) != namespace["WideDitch"](width=3)
    assert any(tmp_path.rglob("seeds-0-31.npz"))


class Ledge(gym.Env):
    """Ten steps; moving on pays, but not at the ledge, which is steeper in some episodes than in others."""

    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def _look(self):
        self.seen = np.array([self.np_random.random(), self.steep], dtype=np.float32)
        return self.seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.steep = 0, self.np_random.random()
        return self._look(), {}

    def step(self, action):
        self.steps += 1
        crashed = bool(action == 1 and self.seen[0] > 1.0 - 0.3 * self.steep)
        return self._look(), float(action), crashed, self.steps >= 10, {"crashed": crashed}


def test_model_free(capsys):
    first, rollouts, probing, again, other = blocks("docs/model_free.md")
    for old, new in {
        "n_tasks=2_000": "n_tasks=200",
        "learn(500_000)": "learn(6_144)",
        '"MlpPolicy", envs,': '"MlpPolicy", envs, n_steps=64, device="cpu",',
        "eval_size=100": "eval_size=50",
        "n_tasks=1_000": "n_tasks=150",
        "fresh, 100,": "fresh, 50,",
        "episodes=50": "episodes=3",
    }.items():
        assert old in first
        first = first.replace(old, new)
    namespace = {"make_env": Ledge}
    exec(compile(first, "docs/model_free.md", "exec"), namespace)  # the point of the test
    assert capsys.readouterr().out.count("worst failure probability of a task") == 2
    assert namespace["scorer"].ready
    rollouts = rollouts.replace("tasks.make_vec_env(16), ", 'tasks.make_vec_env(16), n_steps=64, device="cpu", ').replace(
        "500_000", "2_048"
    )
    exec(compile(rollouts, "docs/model_free.md", "exec"), namespace | {"sfe": sfe, "sf": sf})
    exec(compile(probing, "docs/model_free.md", "exec"), namespace)
    assert namespace["scorer"].probes.share == 0.2
    again = "from stable_baselines3 import PPO\n" + again.replace("10.0)", '10.0), n_steps=64, device="cpu"').replace(
        "500_000", "2_048"
    )
    exec(compile(again, "docs/model_free.md", "exec"), namespace)
    assert namespace["model"].num_timesteps == 2048
    tasks = sfe.TaskPool("ThinIce-8x8", 300, seed=0)
    other = other.replace("500_000", "200")
    exec(compile(other, "docs/model_free.md", "exec"), namespace | {"tasks": tasks, "env": tasks.make_vec_env(8)})


def test_splitting(agent, pool):
    (code,) = blocks("docs/splitting.md")
    tasks = pool.subset(np.arange(24))
    code = code.replace("particles=50, repetitions=4", "particles=4, repetitions=1, pilot=40").replace(
        "eval_size=200", "eval_size=12, k=3"
    )
    exec(compile(code, "docs/splitting.md", "exec"), namespace := {"sf": sf, "tasks": tasks, "model": agent})
    assert len(namespace["found"].probabilities) == 24
    assert namespace["report"].scorer == "SplittingScorer"


def test_active(agent, capsys):
    (code,) = blocks("docs/active.md")
    code = code.replace("100_000", "2_000").replace("budget=1_000", "budget=120")
    exec(compile(code, "docs/active.md", "exec"), {"model": agent})  # the point of the test
    assert "failures per million tasks" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_cluster(agent, tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/cluster.md")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        exec(
            compile(code.replace("10_000_000", "8_000"), "docs/cluster.md", "exec"), {"model": agent}
        )  # the point of the test
    finally:
        ray.shutdown()
    assert "95% limit" in capsys.readouterr().out


def test_the_defaults_that_choosing_tells():
    rows = [
        line.split("|") for line in (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").splitlines() if "|" in line
    ]
    told = {name: row[2].strip() for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    defaults = {name: parameter.default for name, parameter in inspect.signature(sf.ForecastPPO).parameters.items()}
    for name in ("p_floor", "forecast_coef", "validation_share", "drawn_share"):
        assert float(told[name].split()[0]) == defaults[name]
    assert (told["min_success"], defaults["min_success"]) == ("none", None)
    assert float(told["max_share"].split()[0]) == inspect.signature(sf.EpisodeScorer).parameters["max_share"].default
    replay = inspect.signature(sf.FailureReplay).parameters
    (row,) = (row[2] for row in rows if "FailureReplay" in row[1])
    assert [replay[name].default for name in ("share", "per_task")] == [float(x) for x in row.split(",")]
