"""What one could train on instead of the forecast error, with the same scores or the same tokens."""

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
    """Mean score, or mean log p, of the worst share of the scored tasks; the interface of :class:`sb3_forecast.ForecastLoss`.

    ``share=0.05, measure="score"`` is the CVaR of the scores at 5%; ``share=1.0, measure="log_p"`` the mean log-probability of a failure;
    ``count=1`` pushes down the single worst task.

    :param share: share of the scored tasks, the worst; unused if ``count`` is given
    :param count: so many tasks
    :param measure: ``"score"`` (psi) or ``"log_p"``
    :param per_task: the sum instead of the mean: each active task weighs as much as a single one would
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self, share: float = 0.05, count: int | None = None, measure: Measure = "score", per_task: bool = False
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share={share} is no share of the tasks; use a value in (0, 1]")
        if count is not None and count < 1:
            raise ValueError(f"count={count} penalises nothing; use count >= 1, or None")
        if measure not in ("score", "log_p"):
            raise ValueError(f"measure={measure!r} is unknown; use 'score' or 'log_p'")
        self.share, self.count, self.measure, self.per_task = share, count, measure, per_task

    def reach(self, n_pool: int) -> int:
        """How many tasks :meth:`draw` chooses.

        :param n_pool: tasks that are scored
        """
        return min(n_pool, self.count if self.count is not None else max(1, round(self.share * n_pool)))

    def draw(self, scores: th.Tensor, generator: np.random.Generator) -> Partitions:
        """The worst tasks; there is nothing to forecast, so the partitions are empty.

        :param scores: score of every task, shape (N,)
        :param generator: unused
        """
        nothing = th.zeros(0, dtype=th.int64)
        worst = th.topk(scores.detach(), self.reach(len(scores))).indices.sort().values
        return Partitions(nothing.reshape(0, 2), nothing, worst)

    def evaluate(self, touched_scores: th.Tensor, partitions: Partitions, n_pool: int) -> LossTerms:
        """The mean, and its gradient.

        :param touched_scores: scores of the tasks, shape (tasks,)
        :param partitions: as drawn
        :param n_pool: unused
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
    :param n_rows: rows of a step
    :param seed: seed of their choice
    :param max_tokens: tokens of a micro-batch, with padding
    :raises ValueError: if there is nothing to train on
    """

    def __init__(self, rows: Sequence[dict[str, list[int]]], n_rows: int, seed: int = 0, max_tokens: int = 8192) -> None:
        if not 1 <= n_rows <= len(rows):
            raise ValueError(f"n_rows={n_rows} does not fit {len(rows)} prompts; use 1 to {len(rows)}")
        self.rows = rows
        self.n_rows = n_rows
        self.max_tokens = max_tokens
        self.generator = np.random.default_rng(seed)
        self.tokens_scored = 0
        self.tokens_trained = 0

    def accumulate(self, model: Any) -> dict[str, float]:
        """Add the gradient to the parameters' ``grad``.

        :param model: the language model
        :return: what to log
        """
        chosen = [self.rows[i] for i in self.generator.choice(len(self.rows), self.n_rows, replace=False)]
        total, tokens = add_reply_gradient(model, chosen, self.max_tokens)
        self.tokens_trained += tokens
        return {"refusal/loss": total}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        self.generator.bit_generator.state = state["generator"]
