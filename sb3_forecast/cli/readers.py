"""Read a column of failure scores from CSV, JSON lines, Parquet and numpy files, and from logs of three evaluation tools."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sb3_forecast.statistics.names import InputKind
from sb3_forecast.statistics.scores import failure_score, failure_score_from_log_survival

#: column names that need no ``--column`` and no ``--input``; the first one that a file has is taken
KNOWN_COLUMNS: dict[str, InputKind] = {
    "score": "score", "psi": "score", "log_prob": "log-prob", "logprob": "log-prob", "log_p": "log-prob", "p_elicit": "prob",
    "prob": "prob", "p": "prob", "probability": "prob", "failures": "count",
}  # fmt: skip


#: column names that mean successes, the opposite of failures
SUCCESS_COLUMNS = ("success", "successes", "acc", "accuracy", "correct", "pass", "passed", "exact_match")


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


def read_scores(path: Path, column: str | None = None, kind: InputKind = "auto", trials: str | None = None) -> Scores:
    """Read one column of scores, log-probabilities, probabilities or counts.

    These files need no options: RePULSe ``*_results.jsonl`` (``p_elicit``), lm-evaluation-harness ``samples_*.jsonl`` with
    log-likelihoods, and Inspect logs (``.eval``, or ``.json`` with an ``eval`` entry).

    :param path: a ``.csv``, ``.txt``, ``.jsonl``, ``.parquet``, ``.npy``, ``.eval`` or ``.json`` file
    :param column: name of the column; ``None`` for the only numeric one, or one with a known name
    :param kind: what the numbers are; ``"auto"`` decides by the name of the column, or else by the range of the numbers
    :param trials: for counts: the column with the number of trials, or one whole number
    :return: the scores, or the counts
    :raises ValueError: if the file cannot be used; the message names the file, the fault and the remedy
    """
    if not path.is_file():
        raise ValueError(f"scores must be an existing file, got {path}; use a .csv, .jsonl, .parquet, .npy or .eval file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        values = np.load(path, allow_pickle=False)
        if values.ndim != 1:
            raise ValueError(f"{path} must hold an array of shape (m,), got shape {values.shape}; save one number per task")
        return _convert(values, column or "values", kind, trials, None, path)
    if suffix == ".eval" or (suffix == ".json" and '"eval"' in path.read_text(encoding="utf-8")[:100_000]):
        return _inspect(path)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not rows:
            raise ValueError(f"{path} must have one JSON object per task, got an empty file; write one object per line")
        if column is None and "filtered_resps" in rows[0]:
            return _lm_eval(rows, path)
        frame = pd.DataFrame(rows)
    elif suffix in (".csv", ".txt"):
        frame = _read_text(path)
    elif suffix == ".parquet":
        _need("pyarrow", "Parquet files", "pip install pyarrow")
        frame = pd.read_parquet(path)
    else:
        raise ValueError(
            f"scores must be a .csv, .txt, .jsonl, .parquet, .npy or .eval file, got suffix {suffix!r} of {path}; convert it to one of them"
        )
    name = _column(frame, column, trials, path)
    return _convert(frame[name].to_numpy(), name, kind, trials, frame, path)


def _need(package: str, purpose: str, remedy: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{package} must be installed to read {purpose}, got an ImportError; run `{remedy}`") from error


def _read_text(path: Path) -> pd.DataFrame:
    """Read comma-separated columns. If the first line holds only numbers, it is data, and the file has no header."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    if not first:
        raise ValueError(f"{path} must begin with a header or a number, got an empty first line; write one task per line")
    headless = all(_is_number(cell) for cell in first.split(","))
    # a blank line is a task without a value: it must be reported, not skipped
    frame = pd.read_csv(path, header=None if headless else 0, skip_blank_lines=False)
    return frame.rename(columns={i: f"column {i + 1}" for i in range(len(frame.columns))}) if headless else frame


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(frame: pd.DataFrame, column: str | None, trials: str | None, path: Path) -> str:
    numeric = [str(name) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]
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
            f"{path} must have a column of numbers, got the columns {[str(name) for name in frame.columns]}; "
            "separate columns with commas, and write only numbers into the cells"
        )
    if len(candidates) != 1:
        raise ValueError(
            f"{path} must have one numeric column or one with a known name, got {candidates}; choose one with --column"
        )
    return candidates[0]


