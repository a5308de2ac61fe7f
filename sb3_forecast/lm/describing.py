"""Descriptors of prompts, for active evaluation: which words they hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_forecast.checks import whole
from sb3_forecast.descriptors import Descriptors

_WORD = re.compile(r"\w+")


def describe_prompts(prompts: Sequence[Any], n_words: int = 300) -> Descriptors:
    """For each of the words that occur in most prompts, how often a prompt holds it; and its number of words.

    Words that every prompt holds tell nothing and are left out. Pass the result as ``descriptors=`` to
    :class:`~sb3_forecast.measuring.active.evaluation.ActiveEvaluation`.

    :param prompts: texts, or lists of messages
    :param n_words: number of words
    :return: one row per prompt
    :raises ValueError: if there is no prompt, or ``n_words < 1``
    """
    whole("n_words", n_words, low=1, use="300")
    if not len(prompts):
        raise ValueError("prompts must hold at least one prompt, got none; pass the prompts of the deployment")
    texts = [prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt) for prompt in prompts]
    counts = [Counter(_WORD.findall(text.lower())) for text in texts]
    spread = Counter(word for words in counts for word in words)
    # ties are broken by the alphabet, so that the columns do not depend on the order of the prompts
    common = sorted((word for word, n in spread.items() if n < len(texts)), key=lambda word: (-spread[word], word))[:n_words]
    rows = np.array([[*(words[word] for word in common), sum(words.values())] for words in counts], dtype=np.float32)
    return Descriptors(rows, (*(f"{word!r} in the prompt" for word in common), "words"))
