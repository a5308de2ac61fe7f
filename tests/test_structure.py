"""The house stays in order: no import circles, arrows one way, light imports, a maximum size of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "sb3_forecast": ROOT / "sb3_forecast",
    "sb3_forecast_envs": ROOT / "envs" / "sb3_forecast_envs",
    "studies": ROOT / "studies",
}


def modules():
    """Every module by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path, known):
    """Modules of ours that a file imports anywhere, in functions and for type checkers, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name in known}


@pytest.fixture(scope="module")
def arrows():
    known = modules()
    found = {}
    for name, path in known.items():
        targets = imports(path, known) - {name}
        # `from a.b import c` needs a.b.c; that a package's __init__ runs first is no use of it
        found[name] = {t for t in targets if not any(other.startswith(t + ".") for other in targets)}
    return found


def circles(arrows):
    """Groups of modules that reach each other, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in arrows[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def test_no_import_circles(arrows):
    # the package's own __init__ names every module, for type checkers only
    arrows = {name: targets - {"sb3_forecast"} for name, targets in arrows.items() if name != "sb3_forecast"}
    assert len(arrows) > 100
    assert circles(arrows) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


#: package -> what it may import of ours, besides itself; the first line of each package's __init__ says what it is for
ALLOWED = {
    "sb3_forecast.statistics": {"sb3_forecast.checks", "sb3_forecast.files"},
    "sb3_forecast.scorers": {"sb3_forecast.checks", "sb3_forecast.files", "sb3_forecast.jit", "sb3_forecast.statistics"},
    "sb3_forecast.training": {
        "sb3_forecast.checks", "sb3_forecast.files", "sb3_forecast.scorers", "sb3_forecast.statistics", "sb3_forecast.measuring",
    },
    "sb3_forecast.baselines": {"sb3_forecast.checks", "sb3_forecast.statistics", "sb3_forecast.training"},
    "sb3_forecast.measuring": {
        "sb3_forecast.checks", "sb3_forecast.descriptors", "sb3_forecast.files", "sb3_forecast.scorers", "sb3_forecast.statistics",
    },
    "sb3_forecast.cluster": {
        "sb3_forecast.checks", "sb3_forecast.files", "sb3_forecast.scorers", "sb3_forecast.statistics", "sb3_forecast.version",
    },
    "sb3_forecast.cli": {
        "sb3_forecast.baselines", "sb3_forecast.checks", "sb3_forecast.cluster", "sb3_forecast.files", "sb3_forecast.measuring",
        "sb3_forecast.scorers", "sb3_forecast.statistics", "sb3_forecast.training",
    },
    "sb3_forecast.lm": {
        "sb3_forecast.checks", "sb3_forecast.descriptors", "sb3_forecast.files", "sb3_forecast.scorers", "sb3_forecast.statistics",
        "sb3_forecast.training",
    },
    "sb3_forecast_envs": {"sb3_forecast.checks", "sb3_forecast.descriptors", "sb3_forecast.files", "sb3_forecast.jit"},
}  # fmt: skip


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_go_one_way(arrows, package):
    allowed = {package, *ALLOWED[package]}
    mine = {name: targets for name, targets in arrows.items() if name == package or name.startswith(package + ".")}
    assert mine
    for name, targets in mine.items():
        for target in targets:
            assert any(target == a or target.startswith(a + ".") for a in allowed), f"{name} imports {target}"


def test_the_library_never_imports_the_environments(arrows):
    assert not [
        (name, target)
        for name, targets in arrows.items()
        for target in targets
        if name.startswith("sb3_forecast.") and target.startswith("sb3_forecast_envs")
    ]


def test_the_statistics_need_no_algorithms():
    """They import neither Stable-Baselines3 nor gymnasium."""
    code = (
        "import sys, importlib, pathlib, sb3_forecast.statistics as package\n"
        "for path in sorted(pathlib.Path(package.__path__[0]).glob('[a-z]*.py')):\n"
        "    importlib.import_module(f'sb3_forecast.statistics.{path.stem}')\n"
        "print([name for name in ('stable_baselines3', 'gymnasium', 'minigrid') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_imports_are_light():
    """`import sb3_forecast` and the command line's help load nothing heavy; a name is loaded when it is used."""
    heavy = (
        "[name for name in ('torch', 'scipy', 'matplotlib', 'pandas', 'numba', 'stable_baselines3') if name in sys.modules]"
    )
    code = f"import sys, sb3_forecast, sb3_forecast.cli.commands; print({heavy}); sb3_forecast.GumbelTail; print('scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert found[:2] == ["[]", "True"]


def test_every_public_name_is_there():
    import sb3_forecast as sf
    import sb3_forecast_envs as sfe

    for package in (sf, sfe):
        assert len(package.__all__) == len(set(package.__all__))
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'ForecastPP0'"):
        sf.ForecastPP0  # noqa: B018  # asked for on purpose


def test_files_hold_one_idea():
    # word lists are data
    long = {name: len(path.read_text().splitlines()) for name, path in modules().items() if "grammar" not in name}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


def test_no_paths_of_one_machine():
    texts = [path for pattern in ("*.md", "*.toml", "Makefile") for path in ROOT.glob(pattern)]
    texts += [*modules().values(), *(ROOT / "docs").glob("*.md")]
    homes = tuple("/" + name + "/" for name in ("root", "home", "work"))
    for path in texts:
        assert not any(home in path.read_text(encoding="utf-8") for home in homes), path
