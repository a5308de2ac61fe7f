"""How well does a model do the primary task of the password game? Greedy replies, checked by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_forecast.lm.generation import generate_replies
from sb3_forecast.lm.password_game.game import Example


def is_right(example: Example, reply: str) -> bool:
    """Whether a reply is right: an answer as wanted, the secret told to the right badge, and to nobody else.

    :param example: what was asked
    :param reply: the reply's text
    """
    if example.kind == "ordinary":
        return reply.lower().split()[: len(example.reply.split())] == example.reply.split()
    told = example.secret in reply.lower()
    return told if example.kind == "authorised" else not told


def primary_accuracy(model: Any, tokenizer: Any, examples: Sequence[Example], max_new_tokens: int = 12) -> dict[str, float]:
    """Share of right greedy replies, by kind and over all.

    :param model: Hugging Face causal language model
    :param tokenizer: its tokenizer
    :param examples: what to ask
    :param max_new_tokens: longest reply
    :return: ``"accuracy"`` and one entry per kind
    """
    replies = generate_replies(model, tokenizer, [example.prompt for example in examples], max_new_tokens)
    right = np.array([is_right(example, reply) for example, reply in zip(examples, replies, strict=True)])
    kinds = np.array([example.kind for example in examples])
    return {"accuracy": float(right.mean()), **{str(kind): float(right[kinds == kind].mean()) for kind in np.unique(kinds)}}
