"""Names for the failures that were found: rules on descriptors that set failing tasks apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.measuring.active.table import BLOCK, Table
from sb3_forecast.statistics.design import Round, estimate_total

#: the most modes that a report names, the most conditions of a rule, and the fewest scored tasks of a mode
_MODES, _CONDITIONS, _FEWEST = 4, 2, 5
#: a mode fails at least this many times as often as the whole
_WORSE = 3.0
#: probabilities that are 0 for all that matters
_NOTHING = 1e-300


@dataclass(frozen=True)
class Mode:
    """A kind of task that fails.

    :param rule: what its tasks look like, for example "thin ice cells >= 3"
    :param share: its share of the deployment, counted
    :param failure: mean failure probability of its tasks
    :param scored: number of its tasks that were scored
    :param worst: its worst tasks, worst first
    """

    rule: str
    share: float
    failure: float
    scored: int
    worst: tuple[int, ...]


def find_modes(table: Table, failure: NDArray[np.float64], rounds: list[Round], level: float) -> tuple[Mode, ...]:
    """Kinds of task that fail much more often than the whole, the largest contribution to the mean failure first.

    A small regression tree of log10 p splits the scored tasks by their descriptors; its leaves with a high mean failure are the modes. The
    share of a mode is counted, because the rule can be applied to every task. Its mean failure comes from the design, so it is right although
    failing tasks were looked for.

    :param table: descriptors of all tasks
    :param failure: failure probabilities of the scored tasks, round by round, shape (scored,), float64
    :param rounds: the rounds
    :param level: confidence; only the estimates' limits depend on it
    :return: the modes; empty if nothing fails more often than the rest
    """
    from sklearn.tree import DecisionTreeRegressor

    if failure.max() <= _NOTHING:
        return ()
    tasks = np.concatenate([chosen.tasks for chosen in rounds])
    rows = table.raw(tasks)
    # differences among tasks that hardly ever fail are of no interest
    floor = max(float(np.median(failure)), float(failure.max()) * 1e-6, _NOTHING)
    tree = DecisionTreeRegressor(max_depth=_CONDITIONS, min_samples_leaf=_FEWEST, random_state=0)
    tree.fit(rows, np.log10(np.maximum(failure, floor)))
    leaves = tree.apply(rows)
    counts = np.zeros(tree.tree_.node_count, dtype=np.int64)
    for begin in range(0, len(table), BLOCK):
        counts += np.bincount(tree.apply(table.raw(slice(begin, begin + BLOCK))), minlength=len(counts))
    ends = np.cumsum([len(chosen.tasks) for chosen in rounds])[:-1]

    def total(values: NDArray[np.float64]) -> float:
        return estimate_total(rounds, np.split(values, ends), len(table), level).value

    overall = total(failure) / len(table)
    found = []
    for leaf in np.unique(leaves):
        inside = leaves == leaf
        mean = total(failure * inside) / int(counts[leaf])
        if mean > _WORSE * overall:
            order = np.flatnonzero(inside)[np.argsort(-failure[inside], kind="stable")[:3]]
            rule, share = _rule(tree.tree_, int(leaf), rows, table.names), int(counts[leaf]) / len(table)
            # by chance the unbiased mean can be above 1
            found.append(Mode(rule, share, min(mean, 1.0), int(inside.sum()), tuple(tasks[order].tolist())))
    return tuple(sorted(found, key=lambda mode: -mode.share * mode.failure)[:_MODES])


def _rule(tree: Any, leaf: int, rows: NDArray[np.float32], names: tuple[str, ...]) -> str:
    """The conditions on the way to a leaf, one per column and side."""
    parents = {int(child): (node, side) for node in range(tree.node_count) for side, child in
               (("<=", tree.children_left[node]), (">", tree.children_right[node]))}  # fmt: skip
    least: dict[int, float] = {}
    most: dict[int, float] = {}
    node = leaf
    while node in parents:
        node, side = parents[node]
        column, threshold = int(tree.feature[node]), float(tree.threshold[node])
        # the way up meets the tightest condition first
        (most if side == "<=" else least).setdefault(column, threshold)
    columns = sorted({*least, *most}, key=lambda column: names[column])
    return " and ".join(_condition(names[c], rows[:, c], least.get(c), most.get(c)) for c in columns) or "all tasks"


def _condition(name: str, values: NDArray[np.float32], above: float | None, below: float | None) -> str:
    """The condition on one column in words; counts are told from other numbers."""
    if not (values == np.round(values)).all():
        parts = [f"{name} {sign} {end:.3g}" for sign, end in ((">", above), ("<=", below)) if end is not None]
        return " and ".join(parts)
    low, high = None if above is None else int(np.floor(above)) + 1, None if below is None else int(np.floor(below))
    if low is not None and high is not None:
        return f"{name} = {low}" if low == high else f"{name} from {low} to {high}"
    if high == 0 and values.min() == 0:
        return f"no {name}"
    return f"{name} >= {low}" if low is not None else f"{name} <= {high}"
