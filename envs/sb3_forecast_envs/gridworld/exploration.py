"""Compiled searches through the states of a task: whether it can be solved, and the states of its finite model.

A state is (variant, cell, direction). The variant is one number in mixed radix. Its digits say what the agent carries, and what each cell
that can change has become.
"""

from __future__ import annotations

import numpy as np

from sb3_forecast.jit import jit
from sb3_forecast_envs.gridworld.compiled import F64, FORWARD, I32, I64, U8, advance, look
from sb3_forecast_envs.gridworld.rules import Rules

#: results of a forward move off a slippery square: ahead, left, right, in this order
N_BRANCHES = 3
#: an enumeration reserves memory for at most this many states of one task
MAX_STATES = 2**24


def check_size(name: str, states: float) -> None:
    """Reject tasks with too many states to enumerate.

    :param name: name of the tasks, for the message
    :param states: upper bound of the number of states of one task
    :raises ValueError: if ``states`` is larger than ``MAX_STATES``
    """
    if states > MAX_STATES:
        raise ValueError(
            f"state space too large: a task of {name} must have at most {MAX_STATES:.2g} states, got up to {states:.2g}; use fewer objects "
            "that can be toggled or picked up"
        )


@jit
def _changing(grids: U8, row: int, n_loads: int, n_variants: I64, where: I64) -> tuple[int, int]:
    """Write the positions of the cells that can change into ``where``; return their number and the number of variants."""
    count, variants = 0, n_loads
    for cell in range(grids.shape[1]):
        if n_variants[grids[row, cell]] > 1:
            where[count] = cell
            count += 1
            variants *= n_variants[grids[row, cell]]
    return count, variants


@jit
def _set_variant(
    scratch: U8, grids: U8, row: int, where: I64, count: int, variant: int, loads: U8, n_variants: I64, variants: U8
) -> int:
    """Write the layout of a variant into ``scratch``; return the code of what the agent carries."""
    load = loads[variant % loads.shape[0]]
    variant //= loads.shape[0]
    for k in range(count):
        code = grids[row, where[k]]
        scratch[0, where[k]] = variants[code, variant % n_variants[code]]
        variant //= n_variants[code]
    return int(load)


@jit
def _variant_of(
    scratch: U8, grids: U8, row: int, where: I64, count: int, load: int, loads: U8, n_variants: I64, variants: U8
) -> int:
    """The variant of the layout in ``scratch`` and the carried object: the inverse of ``_set_variant``."""
    variant, radix = 0, loads.shape[0]
    for rank in range(loads.shape[0]):
        if loads[rank] == load:
            variant = rank
    for k in range(count):
        code = grids[row, where[k]]
        for rank in range(n_variants[code]):
            if variants[code, rank] == scratch[0, where[k]]:
                variant += rank * radix
        radix *= n_variants[code]
    return variant


@jit
def solvable(grid: U8, start: int, rules: Rules) -> bool:
    """Whether the agent can reach a succeeding cell by moves that cannot fail. It may turn as often as it needs."""
    stride, moves, kinds, toggled, slips = rules.stride, rules.moves, rules.kinds, rules.toggled, rules.slip
    loads, n_variants, table = rules.loads, rules.n_variants, rules.variants
    area = grid.shape[0]
    where = np.empty(area, dtype=np.int64)
    grids = grid.reshape((1, area))
    count, variants = _changing(grids, 0, loads.shape[0], n_variants, where)
    scratch = grids.copy()
    seen = np.zeros(variants * area, dtype=np.uint8)
    queue = np.empty(variants * area, dtype=np.int64)
    queue[0] = start
    seen[start] = 1
    head, tail = 0, 1
    reached = np.empty(N_BRANCHES, dtype=np.int64)
    load = 0
    while head < tail:
        variant, pos = queue[head] // area, queue[head] % area
        head += 1
        if variants > 1:
            load = _set_variant(scratch, grids, 0, where, count, variant, loads, n_variants, table)
        for move in moves:
            if move < FORWARD:
                continue  # turning changes neither cell nor variant
            slip = slips[scratch[0, pos]] if move == FORWARD else 0.0
            branches = N_BRANCHES if slip > 0.0 else 1
            for direction in range(4):
                worst = 0
                for branch in range(branches):
                    turn = (0, 3, 1)[branch]
                    new_pos, _, new_load, event = advance(scratch, 0, pos, direction, load, move, turn, stride, kinds, toggled)
                    new_variant = 0
                    if variants > 1:
                        new_variant = _variant_of(scratch, grids, 0, where, count, new_load, loads, n_variants, table)
                        if new_variant != variant:
                            _set_variant(scratch, grids, 0, where, count, variant, loads, n_variants, table)
                    reached[branch] = -1 if event == 1 else new_variant * area + new_pos
                    worst = max(worst, event)
                if worst == 2:
                    continue
                for branch in range(branches):
                    if reached[branch] < 0:
                        return True
                    if seen[reached[branch]] == 0:
                        seen[reached[branch]] = 1
                        queue[tail] = reached[branch]
                        tail += 1
    return False


