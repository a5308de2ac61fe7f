"""Prompts as tokens."""

from __future__ import annotations

from typing import Any


def encode_prompt(tokenizer: Any, prompt: Any) -> list[int]:
    """Tokens of a prompt, up to where the reply begins.

    :param tokenizer: Hugging Face tokenizer
    :param prompt: chat messages, put into the tokenizer's chat template, or plain text, taken as it is
    :return: token ids
    :raises ValueError: if the prompt is empty, or holds messages and the tokenizer has no chat template
    """
    if isinstance(prompt, str):
        tokens: list[int] = tokenizer(prompt)["input_ids"]
    else:
        if not tokenizer.chat_template:
            raise ValueError(
                f"prompt={prompt!r} holds chat messages, but {type(tokenizer).__name__} has no chat template; pass prompts "
                f"as plain text, or set "
                "tokenizer.chat_template"
            )
        tokens = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    if not tokens:
        raise ValueError(f"prompt={prompt!r} is empty: it has no tokens to reply to; pass at least one")
    return tokens
