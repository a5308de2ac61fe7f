import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies.records import read_record, read_records, record_path

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = [
    "--total-timesteps", "8192", "--fine-tune-timesteps", "8192", "--pool-size", "1200", "--held-out-size", "600",
    "--eval-size", "60", "--deploy-size", "500", "--splits", "20", "--rare-fraction", "0.05", "--no-progress-bar",
]  # fmt: skip


def run(*arguments, check=True):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=check)


FEW = ("ppo", "ppo_lagrangian", "forecast")
ALL = ("ppo", "cost_penalty", "ppo_lagrangian", "mean_failure_bare", "mean_failure_equipped", "forecast")


@pytest.mark.parametrize(("chosen", "methods"), [(["--methods", *FEW], FEW), pytest.param([], ALL, marks=pytest.mark.slow)])
def test_train_gridworld(tmp_path, chosen, methods):
    script = str(EXAMPLES / "train_gridworld.py")
    output = tmp_path / "out"
    arguments = [*TINY, *chosen, "--output", str(output)]
    first = run(script, *arguments)
    assert "rare success" in first.stdout
    records = read_records(output / "records")
    assert {record.method for record in records} == {"base", *methods}
    assert all(0.0 <= record.result["limit_holds"] <= 1.0 for record in records)
    for picture in ("forecast.png", "training.png", "worst_tasks.png"):
        assert (output / picture).stat().st_size > 10_000
    written = {path: path.stat().st_mtime_ns for path in output.glob("seed1/*.zip")}
    run(script, *arguments)
    assert written == {path: path.stat().st_mtime_ns for path in output.glob("seed1/*.zip")}  # nothing is trained twice
    other = run(script, *arguments, "--splits", "10", check=False)
    assert "that differ in ['splits']" in " ".join(other.stderr.split())


TINY_POLES = [
    "--pool-size", "300", "--held-out-size", "200", "--eval-size", "50", "--deploy-size", "150", "--splits", "10", "--rare-fraction", "0.05",
    "--no-progress-bar",
]  # fmt: skip


@pytest.mark.slow
def test_train_cart_pole(tmp_path):
    script = str(EXAMPLES / "train_cart_pole.py")
    output = tmp_path / "out"
    steps = ["--total-timesteps", "8192", "--fine-tune-timesteps", "8192"]
    methods = ("--methods", "ppo", "forecast_rollouts_many")
    assert "rare success" in run(script, *TINY_POLES, *steps, *methods, "--output", str(output)).stdout
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("PPO goes on", "RolloutScorer, 40,000 tasks"))
    assert (output / "forecast.png").stat().st_size > 10_000
    wrong = run(script, *TINY_POLES, "--methods", "magic", "--output", str(tmp_path / "none"), check=False)
    assert "got ['magic']" in wrong.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_train_lunar_lander(tmp_path):
    pytest.importorskip("Box2D")
    script = str(EXAMPLES / "train_lunar_lander.py")
    output = tmp_path / "out"
    tiny = [
        "--total-timesteps", "8192", "--fine-tune-timesteps", "16384", "--pool-size", "100", "--held-out-size", "20", "--episodes", "1",
        "--no-progress-bar",
    ]  # fmt: skip
    assert "that crash" in run(script, *tiny, "--methods", "replay", "forecast", "--output", str(output)).stdout
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("checkpoint", "PPO and FailureReplay", "ForecastPPO, learned survival"))
    assert (output / "crashes.png").stat().st_size > 10_000
    wrong = run(script, *tiny, "--methods", "magic", "--output", str(tmp_path / "none"), check=False)
    assert "got ['magic']" in wrong.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("simulator", ["poles", "pendulum"])
def test_train_continuous(simulator, tmp_path):
    pytest.importorskip("mujoco")
    script = str(EXAMPLES / "train_continuous.py")
    output = tmp_path / "out"
    tiny = [
        "--simulator", simulator, "--base-steps", "8192", "--steps", "16384", "--pool-size", "200", "--held-out", "20", "10", "--episodes", "1",
        "--no-progress-bar",
    ]  # fmt: skip
    methods = ("--methods", "cvar_ppo", "replay", "forecast", "forecast_penalty", "forecast_rollouts")
    assert "rare success" in run(script, *tiny, *methods, "--output", str(output)).stdout
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("checkpoint", "CVaR-PPO", "FailureReplay", "ForecastPPO, learned survival"))
    assert (output / "failures.png").stat().st_size > 10_000
    wrong = run(script, *tiny, "--steps", "0", "--output", str(tmp_path / "none"), check=False)
    assert "steps must be at least 1, got 0" in wrong.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_train_off_policy(tmp_path):
    script = str(EXAMPLES / "train_off_policy.py")
    output = tmp_path / "out"
    tiny = [
        "--base-steps", "4000", "--steps", "2000", "--pool-size", "400", "--held-out", "20", "10", "--episodes", "1", "--no-progress-bar",
    ]  # fmt: skip
    assert "rare success" in run(script, *tiny, "--output", str(output)).stdout
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("checkpoint", "SAC goes on", "FailureReplay, failure critic"))
    assert (output / "failures.png").stat().st_size > 10_000
    wrong = run(script, *tiny, "--held-out", "0", "1", "--output", str(tmp_path / "none"), check=False)
    assert "held_out must be two numbers of at least 1, got (0, 1)" in wrong.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_find_and_fix(tmp_path):
    small = {"FIND_AND_FIX_STEPS": "8192", "FIND_AND_FIX_TASKS": "1500"}
    out = subprocess.run(
        [sys.executable, str(EXAMPLES / "find_and_fix.py")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **small},
    ).stdout
    assert out.count("failures per million tasks") == 2
    assert "ForecastPPO, 2: of 1,500 fresh tasks the worst fails" in out