@jit
def most_variants(grids: U8, rules: Rules) -> float:
    """Largest number of variants of any task. A float, because the number may be too large for an integer."""
    n_variants = rules.n_variants
    most = 1.0
    for task in range(grids.shape[0]):
        variants = float(rules.loads.shape[0])
        for cell in range(grids.shape[1]):
            variants *= n_variants[grids[task, cell]]
        most = max(most, variants)
    return most


@jit
def explore(grids: U8, starts: I64, rules: Rules, slippery: bool) -> tuple[I64, I32, U8, F64]:
    """Enumerate every state that each task can reach, breadth first.

    :param grids: padded layouts, shape (tasks, cells)
    :param starts: cell * 4 + direction of each task's start, shape (tasks,), int64
    :param rules: the family's rules
    :param slippery: whether moves off some cells can go sideways. Then each action has ``N_BRANCHES`` columns, else one
    :return: four arrays:

        - first state of each task, then the total number of states, shape (tasks + 1,), int64
        - successors, shape (states, columns), int32. States are numbered within their task; -1 is success, -2 is failure
        - views, shape (states, cells of the view), uint8
        - probability of each column if its action is taken, shape (states, columns), float64; no rows if ``slippery`` is false
    """
    stride, moves, kinds, toggled, slips = rules.stride, rules.moves, rules.kinds, rules.toggled, rules.slip
    loads, n_variants, table = rules.loads, rules.n_variants, rules.variants
    offsets, occluded = rules.offsets, rules.occluded
    n_tasks, area = grids.shape
    n_actions = rules.moves.shape[0]
    branches = N_BRANCHES if slippery else 1
    capacity = max(1024, n_tasks * area // 2)
    first = np.zeros(n_tasks + 1, dtype=np.int64)
    successors = np.empty((capacity, n_actions * branches), dtype=np.int32)
    views = np.empty((capacity, offsets.shape[1]), dtype=np.uint8)
    chances = np.empty((capacity if slippery else 0, n_actions * branches))
    most = int(most_variants(grids, rules))
    number = np.empty(most * area * 4, dtype=np.int32)
    queue = np.empty(most * area * 4, dtype=np.int64)
    where = np.empty(area, dtype=np.int64)
    scratch = np.empty((1, area), dtype=np.uint8)
    for task in range(n_tasks):
        base = first[task]
        scratch[0] = grids[task]
        count, variants = _changing(grids, task, loads.shape[0], n_variants, where)
        fixed = variants == 1
        number[: variants * area * 4] = -1
        queue[0] = starts[task]
        number[starts[task]] = 0
        head, tail = 0, 1
        load = 0
        while head < tail:
            row = base + head
            if row == capacity:
                capacity *= 2
                successors = _grown(successors, capacity)
                views = _grown(views, capacity)
                if slippery:
                    chances = _grown(chances, capacity)
            direction, pos, variant = queue[head] % 4, queue[head] // 4 % area, queue[head] // 4 // area
            if not fixed:
                load = _set_variant(scratch, grids, task, where, count, variant, loads, n_variants, table)
            look(views, row, scratch, 0, pos, direction, load, offsets, kinds, occluded)
            for action in range(n_actions):
                move = moves[action]
                slip = slips[scratch[0, pos]] if move == FORWARD else 0.0
                for branch in range(branches):
                    turn = (0, 3, 1)[branch]
                    column = action * branches + branch
                    if slippery:
                        chances[row, column] = 1.0 - slip if branch == 0 else 0.5 * slip
                        if chances[row, column] == 0.0:
                            successors[row, column] = head
                            continue
                    new_pos, new_direction, new_load, event = advance(
                        scratch, 0, pos, direction, load, move, turn, stride, kinds, toggled
                    )
                    new_variant = 0
                    if not fixed:
                        new_variant = _variant_of(scratch, grids, task, where, count, new_load, loads, n_variants, table)
                        if new_variant != variant:
                            _set_variant(scratch, grids, task, where, count, variant, loads, n_variants, table)
                    if event != 0:
                        successors[row, column] = -event
                        continue
                    state = (new_variant * area + new_pos) * 4 + new_direction
                    if number[state] < 0:
                        number[state] = tail
                        queue[tail] = state
                        tail += 1
                    successors[row, column] = number[state]
            head += 1
        first[task + 1] = base + tail
    total = first[n_tasks]
    return first, successors[:total], views[:total], chances[: total if slippery else 0]


@jit
def _grown(array: U8, rows: int) -> U8:
    """A copy of the array with room for more rows."""
    larger = np.empty((rows, array.shape[1]), dtype=array.dtype)
    larger[: array.shape[0]] = array
    return larger
