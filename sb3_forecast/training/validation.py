"""Validation during training: tasks that no gradient sees say whether the training does harm, and which policy to leave behind."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, whole
from sb3_forecast.measuring.evaluate import evaluate_forecast
from sb3_forecast.measuring.selection import quality
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.protocols import Pool, Scorer, TellsTasksApart

#: success of the policy that is left behind may be this much below that of the start
TOLERANCE = 0.005
#: during training it may dip by this much below that of the start or below the best so far: at first the forecast's gradient always costs some
DIP = 0.02
#: the mean failure may grow by this factor over that of the start
GROWTH = 1.5
#: after so many times of harm the forecast is switched off
PATIENCE = 3
#: the last policy is kept unless the best one is better by more than this many steps of `quality`
CLOSE = 2
#: episodes of a look at a pool that can only be played
_EPISODES = 200
#: largest share of the environment steps that looks by counting take; while it is used up, the next look waits
LOOKING = 0.2


def kept_back(pool: Any, share: float, seed: int) -> NDArray[np.int64]:
    """Choose the tasks of the validation. Equal tasks go together, so that no task of the validation is also trained on.

    :param pool: the tasks
    :param share: share of the distinct tasks, in [0, 1)
    :param seed: seed of the choice
    :return: indices, ascending, int64
    """
    keys = pool.task_keys() if isinstance(pool, TellsTasksApart) else range(len(pool))
    groups: dict[Any, list[int]] = {}
    for task, key in enumerate(keys):
        groups.setdefault(key, []).append(task)
    members = list(groups.values())
    chosen = np.random.default_rng(seed).permutation(len(members))[: int(share * len(members))]
    return np.sort(np.array([task for i in chosen for task in members[i]], dtype=np.int64))


@dataclass(frozen=True)
class Look:
    """What a look at the validation's tasks has found; see :class:`ForecastReport`.

    :param limit_holds: share of the splits whose realised worst score is at most the 95% limit
    :param mean_scale: mean fitted scale, in psi
    :param mean_failure: mean failure probability
    :param worst_failure: largest failure probability of a task
    :param success: mean success probability; NaN if unknown
    """

    limit_holds: float
    mean_scale: float
    mean_failure: float
    worst_failure: float
    success: float


@dataclass(frozen=True)
class Snapshot:
    """A policy that was looked at.

    :param look: what was found
    :param parameters: of the model, as ``model.get_parameters()`` gives them
    :param timesteps: steps of the training so far
    """

    look: Look
    parameters: dict[str, Any]
    timesteps: int


class Validation:
    """Looks at a policy on tasks that no gradient sees, and remembers the best one.

    A look finds *harm* if success has fallen far below the best so far, or below ``min_success``, or if the mean failure has grown. The
    forecast's coefficient is then halved, and the policy goes back to the last one that was unharmed; after three times the forecast is
    switched off. Sampled scores have noise, which is taken into account.

    :param pool: the tasks
    :param eval_size: evaluation set size of its splits; smaller if the pool is too small for it
    :param k: number of top scores of its forecasts
    :param min_success: smallest success that you accept; ``None`` for that of the start, less 0.005, when the training ends
    :param seed: seed of the splits and of the episodes
    :param counts: whether failures are counted, whatever the pool knows of its dynamics. A training that learns from costs alone is watched in
        the same way; and a scorer that samples can miss what it does not meet
    """

    def __init__(
        self, pool: Pool, eval_size: int, k: int, min_success: float | None = None, seed: int = 0, counts: bool = False
    ) -> None:
        self.pool, self.min_success, self.seed, self.counts = pool, min_success, seed, counts
        check_seed(seed)
        self.k = min(whole("k", k, low=2), max(2, len(pool) // 8))
        self.eval_size = max(self.k, min(whole("eval_size", eval_size, low=1), len(pool) // 4))
        self.start: Snapshot | None = None
        self.best: Snapshot | None = None
        self.unharmed: Snapshot | None = None
        #: factor of the coefficient: 1, 1/2, 1/4, 0
        self.factor = 1.0
        self.times_harmed = 0
        #: rollouts so far, also those of earlier calls of ``learn``
        self.rollouts = 0
        #: environment steps of the training that is watched
        self.steps_watched = 0
        self._scorer: Scorer | None = None
        #: steps of a run that this one goes on from
        self._steps_before = 0

    def scorer(self, model: Any) -> Scorer:
        """The scorer of the looks: exact where it can be and may be, otherwise episodes."""
        if self._scorer is None:
            episodes = max(1, math.ceil(_EPISODES / len(self.pool)))
            self._scorer = make_measuring_scorer(
                "frequency" if self.counts else "auto",
                self.pool,
                model,
                self.seed,
                {"episodes": episodes, "progress_bar": False},
            )
        return self._scorer

    @property
    def steps_played(self) -> int:
        """Number of environment steps that the looks have taken so far; a comparison at equal steps counts them."""
        return self._steps_before + (0 if self._scorer is None else self._scorer.steps_played)

    def may_look(self, scored: int) -> bool:
        """Whether a look is within its share of the environment steps. Looks that play no episodes always are.

        :param scored: steps of the training's scorer so far
        """
        return self.start is None or self.steps_played <= LOOKING * (self.steps_played + self.steps_watched + scored)

    def look(self, model: Any) -> tuple[Look, list[str]]:
        """Measure the present policy.

        :param model: the model
        :return: what was found, and reasons why the policy is harmed; empty if it is not
        :raises NoForecastError: if the policy fails in too few tasks to be forecast
        """
        report = evaluate_forecast(
            model, self.pool, self.eval_size, n_splits=100, seed=self.seed, k=self.k, scorer=self.scorer(model)
        )
        found = Look(**{entry.name: getattr(report, entry.name) for entry in fields(Look)})
        now = Snapshot(found, copy.deepcopy(model.get_parameters()), model.num_timesteps)
        if self.start is None:
            self.start = self.best = self.unharmed = now
            return found, []
        reasons = self.harm(found)
        if not reasons:
            self.unharmed = now
            assert self.best is not None
            if self._quality(found) >= self._quality(self.best.look):
                self.best = now
        return found, reasons

    def harm(self, report: Look) -> list[str]:
        """Reasons why a measured policy is harmed.

        :param report: what was found
        :return: one text per reason
        """
        assert self.start is not None
        assert self.best is not None
        start, best = self.start.look, self.best.look
        found = []
        if self.min_success is not None and report.success < self.min_success - self._noise(self.min_success):
            found.append(f"success is {report.success:.4f}, below min_success={self.min_success}")
        elif report.success < best.success - DIP - self._noise(best.success):
            found.append(f"success is {report.success:.4f}, far below the best so far, {best.success:.4f}")
        if report.mean_failure > GROWTH * start.mean_failure + self._noise(start.mean_failure) + 1e-12:
            found.append(f"the mean failure is {report.mean_failure:.2g}, at the start it was {start.mean_failure:.2g}")
        return found

    @property
    def floor(self) -> float:
        """Success that the policy that is left behind must have: what the user asks for, or that of the start, less a tolerance."""
        assert self.start is not None
        return self.start.look.success - TOLERANCE if self.min_success is None else self.min_success

    def restrain(self) -> Snapshot:
        """Halve the coefficient; after three times of harm set it to 0.

        :return: the policy to go back to
        """
        self.times_harmed += 1
        self.factor = 0.0 if self.times_harmed >= PATIENCE else self.factor / 2.0
        assert self.unharmed is not None
        return self.unharmed

    def to_leave_behind(self, model: Any) -> Snapshot | None:
        """The policy that the training leaves behind.

        :param model: the model
        :return: a snapshot to restore; ``None`` to keep the present policy
        """
        report, reasons = self.look(model)
        assert self.start is not None
        assert self.best is not None
        # during the training a little harm may pass, since it may go; what is left behind fails no more than the start, as far as is seen
        failure = self.start.look.mean_failure
        best = self.best if self.best.look.mean_failure <= failure else self.start
        if reasons or report.mean_failure > failure:
            return best
        here, there = self._quality(report), self._quality(best.look)
        if here[0] and here[1] >= there[1] - CLOSE and report.mean_failure <= 10.0 * best.look.mean_failure:
            # a single look is noisy, and the last policy has learnt longest
            return None
        return best

    def _quality(self, report: Look) -> tuple[bool, int, float]:
        does_its_job, holds, failure = quality(report, self.floor - self._noise(self.floor))
        assert self._scorer is not None
        # counted failures do not resolve a tail: the fewer there are, the more scores are equal, and the less a limit holds
        return does_its_job, 0 if self._scorer.counts_failures else holds, failure

    def _noise(self, share: float) -> float:
        """Two standard errors of a share that is counted in episodes; 0 for exact scores."""
        assert self._scorer is not None
        if not (self._scorer.samples or self._scorer.steps_played) or math.isnan(share):
            return 0.0
        share = min(max(share, 0.0), 1.0)
        return 2.0 * math.sqrt(max(share * (1.0 - share), 1.0 / _EPISODES) / max(_EPISODES, len(self.pool)))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "factor": self.factor,
            "times_harmed": self.times_harmed,
            "rollouts": self.rollouts,
            "steps_played": self.steps_played,
            "steps_watched": self.steps_watched,
            **{
                name: None
                if kept is None
                else {**asdict(kept.look), "parameters": kept.parameters, "timesteps": kept.timesteps}
                for name, kept in (("start", self.start), ("best", self.best), ("unharmed", self.unharmed))
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        self.factor, self.times_harmed, self.rollouts = state["factor"], state["times_harmed"], state["rollouts"]
        self._steps_before = state["steps_played"]
        self.steps_watched = state.get("steps_watched", 0)
        self.start, self.best, self.unharmed = (
            None
            if kept is None
            else Snapshot(Look(**{e.name: kept[e.name] for e in fields(Look)}), kept["parameters"], kept["timesteps"])
            for kept in (state[name] for name in ("start", "best", "unharmed"))
        )
