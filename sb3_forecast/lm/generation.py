"""Replies that a model generates: the likeliest tokens, or sampled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_forecast.lm.prompts import encode_prompt

#: replies generated together; the memory grows with it
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
    """Generate the replies of a model to prompts.

    :param model: Hugging Face causal language model
    :param tokenizer: the model's tokenizer
    :param prompts: chat messages or plain texts
    :param max_new_tokens: largest number of tokens in a reply
    :param temperature: temperature for sampling from the whole vocabulary; with ``None`` the model takes its likeliest token each time
    :param seed: seed for sampling; the state of torch's own generator is restored afterwards
    :param batch_size: number of prompts that are generated together
    :return: texts of the replies, in the order of the prompts
    :raises ValueError: see :func:`sb3_forecast.lm.prompts.encode_prompt`
    """
    tokens = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    # batches of prompts of similar length need less padding
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    # a model's own generation_config may ask for more than a temperature; what is scored is the model's plain distribution
    sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
    if temperature is not None:
        sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
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
                # new tokens are added on the right, so the padding must be on the left, whatever the tokenizer's setting is
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
