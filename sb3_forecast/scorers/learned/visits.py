"""The risky situations that scoring visited. The gradient is computed there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.scorers.protocols import Tasks
from sb3_forecast.scorers.situations import Situations


@dataclass(frozen=True)
class RiskyVisits:
    """Situations in which the cost model expected a failure of some action, or in which one happened.

    :param tasks: the tasks that were scored
    :param episode: episode of each visit, shape (visits,), int64; the episodes of one task are neighbours
    :param situations: one batch for each step with risky situations, in the order of ``episode``
    :param failure: probability c that each action fails, shape (visits, actions), float64
    """

    tasks: Tasks
    episode: NDArray[np.int64]
    situations: list[Situations]
    failure: NDArray[np.float64]
