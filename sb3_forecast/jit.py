"""Compile Python functions with numba."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])


class _Forgiving(FunctionCache):
    """Compiled code on disk. A full disk or a damaged file costs the time to compile again, and not the run."""

    def load_overload(self, *arguments: Any) -> Any:
        """Compiled code; ``None`` if there is none, or none that can be read."""
        try:
            return super().load_overload(*arguments)
        except Exception as error:  # pickle and LLVM raise many kinds
            warnings.warn(f"compiled code in {self.cache_path} is damaged ({error}): it is compiled again", stacklevel=2)
            with suppress(Exception):
                self.flush()  # or a damaged index would stay
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep compiled code if that is possible."""
        try:
            super().save_overload(*arguments)
        except Exception as error:
            warnings.warn(
                f"compiled code cannot be kept in {self.cache_path} ({error}): the next run compiles again", stacklevel=2
            )


def _compiled(function: F, **options: Any) -> F:
    dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    # where numba keeps its cache since 0.17; without it, the usual one stays
    if type(getattr(dispatcher, "_cache", None)) is FunctionCache:
        dispatcher._cache = _Forgiving(function)
    return cast(F, dispatcher)


def jit(function: F) -> F:
    """Compile a function with numba.

    The compiled code is kept on disk. Other threads can run while it runs. Type checkers see the type of the original function.

    :param function: the function; it is compiled at its first call
    :return: the compiled function
    """
    return _compiled(function)


def jit_leaf(function: F) -> F:
    """Compile as :func:`jit` does, for a function that makes no array and is called in the loops of compiled functions.

    It leaves out numba's reference counting, because its atomic operations cost more time than such a function.

    :param function: a function that makes no array
    :return: the compiled function
    """
    return _compiled(function, _nrt=False)
