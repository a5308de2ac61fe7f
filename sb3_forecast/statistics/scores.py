"""The failure score psi = -log(-log p) and its inverses, stable in log space (docs/method.md section 1).

Inputs may be numpy arrays, torch tensors (gradients flow) or numbers. Results are float64 of the same kind.
p = 0 has the score -inf, p = 1 has the score +inf.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import array_api_compat
import numpy as np
import torch as th
from numpy.typing import NDArray

Array = TypeVar("Array", NDArray[np.float64], th.Tensor)

#: beyond this score, log(1 - p) = -psi to the last bit of a float64 (docs/method.md eq. 2)
_ASYMPTOTIC = 37.0


def float64_array(values: Any) -> Any:
    """Convert to float64: a tensor stays a torch tensor, anything else becomes a numpy array.

    :param values: array, tensor, number or sequence of numbers
    :return: float64, same shape; tensors keep their graph
    :raises TypeError: if the values are no real numbers, such as texts, ``None`` or complex numbers
    :raises ValueError: if values are masked
    """
    if isinstance(values, th.Tensor):
        return values.to(th.float64)
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"an array must have no masked values, got {int(np.ma.getmaskarray(values).sum())} of them; drop them with .compressed(), "
            "or score these tasks again"
        )
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise TypeError(
            f"values must be numbers, got {array.dtype} ({str(values)[:40]}); use a float64 array, and drop missing values first"
        )
    return array.astype(np.float64, copy=False)


def score_vector(scores: Any, name: str = "scores") -> NDArray[np.float64]:
    """The scores of a set of tasks as a numpy array; they need not be finite below the top.

    :param scores: array, tensor or sequence, shape (m,)
    :param name: name of the argument, for messages
    :return: shape (m,), float64
    :raises TypeError: if the scores are no numbers
    :raises ValueError: if the shape is another, or a score is NaN or +inf
    """
    x = float64_array(scores)
    x = x.detach().cpu().numpy() if isinstance(x, th.Tensor) else x
    if x.ndim != 1 or not len(x):
        raise ValueError(f"{name} must have shape (m,), m >= 1, got {x.shape}; use one score per task")
    bad = np.flatnonzero(np.isnan(x) | (x == np.inf))
    if len(bad):
        raise ValueError(
            f"{name} must be numbers below +inf, got {x[bad[0]]} at {bad[0]} ({len(bad)} of {len(x)}); score these tasks again, with "
            "failure_score_from_log_survival if p is close to 1"
        )
    return np.asarray(x)


def float64_like(values: NDArray[Any], like: Any) -> Any:
    """Convert constants to the array type of ``like``.

    :param values: numpy array
    :param like: numpy array, or torch tensor in float64
    :return: the values as a float64 numpy array, or as a tensor with the dtype and device of ``like``
    """
    array = np.asarray(values, dtype=np.float64)
    return array if isinstance(like, np.ndarray) else like.new_tensor(array)


def _log_argument(values: Any, name: str) -> Any:
    x = float64_array(values)
    if bool((x > 0).any()) or bool((x != x).any()):
        bad = x[(x > 0) | (x != x)] if x.ndim else x
        raise ValueError(
            f"{name} must be natural logarithms of probabilities, at most 0 and not NaN, got {float(bad.reshape(-1)[0])}; "
            "pass log p, not p"
        )
    return x


def log1mexp(a: Any) -> Any:
    """log(1 - e^-a) for a >= 0, accurate for small and for large a (docs/method.md eq. 2).

    :param a: numbers >= 0, any shape
    :return: same shape, float64; -inf at a = 0
    """
    x = float64_array(a)
    xp = array_api_compat.array_namespace(x)
    small = x < math.log(2)
    # each branch gets only arguments inside its own range, else the gradient of the branch that is not used could be NaN
    near = xp.where(small, x, xp.ones_like(x))
    far = xp.where(small, xp.ones_like(x), x)
    with np.errstate(divide="ignore"):
        return xp.where(small, xp.log(-xp.expm1(-near)), xp.log1p(-xp.exp(-far)))


def failure_score(log_p: Any) -> Any:
    """Failure score of a log-probability, psi = -log(-log p) (docs/method.md section 1, eq. 1).

    :param log_p: natural log of the failure probability, any shape, <= 0
    :return: scores, same shape, float64; -inf for p = 0 and +inf for p = 1
    :raises ValueError: if a value is positive or NaN

    >>> float(failure_score(-1.0))
    -0.0
    """
    x = _log_argument(log_p, "log_p")
    xp = array_api_compat.array_namespace(x)
    with np.errstate(divide="ignore"):
        return -xp.log(-x)


def log_failure_probability(score: Any) -> Any:
    """Log failure probability of a score, log p = -exp(-psi) (docs/method.md section 1, eq. 2).

    :param score: failure scores, any shape
    :return: natural logs, same shape, float64
    """
    x = float64_array(score)
    xp = array_api_compat.array_namespace(x)
    with np.errstate(over="ignore"):
        return -xp.exp(-x)


def failure_probability(score: Any) -> Any:
    """Failure probability of a score, p = exp(-exp(-psi)) (docs/method.md section 1, eq. 2).

    :param score: failure scores, any shape
    :return: probabilities, same shape, float64
    """
    log_p = log_failure_probability(score)
    return array_api_compat.array_namespace(log_p).exp(log_p)


def log_survival_probability(score: Any) -> Any:
    """Log survival probability log(1 - p) of a score, precise also for p close to 1 or to 0 (docs/method.md section 1, eq. 2).

    :param score: failure scores, any shape
    :return: natural logs, same shape, float64
    """
    x = float64_array(score)
    xp = array_api_compat.array_namespace(x)
    far = x > _ASYMPTOTIC
    near = xp.where(far, xp.zeros_like(x), x)
    with np.errstate(over="ignore"):
        return xp.where(far, -x, log1mexp(xp.exp(-near)))


def failure_score_from_log_survival(log1mp: Any) -> Any:
    """Failure score of a log survival probability log(1 - p) (docs/method.md section 1, eq. 4).

    It keeps its full relative precision for p close to 1 and for p close to 0.

    :param log1mp: natural log of 1 - p, any shape, <= 0
    :return: scores, same shape, float64
    :raises ValueError: if a value is positive or NaN
    """
    q = _log_argument(log1mp, "log1mp")
    xp = array_api_compat.array_namespace(q)
    far = q < -_ASYMPTOTIC
    near = xp.where(far, -xp.ones_like(q), q)
    with np.errstate(divide="ignore"):
        return xp.where(far, -q, -xp.log(-log1mexp(-near)))
