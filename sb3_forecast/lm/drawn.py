"""Train wanted replies to the prompts on which the forecast loss has weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.lm.examples import PadOnTheRight
from sb3_forecast.training.objective import ForecastObjective


class DrawnReplies:
    """The negative log-likelihood of wanted replies to some prompts, drawn in proportion to the loss's weights.

    As long as no prompt has a weight, nothing is drawn and no gradient is added.

    :param rows: every prompt of the pool with its wanted reply, in the order of the pool
    :param objective: the objective; its :attr:`~sb3_forecast.ForecastObjective.task_weights` are the weights of the draw
    :param n_rows: rows drawn per step
    :param seed: seed of the draw
    :param max_tokens: tokens in a micro-batch, with padding
    """

    def __init__(
        self,
        rows: Sequence[dict[str, list[int]]],
        objective: ForecastObjective,
        n_rows: int,
        seed: int = 0,
        max_tokens: int = 8192,
    ) -> None:
        self.rows = rows
        self.objective = objective
        self.n_rows = n_rows
        self.max_tokens = max_tokens
        self.generator = np.random.default_rng([seed, 23])
        self.tokens_trained = 0

    def accumulate(self, model: Any) -> dict[str, float]:
        """Draw rows and add their gradient to the parameters' ``grad``.

        :param model: the language model
        :return: values to log, by key
        """
        weights = self.objective.task_weights
        if not weights.sum() > 0.0:
            return {}
        chosen = self.generator.choice(len(weights), self.n_rows, p=weights / weights.sum())
        total, tokens = add_reply_gradient(model, [self.rows[i] for i in chosen], self.max_tokens)
        self.tokens_trained += tokens
        return {"forecast/drawn_loss": total}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state.

        :param state: a result of :meth:`state_dict`
        """
        self.generator.bit_generator.state = state["generator"]


def add_reply_gradient(model: Any, rows: Sequence[dict[str, list[int]]], max_tokens: int) -> tuple[float, int]:
    """Add the gradient of the negative log-likelihood of replies to the parameters' ``grad``.

    The loss is the mean over the tokens of each reply, then over the rows.

    :param model: the language model
    :param rows: rows of :func:`sb3_forecast.lm.examples.training_rows`
    :param max_tokens: tokens in a micro-batch, with padding
    :return: the loss, and the number of tokens that were trained on
    """
    collate = PadOnTheRight(0)
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    size = max(1, max_tokens // len(ordered[-1]["input_ids"]))
    total, tokens = 0.0, 0
    with th.enable_grad():
        for begin in range(0, len(ordered), size):
            batch = {name: value.to(model.device) for name, value in collate(ordered[begin : begin + size]).items()}
            labels = batch.pop("labels")[:, 1:]
            tokens += int(batch["attention_mask"].sum())
            logits = model(**batch, use_cache=False).logits[:, :-1].float()
            losses = th.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            loss = (losses.sum(1) / (labels != -100).sum(1)).sum() / len(rows)
            loss.backward()
            total += float(loss.detach())
    return total, tokens
