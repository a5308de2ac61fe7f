"""SampledLeak: sample replies and count failures. This also finds failures in words that no stem covers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.lm.generation import generate_replies


@dataclass(frozen=True)
class SampledReplies:
    """Sampled replies and the detector's verdicts.

    :param replies: replies to each prompt: N lists of ``n_samples`` texts
    :param leaked: whether each reply failed, shape (N, n_samples), boolean
    """

    replies: list[list[str]]
    leaked: NDArray[np.bool_]

    @property
    def rates(self) -> NDArray[np.float64]:
        """Share of failed replies to each prompt, shape (N,), float64."""
        rates: NDArray[np.float64] = self.leaked.mean(axis=1)
        return rates


class SampledLeak:
    """Sample replies and let a detector judge them. This estimates the failure probability without any stems.

    :param tokenizer: the model's tokenizer
    :param prompts: N prompts: chat messages or plain texts
    :param detector: function of the text of a reply and the index of its prompt; returns whether the reply failed
    :param n_samples: number of replies per prompt
    :param max_new_tokens: largest number of tokens in a reply
    :param temperature: temperature for sampling from the whole vocabulary
    :param batch_size: number of replies that are sampled together
    :raises ValueError: if a number is below 1, or the temperature is not above 0
    """

    def __init__(
        self,
        tokenizer: Any,
        prompts: Sequence[Any],
        detector: Callable[[str, int], bool],
        n_samples: int = 20,
        max_new_tokens: int = 24,
        temperature: float = 1.0,
        batch_size: int = 256,
    ) -> None:
        for name, value in (("n_samples", n_samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; use a larger number")
        if not temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {temperature}; use generate_replies for the likeliest replies")
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.detector = detector
        self.n_samples = n_samples
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.batch_size = batch_size

    def sample(self, model: Any, seed: int = 0) -> SampledReplies:
        """Sample replies and judge them.

        :param model: Hugging Face causal language model
        :param seed: seed for sampling
        :return: the replies and the verdicts
        """
        repeated = [prompt for prompt in self.prompts for _ in range(self.n_samples)]
        flat = generate_replies(model, self.tokenizer, repeated, self.max_new_tokens, self.temperature, seed, self.batch_size)
        replies = [flat[i : i + self.n_samples] for i in range(0, len(flat), self.n_samples)]
        leaked = [[self.detector(reply, task) for reply in mine] for task, mine in enumerate(replies)]
        return SampledReplies(replies, np.array(leaked, dtype=np.bool_).reshape(len(replies), self.n_samples))
