"""Compile Python functions with numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function with numba.

    The compiled code is kept on disk. Other threads can run while it runs. Type checkers see the type of the original function.

    :param function: the function; it is compiled at its first call
    :return: the compiled function
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def jit_leaf(function: F) -> F:
    """Compile as :func:`jit` does, for a function that makes no array and is called in the loops of compiled functions.

    It leaves out numba's reference counting, because its atomic operations cost more time than such a function.

    :param function: a function that makes no array
    :return: the compiled function
    """
    options: dict[str, Any] = {
        "_nrt": False,
        "cache": True,
        "nogil": True,
        "error_model": "numpy",
    }  # a dictionary, because numba's type stub does not know _nrt
    return cast(F, numba.njit(**options)(function))
