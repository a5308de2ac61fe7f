"""TailSketch: what forecasts and reports need of the scores of any number of tasks, in constant size, and mergeable."""

from __future__ import annotations

import io
import json
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import inside_unit, whole
from sb3_forecast.files import digest_of, write_whole
from sb3_forecast.statistics.exact_sums import ExactSum
from sb3_forecast.statistics.scores import failure_probability, failure_score, float64_array, log_failure_probability

#: failure probabilities for which the number of tasks beyond them is counted exactly: ten per decade from 1e-30, and some near 1
#: (six digits, so that they are the same numbers with every version of numpy, and 0.1 is 0.1)
THRESHOLDS: NDArray[np.float64] = np.array(
    sorted(
        [float(f"{10.0 ** (-j / 10.0):.6g}") for j in range(1, 301)] + [0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    )
)
_GRID = failure_score(np.log(THRESHOLDS))
#: usual number of largest scores, and size of the random sample
TOP, SAMPLE = 2048, 4096
_ARRAYS = ("top_scores", "top_ids", "sample_scores", "sample_ids", "sample_rare", "beyond")
_SUMS = ("score_sum", "failure_sum", "success_sum", "rare_failure_sum", "rare_success_sum")
_COUNTS = ("n_tasks", "n_errors", "n_success_known", "n_rare", "n_rare_success_known", "steps")


@dataclass(frozen=True)
class TailSketch:
    """A summary of scored tasks, of constant size. The sketches of disjoint sets of tasks merge into the sketch of their union.

    Merging is exact: the same tasks give the same sketch, bit for bit, in whatever order and in however many parts they come. Build it with
    :meth:`of`.

    :param n_tasks: number of scored tasks
    :param n_errors: number of further tasks that could not be scored
    :param top_scores: the largest scores, descending, shape (at most ``top``,), float64; of equal ones those of the smallest ids
    :param top_ids: their tasks, int64
    :param sample_scores: scores of a random sample, shape (at most ``sample``,), float64
    :param sample_ids: its tasks, int64: those whose ids have the smallest hash
    :param sample_rare: which of them are rare, bool
    :param beyond: number of tasks with a failure probability (without smoothing) above each of :data:`THRESHOLDS`, int64
    :param score_sum: sum of the failure probabilities that the scores stand for
    :param failure_sum: sum of the failure probabilities without smoothing; the same unless failures were counted
    :param success_sum: sum of the success probabilities of the tasks for which they are known
    :param n_success_known: number of these tasks
    :param n_rare: number of rare tasks
    :param rare_worst: largest score of a rare task; -inf without
    :param rare_failure_sum: sum of the failure probabilities of rare tasks
    :param rare_success_sum: sum of the known success probabilities of rare tasks
    :param n_rare_success_known: number of rare tasks whose success is known
    :param steps: environment steps that scoring took
    :param top: largest number of ``top_scores``
    :param sample: largest size of the sample
    :param counted: whether failures were counted, so that the scores are smoothed and have no tail
    """

    n_tasks: int
    n_errors: int
    top_scores: NDArray[np.float64]
    top_ids: NDArray[np.int64]
    sample_scores: NDArray[np.float64]
    sample_ids: NDArray[np.int64]
    sample_rare: NDArray[np.bool_]
    beyond: NDArray[np.int64]
    score_sum: ExactSum
    failure_sum: ExactSum
    success_sum: ExactSum
    n_success_known: int
    n_rare: int
    rare_worst: float
    rare_failure_sum: ExactSum
    rare_success_sum: ExactSum
    n_rare_success_known: int
    steps: int
    top: int
    sample: int
    counted: bool = False

    @classmethod
    def of(
        cls,
        scores: Any,
        ids: Any = None,
        failure: Any = None,
        success: Any = None,
        rare: Any = None,
        steps: int = 0,
        n_errors: int = 0,
        top: int = TOP,
        sample: int = SAMPLE,
    ) -> TailSketch:
        """The sketch of some tasks.

        :param scores: failure scores psi, shape (N,), float64; -inf (p = 0) and +inf (p = 1) are allowed
        :param ids: index of each task in the deployment, shape (N,), int64; ``None`` for 0 to N - 1. No two tasks share one
        :param failure: failure probabilities without smoothing, shape (N,), if the scores come from counting; ``None`` for those of the scores
        :param success: success probabilities, shape (N,), NaN where unknown; ``None`` if all are
        :param rare: which tasks are rare, shape (N,), bool; ``None`` for none
        :param steps: environment steps that scoring took
        :param n_errors: number of tasks that could not be scored, besides these
        :param top: number of largest scores to keep. A tail can be fitted to at most as many
        :param sample: size of the random sample to keep
        :return: the sketch
        :raises ValueError: if a score is NaN, shapes differ, or an id occurs twice
        """
        for name, value in (("top", top), ("sample", sample)):
            whole(name, value, low=10, use="for example 2048")
        whole("steps", steps, low=0)
        whole("n_errors", n_errors, low=0)
        x = np.asarray(float64_array(scores))
        n = len(x) if x.ndim == 1 else -1
        if n < 0 or np.isnan(x).any():
            raise ValueError(
                f"scores must have shape (N,) and no NaN, got shape {x.shape} with {int(np.isnan(x).sum())} NaN; "
                "leave tasks without a score out, and count them in n_errors"
            )
        task = np.arange(n) if ids is None else np.asarray(ids)
        p = failure_probability(x) if failure is None else np.asarray(failure, dtype=np.float64)
        won = np.full(n, np.nan) if success is None else np.asarray(success, dtype=np.float64)
        is_rare = np.zeros(n, dtype=np.bool_) if rare is None else np.asarray(rare, dtype=np.bool_)
        for name, column in (("ids", task), ("failure", p), ("success", won), ("rare", is_rare)):
            if column.shape != (n,):
                raise ValueError(
                    f"{name} must have one entry per score, shape ({n},), got {column.shape}; pass one for each task"
                )
        if task.dtype.kind not in "iu" or (n and task.min() < 0):
            raise ValueError(f"ids must be whole numbers from 0, got {task.dtype}; use the index of each task")
        task = task.astype(np.int64)
        if len(np.unique(task)) < n:
            raise ValueError("ids must differ, got one twice; use the index of each task in the deployment")
        known = ~np.isnan(won)

        def failures(chosen: NDArray[np.bool_]) -> ExactSum:
            # from the scores, in logs, nothing underflows
            return ExactSum.of_logs(log_failure_probability(x[chosen])) if failure is None else ExactSum.of(p[chosen])

        worst, drawn = _largest(x, task, top), _drawn(task, sample)
        return cls(
            n_tasks=n,
            n_errors=n_errors,
            top_scores=x[worst],
            top_ids=task[worst],
            sample_scores=x[drawn],
            sample_ids=task[drawn],
            sample_rare=is_rare[drawn],
            # counted failures are compared as they are, scores where they are precise
            beyond=n
            - (
                np.searchsorted(np.sort(x), _GRID, "right")
                if failure is None
                else np.searchsorted(np.sort(p), THRESHOLDS, "right")
            ),
            score_sum=ExactSum.of_logs(log_failure_probability(x)),
            failure_sum=failures(np.ones(n, dtype=np.bool_)),
            success_sum=ExactSum.of(won[known]),
            n_success_known=int(known.sum()),
            n_rare=int(is_rare.sum()),
            rare_worst=float(x[is_rare].max(initial=-math.inf)),
            rare_failure_sum=failures(is_rare),
            rare_success_sum=ExactSum.of(won[known & is_rare]),
            n_rare_success_known=int((known & is_rare).sum()),
            steps=steps,
            top=top,
            sample=sample,
            counted=failure is not None,
        )

    def merge(self, other: TailSketch) -> TailSketch:
        """The sketch of the tasks of both.

        :param other: the sketch of other tasks, of the same size
        :return: the sketch
        :raises ValueError: if the sizes differ, failures were counted in one only, or a task is in both as far as that can be seen
        """
        if self.counted != other.counted and self.n_tasks and other.n_tasks:
            raise ValueError(f"other must have counted={self.counted}, got {other.counted}; merge scores of one kind")
        if (self.top, self.sample) != (other.top, other.sample):
            raise ValueError(
                f"other must have top={self.top} and sample={self.sample}, got {other.top} and {other.sample}; make both of one size"
            )
        totals: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in (*_COUNTS, *_SUMS)}
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _ARRAYS if name != "beyond"}
        for name in ("top_ids", "sample_ids"):
            found, count = np.unique(both[name], return_counts=True)
            if (count > 1).any():
                raise ValueError(
                    f"other must hold other tasks, got task {found[count > 1][0]} in both; merge each block once, by its ids in the deployment"
                )
        worst = _largest(both["top_scores"], both["top_ids"], self.top)
        drawn = _drawn(both["sample_ids"], self.sample)
        return TailSketch(
            top_scores=both["top_scores"][worst],
            top_ids=both["top_ids"][worst],
            sample_scores=both["sample_scores"][drawn],
            sample_ids=both["sample_ids"][drawn],
            sample_rare=both["sample_rare"][drawn],
            beyond=self.beyond + other.beyond,
            rare_worst=max(self.rare_worst, other.rare_worst),
            top=self.top,
            sample=self.sample,
            counted=(self if self.n_tasks else other).counted,
            **totals,
        )

    @property
    def worst(self) -> float:
        """The largest score; -inf without tasks."""
        return float(self.top_scores.max(initial=-math.inf))

    @property
    def mean_failure(self) -> float:
        """Mean failure probability; NaN without tasks."""
        return _share(self.failure_sum, self.n_tasks)

    @property
    def success(self) -> float:
        """Mean success probability where it is known; NaN if it is known for no task."""
        return _share(self.success_sum, self.n_success_known)

    @property
    def rare_mean_failure(self) -> float:
        """Mean failure probability of the rare tasks; NaN without."""
        return _share(self.rare_failure_sum, self.n_rare)

    @property
    def rare_success(self) -> float:
        """Mean success probability of the rare tasks where it is known; NaN if it is known for none."""
        return _share(self.rare_success_sum, self.n_rare_success_known)

    def worse_than(self, p: float) -> int:
        """Number of tasks with a failure probability above p. It is exact.

        :param p: one of :data:`THRESHOLDS`, or any other probability that only tasks of ``top_scores`` exceed
        :return: number of tasks
        :raises ValueError: if the sketch does not know the number
        """
        inside_unit("p", p, "for example 0.01")
        row = int(np.abs(np.log(THRESHOLDS / p)).argmin())
        if math.isclose(THRESHOLDS[row], p, rel_tol=1e-5):
            return int(self.beyond[row])
        if self.counted:
            raise ValueError(f"p must be one of THRESHOLDS where failures were counted, got {p:g}; use {THRESHOLDS[row]:.3g}")
        return self.beyond_score(float(failure_score(math.log(p))))

    def beyond_score(self, score: float) -> int:
        """Number of tasks with a larger score.

        :param score: a score from the smallest of ``top_scores`` on, or any score if the sketch holds all tasks
        :return: number of tasks
        :raises ValueError: if the sketch does not know the number
        """
        row = int(np.abs(_GRID - score).argmin())
        if math.isclose(_GRID[row], score, rel_tol=1e-9, abs_tol=1e-12):
            return int(self.beyond[row])
        count = int((self.top_scores > score).sum())
        if count == len(self.top_scores) < self.n_tasks:
            raise ValueError(
                f"the number of tasks beyond a failure probability must be one that the sketch knows, got {failure_probability(score):.3g}; use "
                f"{THRESHOLDS[row]:.3g}, one of {len(THRESHOLDS)} thresholds, or one that fewer than {len(self.top_scores)} tasks exceed"
            )
        return count

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The sketch as arrays, for an npz file; see :meth:`from_arrays`."""
        rest: dict[str, Any] = {name: getattr(self, name) for name in (*_COUNTS, "top", "sample", "counted")}
        rest |= {name: getattr(self, name).to_list() for name in _SUMS}
        # JSON knows no -inf
        rest["rare_worst"] = None if self.n_rare == 0 else str(self.rare_worst)
        return {name: getattr(self, name) for name in _ARRAYS} | {"rest": np.array(json.dumps(rest))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> TailSketch:
        """Read the result of :meth:`to_arrays`.

        :param arrays: arrays by name
        :raises ValueError: if they are others
        """
        try:
            rest = json.loads(str(arrays["rest"]))
            worst = -math.inf if rest["rare_worst"] is None else float(rest["rare_worst"])
            fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            fields |= {name: int(rest[name]) for name in (*_COUNTS, "top", "sample")}
            fields |= {name: ExactSum.from_list(rest[name]) for name in _SUMS}
            return cls(**fields, rare_worst=worst, counted=bool(rest["counted"]))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"arrays must be those of a sketch, got others ({error!r}); make the sketch again") from error

    def to_bytes(self) -> bytes:
        """The sketch as the content of an npz file, with a checksum."""
        arrays = self.to_arrays()
        file = io.BytesIO()
        np.savez(file, digest=np.array(digest_of(arrays, "sketch")), **arrays)  # type: ignore[arg-type]  # numpy takes names for its options
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> TailSketch:
        """Read the result of :meth:`to_bytes`.

        :param content: the bytes
        :raises ValueError: if they are others, or damaged
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            if str(arrays.pop("digest")) != digest_of(arrays, "sketch"):
                raise ValueError("its checksum is another")
        except Exception as error:  # zipfile, zlib and numpy raise many kinds
            raise ValueError(
                f"content must be that of a sketch, got another or a damaged one ({error}); make the sketch again"
            ) from error
        return cls.from_arrays(arrays)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the sketch, with a checksum.

        :param path: the file to write, ``.npz``
        :raises OSError: if it cannot be written
        """
        write_whole(path, lambda file: file.write(self.to_bytes()))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> TailSketch:
        """Read a sketch.

        :param path: a file that :meth:`save` or ``sb3_forecast.cluster.score`` wrote
        :return: the sketch
        :raises FileNotFoundError: if there is none
        :raises ValueError: if it is another file, or damaged
        """
        try:
            return cls.from_bytes(pathlib.Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(
                f"path must be a file that TailSketch.save wrote, got {str(path)!r} ({error}); make it again"
            ) from error


def _share(total: ExactSum, count: int) -> float:
    return float(total) / count if count else math.nan


def _largest(scores: NDArray[np.float64], ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of the largest scores, descending; of equal scores the smallest ids come first."""
    if len(scores) > 4 * count:
        # sort only what can be among them, with all ties
        rows = np.flatnonzero(scores >= np.partition(scores, len(scores) - count)[len(scores) - count])
        return rows[_largest(scores[rows], ids[rows], len(rows))][:count]
    return np.lexsort((ids, -scores))[:count]


def _drawn(ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of the ids with the smallest hash: a random sample that each part of the tasks knows its share of."""
    # splitmix64 (Steele et al. 2014), a bijection, so two ids never tie
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.argsort(x)[:count]
