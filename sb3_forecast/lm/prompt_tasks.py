"""Prompts as a pool of tasks, from a list or a Parquet file, and their scorer; for deployments that are scored block by block."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch as th
from numpy.typing import ArrayLike, NDArray

from sb3_forecast.checks import task_indices
from sb3_forecast.lm.scorer import LMFailureScorer
from sb3_forecast.scorers.protocols import Scorer


class PromptTasks:
    """Prompts with the beginnings of replies that count as failures. Task i is the i-th prompt.

    :param prompts: N prompts: chat messages or plain texts
    :param targets: stems of each prompt: a list of texts, or one text
    :param rare: which tasks belong to a rare mode, shape (N,), bool; ``None`` for none
    :raises ValueError: if there is no prompt, or the numbers of entries differ
    """

    #: no scorer serves prompts by name: use :class:`PromptScorers`
    scorers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, prompts: Sequence[Any], targets: Sequence[Any], rare: ArrayLike | None = None) -> None:
        self.prompts, self.targets = list(prompts), list(targets)
        self.rare: NDArray[np.bool_] = np.zeros(len(self.prompts), np.bool_) if rare is None else np.asarray(rare, np.bool_)
        if not self.prompts or not len(self.prompts) == len(self.targets) == len(self.rare):
            raise ValueError(
                f"prompts, targets and rare must have one entry per task, got {len(self.prompts)}, {len(self.targets)} and {len(self.rare)}; "
                "pass at least one prompt, and the stems of each"
            )

    @classmethod
    def read(
        cls, path: str | pathlib.Path, prompt: str = "prompt", target: str = "target", rare: str | None = None
    ) -> PromptTasks:
        """Read prompts from a Parquet file.

        :param path: the file
        :param prompt: column of the prompts: texts, or lists of messages
        :param target: column of the stems: texts, or lists of texts
        :param rare: column that says which tasks are rare; ``None`` if there is none
        :return: the tasks
        :raises ImportError: if pyarrow is missing
        :raises ValueError: if a column does not exist
        """
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError("PromptTasks.read needs pyarrow; run `pip install 'sb3-forecast[parquet]'`") from error
        names = [name for name in (prompt, target, rare) if name is not None]
        there = pq.read_schema(path).names
        missing = [name for name in names if name not in there]
        if missing:
            raise ValueError(
                f"columns must be in {path}, got {missing}, and the file has {there}; name others with prompt=, target=, rare="
            )
        columns = pq.read_table(path, columns=names).to_pydict()
        return cls(columns[prompt], columns[target], None if rare is None else columns[rare])

    @cached_property
    def key(self) -> str:
        """A checksum of the prompts, the stems, and which are rare."""
        text = json.dumps([self.prompts, self.targets], sort_keys=True).encode() + self.rare.tobytes()
        return f"{len(self)} prompts {hashlib.sha256(text).hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.prompts)

    def subset(self, indices: ArrayLike) -> PromptTasks:
        """Some of the tasks.

        :param indices: positions, or a mask
        """
        chosen = task_indices(indices, len(self))
        return PromptTasks([self.prompts[i] for i in chosen], [self.targets[i] for i in chosen], self.rare[chosen])


class PromptScorers:
    """Makes the scorer of any prompts, here or on another machine.

    ``sf.cluster.score(model, tasks, folder, scorer=PromptScorers(tokenizer), identity="stems")``

    :param tokenizer: the model's tokenizer
    :param max_tokens: tokens in a micro-batch; see :class:`LMFailureScorer`
    :param device: where the model runs on machines that have a GPU, for example ``"cuda"`` with ``num_gpus=1``; ``None`` for the CPU
    """

    def __init__(self, tokenizer: Any, max_tokens: int = 8192, device: str | None = None) -> None:
        self.tokenizer, self.max_tokens, self.device = tokenizer, max_tokens, device

    def __call__(self, model: Any, pool: Any, seed: int) -> Scorer:
        """The scorer of some prompts.

        :param model: the language model
        :param pool: the prompts, with ``prompts`` and ``targets``
        :param seed: not used: nothing is sampled
        """
        if self.device is not None and th.cuda.is_available():
            model.to(self.device)
        return LMFailureScorer(model, self.tokenizer, pool.prompts, pool.targets, max_tokens=self.max_tokens)
