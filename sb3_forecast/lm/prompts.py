"""Prompts as tokens."""

from __future__ import annotations

from typing import Any


def encode_prompt(tokenizer: Any, prompt: Any) -> list[int]:
    """Tokens of a prompt, up to the place where the reply begins.

    :param tokenizer: Hugging Face tokenizer
    :param prompt: chat messages, which are put into the tokenizer's chat template, or plain text, which is used as it is
    :return: token ids
    :raises ValueError: if the prompt is empty, or if it holds messages and the tokenizer has no chat template
    """
    if isinstance(prompt, str):
        tokens: list[int] = tokenizer(prompt)["input_ids"]
    else:
        if not tokenizer.chat_template:
            raise ValueError(
                f"prompt must be plain text for a tokenizer without a chat template ({type(tokenizer).__name__}), got {prompt!r}; "
                "use plain text, or set tokenizer.chat_template"
            )
        tokens = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    if not tokens:
        raise ValueError(f"prompt must have at least one token, got {prompt!r}, which has none; use a text that is not empty")
    return tokens
