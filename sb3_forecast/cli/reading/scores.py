"""Choose the column of a table that holds failures, and turn its numbers into failure scores or counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.cli.reading.tables import Column, Table
from sb3_forecast.statistics.names import InputKind
from sb3_forecast.statistics.scores import failure_score, failure_score_from_log_survival

#: column names that need no ``--column`` and no ``--input``; the first one that a file has is taken
KNOWN_COLUMNS: dict[str, InputKind] = {
    "score": "score", "psi": "score", "log_prob": "log-prob", "logprob": "log-prob", "log_p": "log-prob", "p_elicit": "prob",
    "prob": "prob", "p": "prob", "probability": "prob", "failures": "count",
}  # fmt: skip


#: a column with one of these words in its name means successes, the opposite of failures
SUCCESS_WORDS = frozenset(
    ("success", "successes", "successful", "succeeded", "acc", "accuracy", "correct", "pass", "passed", "passes", "exact", "solved", "win",
     "wins", "won", "reward", "rewards", "return", "returns", "survival")
)  # fmt: skip
#: a name with one of these words is about failures, whatever else it holds: ``accuracy_error``, ``pass_failures``
FAILURE_WORDS = frozenset(
    ("fail", "fails", "failed", "failing", "failure", "failures", "error", "errors", "wrong", "incorrect", "unsafe")
)
#: a column whose name ends in one of these words numbers the tasks: ``task_id``, ``seed``, but not ``task_failure``
ID_WORDS = frozenset(("id", "ids", "index", "idx", "seed", "row", "unnamed", "task", "doc"))


@dataclass(frozen=True)
class Scores:
    """The content of a file.

    :param values: failure scores, shape (m,), float64; ``None`` for counts
    :param failures: number of failures of each task, shape (m,), int64; only for counts, else ``None``
    :param trials: number of trials of each task, shape (m,), int64; only for counts, else ``None``
    :param source: how the numbers were understood, for the report
    """

    values: NDArray[np.float64] | None
    failures: NDArray[np.int64] | None
    trials: NDArray[np.int64] | None
    source: str


def words_of(name: str) -> list[str]:
    """The words of a column's name, in lower case: those of ``passRate`` and ``pass_rate`` are ``pass`` and ``rate``.

    :param name: the name
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def means_success(name: str) -> bool:
    """Whether a column is about successes, by its name.

    :param name: the name
    """
    words = set(words_of(name))
    return bool(words & SUCCESS_WORDS) and not words & FAILURE_WORDS


def numbers_the_tasks(name: str) -> bool:
    """Whether a column numbers the tasks, by its name.

    :param name: the name
    """
    words = words_of(name)
    return bool(words) and words[-1] in ID_WORDS


def choose_column(table: Table, column: str | None, trials: str | None, path: Path) -> str:
    """Choose the column of failures.

    :param table: the file
    :param column: the user's choice; ``None`` for the only numeric one, or one with a known name
    :param trials: the column of trials, which is not chosen
    :param path: the file, for messages
    :return: its name
    :raises ValueError: if no column or several fit
    """
    numeric = table.numeric
    if column is not None:
        if column not in numeric:
            raise ValueError(f"column must be a numeric column of {path}, got {column!r}; use one of {numeric}")
        return column
    candidates = [name for name in numeric if name != trials]
    known = [name for name in KNOWN_COLUMNS if name in candidates]
    if known:
        return known[0]
    if not candidates:
        raise ValueError(
            f"{path} must have a column of numbers, got the columns {table.names}; "
            "separate columns with commas, and write only numbers into the cells"
        )
    scores = [name for name in candidates if not numbers_the_tasks(name)]
    if not scores:
        raise ValueError(
            f"{path} must have a column of failures, got only {candidates}, which number the tasks; use --column to choose one all the same"
        )
    if len(scores) != 1:
        raise ValueError(
            f"{path} must have one numeric column or one with a known name, got {scores}; choose one with --column"
        )
    return scores[0]


