"""What an active evaluation found and estimates."""

from __future__ import annotations

import io
import json
import math
import pathlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.checks import real
from sb3_forecast.files import without_nan, write_text
from sb3_forecast.measuring.active.modes import Mode
from sb3_forecast.statistics.design import Estimate, Round, estimate_total, round_weights
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.statistics.weighted_tail import weighted_limit


@dataclass(frozen=True)
class Found:
    """One task that was scored.

    :param task: index into the deployment
    :param score: failure score psi
    :param failure: failure probability
    """

    task: int
    score: float
    failure: float


@dataclass(frozen=True)
class ActiveReport:
    """Result of :class:`~sb3_forecast.measuring.active.evaluation.ActiveEvaluation`.

    The estimates rest on the probabilities with which tasks were chosen, and on nothing that the surrogate believes.

    :param n_tasks: number of tasks N of the deployment
    :param rounds: which tasks were scored, with the probabilities of their choice
    :param scores: scores of the scored tasks, round by round, shape (scored,), float64
    :param failure: failure probabilities of the same tasks, shape (scored,), float64
    :param rare: which of them belong to the pool's rare mode, shape (scored,), bool
    :param level: confidence of all limits
    :param seed: seed of the choice
    :param scorer: name of the scorer
    :param counted: whether failures were counted in episodes, so that only their mean is known, not the probability of each task
    :param found: kinds of task that fail, the largest contribution to the mean failure first
    :param seconds_scoring: time spent on scoring
    :param seconds_choosing: time spent on descriptors, surrogate and choice
    """

    n_tasks: int
    rounds: tuple[Round, ...] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    failure: NDArray[np.float64] = field(repr=False)
    rare: NDArray[np.bool_] = field(repr=False)
    level: float
    seed: int
    scorer: str
    counted: bool
    found: tuple[Mode, ...]
    seconds_scoring: float
    seconds_choosing: float

    @property
    def tasks(self) -> NDArray[np.int64]:
        """The scored tasks, round by round, shape (scored,), int64."""
        return np.concatenate([chosen.tasks for chosen in self.rounds])

    @property
    def worst(self) -> Found:
        """The worst task that was scored."""
        i = int(np.argmax(self.scores))
        return Found(int(self.tasks[i]), float(self.scores[i]), float(self.failure[i]))

    @property
    def mean_failure(self) -> Estimate:
        """Mean failure probability of all tasks of the deployment, unbiased, with its interval.

        The interval takes for granted that no kind of task is hidden which is worse than what chance has shown; :attr:`unseen_share` says
        how large such a kind can be.
        """
        total = self._total(self.failure, like_seen=True)
        return Estimate(total.value / self.n_tasks, total.low / self.n_tasks, total.high / self.n_tasks)

    def worse_than(self, p: float) -> Estimate:
        """Number of tasks of the deployment that fail with a probability above p, unbiased, with its interval.

        :param p: a failure probability in [0, 1)
        :raises ValueError: if p is out of range
        :raises NoForecastError: if failures were counted: 2 failures in 5 episodes do not say that p is above 0.3
        """
        self._need_probabilities("worse_than")
        if not 0.0 <= real("p", p, use="a failure probability such as 0.01") < 1.0:
            raise ValueError(f"p must be in [0, 1), got {p}; use a failure probability such as 0.01")
        return self._total((self.failure > p).astype(np.float64))

    def failing(self, p: float) -> NDArray[np.int64]:
        """The scored tasks that fail with a probability above p, worst first: for example, to train on them.

        :param p: a failure probability
        :return: indices into the deployment, int64
        """
        order = np.argsort(-self.scores, kind="stable")
        return self.tasks[order][self.failure[order] > p]

    def limit(self, n_deploy: int | None = None, level: float | None = None) -> float:
        """Upper limit of the worst score among tasks that were not scored, if their tail is exponential.

        The scored tasks stand for the others with the weight (1 - inclusion) / inclusion.

        :param n_deploy: number of such tasks; ``None`` for all that the deployment holds
        :param level: confidence; ``None`` for that of the report
        :return: score
        :raises NoForecastError: if too few scores are finite, all tasks were scored, or failures were counted
        """
        self._need_probabilities("limit")
        if len(self.scores) == self.n_tasks and n_deploy is None:
            raise NoForecastError(
                f"n_deploy must be given where all {self.n_tasks} tasks were scored, got None; the worst is report.worst"
            )
        shares = round_weights([len(chosen.tasks) for chosen in self.rounds], self.n_tasks)
        weights = np.concatenate(
            [share * (1.0 - chosen.inclusion) / chosen.inclusion for share, chosen in zip(shares, self.rounds, strict=True)]
        )
        left = self.n_tasks - len(self.scores)
        return weighted_limit(
            self.scores, weights, max(left, 1) if n_deploy is None else n_deploy, self.level if level is None else level
        )

    @property
    def unseen_share(self) -> float:
        """A mode of which no task was scored, and whose tasks look like all others, makes up less than this share of the deployment.

        It is 1 - (1 - level)^(1/u), where u is the number of tasks that pure chance would have scored: of each round the smallest inclusion
        probability times the number of tasks.
        """
        if len(self.scores) == self.n_tasks:
            return 0.0
        chance = sum(chosen.smallest for chosen in self.rounds) * self.n_tasks
        return -math.expm1(math.log1p(-self.level) / chance)

    def _need_probabilities(self, name: str) -> None:
        if self.counted:
            raise NoForecastError(
                f"{name} must have the failure probability of each task, got counts of episodes; use a scorer that gives probabilities, or "
                "mean_failure, which counts do tell"
            )

    def _total(self, values: NDArray[np.float64], like_seen: bool = False) -> Estimate:
        ends = np.cumsum([len(chosen.tasks) for chosen in self.rounds])[:-1]
        return estimate_total(self.rounds, np.split(values, ends), self.n_tasks, self.level, like_seen)

    def to_dict(self) -> dict[str, Any]:
        """The report without its arrays, as a dictionary; :meth:`to_json` writes infinite numbers as null."""
        worse = None if self.counted else {str(p): asdict(self.worse_than(p)) for p in THRESHOLDS}
        return {
            "n_tasks": self.n_tasks, "scored": len(self.scores), "rounds": len(self.rounds), "seed": self.seed, "level": self.level,
            "scorer": self.scorer, "counted": self.counted, "mean_failure": asdict(self.mean_failure), "worst": asdict(self.worst),
            "worse_than": worse, "rare_scored": int(self.rare.sum()),
            "unseen_share": self.unseen_share, "found": [asdict(mode) for mode in self.found],
            "seconds_scoring": self.seconds_scoring, "seconds_choosing": self.seconds_choosing,
        }  # fmt: skip

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """The report without its arrays, as JSON.

        :param path: also write the text to this file
        :return: the text
        """
        text = json.dumps(without_nan(self.to_dict()), indent=2, allow_nan=False)
        if path is not None:
            write_text(path, text + "\n")
        return text

    def summary(self, width: int = 100) -> str:
        """The report as text: the answer, the modes, and what remains unseen.

        :param width: number of characters in a line
        """
        from rich.console import Console
        from rich.table import Table

        out = io.StringIO()
        console = Console(width=width, file=out)

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False)

        say(
            f"Expect {_told(self.mean_failure, 1e6)} failures per million tasks ({self.level:.0%} interval), from {len(self.scores):,} of "
            f"{self.n_tasks:,} tasks."
        )
        say(f"The worst task found is {self.worst.task}: it fails with probability {self.worst.failure:.3g}.")
        table = Table(title="Kinds of task that fail, found among the scored ones")
        for name in ("what they look like", "share of all tasks", "fail with", "scored", "worst tasks"):
            table.add_column(name, justify="left" if name == "what they look like" else "right")
        for mode in self.found:
            table.add_row(
                mode.rule, f"{mode.share:.2%}", f"{mode.failure:.2g}", str(mode.scored),
                ", ".join(map(str, mode.worst)),
            )  # fmt: skip
        if self.found:
            console.print(table)
        for p in () if self.counted else THRESHOLDS:
            say(f"Tasks that fail with probability above {p:g}: {_told(self.worse_than(p))}.")
        say(
            f"What cannot be seen: a kind of task that is less than {self.unseen_share:.2%} of all and looks like the others may be missing."
        )
        return out.getvalue()


#: failure probabilities whose exceedances a report counts
THRESHOLDS = (0.001, 0.01, 0.1, 0.5)


def _told(estimate: Estimate, factor: float = 1.0) -> str:
    """An estimate in words. The unbiased value can be below what was found for certain; then that is said."""
    low, high = estimate.low * factor, estimate.high * factor
    value = min(max(estimate.value * factor, low), high)
    return f"about {_short(value)} [{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def scores_to_failure(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Failure probabilities of scores, shape (tasks,), float64."""
    return np.asarray(failure_probability(scores), dtype=np.float64)
