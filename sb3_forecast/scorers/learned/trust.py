"""Checks whether a learnt cost model, and so its scores, can be trusted."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: a cost model that has seen fewer failing transitions cannot be trusted
MIN_FAILURES = 30
#: allowed range of expected over observed failures
CALIBRATION = (0.5, 2.0)
#: smallest share of the failures that the model must have foreseen
FORESIGHT = 0.9
#: the same for the gradient: a warning is enough where scores are read, but a cost model beyond these limits must not move the policy
USABLE_CALIBRATION, USABLE_FORESIGHT = (0.2, 5.0), 0.5
#: a cost model beyond these limits gets this share of the steps at most: enough to find out when that changes
_UNUSABLE_SHARE = 0.1
#: failures that are needed to judge
_ENOUGH = 10
#: number of latest rounds that the checks use
_ROUNDS = 10


class Trust:
    """Records what a cost model predicted for transitions *before* it was trained on them.

    There are two measures:

    - calibration: expected over observed failures, on all transitions
    - foresight: the share of failures for which c was at least tau. If there are probes, only their failures are counted.
      This is the only check that notices costs that come late, and hazards that look like safe places
    """

    def __init__(self) -> None:
        self._expected: deque[float] = deque(maxlen=_ROUNDS)
        self._observed: deque[int] = deque(maxlen=_ROUNDS)
        self._failures: deque[int] = deque(maxlen=_ROUNDS)
        self._foreseen: deque[int] = deque(maxlen=_ROUNDS)
        self._probing = False

    def add(
        self,
        c: NDArray[np.float64],
        failed: NDArray[np.bool_],
        tau: float,
        probing: bool,
        warned: NDArray[np.float64] | None = None,
    ) -> None:
        """Record the predictions for some transitions.

        :param c: predicted probability of a cost, shape (n,), float64
        :param failed: whether the cost came, shape (n,), bool
        :param tau: a failure counts as foreseen if c is at least this
        :param probing: whether the transitions come from probes
        :param warned: largest c of each failed episode, shape (failures,), float64, if all transitions before a failure count as failed; most
            of them lie long before it, and need not show it. ``None`` if each failed transition is a failure of its own
        """
        self._expected.append(float(c.sum()))
        self._observed.append(int(failed.sum()))
        if probing and not self._probing:
            # probes find failures that other episodes do not find, so from now on only probes count
            self._probing = True
            self._failures.clear()
            self._foreseen.clear()
        if probing or not self._probing:
            judged = c[failed] if warned is None else warned
            self._failures.append(len(judged))
            self._foreseen.append(int((judged >= tau).sum()))

    @property
    def calibration(self) -> float:
        """Expected over observed failures in the latest rounds; NaN if none was observed."""
        observed = sum(self._observed)
        return sum(self._expected) / observed if observed else float("nan")

    @property
    def foresight(self) -> float:
        """Share of failures that were foreseen before the model learnt from them; NaN if there was none."""
        failures = sum(self._failures)
        return sum(self._foreseen) / failures if failures else float("nan")

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against training with the scores: too few failures to judge speak neither way."""
        low, high = USABLE_CALIBRATION
        calibrated = sum(self._observed) < _ENOUGH or low <= self.calibration <= high
        return calibrated and (sum(self._failures) < _ENOUGH or self.foresight >= USABLE_FORESIGHT)

    def share(self, largest: float) -> float:
        """The share of a training's steps that scoring and probing may take.

        :param largest: the share of a cost model that can be used
        """
        return largest if self.holds else min(largest, _UNUSABLE_SHARE)

    def metrics(self) -> dict[str, float]:
        """Names and values to log, without those that are NaN."""
        found = {"forecast/cost_calibration": self.calibration, "forecast/cost_foresight": self.foresight}
        return {key: value for key, value in found.items() if not np.isnan(value)}

    def warnings(self, n_failures: int, scores: NDArray[np.float64], k: int) -> list[str]:
        """Reasons not to trust some scores.

        :param n_failures: number of failing transitions that the cost model has learnt from
        :param scores: scores of some tasks, shape (tasks,), float64
        :param k: number of top scores that the forecast uses
        :return: one text per reason; empty if there is none
        """
        found = []
        if n_failures < MIN_FAILURES:
            found.append(
                f"the cost model has seen {n_failures} failing transitions, but needs {MIN_FAILURES}; train longer, or use probes"
            )
        if sum(self._observed) >= _ENOUGH and not CALIBRATION[0] <= self.calibration <= CALIBRATION[1]:
            found.append(
                f"the cost model expects {self.calibration:.2f} times the failures that happen; "
                "costs may come at random, or late (try delay=...)"
            )
        if sum(self._failures) >= _ENOUGH and self.foresight < FORESIGHT:
            found.append(
                f"the cost model has foreseen only {self.foresight:.0%} of the failures; costs may come late (try delay=...), "
                "or hazards may look like safe places (try an observation that shows the difference)"
            )
        top = np.sort(np.asarray(scores))[::-1][:k]
        if not np.isfinite(top).all():
            found.append(
                f"the cost model knows of a risk in only {int(np.isfinite(scores).sum())} tasks, "
                f"so there is no forecast from the top {k} scores; either the agent is safe in these episodes, "
                "or the cost model does not see the danger"
            )
        elif len(np.unique(top)) < len(top):
            found.append(f"some of the {k} largest scores are equal, so the fitted tail may be wrong")
        return found

    def warnings_of_episodes(self) -> list[str]:
        """Reasons not to trust a failure critic that learns from whole episodes; empty if there are none."""
        found = []
        if sum(self._observed) >= _ENOUGH and not CALIBRATION[0] <= self.calibration <= CALIBRATION[1]:
            found.append(
                f"the failure critic expects {self.calibration:.2f} times the failures that happen; the policy may change faster than it "
                "learns (try a smaller learning rate), or chance decides (try episodes=...)"
            )
        if sum(self._failures) >= _ENOUGH and self.foresight < FORESIGHT:
            found.append(
                f"the failure critic has foreseen only {self.foresight:.0%} of the failed episodes; they may be of a new kind, or hazards may "
                "look like safe places (try an observation that shows the difference)"
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {name: list(value) if isinstance(value, deque) else value for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        for name, value in state.items():
            setattr(self, name, deque(value, maxlen=_ROUNDS) if isinstance(value, list) else value)
