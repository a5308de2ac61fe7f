"""Numba kernels for the batched environment and the finite model. Both use them, so every rule of the grid is written once.

Layouts are padded with walls on all sides (``pad_layouts``) and flattened, so that a view never leaves the array.
``rules.stride`` is the padded width. Directions are MiniGrid's: 0 right, 1 down, 2 left, 3 up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.jit import jit, jit_leaf
from sb3_forecast_envs.gridworld.rules import MOVES, OPAQUE, OUTCOME, PICKABLE, WALKABLE, Rules

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_LEFT, _RIGHT, FORWARD = MOVES["left"], MOVES["right"], MOVES["forward"]
_PICKUP, _TOGGLE = MOVES["pickup"], MOVES["toggle"]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def pad_layouts(layouts: U8, margin: int, wall: int) -> U8:
    """Surround layouts with walls and flatten them.

    :param layouts: cell codes, shape (n, size, size), uint8, indexed [task, y, x]
    :param margin: width of the added border, in cells
    :param wall: code of the wall
    :return: shape (n, (size + 2 margin)^2), uint8
    """
    padded = np.pad(layouts, ((0, 0), (margin, margin), (margin, margin)), constant_values=wall)
    return np.ascontiguousarray(padded.reshape(len(layouts), -1))


def view_offsets(view_size: int, stride: int) -> I64:
    """Offsets in a flattened layout from the agent's cell to each cell of its egocentric view, for each direction.

    :param view_size: side of the view, odd
    :param stride: padded width of a layout
    :return: shape (4, view_size^2), in the order of MiniGrid's image [i, j]: i to the agent's right, j towards the agent
    """
    steps = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    i, j = np.meshgrid(np.arange(view_size), np.arange(view_size), indexing="ij")
    right, ahead = i - view_size // 2, view_size - 1 - j
    offsets = [(ahead * dx - right * dy) + (ahead * dy + right * dx) * stride for dx, dy in steps]
    return np.stack([o.reshape(-1) for o in offsets]).astype(np.int64)


@jit_leaf
def step_uniform(key: np.uint64, step: int) -> float:
    """The uniform number in [0, 1) of one step of an episode: SplitMix64 at position ``step`` of the stream ``key``.

    It depends on key and step only. So an environment in a batch and the same environment alone see the same wind.
    """
    z = np.uint64(key) + np.uint64(step + 1) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53


@jit_leaf
def turn_of(u: float, slip: float) -> int:
    """Direction of a move relative to the agent, from a uniform number ``u``: 0 ahead, 3 left, 1 right."""
    if u >= slip:
        return 0
    return 3 if u < 0.5 * slip else 1


@jit_leaf
def advance(
    grids: U8, row: int, pos: int, direction: int, load: int, move: int, turn: int, stride: int, kinds: U8, toggled: U8
) -> tuple[int, int, int, int]:
    """Take one step by the rules of the grid, in layout ``grids[row]``. Picking up and toggling change the layout.

    The arguments are whole arrays and row numbers instead of :class:`Rules` and slices. To pass those from one compiled function to another
    costs several times as much as the step itself.

    :return: position, direction, code of the carried object, outcome of the entered cell
    """
    if move == _LEFT:
        return pos, (direction + 3) % 4, load, 0
    if move == _RIGHT:
        return pos, (direction + 1) % 4, load, 0
    heading = (direction + turn) % 4
    delta = 1
    if heading == 1:
        delta = stride
    elif heading == 2:
        delta = -1
    elif heading == 3:
        delta = -stride
    front = pos + delta
    code = grids[row, front]
    if move == FORWARD:
        if kinds[code, WALKABLE] == 1:
            return front, direction, load, int(kinds[code, OUTCOME])
    elif move == _PICKUP:
        if load == 0 and kinds[code, PICKABLE] == 1:
            grids[row, front] = 0
            return pos, direction, int(code), 0
    elif move == _TOGGLE:
        grids[row, front] = toggled[load, code]
    return pos, direction, load, 0


@jit_leaf
def _occlude(views: U8, b: int, kinds: U8, side: int) -> None:
    """Replace the cells that the agent cannot see by the code after the last one, with MiniGrid's own sweep (``Grid.process_vis``).

    Each row of the view is stored as bits of an integer: the cells that light reaches, and the cells that it passes through.
    """
    lit = 1 << (side // 2)
    for row in range(side):
        j = side - 1 - row
        clear = 0
        for i in range(side):
            if kinds[views[b, i * side + j], OPAQUE] == 0:
                clear |= 1 << i
        ahead = 0
        for i in range(side - 1):
            if (lit & clear) >> i & 1:
                lit |= 2 << i
                ahead |= 3 << i
        for i in range(side - 1, 0, -1):
            if (lit & clear) >> i & 1:
                lit |= 1 << (i - 1)
                ahead |= 3 << (i - 1)
        for i in range(side):
            if lit >> i & 1 == 0:
                views[b, i * side + j] = kinds.shape[0]
        lit = ahead


@jit_leaf
def look(
    views: U8, b: int, grids: U8, row: int, pos: int, direction: int, load: int, offsets: I64, kinds: U8, occluded: bool
) -> None:
    """Write the codes of the agent's view of ``grids[row]`` into ``views[b]``; the agent's own cell shows what it carries."""
    for cell in range(offsets.shape[1]):
        views[b, cell] = grids[row, pos + offsets[direction, cell]]
    side = int(np.sqrt(offsets.shape[1]))
    if occluded:
        _occlude(views, b, kinds, side)
    views[b, (side // 2) * side + side - 1] = load


@jit
def look_batch(views: U8, grids: U8, rows: I64, pos: I64, direction: I64, load: I64, rules: Rules) -> None:
    """``look`` for a batch; ``rows[b]`` is the row of ``grids`` with the layout of state b."""
    offsets, kinds, occluded = rules.offsets, rules.kinds, rules.occluded
    for b in range(pos.shape[0]):
        look(views, b, grids, rows[b], pos[b], direction[b], load[b], offsets, kinds, occluded)


@jit_leaf
def expand(out: Any, b: int, views: U8, v: int, channels: Any, onehot: bool) -> None:
    """Write the observation of view ``views[v]`` into ``out[b]``: ``channels[code]`` for each cell.

    ``onehot`` says that the rows of ``channels`` are the rows of an identity matrix, which is faster.
    """
    width = channels.shape[1]
    if onehot:
        for channel in range(out.shape[1]):
            out[b, channel] = 0
        for cell in range(views.shape[1]):
            out[b, cell * width + views[v, cell]] = 1
        return
    for cell in range(views.shape[1]):
        for channel in range(width):
            out[b, cell * width + channel] = channels[views[v, cell], channel]


@jit
def expand_batch(out: Any, views: U8, channels: Any, onehot: bool) -> None:
    """``expand`` for a batch."""
    for b in range(views.shape[0]):
        expand(out, b, views, b, channels, onehot)


@jit
def step_surviving(
    failure: F64, grids: U8, rows: I64, pos: I64, direction: I64, load: I64, pi: F64, uniforms: F64, rules: Rules
) -> U8:
    """Take one step in each episode, conditioned on no failure.

    The probability that action a fails is written into ``failure[b, a]``. An action is drawn in proportion to ``pi (1 - failure)``, then a
    turn among the turns that do not fail.

    :return: what became of each episode, shape (episodes,), uint8: 0 goes on, 1 succeeded, 2 has no action that can survive
    """
    stride, moves, kinds, toggled, slips = rules.stride, rules.moves, rules.kinds, rules.toggled, rules.slip
    events = np.zeros(pos.shape[0], dtype=np.uint8)
    turns, weights = np.array([0, 3, 1]), np.zeros(3)
    for b in range(pos.shape[0]):
        row = rows[b]
        slip = slips[grids[row, pos[b]]]
        survives = 0.0
        for action in range(pi.shape[1]):
            failure[b, action] = 0.0
            if moves[action] == FORWARD:
                for k in range(3 if slip > 0.0 else 1):
                    if advance(grids, row, pos[b], direction[b], load[b], FORWARD, turns[k], stride, kinds, toggled)[3] == 2:
                        failure[b, action] += 1.0 - slip if k == 0 else 0.5 * slip
            survives += pi[b, action] * (1.0 - failure[b, action])
        if survives <= 0.0:
            events[b] = 2
            continue
        left = uniforms[0, b] * survives
        chosen = 0
        for action in range(pi.shape[1]):
            share = pi[b, action] * (1.0 - failure[b, action])
            if share > 0.0:
                chosen = action
                left -= share
                if left < 0.0:
                    break
        turn = 0
        if slip > 0.0 and moves[chosen] == FORWARD:
            total = 0.0
            for k in range(3):
                weights[k] = 1.0 - slip if k == 0 else 0.5 * slip
                if advance(grids, row, pos[b], direction[b], load[b], FORWARD, turns[k], stride, kinds, toggled)[3] == 2:
                    weights[k] = 0.0
                total += weights[k]
            left = uniforms[1, b] * total
            for k in range(3):
                if weights[k] > 0.0:
                    turn = turns[k]
                    left -= weights[k]
                    if left < 0.0:
                        break
        pos[b], direction[b], load[b], events[b] = advance(
            grids, row, pos[b], direction[b], load[b], moves[chosen], turn, stride, kinds, toggled
        )
    return events
