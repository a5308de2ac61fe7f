"""Batches of situations: everything that an agent's next action depends on. They can be kept and evaluated again later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Situations:
    """A batch of situations.

    :param observations: observations as environments give them: an array, or a dictionary of arrays
    :param masks: actions that may be taken, shape (batch, actions), bool; ``None`` if there are no masks
    :param memory: memory of the agent before it sees the observation, shape (batch, 2, layers, width), float32; ``None``
        for agents without a memory
    :param candidates: actions that are considered, where they are too many to list: arrays by name, each of shape (batch, ...); ``None`` where
        all actions are considered
    """

    observations: Any
    masks: NDArray[np.bool_] | None = None
    memory: NDArray[np.float32] | None = None
    candidates: dict[str, NDArray[Any]] | None = None

    def take(self, rows: NDArray[np.int64]) -> Situations:
        """Some situations of the batch.

        :param rows: indices into the batch, shape (n,); an index may occur more than once
        :return: a batch of n situations
        """
        return Situations(
            _take(self.observations, rows),
            None if self.masks is None else self.masks[rows],
            None if self.memory is None else self.memory[rows],
            None if self.candidates is None else {name: part[rows] for name, part in self.candidates.items()},
        )

    def __len__(self) -> int:
        first = next(iter(self.observations.values())) if isinstance(self.observations, dict) else self.observations
        return len(first)

    @staticmethod
    def chosen(parts: Sequence[Situations], rows: NDArray[np.int64]) -> Situations:
        """Some situations of several batches. Only these are copied, not the whole batches.

        :param parts: the batches
        :param rows: indices, counted through all batches; ascending, at least one
        :return: one batch
        """
        cuts = np.searchsorted(rows, np.cumsum([0, *(len(part) for part in parts)]))
        first, taken = 0, []
        for part, begin, end in zip(parts, cuts[:-1], cuts[1:], strict=True):
            if end > begin:
                taken.append(part.take(rows[begin:end] - first))
            first += len(part)
        return Situations.joined(taken)

    @staticmethod
    def joined(parts: Sequence[Situations]) -> Situations:
        """Join several batches.

        :param parts: at least one batch. Either all have masks or none has; either all have a memory or none has
        :return: one batch
        """
        masks = [part.masks for part in parts if part.masks is not None]
        memories = [part.memory for part in parts if part.memory is not None]
        candidates = [part.candidates for part in parts if part.candidates is not None]
        return Situations(
            joined_observations([part.observations for part in parts]),
            np.concatenate(masks) if masks else None,
            np.concatenate(memories) if memories else None,
            joined_observations(candidates) if candidates else None,
        )


def _take(observations: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(observations, dict):
        return {key: value[rows] for key, value in observations.items()}
    return observations[rows]


def joined_observations(batches: Sequence[Any]) -> Any:
    """Join several batches of observations.

    :param batches: arrays, or dictionaries of arrays
    :return: one array, or one dictionary of arrays
    """
    if isinstance(batches[0], dict):
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return np.concatenate(batches)
