"""Replies that a model really gives, greedy or sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.lm.prompts import encode_prompt

#: prompts generated together: their tokens times this many are in memory
_BATCH = 256


def generate_replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    max_new_tokens: int = 32,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = _BATCH,
) -> list[str]:
    """Replies of a model to prompts.

    :param model: Hugging Face causal language model
    :param tokenizer: its tokenizer
    :param prompts: chat messages or plain text
    :param max_new_tokens: longest reply, in tokens
    :param temperature: ``None`` for greedy replies, else that of the sampling, from the whole vocabulary
    :param seed: seed of the sampling; torch's own generator is left as it was
    :param batch_size: prompts generated together
    :return: the replies' texts, in the order of the prompts
    """
    tokens = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    # prompts of a like length together
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    replies = [""] * len(tokens)
    training = model.training
    model.eval()
    device = model.device
    try:
        with th.no_grad(), th.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            th.manual_seed(seed)
            for begin in range(0, len(order), batch_size):
                chosen = order[begin : begin + batch_size]
                length = max(len(tokens[i]) for i in chosen)
                # generation goes on from the right end, so the padding is on the left whatever the tokenizer prefers
                ids = th.full((len(chosen), length), pad, dtype=th.long)
                mask = th.zeros(len(chosen), length, dtype=th.long)
                for row, i in enumerate(chosen):
                    ids[row, length - len(tokens[i]) :] = th.tensor(tokens[i])
                    mask[row, length - len(tokens[i]) :] = 1
                out = model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad,
                    **sampling,
                )
                for row, i in enumerate(chosen):
                    replies[i] = tokenizer.decode(out[row, length:], skip_special_tokens=True).strip()
    finally:
        model.train(training)
    return replies
