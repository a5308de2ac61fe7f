"""Choosing a scorer: by name, by what fits, or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.scorers.exact import ExactScorer
from sb3_forecast.scorers.frequency import FrequencyScorer
from sb3_forecast.scorers.learned.scorer import EpisodeScorer
from sb3_forecast.scorers.protocols import FailureScorer, Pool, Scorer, Stateful, Tasks
from sb3_forecast.scorers.survival import SurvivalScorer

SCORERS: dict[str, Callable[..., Scorer]] = {
    "exact": ExactScorer,
    "survival": SurvivalScorer,
    "episodes": EpisodeScorer,
    "frequency": FrequencyScorer,
}


class CompletedScorer(Scorer):
    """A user's scorer with the usual answers to what it does not say itself.

    :param scorer: fulfils :class:`FailureScorer`
    :param key: key of the pool that it is used for
    """

    def __init__(self, scorer: FailureScorer, key: str | None = None) -> None:
        self.scorer = scorer
        self._key = key

    @property
    def n_tasks(self) -> int:  # type: ignore[override]  # follows the scorer
        """Pool size N."""
        return self.scorer.n_tasks

    @property
    def supports_partial(self) -> bool:  # type: ignore[override]  # follows the scorer
        """Whether some tasks may be scored without the others."""
        return self.scorer.supports_partial

    @property
    def key(self) -> str | None:
        """Key of the pool that the scorer is used for."""
        return self._key

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """As the scorer."""
        return self.scorer.score(model, tasks)

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """As the scorer."""
        return self.scorer.rescore(model, tasks)

    def state_dict(self) -> dict[str, Any]:
        """The scorer's, if it has any."""
        return self.scorer.state_dict() if isinstance(self.scorer, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        if isinstance(self.scorer, Stateful):
            self.scorer.load_state_dict(state)


def complete(scorer: FailureScorer | Scorer, key: str | None = None) -> Scorer:
    """A scorer with everything that :class:`Scorer` has.

    :param scorer: derived from :class:`Scorer`, or anything that fulfils :class:`FailureScorer`
    :param key: key of the pool that it is used for
    :return: the scorer itself where it is complete
    :raises TypeError: if it is no scorer
    """
    if isinstance(scorer, Scorer):
        return scorer
    if not isinstance(scorer, FailureScorer):
        raise TypeError(
            f"scorer must be a name or have n_tasks, supports_partial, score and rescore, got {scorer!r}; "
            f"use 'auto', {', '.join(map(repr, SCORERS))}, or derive from sb3_forecast.scorers.protocols.Scorer"
        )
    return CompletedScorer(scorer, key)


def make_scorer(
    scorer: str | FailureScorer | Scorer, pool: Pool, seed: int = 0, counting: Mapping[str, Any] | None = None
) -> Scorer:
    """A scorer for a pool of tasks.

    :param scorer: ``"auto"`` (the strongest that the pool declares), ``"exact"``, ``"survival"``, ``"episodes"``, ``"frequency"``, or a scorer
        object
    :param pool: the tasks
    :param seed: seed of a scorer that samples
    :param counting: arguments of :class:`FrequencyScorer`, should it be the one
    :return: the scorer
    :raises ValueError: if the scorer is unknown, the pool cannot serve it, or it scores other tasks
    :raises TypeError: if the scorer is neither a name nor a scorer
    """
    if not isinstance(scorer, str):
        # a scorer without a key of its own is taken at its word
        found = complete(scorer)
        if found.n_tasks != len(pool):
            raise ValueError(
                f"scorer must score the pool's {len(pool)} tasks, got one of {found.n_tasks}; build it from this pool"
            )
        if found.key is not None and found.key != pool.key:
            raise ValueError(
                f"scorer must score the pool's tasks ({pool.key}), got one of other tasks ({found.key}); build it from this pool"
            )
        return found
    name = pool.scorers[0] if scorer == "auto" else scorer
    if name not in SCORERS:
        raise ValueError(
            f"scorer must be 'auto', {', '.join(map(repr, SCORERS))} or a scorer object, got {scorer!r}; use 'auto'"
        )
    if name not in pool.scorers:
        raise ValueError(f"scorer must be one that the tasks can serve {tuple(pool.scorers)}, got {scorer!r}; use 'auto'")
    if name == "exact":
        return SCORERS[name](pool)
    return SCORERS[name](pool, seed=seed, **(counting or {} if name == "frequency" else {}))


def make_measuring_scorer(
    scorer: str | FailureScorer | Scorer, pool: Pool, model: Any, seed: int = 0, counting: Mapping[str, Any] | None = None
) -> Scorer:
    """As :func:`make_scorer`, for measuring a model that need not be trained: ``"auto"`` is the strongest scorer that fits the model, too.

    :param scorer: as in :func:`make_scorer`
    :param pool: the tasks
    :param model: any SB3 or sb3-contrib model
    :param seed: seed of a scorer that samples
    :param counting: as in :func:`make_scorer`
    :return: the scorer
    :raises ValueError: as :func:`make_scorer`; also if with ``"auto"`` nothing fits, with every reason
    """
    if scorer != "auto":
        return make_scorer(scorer, pool, seed, counting)
    reasons = []
    for name in pool.scorers:
        if name == "episodes":
            # it would have to be trained first
            continue
        candidate = make_scorer(name, pool, seed, counting)
        if name == "frequency":
            return candidate
        try:
            candidate.score(model, np.array([0]))
        except ValueError as error:
            reasons.append(f"{name}: {error}")
        else:
            return candidate
    raise ValueError("scorer='auto' found none that fits the model and the tasks: " + "; ".join(reasons))
