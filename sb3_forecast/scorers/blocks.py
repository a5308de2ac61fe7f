"""Scoring of a part of a deployment, so that the result depends on the tasks and the seed alone: not on who scores what, or how much at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.scorers.exact import ExactScorer
from sb3_forecast.scorers.make import complete, make_scorer
from sb3_forecast.scorers.protocols import Measurement, Pool, Scorer
from sb3_forecast.statistics.sketch import SAMPLE, TOP, TailSketch

#: number of tasks that are scored together, with one seed, by scorer; for any other see OTHER_UNIT
UNITS = {"exact": 1024, "survival": 1024, "frequency": 64}
OTHER_UNIT = 256


@runtime_checkable
class TaskBlocks(Protocol):
    """Tasks that are made when they are needed, block by block."""

    @property
    def key(self) -> str:
        """A text that identifies the tasks: the same tasks have the same key."""

    def __len__(self) -> int: ...

    def block(self, begin: int, end: int) -> Any:
        """Tasks ``begin`` to ``end - 1`` as a pool.

        :param begin: first task
        :param end: one more than the last task
        """


#: makes a scorer of the tasks of a pool, from a model, the pool and a seed; it must be picklable to be used on other machines
MakeScorer = Callable[[Any, Any, int], Scorer]


@runtime_checkable
class ScoresOthers(Protocol):
    """A scorer that can score other tasks, such as :class:`~sb3_forecast.scorers.learned.scorer.EpisodeScorer`."""

    def on(self, pool: Any, seed: int = 0) -> Scorer:
        """A scorer of other tasks.

        :param pool: the other tasks
        :param seed: seed of their episodes
        """


@dataclass(frozen=True)
class BlockScores:
    """What was measured on tasks ``begin`` to ``begin + len(psi) - 1``.

    :param begin: index of the first task
    :param psi: failure scores, shape (N,), float64; NaN for a task that could not be scored
    :param failure: failure probabilities without smoothing, shape (N,), float64; NaN likewise
    :param success: success probabilities, shape (N,), float64; NaN where unknown
    :param rare: which tasks are rare, shape (N,), bool
    :param steps: environment steps that each task took, shape (N,), int64; 0 where none were counted
    :param counted: whether failures were counted
    :param errors: what was raised by tasks that could not be scored, by index
    """

    begin: int
    psi: NDArray[np.float64]
    failure: NDArray[np.float64]
    success: NDArray[np.float64]
    rare: NDArray[np.bool_]
    steps: NDArray[np.int64]
    counted: bool = False
    errors: Mapping[int, str] = field(default_factory=dict)

    def sketch(self, top: int = TOP, sample: int = SAMPLE) -> TailSketch:
        """The sketch of these tasks.

        :param top: number of largest scores to keep
        :param sample: size of the random sample
        """
        good = ~np.isnan(self.psi)
        ids = self.begin + np.flatnonzero(good)
        psi, failure, success, rare = (column[good] for column in (self.psi, self.failure, self.success, self.rare))
        counts = failure if self.counted else None
        return TailSketch.of(psi, ids, counts, success, rare, int(self.steps.sum()), int((~good).sum()), top, sample)

    @classmethod
    def failed(cls, begin: int, end: int, why: str) -> BlockScores:
        """Tasks that could not be scored.

        :param begin: first task
        :param end: one more than the last task
        :param why: what they raised
        """
        n = end - begin
        nan = np.full(n, np.nan)
        errors = dict.fromkeys(range(begin, end), why)
        return cls(begin, nan, nan, nan, np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64), errors=errors)

    @classmethod
    def join(cls, parts: list[BlockScores]) -> BlockScores:
        """Neighbouring parts as one.

        :param parts: at least one, in order
        """
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("psi", "failure", "success", "rare", "steps")
        }
        errors = {task: text for part in parts for task, text in part.errors.items()}
        return cls(parts[0].begin, **columns, counted=any(part.counted for part in parts), errors=errors)


def scorer_maker(scorer: str | MakeScorer | ScoresOthers, counting: Mapping[str, Any] | None = None) -> tuple[MakeScorer, int]:
    """A function that makes the scorer of a block, and the number of tasks that are scored together.

    :param scorer: ``"exact"``, ``"survival"`` or ``"frequency"``; a function of a model, a pool and a seed that returns a scorer; or a scorer
        with a method ``on(pool, seed)``
    :param counting: arguments of the scorer ``"frequency"``
    :return: function and number
    :raises ValueError: if the name is unknown
    :raises TypeError: if it is something else
    """
    if isinstance(scorer, str):
        if scorer not in UNITS:
            raise ValueError(
                f"scorer must be one of {tuple(UNITS)}, a function or a scorer with on(), got {scorer!r}; use 'exact'"
            )
        make = _exact if scorer == "exact" else partial(_named, scorer, dict(counting or {}))
        return make, UNITS[scorer]
    if isinstance(scorer, ScoresOthers):
        return partial(_on, scorer), OTHER_UNIT
    if not callable(scorer):
        raise TypeError(
            f"scorer must be a name, a function of (model, pool, seed) or a scorer with on(), got {type(scorer).__name__}; use 'exact'"
        )
    return scorer, OTHER_UNIT


def _exact(model: Any, pool: Any, seed: int) -> Scorer:
    return ExactScorer(pool, cache_tasks=0)


def _named(name: str, counting: Mapping[str, Any], model: Any, pool: Any, seed: int) -> Scorer:
    return make_scorer(name, pool, seed, counting)


def _on(scorer: ScoresOthers, model: Any, pool: Any, seed: int) -> Scorer:
    return scorer.on(pool, seed)


class MachineError(RuntimeError):
    """Something that another machine, or another moment, may not have: the tasks are not to blame yet."""


#: errors that are the machine's rather than the task's
_MACHINE = (OSError, MemoryError, ImportError, th.cuda.OutOfMemoryError)

Isolate = Literal["never", "tasks", "all"]


def score_block(
    tasks: TaskBlocks | Pool,
    begin: int,
    end: int,
    make: MakeScorer,
    model: Any,
    seed: int,
    unit: int,
    isolate: Isolate = "tasks",
) -> BlockScores:
    """Score tasks ``begin`` to ``end - 1``.

    They are scored in units of neighbouring tasks, each with a seed of its own. So the result is the same however a deployment is cut into
    blocks, as long as blocks begin and end with units.

    A unit that raises an error is tried once more, then in halves, until the tasks that raise are found. They get no score.

    :param tasks: the deployment
    :param begin: first task
    :param end: one more than the last task
    :param make: makes the scorer of some tasks
    :param model: the model
    :param seed: seed of the deployment
    :param unit: number of tasks that are scored together
    :param isolate: ``"tasks"``: tasks that raise an error are recorded with it, unless the machine seems to be the reason: a full disk or
        memory, a missing package, a unit whose tasks all raise, or one in which none does when they are scored in parts. ``"all"``: such
        errors are recorded, too. ``"never"``: every error is raised
    :return: the scores
    :raises MachineError: if the machine seems to be the reason of an error
    """
    draw = tasks.block if isinstance(tasks, TaskBlocks) else partial(_subset, tasks)
    edges = sorted({begin, end, *range(-(-begin // unit) * unit, end, unit)})
    if isolate == "never":
        return BlockScores.join([_measure(draw, a, b, make, model, seed) for a, b in pairwise(edges)])
    return BlockScores.join([_isolated(draw, a, b, make, model, seed, isolate == "all") for a, b in pairwise(edges)])


def _subset(tasks: Pool, begin: int, end: int) -> Any:
    return tasks.subset(np.arange(begin, end))


def _isolated(draw: Any, begin: int, end: int, make: MakeScorer, model: Any, seed: int, everything: bool) -> BlockScores:
    """A unit, with the tasks found that raise an error."""
    for _ in range(2):  # the first time it may have been chance, such as a worker process that was killed
        try:
            return _measure(draw, begin, end, make, model, seed)
        except _MACHINE as error:
            if not everything:
                raise MachineError(f"tasks {begin} to {end - 1}: {type(error).__name__}: {error}") from error
            last: Exception = error
        except Exception as error:  # a user's environment may raise anything
            last = error
    if end - begin == 1:
        return BlockScores.failed(begin, end, _text(last))
    found = BlockScores.join([_search(draw, a, b, make, model, seed) for a, b in _halves(begin, end)])
    if not everything and len(found.errors) in (0, end - begin):
        which = "none of them when they are scored in parts" if not found.errors else "each of them by itself"
        raise MachineError(f"tasks {begin} to {end - 1} raised {_text(last)}, and {which}") from last
    return found


def _search(draw: Any, begin: int, end: int, make: MakeScorer, model: Any, seed: int) -> BlockScores:
    try:
        return _measure(draw, begin, end, make, model, seed)
    except Exception as error:  # as above
        if end - begin == 1:
            return BlockScores.failed(begin, end, _text(error))
        return BlockScores.join([_search(draw, a, b, make, model, seed) for a, b in _halves(begin, end)])


def _halves(begin: int, end: int) -> tuple[tuple[int, int], tuple[int, int]]:
    middle = (begin + end) // 2
    return (begin, middle), (middle, end)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _measure(draw: Any, begin: int, end: int, make: MakeScorer, model: Any, seed: int) -> BlockScores:
    pool = draw(begin, end)
    own = int(np.random.SeedSequence([seed, begin, end]).generate_state(1)[0])
    found: Measurement = complete(make(model, pool, own)).measure(model, seed=own)
    if found.scores.shape != (end - begin,) or np.isnan(found.scores).any():
        raise ValueError(
            f"scorer must give one score per task and no NaN, got shape {found.scores.shape} for {end - begin} tasks, "
            f"{int(np.isnan(found.scores).sum())} of them NaN; correct its score(model, tasks)"
        )
    steps = np.zeros(end - begin, dtype=np.int64) if found.steps is None else found.steps
    rare = np.asarray(cast(Pool, pool).rare, dtype=np.bool_)
    return BlockScores(begin, found.scores, found.frequencies, found.success, rare, steps, found.counts is not None)
