"""Failure scores of tasks under an agent, from the strongest knowledge that the environment offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sb3_forecast.scorers.exact import ExactScorer, Outcomes
from sb3_forecast.scorers.protocols import (
    FailureScorer,
    FiniteModel,
    Simulation,
    SupportsExact,
    SupportsSurvival,
    TaskSource,
)
from sb3_forecast.scorers.survival import SurvivalScorer

SCORERS: dict[str, Callable[..., FailureScorer]] = {"exact": ExactScorer, "survival": SurvivalScorer}


def make_scorer(scorer: str | FailureScorer, pool: Any, seed: int = 0) -> FailureScorer:
    """A scorer for a pool of tasks.

    :param scorer: ``"auto"`` (the strongest that the pool declares), ``"exact"``, ``"survival"``, or a scorer object
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
        if isinstance(scorer, (ExactScorer, SurvivalScorer)) and scorer.pool is not pool and scorer.pool.key != pool.key:
            raise ValueError(
                f"scorer scores other tasks ({scorer.pool.key}) than the pool's ({pool.key}); build the scorer from this pool"
            )
        return scorer
    name = pool.scorers[0] if scorer == "auto" else scorer
    if name not in SCORERS:
        raise ValueError(f"scorer={scorer!r} is unknown; use 'auto', {', '.join(map(repr, SCORERS))} or a scorer object")
    if name not in pool.scorers:
        raise ValueError(f"scorer={scorer!r} cannot be served by these tasks; they offer {tuple(pool.scorers)}")
    return SCORERS[name](pool, seed=seed) if name == "survival" else SCORERS[name](pool)


__all__ = [
    "SCORERS",
    "ExactScorer",
    "FailureScorer",
    "FiniteModel",
    "Outcomes",
    "Simulation",
    "SupportsExact",
    "SupportsSurvival",
    "SurvivalScorer",
    "TaskSource",
    "make_scorer",
]
