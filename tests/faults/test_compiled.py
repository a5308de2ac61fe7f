"""Compiled code on disk, the only files of the gridworlds: what goes wrong with them costs time, and no run."""

import importlib.util
import sys
from functools import partial

import pytest

from tests.faults.victims import run

# each case is a process of its own
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


def doubled(folder):
    """Import a module anew, and call its compiled function; return the result, and the warnings."""
    import warnings

    spec = importlib.util.spec_from_file_location("compiled_here", folder / "compiled_here.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["compiled_here"] = module
    spec.loader.exec_module(module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = module.double(21)
    return result, [str(entry.message) for entry in caught]


@pytest.fixture
def folder(tmp_path):
    code = "from sb3_forecast.jit import jit\n\n@jit\ndef double(x):\n    return 2 * x\n"
    (tmp_path / "compiled_here.py").write_text(code)
    return tmp_path


def test_a_full_disk_costs_only_the_time_to_compile_again(folder):
    ended = run(partial(doubled, folder), limit=100)
    assert ended.error is None, ended.trace
    result, said = ended.value
    assert result == 42
    assert len(said) == 1
    assert "compiled code cannot be kept in" in said[0]
    assert list(folder.rglob("*.nb[ic]")) == []


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_compiled_code_is_compiled_again(folder, suffix):
    assert run(partial(doubled, folder)).value == (42, [])
    [path] = folder.rglob(f"*.{suffix}")
    path.write_bytes(path.read_bytes()[:-30])
    ended = run(partial(doubled, folder))
    assert ended.error is None, ended.trace
    result, said = ended.value
    assert result == 42
    assert any("is damaged" in line for line in said)
    # and what is kept then is whole
    assert run(partial(doubled, folder)).value == (42, [])
