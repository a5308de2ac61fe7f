"""Compiled walks over everything that can happen in a task: solvability, and the states of the finite model.

A state is (variant, cell, direction): the variant numbers, in mixed radix, what the agent carries and what each cell that can change
has become.
"""

from __future__ import annotations

import numpy as np

from sb3_forecast.jit import jit
from sb3_forecast_envs.gridworld.compiled import F64, FORWARD, I32, I64, U8, advance, look
from sb3_forecast_envs.gridworld.rules import Rules

#: turns of a forward move off a slippery square, in the order of the branches
N_BRANCHES = 3
#: largest number of states of one task that an enumeration reserves room for
MAX_STATES = 2**24


def check_size(name: str, states: float) -> None:
    """Refuse what cannot be enumerated.

    :param name: the tasks, for the message
    :param states: upper bound of one task's states
    :raises ValueError: above ``MAX_STATES``
    """
    if states > MAX_STATES:
        raise ValueError(
            f"state space too large for the finite model of {name}: up to {states:.2g} states in one task, at most {MAX_STATES:.2g} are "
            "enumerated; place fewer objects that can be toggled or picked up"
        )


@jit
def _changing(grids: U8, row: int, n_loads: int, n_variants: I64, where: I64) -> tuple[int, int]:
    """Write the positions of the cells that can change; returns their number and that of the variants."""
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
    """Make ``scratch`` the layout of a variant; returns what the agent carries."""
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
    """Inverse of ``_set_variant``."""
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
    """Whether a succeeding cell can be reached by moves none of which can fail, turning as often as needed."""
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
    """Largest number of variants of a task; a float, since it may be astronomical."""
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
    """Breadth-first enumeration of every state that each task can reach.

    :param grids: padded layouts, shape (tasks, cells)
    :param starts: cell * 4 + direction of each task's start
    :param rules: the family's rules
    :param slippery: whether some cell's moves can go sideways; then each action has ``N_BRANCHES`` columns, else one
    :return: (first state of each task, length n + 1; successors (states, columns), numbered within the task, or
        -1 success and -2 failure; views (states, cells of the view); probability of each column given its action, no rows
        if not slippery)
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
    """The same array with room for more rows."""
    larger = np.empty((rows, array.shape[1]), dtype=array.dtype)
    larger[: array.shape[0]] = array
    return larger
