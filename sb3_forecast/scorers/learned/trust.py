"""Signs that a learned cost model, and so the scores that it gives, should not be believed."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: failing transitions below which nothing can be said
MIN_FAILURES = 30
#: limits of expected over observed failures
CALIBRATION = (0.5, 2.0)
#: share of a probe's failures that the model must have seen coming
FORESIGHT = 0.9
#: rounds that are looked back on
_ROUNDS = 10


class Trust:
    """Keeps score of what a cost model predicted of transitions *before* it was trained on them.

    Calibration is looked at on all of them; foresight, the share of failures whose c was at least tau, on those of probes where there are
    any: it is the only check that notices a cost that comes late, or a hazard that looks like a safe place.
    """

    def __init__(self) -> None:
        self._expected: deque[float] = deque(maxlen=_ROUNDS)
        self._observed: deque[int] = deque(maxlen=_ROUNDS)
        self._failures: deque[int] = deque(maxlen=_ROUNDS)
        self._foreseen: deque[int] = deque(maxlen=_ROUNDS)
        self._probing = False

    def add(self, c: NDArray[np.float64], failed: NDArray[np.bool_], tau: float, probing: bool) -> None:
        """Note what was predicted of some transitions.

        :param c: predicted probabilities of a cost, shape (n,)
        :param failed: whether it came, shape (n,)
        :param tau: threshold of a prediction that counts
        :param probing: whether they come from probes
        """
        self._expected.append(float(c.sum()))
        self._observed.append(int(failed.sum()))
        if probing and not self._probing:
            # probes meet failures that nothing else meets: from now on they are what counts
            self._probing = True
            self._failures.clear()
            self._foreseen.clear()
        if probing or not self._probing:
            self._failures.append(int(failed.sum()))
            self._foreseen.append(int((c[failed] >= tau).sum()))

    @property
    def calibration(self) -> float:
        """Expected over observed failures of the last rounds; NaN if none was observed."""
        observed = sum(self._observed)
        return sum(self._expected) / observed if observed else float("nan")

    @property
    def foresight(self) -> float:
        """Share of failures that were predicted before they were learnt from; NaN if there was none."""
        failures = sum(self._failures)
        return sum(self._foreseen) / failures if failures else float("nan")

    def metrics(self) -> dict[str, float]:
        """What to log; only numbers that exist."""
        found = {"forecast/cost_calibration": self.calibration, "forecast/cost_foresight": self.foresight}
        return {key: value for key, value in found.items() if not np.isnan(value)}

    def warnings(self, n_failures: int, scores: NDArray[np.float64], k: int) -> list[str]:
        """Reasons not to trust some scores.

        :param n_failures: failing transitions that the cost model has learnt from
        :param scores: scores of tasks
        :param k: top scores that a forecast uses
        """
        found = []
        if n_failures < MIN_FAILURES:
            found.append(
                f"the cost model has seen {n_failures} failing transitions, fewer than {MIN_FAILURES}: train longer, or allow probes"
            )
        if sum(self._observed) >= 10 and not CALIBRATION[0] <= self.calibration <= CALIBRATION[1]:
            found.append(
                f"it expects {self.calibration:.2f} times the failures that occur: costs that come by chance, or late (try delay=...)"
            )
        if sum(self._failures) >= 10 and self.foresight < FORESIGHT:
            found.append(
                f"it saw only {self.foresight:.0%} of the failures coming: they come late, or look like safe places (try delay=..., or give the "
                "agent an observation that tells them apart)"
            )
        top = np.sort(np.asarray(scores))[::-1][:k]
        if not np.isfinite(top).all():
            found.append(
                f"only {int(np.isfinite(scores).sum())} tasks have any risk that it knows of, and a forecast from the top {k} does not exist: "
                "the agent is safe as far as these episodes tell, or the cost model is blind"
            )
        elif len(np.unique(top)) < len(top):
            found.append(f"the {k} largest scores are not all different")
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {name: list(value) if isinstance(value, deque) else value for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        for name, value in state.items():
            setattr(self, name, deque(value, maxlen=_ROUNDS) if isinstance(value, list) else value)
