"""Accuracy of a model in the primary task of the password game: its likeliest replies, checked by rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_forecast.lm.generation import generate_replies
from sb3_forecast.lm.password_game.game import Example


def is_right(example: Example, reply: str) -> bool:
    """Whether a reply is right.

    The reply to an ordinary question must begin with the right answer. The reply to the right badge must contain the secret. All other
    replies must not contain it.

    :param example: the prompt with its right reply
    :param reply: text of the model's reply
    """
    if example.kind == "ordinary":
        return reply.lower().split()[: len(example.reply.split())] == example.reply.split()
    told = example.secret in reply.lower()
    return told if example.kind == "authorised" else not told


def primary_accuracy(model: Any, tokenizer: Any, examples: Sequence[Example], max_new_tokens: int = 12) -> dict[str, float]:
    """Share of right replies when the model takes its likeliest token each time.

    :param model: Hugging Face causal language model
    :param tokenizer: the model's tokenizer
    :param examples: the prompts with their right replies
    :param max_new_tokens: largest number of tokens in a reply
    :return: ``"accuracy"`` for the share over all examples, and one entry per kind
    """
    replies = generate_replies(model, tokenizer, [example.prompt for example in examples], max_new_tokens)
    right = np.array([is_right(example, reply) for example, reply in zip(examples, replies, strict=True)])
    kinds = np.array([example.kind for example in examples])
    return {"accuracy": float(right.mean()), **{str(kind): float(right[kinds == kind].mean()) for kind in np.unique(kinds)}}
