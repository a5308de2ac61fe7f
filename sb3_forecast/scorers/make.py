"""Choosing a scorer: by its name, automatically, or an object of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.scorers.exact import ExactScorer
from sb3_forecast.scorers.frequency import FrequencyScorer
from sb3_forecast.scorers.learned.scorer import EpisodeScorer
from sb3_forecast.scorers.protocols import FailureScorer, Pool, Scorer, Stateful, Tasks
from sb3_forecast.scorers.splitting.scorer import SplittingScorer
from sb3_forecast.scorers.survival import SurvivalScorer

SCORERS: dict[str, Callable[..., Scorer]] = {
    "exact": ExactScorer,
    "survival": SurvivalScorer,
    "episodes": EpisodeScorer,
    "frequency": FrequencyScorer,
    "splitting": SplittingScorer,
}


class CompletedScorer(Scorer):
    """A user's scorer, completed with the defaults of :class:`Scorer`.

    :param scorer: an object with the members of :class:`FailureScorer`
    :param key: key of the pool whose tasks it scores
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
        """Whether a few tasks can be scored without the rest of the pool."""
        return self.scorer.supports_partial

    @property
    def key(self) -> str | None:
        """Key of the pool whose tasks are scored."""
        return self._key

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph; see :meth:`FailureScorer.score`."""
        return self.scorer.score(model, tasks)

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph; see :meth:`FailureScorer.rescore`."""
        return self.scorer.rescore(model, tasks)

    def state_dict(self) -> dict[str, Any]:
        """The state of the user's scorer; empty if it has none."""
        return self.scorer.state_dict() if isinstance(self.scorer, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        if isinstance(self.scorer, Stateful):
            self.scorer.load_state_dict(state)


def complete(scorer: FailureScorer | Scorer, key: str | None = None) -> Scorer:
    """Give a scorer all members of :class:`Scorer`.

    :param scorer: an object derived from :class:`Scorer`, or any object with the members of :class:`FailureScorer`
    :param key: key of the pool whose tasks it scores
    :return: the scorer itself if it is derived from :class:`Scorer`, otherwise a :class:`CompletedScorer`
    :raises TypeError: if ``scorer`` is not a scorer
    """
    if isinstance(scorer, Scorer):
        return scorer
    if not isinstance(scorer, FailureScorer):
        raise TypeError(
            f"scorer must be a name or an object with n_tasks, supports_partial, score and rescore, got {scorer!r}; "
            f"use 'auto', {', '.join(map(repr, SCORERS))}, or derive from sb3_forecast.scorers.protocols.Scorer"
        )
    return CompletedScorer(scorer, key)


def make_scorer(
    scorer: str | FailureScorer | Scorer, pool: Pool, seed: int = 0, counting: Mapping[str, Any] | None = None
) -> Scorer:
    """A scorer for a pool of tasks.

    :param scorer: ``"auto"`` for the strongest one that the pool can serve, or ``"exact"``, ``"survival"``, ``"episodes"``,
        ``"frequency"``, ``"splitting"``, or a scorer object
    :param pool: the tasks
    :param seed: seed of a scorer that samples
    :param counting: arguments of :class:`FrequencyScorer`; other scorers ignore them
    :return: the scorer
    :raises ValueError: if the scorer is unknown, if the pool cannot serve it, or if it scores other tasks
    :raises TypeError: if ``scorer`` is neither a name nor a scorer
    """
    if not isinstance(scorer, str):
        # a scorer without a key cannot be compared with the pool, so only the number of tasks is checked
        found = complete(scorer)
        if found.n_tasks != len(pool):
            raise ValueError(
                f"scorer must score the {len(pool)} tasks of the pool, got one that scores {found.n_tasks} tasks; build it from this pool"
            )
        if found.key is not None and found.key != pool.key:
            raise ValueError(
                f"scorer must score the tasks of the pool ({pool.key}), got one that scores other tasks ({found.key}); "
                "build it from this pool"
            )
        return found
    name = pool.scorers[0] if scorer == "auto" else scorer
    if name not in SCORERS:
        raise ValueError(
            f"scorer must be 'auto', {', '.join(map(repr, SCORERS))} or a scorer object, got {scorer!r}; use 'auto'"
        )
    if name not in pool.scorers:
        raise ValueError(f"scorer must be one that the pool can serve {tuple(pool.scorers)}, got {scorer!r}; use 'auto'")
    if name == "exact":
        return SCORERS[name](pool)
    return SCORERS[name](pool, seed=seed, **(counting or {} if name == "frequency" else {}))


def make_measuring_scorer(
    scorer: str | FailureScorer | Scorer, pool: Pool, model: Any, seed: int = 0, counting: Mapping[str, Any] | None = None
) -> Scorer:
    """A scorer that measures a model, which may be any model.

    It is :func:`make_scorer`, but with ``"auto"`` it takes the strongest scorer that fits the model, too. It skips
    ``"episodes"``, because that scorer must be trained first. If it has to count failures, :attr:`Scorer.reason` says why.

    :param scorer: as in :func:`make_scorer`
    :param pool: the tasks
    :param model: any SB3 or sb3-contrib model
    :param seed: seed of a scorer that samples
    :param counting: as in :func:`make_scorer`
    :return: the scorer
    :raises ValueError: as in :func:`make_scorer`; with ``"auto"`` also if no scorer fits. Then the message gives every
        reason
    """
    if scorer != "auto":
        return make_scorer(scorer, pool, seed, counting)
    reasons: list[str] = []
    for name in pool.scorers:
        if name == "episodes":
            # its cost model would have to be trained first
            continue
        if name == "frequency":
            counts = make_scorer(name, pool, seed, counting)
            counts.reason = "; ".join(reasons)
            return counts
        try:
            candidate = make_scorer(name, pool, seed)
            candidate.score(model, np.array([0]))
        except ValueError as error:
            reasons.append(f"{name}: {error}")
        else:
            return candidate
    raise ValueError(
        f"scorer='auto' must find a scorer for this model, got none of {tuple(pool.scorers)}; pass a scorer object, or a pool that "
        f"can serve 'frequency'. Reasons: {'; '.join(reasons)}"
    )
