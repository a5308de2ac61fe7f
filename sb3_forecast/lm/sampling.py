"""SampledLeak: does the model give it away when it speaks freely? Teacher-forced scores cannot see other wordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.lm.generation import generate_replies


@dataclass(frozen=True)
class SampledReplies:
    """Sampled replies and what the detector says of them.

    :param replies: replies of each prompt, N lists of ``n_samples`` texts
    :param leaked: which of them failed, shape (N, n_samples)
    """

    replies: list[list[str]]
    leaked: NDArray[np.bool_]

    @property
    def rates(self) -> NDArray[np.float64]:
        """Share of failing replies of each prompt, shape (N,)."""
        rates: NDArray[np.float64] = self.leaked.mean(axis=1)
        return rates


class SampledLeak:
    """Free sampling with a detector: an estimate of the failure probability that no choice of stems can evade.

    :param tokenizer: the model's tokenizer
    :param prompts: N prompts: chat messages or plain texts
    :param detector: called with a reply's text and the prompt's number; whether the reply has failed
    :param n_samples: replies of each prompt
    :param max_new_tokens: longest reply, in tokens
    :param temperature: of the sampling, from the whole vocabulary
    :param batch_size: replies sampled together
    :raises ValueError: if there is nothing to sample
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
                raise ValueError(f"{name}={value} samples nothing; use {name} >= 1")
        if not temperature > 0.0:
            raise ValueError(f"temperature={temperature} does not sample; use a value > 0")
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.detector = detector
        self.n_samples = n_samples
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.batch_size = batch_size

    def sample(self, model: Any, seed: int = 0) -> SampledReplies:
        """Sample replies and look at them.

        :param model: Hugging Face causal language model
        :param seed: seed of the sampling
        :return: replies and verdicts
        """
        repeated = [prompt for prompt in self.prompts for _ in range(self.n_samples)]
        flat = generate_replies(model, self.tokenizer, repeated, self.max_new_tokens, self.temperature, seed, self.batch_size)
        replies = [flat[i : i + self.n_samples] for i in range(0, len(flat), self.n_samples)]
        leaked = [[self.detector(reply, task) for reply in mine] for task, mine in enumerate(replies)]
        return SampledReplies(replies, np.array(leaked, dtype=np.bool_).reshape(len(replies), self.n_samples))
