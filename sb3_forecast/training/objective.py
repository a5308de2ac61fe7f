"""ForecastObjective: scorer, cached scores, partitions and loss in one object. It works for agents and for language models."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.checks import check_seed, real, task_indices, whole
from sb3_forecast.scorers.make import complete
from sb3_forecast.scorers.protocols import FailureScorer, Scorer, Stateful
from sb3_forecast.statistics.scores import failure_score
from sb3_forecast.training.losses import LossTerms, Partitions


class PoolLoss(Protocol):
    """A loss on the scores of a pool, such as :class:`sb3_forecast.ForecastLoss` or a baseline."""

    def reach(self, n_pool: int) -> int:
        """Number of worst tasks that :meth:`draw` may choose from."""

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Choose the tasks that the loss uses until the next refresh."""

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """Evaluate the loss from the scores of the touched tasks."""


#: a full scoring compares this many worst tasks with the candidates of the partial scorings (:attr:`ForecastObjective.missed_top`)
WATCHED_TASKS = 10
#: tasks that a partial scoring of the risky ones has at least
LEAST_RISKY = 100


class ForecastObjective:
    """A differentiable forecast error on a pool. Scores are cached between refreshes.

    :meth:`refresh` scores the pool without a graph and draws partitions. :meth:`loss` scores the touched tasks again, now with a graph, and
    evaluates the loss on the same partitions. Call it before every gradient: weights that stay fixed while the model changes push it further
    and further, and the scores run away (``docs/gridworld.md``).

    :param scorer: scores the tasks of the pool
    :param loss: the loss on these scores
    :param seed: seed of the partitions
    :param full_every: score the whole pool at every n-th refresh, and in between only the ``n_candidates`` tasks with the largest cached
        scores; 1 always scores the whole pool
    :param n_candidates: see ``full_every``; ``None`` for a tenth of the pool, or as many tasks as the loss may touch if that is more
        (``docs/environments.md`` says how many of the worst tasks this misses). ``"risky"``: of these, only the tasks whose cached p is above
        ``p_floor``, but at least 100; for scorers that play the tasks, where few of them can fail
    :param p_floor: failure probability below which a task is left alone; see ``n_candidates``
    :param weight_decay: :attr:`task_weights` is multiplied by this at each refresh
    :param subpool: score and partition only this many tasks, drawn anew at each refresh; ``None`` for the whole pool
    :param validation: indices of tasks that no gradient may come from, and that no training episode may start on; ``None`` for none
    :raises ValueError: if an argument is out of range, or the scorer cannot score single tasks as ``full_every`` needs
    """

    def __init__(
        self,
        scorer: FailureScorer | Scorer,
        loss: PoolLoss,
        seed: int = 0,
        full_every: int = 1,
        n_candidates: int | Literal["risky"] | None = None,
        weight_decay: float = 0.98,
        subpool: int | None = None,
        validation: NDArray[np.int64] | None = None,
        p_floor: float = 0.0,
    ) -> None:
        whole("full_every", full_every, low=1, use="1 to score the whole pool at every refresh")
        if full_every > 1 and not scorer.supports_partial:
            raise ValueError(
                f"full_every must be 1 for a scorer that cannot score single tasks, got {full_every}; use full_every=1 or scorer='exact'"
            )
        self._only_risky = isinstance(n_candidates, str) and n_candidates == "risky"
        given = None
        if n_candidates is not None and not self._only_risky:
            given = whole("n_candidates", n_candidates, low=1, use="None for a tenth of the pool, or 'risky'")
        real("weight_decay", weight_decay, low=0.0, high=1.0, use="0.98")
        if subpool is not None and not 1 <= subpool <= scorer.n_tasks:
            raise ValueError(
                f"subpool must be in [1, {scorer.n_tasks}] for this pool, got {subpool}; use None for the whole pool"
            )
        if subpool is not None and full_every > 1:
            raise ValueError(
                f"full_every must be 1 when subpool is given, got {full_every} with subpool={subpool}; use only one of them"
            )
        self.scorer = complete(scorer)
        self.pool_loss = loss
        self.subpool = subpool
        self.full_every = full_every
        if subpool is not None and validation is not None:
            raise ValueError("validation must be None when subpool is given, got both; use only one of them")
        #: tasks that gradients may come from, and the others, ascending, int64
        self.validation = task_indices([] if validation is None else validation, scorer.n_tasks)
        self.learning = np.setdiff1d(np.arange(scorer.n_tasks), self.validation)
        self.n_partitioned = len(self.learning) if subpool is None else subpool
        usual = max(loss.reach(self.n_partitioned), scorer.n_tasks // 10)
        self.n_candidates = min(usual if given is None else given, len(self.learning))
        real("p_floor", p_floor, low=0.0, high=1.0, use="0, or the failure probability that you tolerate")
        with np.errstate(divide="ignore"):
            self._score_floor = float(failure_score(np.log(p_floor)))
        self.weight_decay = weight_decay
        self.generator = np.random.default_rng(check_seed(seed))
        self.scores: th.Tensor | None = None
        #: decaying sum of the loss's weights, shape (N,); training episodes start on tasks in proportion to it
        self.task_weights: NDArray[np.float64] = np.zeros(scorer.n_tasks)
        self.n_refreshes = 0
        #: share of the pool's ``WATCHED_TASKS`` worst tasks, at the last full scoring, that were not among the candidates; NaN before
        self.missed_top = float("nan")
        self._partitions: Partitions | None = None
        self._partitioned: NDArray[np.int64] = self.learning
        self._weights = th.zeros(0, dtype=th.float64)
        #: state of the generator before the partitions were drawn, so that a resumed run can draw them again
        self._drawn: Any = None

    def refresh(self, model: Any) -> LossTerms:
        """Score the pool without a graph, draw partitions, and evaluate the loss on the cached scores.

        :param model: the model that the scorer scores
        :return: the loss and its parts at the cached scores
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
                worst = self._worst(min(WATCHED_TASKS, len(self.learning)))
                self.missed_top = float(1.0 - np.isin(worst, followed).mean())
        else:
            candidates = self.candidates
            self.scores[th.from_numpy(candidates)] = self.scorer.score(model, candidates)
        self.n_refreshes += 1
        terms = self._draw()
        self.task_weights *= self.weight_decay
        self.task_weights[self.touched] += terms.weights.clamp(min=0.0).numpy()
        return terms

    def _draw(self) -> LossTerms:
        """Draw partitions of the cached scores, and evaluate the loss on them."""
        assert self.scores is not None
        partitioned = self.scores[th.from_numpy(self._partitioned)]
        # if drawing fails, no gradient may come from the old partitions
        self._partitions = None
        self._drawn = self.generator.bit_generator.state
        self._partitions = self.pool_loss.draw(partitioned, self.generator)
        terms = self.pool_loss.evaluate(partitioned[self._partitions.touched], self._partitions, self.n_partitioned)
        self._weights = terms.weights
        return terms

    @property
    def has_partitions(self) -> bool:
        """Whether the last refresh drew partitions, so that :meth:`loss` can be called."""
        return self._partitions is not None

    @property
    def candidates(self) -> NDArray[np.int64]:
        """The tasks that the next partial scoring scores: those with the largest cached scores; indices, ascending, int64.

        :raises RuntimeError: before the first :meth:`refresh`
        """
        if self.scores is None:
            raise RuntimeError("candidates needs the scores of the pool, got none yet; call refresh(model) first")
        count = self.n_candidates
        if self._only_risky:
            risky = int((self.scores[th.from_numpy(self.learning)] > self._score_floor).sum())
            count = min(count, max(risky, LEAST_RISKY))
        return np.sort(self._worst(count))

    def _worst(self, count: int) -> NDArray[np.int64]:
        """The tasks with the largest cached scores, of those that gradients may come from."""
        assert self.scores is not None
        chosen: NDArray[np.int64] = self.learning[th.topk(self.scores[th.from_numpy(self.learning)], count).indices.numpy()]
        return chosen

    def starts(self, drawn_share: float) -> tuple[NDArray[np.float64] | None, float]:
        """How training episodes choose their tasks: the arguments of ``set_task_weights``.

        A share of them is drawn in proportion to :attr:`task_weights`, the others uniformly. None starts on a task of the validation.

        :param drawn_share: the share, in [0, 1]
        :return: weight of each task, shape (N,), float64; ``None`` for uniform draws; and the share of the weighted draws
        """
        total = self.task_weights.sum()
        if not len(self.validation):
            return (self.task_weights if drawn_share > 0.0 else None), drawn_share
        uniform = np.zeros(self.scorer.n_tasks)
        uniform[self.learning] = 1.0 / len(self.learning)
        if drawn_share == 0.0 or total == 0.0:
            return uniform, 1.0
        return (1.0 - drawn_share) * uniform + drawn_share * self.task_weights / total, 1.0

    @property
    def touched(self) -> NDArray[np.int64]:
        """Indices of the tasks that the current partitions touch, ascending, int64.

        :raises RuntimeError: before the first :meth:`refresh`
        """
        if self._partitions is None:
            raise RuntimeError("touched needs partitions, got none yet; call refresh(model) first")
        touched: NDArray[np.int64] = self._partitioned[self._partitions.touched.numpy()]
        return touched

    @property
    def active(self) -> tuple[NDArray[np.int64], th.Tensor]:
        """Tasks whose weight was not 0 at the last refresh (indices, ascending, int64), and their weights (float64).

        While the model is still the one of the refresh, sum_i w_i dpsi_i/dtheta over these tasks is the gradient of :meth:`loss`
        (docs/method.md section 5, training recipe).
        """
        chosen = self._weights != 0.0
        return self.touched[chosen.numpy()], self._weights[chosen]

    def loss(self, model: Any) -> th.Tensor:
        """Evaluate the loss on the current partitions, with scores of the model as it is now.

        :param model: the model that the scorer scores
        :return: differentiable scalar
        :raises RuntimeError: before the first :meth:`refresh`
        """
        touched = self.touched
        assert self._partitions is not None
        scores = self.scorer.rescore(model, touched)
        return self.pool_loss.evaluate(scores, self._partitions, self.n_partitioned).loss

    def state_dict(self) -> dict[str, Any]:
        """The state from which training resumes exactly."""
        return {
            "generator": self.generator.bit_generator.state,
            "drawn": self._drawn if self.has_partitions and self.subpool is None else None,
            "scores": self.scores,
            "task_weights": self.task_weights.copy(),
            "n_refreshes": self.n_refreshes,
            "scorer": self.scorer.state_dict() if isinstance(self.scorer, Stateful) else None,
            "loss": self.pool_loss.state_dict() if isinstance(self.pool_loss, Stateful) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: from :meth:`state_dict`
        :raises ValueError: if it belongs to a pool of another size
        """
        if len(state["task_weights"]) != self.scorer.n_tasks:
            raise ValueError(
                f"the pool must have as many tasks as the saved forecast state ({len(state['task_weights'])}), got {self.scorer.n_tasks}; "
                "resume with the same pool, or start afresh with ForecastPPO.from_ppo"
            )
        self.generator.bit_generator.state = state["generator"]
        self.scores = None if state["scores"] is None else state["scores"].clone()
        self.task_weights = state["task_weights"].copy()
        self.n_refreshes = state["n_refreshes"]
        if isinstance(self.scorer, Stateful) and state["scorer"] is not None:
            self.scorer.load_state_dict(state["scorer"])
        if isinstance(self.pool_loss, Stateful) and state.get("loss") is not None:  # models of 0.2.0 have none
            self.pool_loss.load_state_dict(state["loss"])
        if state.get("drawn") is not None:
            # the partitions of the last refresh, which a training goes on with while its scorer may not play
            self.generator.bit_generator.state = state["drawn"]
            self._draw()
            self.generator.bit_generator.state = state["generator"]
