"""Finds the distinct compact views of many states, so that the policy is evaluated only once for each of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.jit import jit_leaf

#: number of views that are numbered at once
_PIECE = 4096
_FACTOR = np.uint64(0x100000001B3)
_START = np.uint64(0xCBF29CE484222325)


@jit_leaf
def _hash(views: NDArray[np.uint8], row: int) -> np.uint64:
    """FNV-1a hash of one row, folded so that its low bits depend on the whole hash."""
    value = _START
    for byte in range(views.shape[1]):
        value = (value ^ np.uint64(views[row, byte])) * _FACTOR
    return value ^ (value >> np.uint64(29))


@jit_leaf
def _place(slots: NDArray[np.int32], known: NDArray[np.uint8], count: int) -> None:
    """Put the first ``count`` known views into an empty hash table."""
    mask = np.uint64(slots.shape[0] - 1)
    for row in range(count):
        slot = _hash(known, row) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = row


@jit_leaf
def _number(
    views: NDArray[np.uint8], slots: NDArray[np.int32], known: NDArray[np.uint8], count: int, out: NDArray[np.int32]
) -> int:
    """Write the number of each view into ``out``, and append new views to ``known``. Returns how many views are known now."""
    mask = np.uint64(slots.shape[0] - 1)
    for row in range(views.shape[0]):
        slot = _hash(views, row) & mask
        while True:
            held = slots[slot]
            if held < 0:
                slots[slot] = held = count
                for byte in range(views.shape[1]):
                    known[count, byte] = views[row, byte]
                count += 1
                break
            same = True
            for byte in range(views.shape[1]):
                if known[held, byte] != views[row, byte]:
                    same = False
                    break
            if same:
                break
            slot = (slot + np.uint64(1)) & mask
        out[row] = held
    return count


class ViewIndex:
    """Numbers views in the order in which they first appear.

    It is a hash table with open addressing. Its size is a power of two, and it is at most half full. Views are compared
    byte by byte, so two views with the same hash still get different numbers.

    :param width: number of bytes of a view
    """

    def __init__(self, width: int) -> None:
        self._known = np.empty((1024, width), dtype=np.uint8)
        self._slots = np.full(2048, -1, dtype=np.int32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def views(self) -> NDArray[np.uint8]:
        """The distinct views so far, shape (distinct, width), uint8."""
        return self._known[: self._count]

    def add(self, views: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Number some views; new views are added.

        :param views: compact views, shape (states, width), uint8
        :return: row of :attr:`views` of each view, shape (states,), int32
        """
        out = np.empty(len(views), dtype=np.int32)
        # room is made as if every view were new, so small pieces keep the table small
        for begin in range(0, len(views), _PIECE):
            piece = np.ascontiguousarray(views[begin : begin + _PIECE])
            self._make_room(self._count + len(piece))
            self._count = _number(piece, self._slots, self._known, self._count, out[begin : begin + _PIECE])
        return out

    def _make_room(self, room: int) -> None:
        if room > len(self._known):
            known = np.empty((max(len(self._known) * 3 // 2, room), self._known.shape[1]), dtype=np.uint8)
            known[: self._count] = self.views
            self._known = known
        if 2 * room > len(self._slots):
            self._slots = np.full(1 << (2 * room - 1).bit_length(), -1, dtype=np.int32)
            _place(self._slots, self._known, self._count)


def distinct_views(views: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Distinct views, in the order in which they first appear.

    :param views: compact views, shape (states, width), uint8
    :return: distinct views, shape (views, width), uint8; the row of each state among them, shape (states,), int32
    """
    index = ViewIndex(views.shape[1])
    numbers = index.add(views)
    return index.views.copy(), numbers
