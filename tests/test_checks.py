"""One sentence for each fault of an argument: what it must be, what it was, what to use."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

from sb3_forecast.checks import inside_unit, one_of, real, task_indices, whole

ZERO_D = np.array(3)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), ZERO_D, th.tensor(3), np.int32(3)])
def test_whole_numbers_of_every_kind(value):
    assert whole("k", value, low=3, high=3) == 3
    assert type(whole("k", value)) is int


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.True_, [3], np.array([3]), 3 + 0j, np.float64(3), th.tensor(3.0)])
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match=r"^k must be a whole number, got .*; use "):
        whole("k", value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), th.tensor(2.0), th.tensor(2.0, dtype=th.bfloat16), np.array(2.0)])
def test_numbers_of_every_kind(value):
    assert real("x", value, low=2.0) == 2.0
    assert type(real("x", value)) is float


@pytest.mark.parametrize("value", ["2", None, True, 1j, [2.0], SimpleNamespace()])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"^x must be a number, got .*; use "):
        real("x", value)
    with pytest.raises(TypeError, match=r"^level must be a number, got .*; use "):
        inside_unit("level", value)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (1, {"low": 2}, "x must be at least 2, got 1"),
        (3, {"high": 2}, "x must be at most 2, got 3"),
        (3, {"low": 1, "high": 2}, r"x must be in \[1, 2\], got 3"),
        (float("nan"), {}, "x must be finite, got nan"),
        (float("nan"), {"low": 1}, "x must be at least 1, got nan"),
        (float("inf"), {"low": 1}, "x must be finite, got inf"),
    ],
)
def test_ranges(value, limits, message):
    with pytest.raises(ValueError, match=message):
        real("x", value, **limits)


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 90, float("nan")])
def test_levels(value):
    with pytest.raises(ValueError, match="level must be strictly between 0 and 1, got"):
        inside_unit("level", value)


def test_words():
    one_of("method", "blue", ("blue", "jones"))
    with pytest.raises(ValueError, match=r"method must be one of \('blue', 'jones'\), got 'blu'; use 'blue'"):
        one_of("method", "blu", ("blue", "jones"))


def test_indices_and_masks():
    np.testing.assert_array_equal(task_indices(None, 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(task_indices([3, 1], 4), [3, 1])
    np.testing.assert_array_equal(task_indices(np.array([True, False, True, False]), 4), [0, 2])
    np.testing.assert_array_equal(task_indices(th.tensor([2]), 4), [2])
    assert len(task_indices([], 4)) == 0
    assert len(task_indices([False] * 4, 4)) == 0


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ([True, False], ValueError, r"one entry per task \(4\) as a mask, got shape \(2,\)"),
        ([1.5], TypeError, "tasks must be whole numbers or a mask, got float64"),
        ([1.0], TypeError, "tasks must be whole numbers or a mask, got float64"),
        (["a"], TypeError, "tasks must be whole numbers or a mask"),
        ([-1], ValueError, "tasks must be from 0 to 3, got -1"),
        ([0, 4], ValueError, "tasks must be from 0 to 3, got 4"),
        (2, ValueError, r"tasks must have shape \(chosen,\), got \(\)"),
    ],
)
def test_what_chooses_no_tasks(tasks, error, message):
    with pytest.raises(error, match=message):
        task_indices(tasks, 4)
