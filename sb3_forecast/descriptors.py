"""What tasks look like, in numbers: for choosing which tasks to evaluate, and for naming the modes that are found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Descriptors:
    """One row of numbers per task.

    :param values: shape (tasks, columns), float32
    :param names: name of each column, so that a person understands a rule such as "lava cells >= 5"
    :raises ValueError: if the shapes do not fit, or a value is not finite
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names) or not self.names:
            raise ValueError(
                f"descriptors must have one row per task and one column per name, got shape {self.values.shape} and {len(self.names)} names; "
                "use an array of shape (tasks, names)"
            )
        bad = np.flatnonzero(~np.isfinite(self.values).all(axis=0))
        if len(bad):
            row = int(np.flatnonzero(~np.isfinite(self.values[:, bad[0]]))[0])
            raise ValueError(
                f"descriptors must be finite, got {self.values[row, bad[0]]} in column {self.names[bad[0]]!r} of task {row}; use a number that "
                "stands for a missing one"
            )

    @classmethod
    def of(cls, values: ArrayLike, names: tuple[str, ...] | None = None) -> Descriptors:
        """Descriptors from any array of numbers.

        :param values: shape (tasks, columns)
        :param names: name of each column; ``None`` for "column 0", "column 1" and so on
        :raises TypeError: if the values are no numbers, or rows differ in length
        :raises ValueError: as the class
        """
        try:
            array = np.asarray(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"descriptors must be numbers of shape (tasks, columns), got {type(values).__name__} ({error}); use an array of floats"
            ) from error
        if names is None and array.ndim == 2:
            names = tuple(f"column {i}" for i in range(array.shape[1]))
        return cls(array, names or ())
