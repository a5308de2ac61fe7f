"""Plain data goes to files and back unchanged; anything else is refused before a file is written."""

import hashlib
import json
from collections import deque

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_forecast.training.plain import DamagedError, NotPlainError, check_checksums, read_plain, write_checksums, write_plain

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


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.Philox, np.random.MT19937, np.random.SFC64])
def test_generators_of_every_kind(tmp_path, bits):
    generator = np.random.Generator(bits(5))
    generator.random(3)
    write_plain(tmp_path, "x", generator)
    found = read_plain(tmp_path, "x")
    assert type(found.bit_generator) is bits
    np.testing.assert_array_equal(found.random(4), generator.random(4))


def test_arrays_within_containers_of_every_kind(tmp_path):
    content = [
        np.arange(2),
        (np.arange(3), th.ones(1)),
        deque([np.zeros(1)], 3),
        {"a": {"b": np.ones(2)}},
        {1: np.full(2, 5.0)},
    ]
    write_plain(tmp_path, "x", content)
    a, (b, c), d, e, f = read_plain(tmp_path, "x")
    assert [a.tolist(), b.tolist(), c.tolist(), d[0].tolist(), e["a"]["b"].tolist(), f[1].tolist()] == [
        [0, 1], [0, 1, 2], [1.0], [0.0], [1.0, 1.0], [5.0, 5.0],
    ]  # fmt: skip
    assert d.maxlen == 3


def test_keys_that_hold_arrays_are_plain_too(tmp_path):
    write_plain(tmp_path, "x", {(np.float64(0.5), 1): "a"})
    assert read_plain(tmp_path, "x") == {(0.5, 1): "a"}


def test_a_tensor_with_a_gradient_comes_back_without(tmp_path):
    write_plain(tmp_path, "x", th.ones(2, requires_grad=True) * 3)
    found = read_plain(tmp_path, "x")
    assert found.tolist() == [3.0, 3.0]
    found += 1.0  # it may be written to


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([0, [object()]], r"x\[1\]\[0\]"), ({"a": {"b": object()}}, r"x\.a\.b"), ({"a": [(object(),)]}, r"x\.a\[0\]"),
        ({"a": {1: object()}}, r"x\.a"), ({"a": {object(): 1}}, r"x\.a"), ({"a": deque([object()])}, r"x\.a"),
        ({"a": np.array([None])}, r"x\.a"),
    ],
)  # fmt: skip
def test_the_place_of_what_is_not_plain_is_named(tmp_path, value, where):
    with pytest.raises(NotPlainError, match=rf"^{where} must hold plain data, got (object|an array of Python objects)$"):
        write_plain(tmp_path, "x", value)


@pytest.mark.parametrize("name", ["x.json", "x.npz"])
def test_a_damaged_file_is_named(tmp_path, name):
    write_plain(tmp_path, "x", {"a": np.arange(3)})
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(DamagedError, match="x is damaged"):
        read_plain(tmp_path, "x")


def test_checksums_are_those_of_the_files_and_not_of_themselves(tmp_path):
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    for _ in range(2):
        write_checksums(tmp_path)
    found = json.loads((tmp_path / "checksums.json").read_text())
    assert found == {name: hashlib.sha256(text).hexdigest() for name, text in (("a", b"one"), ("b", b"two"))}
    check_checksums(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(DamagedError, match="a is damaged or missing: its checksum is another"):
        check_checksums(tmp_path)
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(DamagedError, match=r"checksums\.json is damaged or missing"):
        check_checksums(tmp_path)
