"""Examples (prompt and reply) as tokens, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th

from sb3_forecast.lm.prompts import encode_prompt


def encode_example(tokenizer: Any, prompt: Any, reply: str) -> tuple[list[int], list[int]]:
    """Tokens of a prompt and of the reply to learn.

    :param tokenizer: Hugging Face tokenizer
    :param prompt: chat messages or plain text
    :param reply: text of the reply
    :return: token ids of the prompt, and of the reply with the tokenizer's end-of-sequence token at its end
    :raises ValueError: see :func:`sb3_forecast.lm.prompts.encode_prompt`
    """
    ids: list[int] = tokenizer(reply, add_special_tokens=False)["input_ids"]
    return encode_prompt(tokenizer, prompt), [*ids, tokenizer.eos_token_id]


def training_rows(tokenizer: Any, examples: Sequence[Any]) -> list[dict[str, list[int]]]:
    """Rows for the ``Trainer`` of transformers. Only the tokens of the replies have labels, so only they enter the loss.

    :param tokenizer: Hugging Face tokenizer
    :param examples: objects with the attributes ``prompt`` and ``reply``
    :return: for each example, ``input_ids`` and ``labels``; the labels are -100 for the tokens of the prompt
    :raises ValueError: see :func:`sb3_forecast.lm.prompts.encode_prompt`
    """
    rows = []
    for example in examples:
        prompt, reply = encode_example(tokenizer, example.prompt, example.reply)
        rows.append({"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply})
    return rows


class PadOnTheRight:
    """Data collator for :func:`training_rows`.

    :param pad: token to pad with. Any token will do, since padding is masked
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, th.Tensor]:
        """Model inputs for some rows.

        :param rows: rows of :func:`training_rows`
        :return: ``input_ids``, ``attention_mask`` and ``labels``, each of shape (rows, length), int64
        """
        length = max(len(row["input_ids"]) for row in rows)
        ids = th.full((len(rows), length), self.pad)
        labels = th.full((len(rows), length), -100)
        mask = th.zeros(len(rows), length, dtype=th.long)
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            ids[i, :end], labels[i, :end], mask[i, :end] = th.tensor(row["input_ids"]), th.tensor(row["labels"]), 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
