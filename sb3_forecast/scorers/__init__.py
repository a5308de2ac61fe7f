"""Failure scores of tasks under an agent, from the strongest knowledge that the environment offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sb3_forecast.scorers.cost_model import CostModel
from sb3_forecast.scorers.episodes import EpisodeScorer
from sb3_forecast.scorers.exact import ExactScorer, Outcomes
from sb3_forecast.scorers.frequency import FrequencyScorer, SupportsEpisodes
from sb3_forecast.scorers.protocols import (
    FailureScorer,
    FiniteModel,
    Simulation,
    SupportsExact,
    SupportsSurvival,
    TaskSource,
)
from sb3_forecast.scorers.survival import SurvivalScorer

SCORERS: dict[str, Callable[..., FailureScorer]] = {
    "exact": ExactScorer,
    "survival": SurvivalScorer,
    "episodes": EpisodeScorer,
    "frequency": FrequencyScorer,
}


def make_scorer(scorer: str | FailureScorer, pool: Any, seed: int = 0) -> FailureScorer:
    """A scorer for a pool of tasks.

    :param scorer: ``"auto"`` (the strongest that the pool declares), ``"exact"``, ``"survival"``, ``"episodes"``, ``"frequency"``, or a scorer
        object
    :param pool: the tasks
    :param seed: seed of a scorer that samples
    :return: the scorer
    :raises ValueError: if the scorer is unknown, the pool cannot serve it, or it scores another number of tasks
    """
    if not isinstance(scorer, str):
        if scorer.n_tasks != len(pool):
            raise ValueError(
                f"scorer scores {scorer.n_tasks} tasks but the pool has {len(pool)}; build the scorer from this pool"
            )
        if (
            isinstance(scorer, (ExactScorer, SurvivalScorer, EpisodeScorer, FrequencyScorer))
            and scorer.pool is not pool
            and scorer.pool.key != pool.key
        ):
            raise ValueError(
                f"scorer scores other tasks ({scorer.pool.key}) than the pool's ({pool.key}); build the scorer from this pool"
            )
        return scorer
    name = pool.scorers[0] if scorer == "auto" else scorer
    if name not in SCORERS:
        raise ValueError(f"scorer={scorer!r} is unknown; use 'auto', {', '.join(map(repr, SCORERS))} or a scorer object")
    if name not in pool.scorers:
        raise ValueError(f"scorer={scorer!r} cannot be served by these tasks; they offer {tuple(pool.scorers)}")
    return SCORERS[name](pool) if name == "exact" else SCORERS[name](pool, seed=seed)


def make_measuring_scorer(scorer: str | FailureScorer, pool: Any, model: Any, seed: int = 0) -> FailureScorer:
    """As :func:`make_scorer`, for measuring a model that need not be trained: with ``"auto"`` the strongest scorer that fits the model, too.

    :param scorer: as in :func:`make_scorer`
    :param pool: the tasks
    :param model: any SB3 or sb3-contrib model
    :param seed: seed of a scorer that samples
    :return: the scorer
    :raises ValueError: as :func:`make_scorer`; also if with ``"auto"`` nothing fits, with every reason
    """
    if scorer != "auto":
        return make_scorer(scorer, pool, seed)
    reasons = []
    for name in pool.scorers:
        if name == "episodes":
            # it would have to be trained first
            continue
        candidate = make_scorer(name, pool, seed)
        if isinstance(candidate, FrequencyScorer):
            return candidate
        try:
            candidate.score(model, np.array([0]))
        except ValueError as error:
            reasons.append(f"{name}: {error}")
        else:
            return candidate
    raise ValueError("scorer='auto' found none that fits the model and the tasks: " + "; ".join(reasons))


__all__ = [
    "SCORERS",
    "CostModel",
    "EpisodeScorer",
    "ExactScorer",
    "FailureScorer",
    "FiniteModel",
    "FrequencyScorer",
    "Outcomes",
    "Simulation",
    "SupportsEpisodes",
    "SupportsExact",
    "SupportsSurvival",
    "SurvivalScorer",
    "TaskSource",
    "make_measuring_scorer",
    "make_scorer",
]
