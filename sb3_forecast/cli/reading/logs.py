"""Logs of two evaluation tools: samples of lm-evaluation-harness, and Inspect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sb3_forecast.cli.reading.opening import need
from sb3_forecast.cli.reading.scores import Scores
from sb3_forecast.statistics.scores import failure_score

#: how far above 0 a sum of logarithms may be by rounding
_ROUNDING = 1e-4


def read_lm_eval(rows: Iterable[tuple[int, dict[str, Any]]], path: Path) -> Scores:
    """Scores from the log-likelihood samples of lm-evaluation-harness.

    If a document has one response, its log-likelihood is the log-probability of the failure. If it has several (multiple choice),
    every choice except the target is a failure, and the likelihoods of the choices are normalised.

    :param rows: line number and object of each line
    :param path: the file, for messages
    :return: the scores
    :raises ValueError: if a line holds something else
    """
    scores = []
    for number, row in rows:
        try:
            log_likelihood = np.array([float(response[0]) for response in row["filtered_resps"]])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{path}, line {number}: filtered_resps must hold log-likelihoods, got other values; "
                "use a task of lm-evaluation-harness that scores log-likelihoods"
            ) from error
        if not len(log_likelihood) or np.isnan(log_likelihood).any() or (log_likelihood > _ROUNDING).any():
            raise ValueError(
                f"{path}, line {number}: filtered_resps must hold log-likelihoods of at most 0, got {log_likelihood.tolist()}; "
                "score the sample again"
            )
        if len(log_likelihood) == 1:
            # a sum of float32 logarithms may round to a hair above 0
            scores.append(float(failure_score(min(float(log_likelihood[0]), 0.0))))
            continue
        if not str(row.get("target", "")).isdecimal() or int(row["target"]) >= len(log_likelihood):
            raise ValueError(
                f"{path}, line {number}: target must be the number of a choice, got {row.get('target')!r}; "
                "use a multiple-choice task whose target is a number"
            )
        log_p = log_likelihood - np.logaddexp.reduce(log_likelihood)
        wrong = np.delete(log_p, int(row["target"]))
        scores.append(float(failure_score(min(float(np.logaddexp.reduce(wrong)), 0.0))))
    return Scores(np.array(scores), None, None, "log-likelihoods of lm-evaluation-harness, column filtered_resps")


def read_inspect(path: Path) -> Scores:
    """The number of incorrect epochs of each sample of an Inspect log.

    :param path: the file
    :return: counts
    :raises ValueError: if inspect-ai is not installed, or the log has no scored samples
    """
    log_module = need("inspect_ai.log", "Inspect logs", "pip install inspect-ai")
    log = log_module.read_eval_log(str(path))
    failures: dict[Any, int] = defaultdict(int)
    trials: dict[Any, int] = defaultdict(int)
    for sample in log.samples or []:
        for score in list((sample.scores or {}).values())[:1]:
            trials[sample.id] += 1
            failures[sample.id] += _is_failure(score.value, sample.id, path)
    if not trials:
        raise ValueError(f"{path} must hold scored samples, got none; run the evaluation with a scorer and epochs > 1")
    ids = list(trials)
    return Scores(
        None,
        np.array([failures[i] for i in ids]),
        np.array([trials[i] for i in ids]),
        "counts of incorrect epochs per sample, Inspect log",
    )


def _is_failure(value: Any, sample: Any, path: Path) -> bool:
    if value in ("I", 0):
        return True
    if value in ("C", 1):
        return False
    raise ValueError(
        f"{path}, sample {sample}: a score must be correct or incorrect ('C', 'I', 1 or 0), got {value!r}; use a scorer that says which"
    )