def scores_of(column: Column, name: str, kind: InputKind, trials: Column | None, path: Path) -> Scores:
    """Turn the numbers of a column into scores, or into counts.

    :param column: the numbers
    :param name: name of the column
    :param kind: what they are; ``"auto"`` decides by the name, or else by their range
    :param trials: the numbers of trials, for counts
    :param path: the file, for messages
    :return: the content
    :raises ValueError: if a number cannot be what the kind says
    """
    numbers, places = column.values, column.places
    if not len(numbers):
        raise ValueError(f"{path} must hold a number for each task, got no rows; write one task per row")
    _refuse(np.isnan(numbers), numbers, places, f"{path}: {name} must be a number in every row, got an empty cell or NaN",
            "remove these rows, or score them again")  # fmt: skip
    _refuse(np.isposinf(numbers), numbers, places, f"{path}: {name} must be finite, got inf", "correct them")
    if kind == "auto" and means_success(name):
        raise ValueError(
            f"{path}: the column must be about failures, got {name!r}, which means successes; use a column of failures "
            f"(for shares: 1 - {name}), or say with --input what it holds"
        )
    if kind == "auto":
        kind = "count" if trials is not None else KNOWN_COLUMNS.get(name, "auto")
    if kind == "auto":
        kind = _kind_by_range(numbers, places, name, path)
    note = f" ({column.note})" if column.note else ""
    if kind == "count":
        failures, total = _counts(column, name, trials, path)
        return Scores(None, failures, total, f"counts, column {name}{note}")
    if trials is not None:
        raise ValueError(
            f"{path}: trials must be left out for input {kind!r}, got them for {name}; leave out --trials, or use --input count"
        )
    if kind == "score":
        return Scores(numbers, None, None, f"failure scores, column {name}{note}")
    whole = 0.0 if kind == "log-prob" else 1.0
    _refuse(numbers == whole, numbers, places, f"{path}: {name} must be a probability below 1 to have a score, got exactly 1",
            "if the numbers are outcomes or frequencies, use counts with --trials; if they were rounded, use log-probabilities or scores "
            "with more digits")  # fmt: skip
    if kind == "log-prob":
        _refuse(numbers > 0, numbers, places, f"{path}: {name} must be a log-probability, at most 0, got {{}}",
                "use natural logarithms of probabilities")  # fmt: skip
        return Scores(failure_score(numbers), None, None, f"log-probabilities, column {name}{note}")
    _refuse((numbers < 0) | (numbers > 1), numbers, places, f"{path}: {name} must be a probability from 0 to 1, got {{}}",
            "correct it, or use --input for numbers of another kind")  # fmt: skip
    return Scores(_scores_of_probabilities(numbers), None, None, f"probabilities, column {name}{note}")


def _refuse(bad: NDArray[np.bool_], numbers: NDArray[np.float64], places: Sequence[str], sentence: str, remedy: str) -> None:
    """Raise an error that names the first bad number, its place and how many there are."""
    rows = np.flatnonzero(bad)
    if len(rows):
        first = int(rows[0])
        # a column's name may hold braces
        said = sentence.replace("{}", str(numbers[first]))
        raise ValueError(f"{said} in {places[first]} ({len(rows)} of {len(numbers)} rows); {remedy}")


def _kind_by_range(numbers: NDArray[np.float64], places: Sequence[str], name: str, path: Path) -> InputKind:
    if ((numbers >= 0) & (numbers <= 1)).all():
        return "prob"
    if (numbers <= 0).all():
        return "log-prob"
    odd = int(np.flatnonzero((numbers < 0) | (numbers > 1))[0])
    raise ValueError(
        f"{path}: {name} must hold only probabilities or only log-probabilities, got {numbers[odd]} among others in {places[odd]}; "
        "correct it, or use --input"
    )


def _scores_of_probabilities(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        # for p near 1, a float64 holds 1 - p exactly, but log p has lost digits
        near_one = numbers > 0.5
        scores: NDArray[np.float64] = np.where(
            near_one,
            failure_score_from_log_survival(np.log(np.where(near_one, 1.0 - numbers, 1.0))),
            failure_score(np.log(np.where(near_one, 1.0, numbers))),
        )
    return scores


def _counts(column: Column, name: str, trials: Column | None, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if trials is None:
        raise ValueError(
            f"{path}: the number of trials must be given for the counts of {name}, got none; use --trials with a column name or a whole number"
        )
    failures, total = column.values, trials.values
    places = column.places
    for values, what in ((failures, name), (total, "trials")):
        _refuse(np.isnan(values), values, places, f"{path}: {what} must be a number in every row, got an empty cell or NaN",
                "remove these rows")  # fmt: skip
        _refuse(values != np.round(values), values, places, f"{path}: {what} must hold whole numbers, got {{}}",
                "use --input prob for frequencies")  # fmt: skip
        _refuse(values < 0, values, places, f"{path}: {what} must be at least 0, got {{}}", "correct the counts")
    _refuse(
        failures > total,
        failures,
        places,
        f"{path}: {name} must be at most the number of trials, got {{}}",
        "correct --trials",
    )
    return failures.astype(np.int64), total.astype(np.int64)