@pytest.mark.slow
def test_the_study_of_active_evaluation(tmp_path):
    script = str(EXAMPLES / "active_study.py")
    tiny = [
        "--total-timesteps",
        "8192",
        "--pool-size",
        "300",
        "--deploy-size",
        "1200",
        "--repeats",
        "2",
        "--budgets",
        "300",
        "1000",
    ]
    run(script, *tiny, "--no-progress-bar", "--output", str(tmp_path / "out"))
    table = (tmp_path / "out" / "table.md").read_text()
    assert all(
        f"| {name} |" in table for name in ("random, 300", "chosen, 1,000", "chosen, descriptors of other tasks, 1,000")
    )
    (chosen,) = (r for r in read_records(tmp_path / "out" / "records") if r.method == "active_300")
    assert 0.0 < chosen.result["variance_ratio"] < 10.0
    wrong = run(script, "--deploy-size", "500", "--output", str(tmp_path / "none"), check=False)
    assert "deploy_size must be at least 3000, got 500; use more tasks than the largest budget" in wrong.stderr


@pytest.mark.slow
def test_steps_of_scoring_are_part_of_the_budget(tmp_path):
    script = str(EXAMPLES / "train_cart_pole.py")
    output = tmp_path / "out"
    tiny = [*TINY_POLES, "--total-timesteps", "8192", "--fine-tune-timesteps", "40000"]
    run(script, *tiny, "--output", str(output))
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("checkpoint", "PPO goes on", "PPO-Lagrangian", "CVaR-PPO", "ForecastPPO"))
    updates = {record.method: record.result.get("updates") for record in read_records(output / "records")}
    assert updates["forecast"] < updates["ppo"]
    free = tmp_path / "free"
    run(script, *tiny, "--methods", "forecast", "--no-count-scoring", "--output", str(free))
    ours = read_record(record_path(free / "records", "forecast", 1)).result
    assert ours["updates"] == updates["ppo"]
    assert ours["steps"] > 40000


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("quickstart.py", "of the given tasks occur in training and were left out"),
        ("own_env.py", "95% limit holds"),
        ("scores_file.py", "forecast of the worst of a million"),
    ],
)
def test_short_scripts(script, said):
    """They run, with fewer steps; numbers of an agent without much training are not looked at."""
    fewer = {"QUICKSTART_STEPS": "8192", "OWN_ENV_STEPS": "2048", "OWN_FAMILY_STEPS": "2048"}
    found = subprocess.run(
        [sys.executable, str(EXAMPLES / script)], capture_output=True, text=True, check=True, env={**os.environ, **fewer}
    )
    assert said in found.stdout


@pytest.mark.slow
def test_own_family(tmp_path):
    """The example runs, and its family is one for the study, with no further code."""
    script = EXAMPLES / "own_family.py"
    assert len(script.read_text().splitlines()) <= 40
    fewer = {**os.environ, "OWN_FAMILY_STEPS": "2048"}
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=fewer)
    assert "worst failure probability of a task" in found.stdout
    arguments = [
        *TINY,
        "--family",
        "own_family:Moat-7x7",
        "--no-unseen",
        "--methods",
        "forecast",
        "--output",
        str(tmp_path / "out"),
    ]
    assert "rare success" in run(str(EXAMPLES / "train_gridworld.py"), *arguments).stdout


@pytest.mark.parametrize(
    "arguments", [["--family", "nowhere:Moat-7x7"], ["--methods", "magic"], ["--eval-size", "20000"], ["--seeds", "0"]]
)
def test_train_gridworld_rejects_before_training(tmp_path, arguments):
    result = run(str(EXAMPLES / "train_gridworld.py"), *arguments, "--output", str(tmp_path / "out"), check=False)
    assert result.returncode != 0
    assert "ValueError" in result.stderr
    assert not (tmp_path / "out").exists()
