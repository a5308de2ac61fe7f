"""ForecastGuard: warns when a training goes in a degenerate direction (docs/gridworld.md; docs/method.md section 6)."""

from __future__ import annotations

import math

from sb3_forecast.training.losses import LossTerms

#: a sign must be seen at this many refreshes in a row: once or twice can be chance
_PATIENCE = 3


class TrainingWarning(UserWarning):
    """What a training says of its own course. It depends on the weights, so it may differ between machines.

    It is a category of its own, so that one can silence it, or turn it into an error::

        warnings.simplefilter("error", sb3_forecast.TrainingWarning)
    """


class ForecastGuard:
    """Says what looks wrong with a training. Use one object for all refreshes of a run.

    It looks for five signs:

    - the scores run away: the error grows far beyond the smallest error so far
    - the tail has collapsed to a point: there is no error, and nothing to learn
    - the loss asks tasks to fail more
    - the forecasts are far too high, because evaluation sets usually contain the rare mode
    - the agent has become safe by no longer succeeding
    """

    def __init__(self) -> None:
        self._smallest_error = math.inf
        self._best_success = 0.0
        self._lasting: dict[str, int] = {}

    def look(self, terms: LossTerms, success: float | None) -> list[str]:
        """Look at a refresh.

        :param terms: what the refresh returned
        :param success: share of recent training episodes that succeeded; ``None`` if not known
        :return: warnings; empty while all is well
        """
        signs: dict[str, str] = {}
        if len(terms.forecast):
            error = (terms.forecast - terms.realised).abs().mean().item()
            signed = (terms.forecast - terms.realised).mean().item()
            self._smallest_error = min(self._smallest_error, error)
            if error > 3.0 + 5.0 * self._smallest_error:
                signs["away"] = (
                    f"the scores run away: the forecast error is {error:.1f}, its smallest value was {self._smallest_error:.2f}; "
                    "use a smaller forecast_coef, or forecast_kind='guarded'"
                )
            if signed > 2.0:
                signs["outlier"] = (
                    f"forecasts are too high by {signed:.1f} on average: the evaluation sets usually contain the rare mode, "
                    "and one outlier makes the fitted scale too large; use a smaller eval_size, or forecast_method='blue'"
                )
            if terms.scale.mean().item() < 1e-6:
                signs["collapse"] = (
                    "the tail has collapsed to a point: all top scores are equal, so nothing is forecast; use a larger p_floor, or stop training"
                )
        raised = terms.weights.clamp(max=0.0).abs().sum().item() - terms.held
        total = terms.weights.abs().sum().item()
        if raised > 0.01 * total > 0.0:
            signs["raised"] = (
                f"{raised / total:.0%} of the loss's weight makes tasks fail more, so that they fit the forecast; use forecast_kind='guarded'"
            )
        if success is not None:
            self._best_success = max(self._best_success, success)
            if success < 0.5 * self._best_success and self._best_success > 0.2:
                signs["success"] = (
                    f"success has fallen from {self._best_success:.2f} to {success:.2f}: an agent that does nothing has a small forecast "
                    "error too; use a smaller forecast_coef, or a larger drawn_share"
                )
        self._lasting = {sign: self._lasting.get(sign, 0) + 1 for sign in signs}
        return [text for sign, text in signs.items() if self._lasting[sign] >= _PATIENCE]
