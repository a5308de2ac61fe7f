"""ForecastObjective: scorer, cached scores, partitions and loss in one object; the same for every kind of model."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.scorers.make import complete
from sb3_forecast.scorers.protocols import FailureScorer, Scorer, Stateful
from sb3_forecast.training.losses import LossTerms, Partitions


class PoolLoss(Protocol):
    """A loss on the scores of a pool: :class:`sb3_forecast.ForecastLoss`, or a baseline with the same interface."""

    def reach(self, n_pool: int) -> int:
        """How many of the worst tasks :meth:`draw` may choose from."""

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Choose the tasks that the loss looks at until the next refresh."""

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """The loss, from the scores of the touched tasks."""


#: how many of the worst tasks are watched, when a full scoring tells what partial ones have missed
WATCHED_TASKS = 10


class ForecastObjective:
    """A differentiable forecast error on a pool whose scores are cached between refreshes.

    :meth:`refresh` scores the pool without a graph and draws partitions; :meth:`loss` scores the touched tasks again,
    with a graph, and evaluates the loss of the same partitions, as often as wanted: a loss that is frozen while the model
    moves has no restoring force and runs away (``docs/gridworld.md``).

    :param scorer: scores of the pool's tasks
    :param loss: the loss on them
    :param seed: seed of the partitions
    :param full_every: score the whole pool every so many refreshes, and in between only the ``n_candidates`` tasks with the
        largest cached scores; 1 always scores the whole pool
    :param n_candidates: see ``full_every``; ``None`` for a tenth of the pool, or as many as the loss may touch if that
        is more (what this overlooks was measured, see ``docs/environments.md``)
    :param weight_decay: factor per refresh of the running sum of weights in :attr:`task_weights`
    :param subpool: score and partition only so many tasks, drawn anew at each refresh; ``None`` for the whole pool
    :raises ValueError: if an argument is out of range, or the scorer cannot score parts of a pool
    """

    def __init__(
        self,
        scorer: FailureScorer | Scorer,
        loss: PoolLoss,
        seed: int = 0,
        full_every: int = 1,
        n_candidates: int | None = None,
        weight_decay: float = 0.98,
        subpool: int | None = None,
    ) -> None:
        if full_every < 1:
            raise ValueError(f"full_every={full_every} never scores the pool; use full_every >= 1")
        if full_every > 1 and not scorer.supports_partial:
            raise ValueError(f"full_every={full_every} needs a scorer of single tasks; use full_every=1 or scorer='exact'")
        if n_candidates is not None and n_candidates < 1:
            raise ValueError(f"n_candidates={n_candidates} scores nothing; use n_candidates >= 1, or None")
        if not 0.0 <= weight_decay <= 1.0:
            raise ValueError(f"weight_decay={weight_decay} would let old weights grow; use a value in [0, 1]")
        if subpool is not None and not 1 <= subpool <= scorer.n_tasks:
            raise ValueError(
                f"subpool={subpool} does not fit the pool of {scorer.n_tasks} tasks; use 1 to {scorer.n_tasks}, or None"
            )
        if subpool is not None and full_every > 1:
            raise ValueError(f"full_every={full_every} has no meaning with subpool={subpool}; use one of them")
        self.scorer = complete(scorer)
        self.pool_loss = loss
        self.subpool = subpool
        self.full_every = full_every
        self.n_partitioned = scorer.n_tasks if subpool is None else subpool
        usual = max(loss.reach(self.n_partitioned), scorer.n_tasks // 10)
        self.n_candidates = min(usual if n_candidates is None else n_candidates, scorer.n_tasks)
        self.weight_decay = weight_decay
        self.generator = np.random.default_rng(seed)
        self.scores: th.Tensor | None = None
        #: running sum of the loss's weights, shape (N,): where training episodes are worth starting
        self.task_weights: NDArray[np.float64] = np.zeros(scorer.n_tasks)
        self.n_refreshes = 0
        #: share of the pool's worst ``WATCHED_TASKS`` that the last full scoring found outside of what partial ones had followed
        self.missed_top = float("nan")
        self._partitions: Partitions | None = None
        self._partitioned: NDArray[np.int64] = np.arange(scorer.n_tasks)
        self._weights = th.zeros(0, dtype=th.float64)

    def refresh(self, model: Any) -> LossTerms:
        """Score the pool without a graph, draw partitions, and evaluate the loss on the cached scores.

        :param model: what the scorer scores
        :return: the loss and its terms at the cached scores
        :raises ValueError: if the scores have no forecast; see :meth:`ForecastLoss.draw`
        """
        if self.subpool is not None:
            self._partitioned = np.sort(self.generator.choice(self.scorer.n_tasks, self.subpool, replace=False))
            if self.scores is None:
                self.scores = th.full((self.scorer.n_tasks,), -th.inf, dtype=th.float64)
            self.scores[th.from_numpy(self._partitioned)] = self.scorer.score(model, self._partitioned)
        elif self.scores is None or self.n_refreshes % self.full_every == 0:
            followed = None if self.scores is None or self.full_every == 1 else self.candidates
            self.scores = self.scorer.score(model)
            if followed is not None:
                worst = th.topk(self.scores, min(WATCHED_TASKS, len(self.scores))).indices.numpy()
                self.missed_top = float(1.0 - np.isin(worst, followed).mean())
        else:
            candidates = self.candidates
            self.scores[th.from_numpy(candidates)] = self.scorer.score(model, candidates)
        self.n_refreshes += 1
        partitioned = self.scores[th.from_numpy(self._partitioned)]
        # if nothing can be drawn, nothing is left of what was drawn before
        self._partitions = None
        self._partitions = self.pool_loss.draw(partitioned, self.generator)
        terms = self.pool_loss.evaluate(partitioned[self._partitions.touched], self._partitions, self.n_partitioned)
        self._weights = terms.weights
        self.task_weights *= self.weight_decay
        self.task_weights[self.touched] += terms.weights.clamp(min=0.0).numpy()
        return terms

    @property
    def has_partitions(self) -> bool:
        """Whether there are partitions that :meth:`loss` can be asked for."""
        return self._partitions is not None

    @property
    def candidates(self) -> NDArray[np.int64]:
        """The tasks that the next partial scoring looks at: those with the largest cached scores, ascending."""
        if self.scores is None:
            raise RuntimeError("the pool was never scored; call refresh(model) first")
        return np.sort(th.topk(self.scores, self.n_candidates).indices.numpy())

    @property
    def touched(self) -> NDArray[np.int64]:
        """Tasks that the current partitions touch, ascending."""
        if self._partitions is None:
            raise RuntimeError("no partitions were drawn yet; call refresh(model) first")
        touched: NDArray[np.int64] = self._partitioned[self._partitions.touched.numpy()]
        return touched

    @property
    def active(self) -> tuple[NDArray[np.int64], th.Tensor]:
        """Tasks with a weight other than 0 at the last refresh, ascending, and their weights: all that its gradient needs.

        As long as the model is the one of the refresh, sum_i w_i dpsi_i/dtheta over them is the gradient of :meth:`loss`
        (docs/method.md section 5, training recipe).
        """
        chosen = self._weights != 0.0
        return self.touched[chosen.numpy()], self._weights[chosen]

    def loss(self, model: Any) -> th.Tensor:
        """The loss of the current partitions under the model as it is now.

        :param model: what the scorer scores
        :return: differentiable scalar
        :raises RuntimeError: before the first :meth:`refresh`
        """
        touched = self.touched
        assert self._partitions is not None
        scores = self.scorer.rescore(model, touched)
        return self.pool_loss.evaluate(scores, self._partitions, self.n_partitioned).loss

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had not stopped."""
        return {
            "generator": self.generator.bit_generator.state,
            "scores": self.scores,
            "task_weights": self.task_weights.copy(),
            "n_refreshes": self.n_refreshes,
            "scorer": self.scorer.state_dict() if isinstance(self.scorer, Stateful) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        :raises ValueError: if it belongs to a pool of another size
        """
        if len(state["task_weights"]) != self.scorer.n_tasks:
            raise ValueError(
                f"the saved forecast state belongs to a pool of {len(state['task_weights'])} tasks, this one has {self.scorer.n_tasks}; "
                "resume with the same pool, or start afresh with ForecastPPO.from_ppo"
            )
        self.generator.bit_generator.state = state["generator"]
        self.scores = None if state["scores"] is None else state["scores"].clone()
        self.task_weights = state["task_weights"].copy()
        self.n_refreshes = state["n_refreshes"]
        if isinstance(self.scorer, Stateful) and state["scorer"] is not None:
            self.scorer.load_state_dict(state["scorer"])
