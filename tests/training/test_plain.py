"""Plain data goes to files and back unchanged; anything else is refused before a file is written."""

from collections import deque

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_forecast.training.plain import NotPlainError, read_plain, write_plain

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, 7))
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_trees(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("plain")
    write_plain(folder, "x", tree)
    found = read_plain(folder, "x")
    assert found == tree
    assert type(found) is type(tree)


def test_arrays_tensors_and_generators(tmp_path):
    generator = np.random.default_rng(3)
    content = {
        "array": np.arange(6, dtype=np.uint8).reshape(2, 3), "empty": np.zeros((0, 2)), "number": np.float32(0.1), "nan": float("nan"),
        "tensor": th.arange(4, dtype=th.uint8), "generator": generator, "marked": {"__plain__": "array", "key": "a0"}, 3: {1, 2},
    }  # fmt: skip
    write_plain(tmp_path, "x", content)
    found = read_plain(tmp_path, "x")
    np.testing.assert_array_equal(found["array"], content["array"])
    assert found["array"].dtype == np.uint8
    assert found["empty"].shape == (0, 2)
    assert (found["number"], type(found["number"])) == (np.float32(0.1), np.float32)
    assert np.isnan(found["nan"])
    assert th.equal(found["tensor"], content["tensor"])
    assert (found["marked"], found[3]) == (content["marked"], {1, 2})
    assert found["generator"].random() == generator.random()


@pytest.mark.parametrize("value", [object(), lambda: 1, np.array([object()]), {"a": [print]}, 1j])
def test_what_is_not_plain(tmp_path, value):
    with pytest.raises(NotPlainError, match=r"x.* must hold plain data, got"):
        write_plain(tmp_path, "x", value)
    assert not list(tmp_path.iterdir())