def _convert(
    values: NDArray[Any], name: str, kind: InputKind, trials: str | None, frame: pd.DataFrame | None, path: Path
) -> Scores:
    numbers = np.asarray(values, dtype=np.float64)
    missing = np.flatnonzero(np.isnan(numbers))
    if len(missing):
        raise ValueError(
            f"{path}: {name} must be a number in every row, got an empty cell or NaN in row {int(missing[0])} ({len(missing)} rows in all); "
            "remove these rows, or score them again"
        )
    if kind == "auto" and name.lower() in SUCCESS_COLUMNS:
        raise ValueError(
            f"{path}: the column must be about failures, got {name!r}, which means successes; use a column of failures "
            f"(for shares: 1 - {name}), or say with --input what it holds"
        )
    if kind == "auto":
        kind = "count" if trials is not None else KNOWN_COLUMNS.get(name, "auto")
    if kind == "auto":
        if ((numbers >= 0) & (numbers <= 1)).all():
            kind = "prob"
        elif (numbers <= 0).all():
            kind = "log-prob"
        else:
            odd = numbers[(numbers < 0) | (numbers > 1)][0]
            raise ValueError(
                f"{path}: {name} must hold only probabilities or only log-probabilities, got {odd} among others; correct it, or use --input"
            )
    if kind == "count":
        return _counts(numbers, name, trials, frame, path)
    if kind == "score":
        return Scores(numbers, None, None, f"failure scores, column {name}")
    ones = np.flatnonzero(numbers == (0.0 if kind == "log-prob" else 1.0))
    if len(ones):
        raise ValueError(
            f"{path}: {name} must be a probability below 1 to have a score, got exactly 1 in row {int(ones[0])} ({len(ones)} rows in all); "
            "if the numbers are outcomes or frequencies, use counts with --trials; if they were rounded, use log-probabilities or scores "
            "with more digits"
        )
    if kind == "log-prob":
        bad = np.flatnonzero(numbers > 0)
        if len(bad):
            raise ValueError(
                f"{path}: {name} must be a log-probability, at most 0, got {numbers[bad[0]]} in row {int(bad[0])} ({len(bad)} rows in all); "
                "use natural logarithms of probabilities"
            )
        return Scores(failure_score(numbers), None, None, f"log-probabilities, column {name}")
    bad = np.flatnonzero((numbers < 0) | (numbers > 1))
    if len(bad):
        raise ValueError(
            f"{path}: {name} must be a probability from 0 to 1, got {numbers[bad[0]]} in row {int(bad[0])} ({len(bad)} rows in all); "
            "correct it, or use --input for numbers of another kind"
        )
    with np.errstate(divide="ignore"):
        # for p near 1, a float64 holds 1 - p exactly, but log p has lost digits
        near_one = numbers > 0.5
        scores = np.where(
            near_one,
            failure_score_from_log_survival(np.log(np.where(near_one, 1.0 - numbers, 1.0))),
            failure_score(np.log(np.where(near_one, 1.0, numbers))),
        )
    return Scores(scores, None, None, f"probabilities, column {name}")


def _counts(failures: NDArray[np.float64], name: str, trials: str | None, frame: pd.DataFrame | None, path: Path) -> Scores:
    if trials is None:
        raise ValueError(
            f"{path}: the number of trials must be given for the counts of {name}, got none; use --trials with a column name or a whole number"
        )
    if trials.isdecimal():
        total = np.full(len(failures), float(trials))
    elif frame is not None and trials in frame.columns:
        total = frame[trials].to_numpy(dtype=np.float64)
    else:
        raise ValueError(
            f"trials must be a whole number or a column of {path}, got {trials!r}; use --trials with the number of trials per task"
        )
    for values, what in ((failures, name), (total, "trials")):
        if (values != np.round(values)).any():
            raise ValueError(
                f"{path}: {what} must hold whole numbers, got {values[values != np.round(values)][0]}; use --input prob for frequencies"
            )
    return Scores(None, failures.astype(np.int64), total.astype(np.int64), f"counts, column {name} out of {trials}")


def _lm_eval(rows: Sequence[dict[str, Any]], path: Path) -> Scores:
    """Scores from the log-likelihood samples of lm-evaluation-harness.

    If a document has one response, its log-likelihood is the log-probability of the failure. If it has several (multiple choice),
    every choice except the target is a failure, and the likelihoods of the choices are normalised.
    """
    scores = []
    for number, row in enumerate(rows):
        try:
            log_likelihood = np.array([float(response[0]) for response in row["filtered_resps"]])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{path}, line {number + 1}: filtered_resps must hold log-likelihoods, got other values; "
                "use a task of lm-evaluation-harness that scores log-likelihoods"
            ) from error
        if len(log_likelihood) == 1:
            scores.append(float(failure_score(min(float(log_likelihood[0]), 0.0))))
            continue
        if not str(row.get("target", "")).isdecimal():
            raise ValueError(
                f"{path}, line {number + 1}: target must be the number of a choice, got {row.get('target')!r}; "
                "use a multiple-choice task whose target is a number"
            )
        log_p = log_likelihood - np.logaddexp.reduce(log_likelihood)
        wrong = np.delete(log_p, int(row["target"]))
        scores.append(float(failure_score(min(float(np.logaddexp.reduce(wrong)), 0.0))))
    return Scores(np.array(scores), None, None, "log-likelihoods of lm-evaluation-harness, column filtered_resps")


def _inspect(path: Path) -> Scores:
    """The number of incorrect epochs of each sample of an Inspect log."""
    log_module = _need("inspect_ai.log", "Inspect logs", "pip install inspect-ai")
    log = log_module.read_eval_log(str(path))
    failures: dict[Any, int] = defaultdict(int)
    trials: dict[Any, int] = defaultdict(int)
    for sample in log.samples or []:
        for score in list((sample.scores or {}).values())[:1]:
            trials[sample.id] += 1
            failures[sample.id] += score.value in ("I", 0, 0.0, False)
    if not trials:
        raise ValueError(f"{path} must hold scored samples, got none; run the evaluation with a scorer and epochs > 1")
    ids = list(trials)
    return Scores(
        None,
        np.array([failures[i] for i in ids]),
        np.array([trials[i] for i in ids]),
        "counts of incorrect epochs per sample, Inspect log",
    )
