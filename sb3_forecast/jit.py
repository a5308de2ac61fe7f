"""Compiling Python functions with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function, keep the result on disk, and let other threads run meanwhile; the function's type is kept.

    :param function: compiled at its first call
    :return: the compiled function
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def jit_leaf(function: F) -> F:
    """As :func:`jit`, for a function that makes no array and is called from the loops of compiled functions.

    Without numba's reference counting, whose atomic operations cost more than such a function does.

    :param function: makes no array
    :return: the compiled function
    """
    options: dict[str, Any] = {
        "_nrt": False,
        "cache": True,
        "nogil": True,
        "error_model": "numpy",
    }  # numba's stub does not know the first
    return cast(F, numba.njit(**options)(function))
