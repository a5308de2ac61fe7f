"""Remembers the policy's log-probabilities, so that the policy is evaluated only once for each distinct view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.scorers.actor import Actor, Views
from sb3_forecast.scorers.views import ViewIndex


class PolicyMemo:
    """Remembers the policy's log-probabilities at each compact view. It is valid as long as the policy does not change.

    :param actor: the policy
    :param tasks: turns compact views into observations
    :param limit: when more views than this are known, all are forgotten, so that the memory stays bounded; ``None`` for
        no limit
    """

    def __init__(self, actor: Actor, tasks: Views, limit: int | None = None) -> None:
        self.actor, self.tasks, self.limit = actor, tasks, limit
        self.index: ViewIndex | None = None
        #: log-probabilities at the known views, shape (views, actions), float64; :meth:`add` numbers the rows
        self.log_pi = np.empty((0, 0))

    def add(self, views: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Give each view its number, and evaluate the policy at the new views.

        :param views: compact views, shape (states, width), uint8
        :return: row of :attr:`log_pi` of each view, shape (states,), int32
        """
        if self.index is None or (self.limit is not None and len(self.index) > self.limit):
            self.index = ViewIndex(views.shape[1])
            self.log_pi = np.empty((0, 0))
        known = len(self.index)
        numbers = self.index.add(views)
        if len(self.index) > known:
            new = self.actor.log_probabilities_of_views(self.tasks, self.index.views[known:]).numpy()
            self.log_pi = np.concatenate([self.log_pi, new]) if known else new
        return numbers
