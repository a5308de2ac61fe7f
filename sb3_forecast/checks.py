"""Checks of arguments: one sentence for each fault, the same everywhere. "X must be ..., got v; use ...".

A wrong type raises a ``TypeError``, a wrong value a ``ValueError``. Integers of numpy are whole numbers; a tensor or array that holds one
number is that number.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray


def whole(
    name: str, value: Any, low: int | None = None, high: int | None = None, use: str = "a whole number such as 10"
) -> int:
    """A whole number.

    :param name: name of the argument
    :param value: what was given
    :param low: smallest allowed value
    :param high: largest allowed value
    :param use: the remedy, after "use"
    :return: the number
    :raises TypeError: if it is no whole number; booleans and floats are none
    :raises ValueError: if it is out of range
    """
    number = int(_number(name, value, numbers.Integral, "a whole number", use))
    _within(name, number, low, high, use)
    return number


def check_seed(value: Any) -> int:
    """A seed: a whole number of at least 0.

    :param value: what was given as ``seed``
    :return: the seed
    :raises TypeError: if it is no whole number
    :raises ValueError: if it is negative
    """
    return whole("seed", value, low=0, use="a whole number such as 0")


def real(
    name: str, value: Any, low: float | None = None, high: float | None = None, use: str = "a number such as 0.5"
) -> float:
    """A finite number.

    :param name: name of the argument
    :param value: what was given
    :param low: smallest allowed value
    :param high: largest allowed value
    :param use: the remedy, after "use"
    :return: the number
    :raises TypeError: if it is no real number
    :raises ValueError: if it is NaN, infinite or out of range
    """
    number = _number(name, value, numbers.Real, "a number", use)
    _within(name, number, low, high, use)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}; use {use}")
    return float(number)


def inside_unit(name: str, value: Any, use: str = "a value strictly between 0 and 1 such as 0.9") -> float:
    """A level, a confidence or a probability that is neither 0 nor 1.

    :param name: name of the argument
    :param value: what was given
    :param use: the remedy, after "use"
    :return: the number
    :raises TypeError: if it is no real number
    :raises ValueError: if it is not strictly between 0 and 1
    """
    number = _number(name, value, numbers.Real, "a number", use)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name} must be strictly between 0 and 1, got {number}; use {use}")
    return float(number)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """One of a few words.

    :param name: name of the argument
    :param value: what was given
    :param allowed: the words
    :raises ValueError: if it is none of them
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}; use {allowed[0]!r}")


def task_indices(tasks: Any, n_tasks: int) -> NDArray[np.int64]:
    """Indices of tasks. A boolean mask over all tasks chooses those that are true.

    :param tasks: indices from 0, or a mask of shape (n_tasks,); ``None`` for all
    :param n_tasks: number of tasks
    :return: shape (chosen,), int64
    :raises TypeError: if the values are neither whole numbers nor a mask
    :raises ValueError: if a mask has another shape, or an index is out of range
    """
    if tasks is None:
        return np.arange(n_tasks)
    values = np.asarray(tasks)
    if values.dtype == np.bool_:
        if values.shape != (n_tasks,):
            raise ValueError(
                f"tasks must have one entry per task ({n_tasks}) as a mask, got shape {values.shape}; use np.flatnonzero of your condition"
            )
        return np.flatnonzero(values)
    if values.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values.dtype.kind not in "iu":
        raise TypeError(f"tasks must be whole numbers or a mask, got {values.dtype}; use indices from 0 to {n_tasks - 1}")
    if values.ndim != 1:
        raise ValueError(f"tasks must have shape (chosen,), got {values.shape}; use a list of indices")
    outside = (values < 0) | (values >= n_tasks)
    if outside.any():
        raise ValueError(f"tasks must be from 0 to {n_tasks - 1}, got {values[outside][0]}; use indices of tasks of this pool")
    return values.astype(np.int64)


def _number(name: str, value: Any, kind: type, what: str, use: str) -> Any:
    """The number that is given, or that an array or tensor holds which has one only. Booleans are no numbers."""
    number = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    if not isinstance(number, kind) or isinstance(number, (bool, np.bool_)):
        raise TypeError(f"{name} must be {what}, got {value!r} ({type(value).__name__}); use {use}")
    return number


def _within(name: str, number: Any, low: float | None, high: float | None, use: str) -> None:
    # a NaN is not within any range
    if low is not None and high is not None and not low <= number <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {number}; use {use}")
    if low is not None and not number >= low:
        raise ValueError(f"{name} must be at least {low:g}, got {number}; use {use}")
    if high is not None and not number <= high:
        raise ValueError(f"{name} must be at most {high:g}, got {number}; use {use}")
