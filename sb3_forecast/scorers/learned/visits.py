"""Where scoring met a risk: what the gradient is taken at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.scorers.protocols import Tasks
from sb3_forecast.scorers.situations import Situations


@dataclass(frozen=True)
class RiskyVisits:
    """Situations in which some action was thought to fail, or did.

    :param tasks: the tasks that were scored
    :param episode: of each visit, shape (visits,); episodes of a task are neighbours
    :param situations: one batch per step in which there were any, in the order of ``episode``
    :param failure: c of each action, shape (visits, actions)
    """

    tasks: Tasks
    episode: NDArray[np.int64]
    situations: list[Situations]
    failure: NDArray[np.float64]
