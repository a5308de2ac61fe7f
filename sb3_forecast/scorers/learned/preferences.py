"""Is the failure critic right about actions? Its gradient is worth as much as that, however well it foresees failures."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: number of latest rollouts that count
_ROUNDS = 30
#: the slope must be above 0 by this many standard errors (one-sided 95%)
_SURE = 1.645


class Preferences:
    """Compares what the critic preferred with what happened, *before* it learnt from it.

    At each step, A = c(s, a) - sum_b pi(b|s) c(s, b) says how much worse the chosen action was than the others, and y - sum_b pi(b|s) c(s, b)
    how much worse it came. The slope of the second on the first is 1 for the true critic, and 0 for one whose preferences are noise. A critic
    can foresee every failure by the situation alone, and still have a slope of 0: then its gradient is noise of full length.
    """

    def __init__(self) -> None:
        self._products: deque[NDArray[np.float64]] = deque(maxlen=_ROUNDS)
        self._squares: deque[NDArray[np.float64]] = deque(maxlen=_ROUNDS)

    def add(self, preferred: NDArray[np.float64], happened: NDArray[np.float64], begin: NDArray[np.int64]) -> None:
        """Record the steps of some episodes.

        :param preferred: A of each step, shape (steps,), float64
        :param happened: how much worse the episode ended than the critic expected at the step, shape (steps,), float64
        :param begin: first step of each episode, ascending, shape (episodes,), int64. Steps of one episode depend on each other
        """
        self._products.append(np.add.reduceat(preferred * happened, begin))
        self._squares.append(np.add.reduceat(preferred**2, begin))

    @property
    def slope(self) -> float:
        """Slope of what happened on what was preferred; NaN if nothing was preferred."""
        squares = sum(float(part.sum()) for part in self._squares)
        return sum(float(part.sum()) for part in self._products) / squares if squares > 0.0 else float("nan")

    @property
    def errors_above_zero(self) -> float:
        """The slope in units of its standard error, which takes each episode as one observation; 0 if there is none."""
        slope = self.slope
        if np.isnan(slope):
            return 0.0
        products, squares = np.concatenate(self._products), np.concatenate(self._squares)
        error = float(np.sqrt(((products - slope * squares) ** 2).sum()))
        return float(products.sum()) / error if error > 0.0 else 0.0

    @property
    def hold(self) -> bool:
        """Whether the critic's preferences are worth something, beyond doubt."""
        return self.errors_above_zero > _SURE

    def metrics(self) -> dict[str, float]:
        """Names and values to log, without those that are NaN."""
        return (
            {}
            if np.isnan(self.slope)
            else {"forecast/action_slope": self.slope, "forecast/action_errors": self.errors_above_zero}
        )

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"products": list(self._products), "squares": list(self._squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self._products, self._squares = (deque(state[name], maxlen=_ROUNDS) for name in ("products", "squares"))
