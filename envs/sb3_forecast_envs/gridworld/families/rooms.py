"""Functions that the layouts of several families use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def empty_room(size: int) -> NDArray[np.uint8]:
    """A room of empty cells (code 0) with walls (code 1) around it.

    :param size: side of the layout in cells, with the walls
    :return: shape (size, size), uint8, indexed [y, x]
    """
    layout = np.zeros((size, size), dtype=np.uint8)
    layout[[0, -1], :] = layout[:, [0, -1]] = 1
    return layout


def beside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which cells have a masked cell as a direct neighbour. Cells outside the layout count as not masked.

    :param mask: shape (size, size), bool
    :return: shape (size, size), bool
    """
    padded = np.pad(mask, 1)
    near: NDArray[np.bool_] = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return near
