"""What the families' layouts have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def empty_room(size: int) -> NDArray[np.uint8]:
    """A room of empty cells (code 0) within walls (code 1).

    :param size: side of the layout, walls included
    :return: shape (size, size), uint8, indexed [y, x]
    """
    layout = np.zeros((size, size), dtype=np.uint8)
    layout[[0, -1], :] = layout[:, [0, -1]] = 1
    return layout


def beside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells with one of the masked cells as a direct neighbour; the layout's border counts as not masked.

    :param mask: shape (size, size)
    :return: same shape
    """
    padded = np.pad(mask, 1)
    near: NDArray[np.bool_] = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return near
