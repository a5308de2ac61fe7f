"""What is said of several seeds: medians with ranges, interquartile means with bootstrap intervals, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from studies.records import Record


@dataclass(frozen=True)
class Column:
    """A column of a table.

    :param title: its heading, with the unit
    :param keys: where in a record's result the number is; ``("seconds",)`` alone is the record's own
    :param form: how a number is printed
    """

    title: str
    keys: tuple[str, ...]
    form: str

    def value(self, record: Record) -> float:
        """The number; NaN where the record has none.

        :param record: of a run
        """
        found: Any = record.result if self.keys != ("seconds",) else {"seconds": record.seconds}
        for key in self.keys:
            found = found.get(key) if isinstance(found, dict) else None
        return float("nan") if found is None else float(found)

    def values(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """The numbers of several runs.

        :param records: one per seed
        """
        return np.array([self.value(record) for record in records])


def interquartile_mean(values: NDArray[np.float64], axis: int = -1) -> Any:
    """Mean of the middle half (Agarwal et al. 2021), which one lucky seed cannot move.

    :param values: numbers
    :param axis: that is averaged over
    """
    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(groups: Sequence[NDArray[np.float64]], level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of the groups' interquartile means, by a bootstrap that draws seeds within each group (stratified).

    :param groups: one array of seeds per family of tasks
    :param level: confidence
    :return: lower and upper end; the numbers themselves where a group has one seed
    """
    if min(len(group) for group in groups) < 2:
        middle = float(np.mean([interquartile_mean(group) for group in groups]))
        return middle, middle

    def statistic(*samples: NDArray[np.float64], axis: int = -1) -> Any:
        return np.mean([interquartile_mean(sample, axis) for sample in samples], axis=0)

    found = stats.bootstrap(
        tuple(groups), statistic, confidence_level=level, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def median_and_range(values: NDArray[np.float64], form: str) -> str:
    """``median [lowest, highest]``; the number alone for one seed.

    :param values: one per seed
    :param form: how a number is printed
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return "-"
    middle = form.format(np.median(known))
    return middle if len(known) == 1 else f"{middle} [{form.format(known.min())}, {form.format(known.max())}]"


def middle_and_interval(values: NDArray[np.float64], form: str) -> str:
    """``interquartile mean (bootstrap interval)``.

    :param values: one per seed
    :param form: how a number is printed
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return "-"
    low, high = bootstrap_interval([known])
    return f"{form.format(interquartile_mean(known))} ({form.format(low)}, {form.format(high)})"


def paired_differences(ours: Sequence[Record], theirs: Sequence[Record], column: Column) -> NDArray[np.float64]:
    """Ours minus theirs, by seed.

    :param ours: records of one method
    :param theirs: records of another
    :param column: what is compared
    :return: shape (seeds that both have,)
    """
    other = {record.seed: column.value(record) for record in theirs}
    return np.array([column.value(record) - other[record.seed] for record in ours if record.seed in other])
