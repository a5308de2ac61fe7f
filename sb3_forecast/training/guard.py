"""Watches a training for the degenerate directions that a forecast loss has (docs/gridworld.md; docs/method.md section 6)."""

from __future__ import annotations

import math

from sb3_forecast.training.losses import LossTerms

#: refreshes in a row that a sign must last
_PATIENCE = 3


class ForecastGuard:
    """Says what looks wrong with a training; the same object sees all its refreshes.

    What it looks for: scores that run away (the error grows far beyond the smallest so far), a tail that has collapsed to a point (no error, and
    nothing learnt), a loss that asks tasks to fail more, forecasts far too high because the evaluation part usually contains the rare mode, and
    an agent that has become safe by no longer succeeding.
    """

    def __init__(self) -> None:
        self._smallest_error = math.inf
        self._best_success = 0.0
        self._lasting: dict[str, int] = {}

    def look(self, terms: LossTerms, success: float | None) -> list[str]:
        """Warnings after a refresh; empty while all is well.

        :param terms: of the refresh
        :param success: share of recent training episodes that succeeded; ``None`` if not known
        """
        signs: dict[str, str] = {}
        if len(terms.forecast):
            error = (terms.forecast - terms.realised).abs().mean().item()
            signed = (terms.forecast - terms.realised).mean().item()
            self._smallest_error = min(self._smallest_error, error)
            if error > 3.0 + 5.0 * self._smallest_error:
                signs["away"] = (
                    f"the forecast error is {error:.1f}, after {self._smallest_error:.2f} earlier: the scores run away; lower forecast_coef, "
                    "or use forecast_kind='guarded'"
                )
            if signed > 2.0:
                signs["outlier"] = (
                    f"forecasts are too high by {signed:.1f} on average: the evaluation parts usually contain the rare mode, "
                    "whose outlier drags the line; use a smaller eval_size, or forecast_method='blue'"
                )
            if terms.scale.mean().item() < 1e-6:
                signs["collapse"] = (
                    "the tail has collapsed to a point: there is nothing left to forecast; raise p_floor, or stop here"
                )
        raised = terms.weights.clamp(max=0.0).abs().sum().item()
        total = terms.weights.abs().sum().item()
        if raised > 0.01 * total > 0.0:
            signs["raised"] = (
                f"{raised / total:.0%} of the loss's weight asks tasks to fail more, so that they fit the forecast; use forecast_kind='guarded'"
            )
        if success is not None:
            self._best_success = max(self._best_success, success)
            if success < 0.5 * self._best_success and self._best_success > 0.2:
                signs["success"] = (
                    f"success has fallen from {self._best_success:.2f} to {success:.2f}: who does nothing has no forecast error either; "
                    "lower forecast_coef, or raise drawn_share"
                )
        self._lasting = {sign: self._lasting.get(sign, 0) + 1 for sign in signs}
        return [text for sign, text in signs.items() if self._lasting[sign] >= _PATIENCE]
