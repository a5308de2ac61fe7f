"""The code in docs/lm.md runs, with a small model of one's own; and so does the example."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_forecast.lm import PasswordGame, primary_examples
from studies.records import read_records, record_path

from .conftest import random_llama

ROOT = Path(__file__).parent.parent.parent


def test_bring_your_own(tmp_path, monkeypatch, tokenizer, capsys):
    monkeypatch.chdir(tmp_path)
    random_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "lm.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    smaller = {
        "path/or/hub-id": str(tmp_path / "model"),
        "max_steps=120": "max_steps=2, use_cpu=True",
        "subpool=400": "subpool=100",
        "eval_size=40": "eval_size=20",
        ".sample(model)": ".sample(model, seed=1)",
    }
    for old, new in smaller.items():
        assert old in code
        code = code.replace(old, new)
    game = PasswordGame(120, 0, rare_fraction=0.1)
    namespace = {"texts": [prompt[1]["content"] for prompt in game.prompts], "primary": primary_examples(60, 0)}
    exec(compile(code, "docs/lm.md", "exec"), namespace)  # the point of the test
    assert "worst of a million such prompts" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "forecast").exists()


ALL_METHODS = (
    "primary", "refusal_sft", "mean_log_p", "cvar", "cvar_equipped", "cvar_per_prompt", "worst_prompt", "forecast_bare", "forecast",
)  # fmt: skip


@pytest.mark.parametrize("methods", [("primary", "forecast"), pytest.param(ALL_METHODS, marks=pytest.mark.slow)])
def test_train_password_game(tmp_path, tokenizer, methods):
    """The study in small, on an untrained model in the place of one of a hub."""
    random_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = str(ROOT / "examples" / "train_password_game.py")
    command = [
        sys.executable, script, "--model", str(tmp_path / "model"), "--pool", "120", "--steps", "2", "--batch-size", "4", "--subpool", "60",
        "--eval-size", "12", "--held-out", "220", "--further-rare", "6", "--primary-held-out", "20",
        "--samples", "2", "--max-new-tokens", "3", "--splits", "10",
        "--teaching-steps", "2", "--no-progress-bar", "--method", *methods, "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "", "HF_HUB_OFFLINE": "1", **threads}
    first = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert first.returncode == 0, first.stderr[-2000:]
    assert "sampled rare leak" in first.stdout
    records = {record.method: record for record in read_records(tmp_path / "out" / "records")}
    assert set(records) == {"start", *methods}
    tokens = {
        name: record.result["tokens_scored"] + 3 * record.result["tokens_trained"]
        for name, record in records.items()
        if name != "start"
    }
    assert tokens["primary"] == 0
    if methods is ALL_METHODS:
        # equal budgets, roughly: a small pool has large active shares
        assert 0.5 < tokens["refusal_sft"] / tokens["forecast_bare"] < 1.5
    assert (tmp_path / "out" / "tails.png").stat().st_size > 10_000
    assert "**p =" in (tmp_path / "out" / "worst.md").read_text()
    written = record_path(tmp_path / "out" / "records", "forecast", 1).stat().st_mtime_ns
    again = subprocess.run([*command[:-1], str(tmp_path / "out")], capture_output=True, text=True, env=environment)
    assert again.returncode == 0
    assert written == record_path(tmp_path / "out" / "records", "forecast", 1).stat().st_mtime_ns
    other = subprocess.run([*command, "--steps", "3"], capture_output=True, text=True, env=environment)
    assert "that differ in ['steps']" in " ".join(other.stderr.split())
