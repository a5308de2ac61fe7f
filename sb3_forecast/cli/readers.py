"""Read a column of failure scores from CSV, JSON lines, Parquet and numpy files, and from logs of three evaluation tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sb3_forecast.cli.reading.logs import read_inspect, read_lm_eval
from sb3_forecast.cli.reading.opening import COMPRESSED, kind_of, open_text
from sb3_forecast.cli.reading.scores import Scores, choose_column, scores_of
from sb3_forecast.cli.reading.tables import ArrayTable, Column, ParquetTable, RowTable, Table, TextTable
from sb3_forecast.statistics.names import InputKind

_TABLES: dict[str, Callable[[Path], Table]] = {
    ".csv": TextTable,
    ".tsv": TextTable,
    ".txt": TextTable,
    ".jsonl": RowTable,
    ".parquet": ParquetTable,
    ".npy": ArrayTable,
    ".npz": ArrayTable,
}
#: formats that may be compressed as a whole
_TEXT = (".csv", ".tsv", ".txt", ".jsonl")


def read_scores(path: Path, column: str | None = None, kind: InputKind = "auto", trials: str | None = None) -> Scores:
    """Read one column of scores, log-probabilities, probabilities or counts.

    These files need no options: RePULSe ``*_results.jsonl`` (``p_elicit``), lm-evaluation-harness ``samples_*.jsonl`` with
    log-likelihoods, and Inspect logs (``.eval``, or ``.json`` with an ``eval`` entry). Text files may be compressed (``.gz``, ``.bz2``, ``.xz``,
    ``.zst``).

    :param path: a ``.csv``, ``.tsv``, ``.txt``, ``.jsonl``, ``.parquet``, ``.npy``, ``.npz``, ``.eval`` or ``.json`` file
    :param column: name of the column; ``None`` for the only numeric one that does not number the tasks, or one with a known name
    :param kind: what the numbers are; ``"auto"`` decides by the name of the column, or else by the range of the numbers
    :param trials: for counts: the column with the number of trials, or one whole number
    :return: the scores, or the counts
    :raises ValueError: if the file cannot be used; the message names the file, the place, the fault and the remedy
    """
    if not path.is_file():
        raise ValueError(f"scores must be an existing file, got {path}; use a .csv, .jsonl, .parquet, .npy or .eval file")
    suffix = kind_of(path)
    if suffix == ".eval" or (suffix == ".json" and _is_inspect(path)):
        return read_inspect(path)
    compressed = path.suffix.lower() in COMPRESSED
    if suffix not in _TABLES or (compressed and suffix not in _TEXT):
        raise ValueError(
            f"scores must be a .csv, .tsv, .txt, .jsonl, .parquet, .npy, .npz or .eval file, got suffix {suffix!r} of {path}; "
            f"{'decompress it' if compressed else 'convert it to one of them'}"
        )
    table = _TABLES[suffix](path)
    if isinstance(table, RowTable) and column is None and "filtered_resps" in table.first:
        return read_lm_eval(table.rows(), path)
    name = choose_column(table, column, trials, path)
    values = table.column(name)
    return scores_of(values, name, kind, None if trials is None else _trials(table, trials, values, path), path)


def _is_inspect(path: Path) -> bool:
    with open_text(path) as text:
        return '"eval"' in text.read(100_000)


def _trials(table: Table, trials: str, failures: Column, path: Path) -> Column:
    """The numbers of trials, from a column or from one number."""
    if trials.isdecimal():
        return Column(np.full(len(failures.values), float(trials)), failures.places)
    if trials not in table.numeric:
        raise ValueError(
            f"trials must be a whole number or a column of {path}, got {trials!r}; use --trials with the number of trials per task"
        )
    return table.column(trials)


__all__: Sequence[str] = ("Scores", "read_scores")
