import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = [
    "--total-timesteps", "16384", "--fine-tune-timesteps", "16384", "--pool-size", "1200", "--held-out-size", "600",
    "--eval-size", "60", "--deploy-size", "500", "--splits", "20", "--rare-fraction", "0.05", "--no-progress-bar",
]  # fmt: skip


def run(*arguments, check=True):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=check)


def test_train_gridworld(tmp_path):
    script = str(EXAMPLES / "train_gridworld.py")
    output = tmp_path / "out"
    first = run(script, *TINY, "--output", str(output))
    assert "rare success" in first.stdout
    report = json.loads((output / "report.json").read_text())
    assert set(report["medians"]) == {
        "base", "ppo", "cost_penalty", "ppo_lagrangian", "mean_failure_bare", "mean_failure_equipped", "forecast",
    }  # fmt: skip
    for picture in ("forecast.png", "training.png", "worst_tasks.png"):
        assert (output / picture).stat().st_size > 10_000
    written = {path: path.stat().st_mtime_ns for path in output.glob("seed1/*.zip")}
    run(script, *TINY, "--output", str(output))
    assert written == {path: path.stat().st_mtime_ns for path in output.glob("seed1/*.zip")}  # nothing is trained twice
    other = run(script, *TINY, "--output", str(output), "--splits", "10", check=False)
    assert "holds results of other settings" in other.stderr


def test_train_cart_pole(tmp_path):
    script = str(EXAMPLES / "train_cart_pole.py")
    tiny = [
        "--total-timesteps", "16384", "--fine-tune-timesteps", "60000", "--pool-size", "300", "--held-out-size", "200", "--eval-size", "50",
        "--deploy-size", "150", "--splits", "10", "--rare-fraction", "0.05", "--no-progress-bar",
    ]  # fmt: skip
    output = tmp_path / "out"
    assert "rare success" in run(script, *tiny, "--output", str(output)).stdout
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("checkpoint", "PPO goes on", "PPO-Lagrangian", "CVaR-PPO", "ForecastPPO"))
    report = json.loads((output / "report.json").read_text())
    ours = report["results"]["ForecastPPO, learned survival"][0]
    # its scoring and probing are part of the same budget of steps
    assert ours["updates"] < report["results"]["PPO goes on"][0]["updates"]
    assert (output / "forecast.png").stat().st_size > 10_000
    free = tmp_path / "free"
    run(script, *tiny, "--methods", "forecast", "--no-count-scoring", "--output", str(free))
    ours = json.loads((free / "report.json").read_text())["results"]["ForecastPPO, learned survival"][0]
    assert ours["updates"] == report["results"]["PPO goes on"][0]["updates"]
    assert ours["steps"] > 60000
    wrong = run(script, *tiny, "--methods", "magic", "--output", str(tmp_path / "none"), check=False)
    assert "methods=['magic'] are unknown" in wrong.stderr
    assert not (tmp_path / "none").exists()


def test_register_family(tmp_path):
    """The example runs, and its family is one for the study, with no further code."""
    script = EXAMPLES / "register_family.py"
    assert len(script.read_text().splitlines()) < 40
    assert "worst failure probability of a task" in run(str(script)).stdout
    arguments = [*TINY, "--family", "register_family:Moat-7x7", "--methods", "forecast", "--output", str(tmp_path / "out")]
    assert "rare success" in run(str(EXAMPLES / "train_gridworld.py"), *arguments).stdout


@pytest.mark.parametrize(
    "arguments", [["--family", "nowhere:Moat-7x7"], ["--methods", "magic"], ["--eval-size", "20000"], ["--seeds", "0"]]
)
def test_train_gridworld_rejects_before_training(tmp_path, arguments):
    result = run(str(EXAMPLES / "train_gridworld.py"), *arguments, "--output", str(tmp_path / "out"), check=False)
    assert result.returncode != 0
    assert "ValueError" in result.stderr
    assert not (tmp_path / "out").exists()
