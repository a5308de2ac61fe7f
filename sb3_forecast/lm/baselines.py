"""Baselines: losses to train on instead of the forecast error, with the same scores or the same number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch as th

from sb3_forecast.lm.drawn import add_reply_gradient
from sb3_forecast.statistics.scores import log_failure_probability
from sb3_forecast.training.losses import LossTerms, Partitions

Measure = Literal["score", "log_p"]


class WorstScoresLoss:
    """Mean score, or mean log p, of the worst scored tasks. It has the interface of :class:`sb3_forecast.ForecastLoss`.

    - ``share=0.05, measure="score"`` is the CVaR of the scores at 5%.
    - ``share=1.0, measure="log_p"`` is the mean log-probability of a failure.
    - ``count=1`` trains on the single worst task.

    :param share: share of the scored tasks that enter the loss, the worst first; unused if ``count`` is given
    :param count: number of worst tasks that enter the loss; ``None`` to use ``share``
    :param measure: ``"score"`` for psi, ``"log_p"`` for log p
    :param per_task: take the sum instead of the mean, so that each task has the weight that it would have alone
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self, share: float = 0.05, count: int | None = None, measure: Measure = "score", per_task: bool = False
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share must be above 0 and at most 1, got {share}; use 0.05 for the worst 5% of the tasks")
        if count is not None and count < 1:
            raise ValueError(f"count must be at least 1, got {count}; use count=None to choose the tasks by share")
        if measure not in ("score", "log_p"):
            raise ValueError(f"measure must be 'score' or 'log_p', got {measure!r}; use 'score' for psi, 'log_p' for log p")
        self.share, self.count, self.measure, self.per_task = share, count, measure, per_task

    def reach(self, n_pool: int) -> int:
        """Number of tasks that :meth:`draw` chooses.

        :param n_pool: number of scored tasks
        """
        return min(n_pool, self.count if self.count is not None else max(1, round(self.share * n_pool)))

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """Choose the worst tasks. There is no forecast, so the partitions are empty.

        :param scores: score of every task, shape (N,), float64
        :param generator: unused
        :return: empty partitions; ``touched`` holds the chosen tasks, ascending
        """
        nothing = th.zeros(0, dtype=th.int64)
        worst = th.topk(scores.detach(), self.reach(len(scores))).indices.sort().values
        return Partitions(nothing.reshape(0, 2), nothing, worst)

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """The loss and its gradient by the scores.

        :param touched_scores: scores of the chosen tasks, shape (tasks,), float64
        :param partitions: result of :meth:`draw`; unused
        :param n_pool: unused
        :return: the loss, and the weight of each chosen task, shape (tasks,), float64
        """
        leaf = touched_scores.detach().requires_grad_(True)
        values = leaf if self.measure == "score" else log_failure_probability(leaf)
        total = values.sum() if self.per_task else values.mean()
        (weights,) = th.autograd.grad(total, leaf)
        linear = (weights * touched_scores).sum()
        nothing = th.zeros(0, dtype=th.float64)
        return LossTerms(linear + (total.detach() - linear.detach()), nothing, nothing, nothing, weights)


class RefusalPenalty:
    """Supervised refusal: the negative log-likelihood of wanted replies to random prompts of the pool.

    :param rows: prompts with the wanted replies, see :func:`sb3_forecast.lm.examples.training_rows`
    :param n_rows: number of rows drawn per step
    :param seed: seed of the draw
    :param max_tokens: tokens in a micro-batch, with padding
    :raises ValueError: if ``n_rows`` is below 1 or above the number of rows
    """

    def __init__(self, rows: Sequence[dict[str, list[int]]], n_rows: int, seed: int = 0, max_tokens: int = 8192) -> None:
        if not 1 <= n_rows <= len(rows):
            raise ValueError(
                f"n_rows must be between 1 and {len(rows)}, got {n_rows}; use a number in this range, or pass more rows"
            )
        self.rows = rows
        self.n_rows = n_rows
        self.max_tokens = max_tokens
        self.generator = np.random.default_rng(seed)
        self.tokens_scored = 0
        self.tokens_trained = 0

    def accumulate(self, model: Any) -> dict[str, float]:
        """Draw rows and add their gradient to the parameters' ``grad``.

        :param model: the language model
        :return: values to log, by key
        """
        chosen = [self.rows[i] for i in self.generator.choice(len(self.rows), self.n_rows, replace=False)]
        total, tokens = add_reply_gradient(model, chosen, self.max_tokens)
        self.tokens_trained += tokens
        return {"refusal/loss": total}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state.

        :param state: a result of :meth:`state_dict`
        """
        self.generator.bit_generator.state = state["generator"]
