"""The code in README and docs runs; numbers are made smaller, nothing else is changed."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
SMALLER = {
    "n_tasks=20_000": "n_tasks=1_000",
    "eval_size=1000": "eval_size=50",
    "n_envs=128": "n_envs=16",
    "500_000, progress_bar=True": "16_384",
    "n_tasks=12_000": "n_tasks=4_000",
}


def blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_readme(capsys):
    code, family = blocks("README.md")
    exec(compile(family.replace("5_000", "50"), "README.md", "exec"), namespace := {})
    assert len(namespace["tasks"]) == 50
    for old, new in SMALLER.items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "README.md", "exec"), {})  # the point of the test
    assert "worst failure probability of a task" in capsys.readouterr().out


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
