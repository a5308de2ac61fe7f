"""ActiveEvaluation: looks at all tasks of a deployment, chooses which to score, and says what the others hide."""

from __future__ import annotations

import pathlib
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sb3_forecast.checks import check_seed, inside_unit, one_of, real, whole
from sb3_forecast.descriptors import Descriptors
from sb3_forecast.measuring.active.choosing import Chooser, need_sklearn
from sb3_forecast.measuring.active.modes import find_modes
from sb3_forecast.measuring.active.report import ActiveReport, scores_to_failure
from sb3_forecast.measuring.active.storage import RoundStore
from sb3_forecast.measuring.active.table import Described, Table
from sb3_forecast.scorers.blocks import BlockScores
from sb3_forecast.scorers.checksum import model_checksum
from sb3_forecast.scorers.make import complete, make_measuring_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Scorer
from sb3_forecast.statistics.design import Round, draw, estimate_total, inclusion_probabilities

#: fewest tasks of a round
_FEWEST = 20
#: rounds before ``precision`` can stop a run
_ROUNDS_TO_STOP = 4
#: scorers that can be made for chosen tasks
NAMES = ("auto", "exact", "survival", "frequency")


class RoundWorkers(Protocol):
    """Workers that score the tasks of a round, such as ``sb3_forecast.cluster.Workers``."""

    def measure(self, scorer: str, tasks: Any, model: Any, seed: int, counting: Mapping[str, Any]) -> BlockScores:
        """Score all tasks of a pool.

        :param scorer: name of the scorer
        :param tasks: the tasks
        :param model: the model
        :param seed: seed of a scorer that samples
        :param counting: arguments of the scorer ``"frequency"``
        """


@runtime_checkable
class KnowsRare(Protocol):
    """Tasks of which it is known which are rare."""

    @property
    def rare(self) -> NDArray[np.bool_]:
        """Shape (tasks,), bool."""


class ActiveEvaluation:
    """Score a small part of a deployment, chosen so that its failures are found.

    The first round is chosen by chance. Then each round looks at the descriptors of all tasks and prefers those that are predicted to fail, may
    fail, look like nothing that was scored, or look like the worst that was found. Every choice has a known probability, so the estimates are
    unbiased however wrong the predictions are (docs/active.md).

    :param scorer: ``"auto"``, ``"exact"``, ``"survival"`` or ``"frequency"``, made anew for the chosen tasks, or a scorer of the whole pool
        that can score some of its tasks. The scores of an object are taken for exact; to count episodes, use ``"frequency"``
    :param pool: the deployment: a pool, or a stream such as ``sb3_forecast_envs.TaskStream``
    :param budget: number of tasks to score
    :param n_rounds: number of rounds
    :param uniform_share: share of each later round in which every task has the same chance. A larger one gives more certainty about kinds
        of task that look like all others, a smaller one finds more of what looks different
    :param descriptors: one row of numbers per task, or an array; ``None`` for the pool's own
    :param level: confidence of all limits
    :param seed: seed of the choice and of a scorer that samples
    :param counting: arguments of the scorer ``"frequency"``, for example ``{"episodes": 50}``
    :param folder: folder for the rounds that are done, so that a run that was stopped goes on; ``None`` to keep nothing
    :param identity: a name of the scorer's settings, needed for ``folder`` with a scorer object
    :param precision: stop after four rounds or more, once the interval of the mean failure reaches no further than this share of the mean
        above it, for example 0.3; ``None`` to use the whole budget. A run that has not found a rare mode yet looks precise, so the interval of
        a run that stopped early holds less often than it says
    :param workers: workers that score the chosen tasks, for example ``sf.cluster.Workers(address="auto")``; ``None`` to score them here.
        They need the name of a scorer, not an object and not ``"auto"``
    :param progress_bar: whether to show progress
    :param on_round: called in each round with the inclusion probabilities of all tasks, shape (N,), to study the design
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if an argument is out of range
    :raises ImportError: if scikit-learn is not installed
    """

    def __init__(
        self,
        scorer: str | FailureScorer | Scorer,
        pool: Any,
        budget: int,
        n_rounds: int = 6,
        uniform_share: float = 2.0 / 3.0,
        descriptors: Descriptors | NDArray[Any] | None = None,
        level: float = 0.95,
        seed: int = 0,
        counting: Mapping[str, Any] | None = None,
        folder: str | pathlib.Path | None = None,
        identity: str | None = None,
        precision: float | None = None,
        workers: RoundWorkers | None = None,
        progress_bar: bool = False,
        on_round: Callable[[NDArray[np.float64]], None] | None = None,
    ) -> None:
        need_sklearn()
        self.n_rounds = whole("n_rounds", n_rounds, low=1, use="6")
        self.budget = whole(
            "budget", budget, low=_FEWEST * self.n_rounds, use=f"at least {_FEWEST} tasks per round, or fewer rounds"
        )
        if self.budget > len(pool):
            raise ValueError(
                f"budget must be at most the number of tasks {len(pool)}, got {budget}; score the whole pool instead"
            )
        self.uniform_share = real(
            "uniform_share", uniform_share, low=0.05, high=1.0, use="the default 2/3; 1 for a random sample"
        )
        self.level = inside_unit("level", level)
        self.precision = precision
        if precision is not None:
            real("precision", precision, low=0.01, use="a share of the mean such as 0.3, or None")
        self.seed = check_seed(seed)
        self._named = scorer if isinstance(scorer, str) else None
        self._scorer = None if isinstance(scorer, str) else complete(scorer)
        if self._scorer is None:
            one_of("scorer", scorer, NAMES)
        else:
            _check_scorer(self._scorer, pool)
        if counting and self._named not in ("auto", "frequency"):
            raise ValueError(
                f"counting must be left out for a scorer that counts nothing, got {dict(counting)}; use scorer='frequency'"
            )
        self.pool, self.counting, self.progress_bar, self.on_round = pool, dict(counting or {}), progress_bar, on_round
        self.given = (
            descriptors if descriptors is None or isinstance(descriptors, Descriptors) else Descriptors.of(descriptors)
        )
        self.folder = None if folder is None else pathlib.Path(folder)
        if self.folder is not None and self._scorer is not None and identity is None:
            raise ValueError("identity must be given where folder and a scorer object are, got None; use a name that you change whenever the "
                             "scorer's settings change")  # fmt: skip
        self.identity = identity
        if workers is not None and self._named in (None, "auto"):
            raise ValueError(
                f"scorer must be named where workers score, got {scorer!r}; use {', '.join(map(repr, NAMES[1:]))}, or leave workers out"
            )
        self.workers = workers

    def run(self, model: Any) -> ActiveReport:
        """Choose and score tasks, round by round.

        :param model: the agent or language model
        :return: the report
        :raises ValueError: if the folder holds another evaluation, the descriptors tell nothing apart, or the pool gives other tasks the second
            time
        """
        store = None if self.folder is None else RoundStore(self.folder, self._about(model))
        choosing, scoring = time.perf_counter(), 0.0
        table = Table(self.pool, self.given, self.folder)
        chooser = Chooser(table, self.uniform_share)
        sizes = [len(part) for part in np.array_split(np.arange(self.budget), self.n_rounds)]
        rounds: list[Round] = []
        scores, failure, rare = np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_)
        scored = latest = np.empty(0, dtype=np.int64)
        name, counted = "", False
        for number, size in enumerate(tqdm(sizes, "rounds", disable=not self.progress_bar)):
            # each round has a generator of its own, so a run that goes on draws as one that was not stopped
            generator = np.random.default_rng([self.seed, number])
            weights = chooser.weights(scored, scores, latest, generator)
            inclusion = inclusion_probabilities(weights, size)
            left = np.ones(len(table), dtype=np.bool_)
            left[scored] = False
            if self.on_round is not None:
                self.on_round(inclusion)
            latest = draw(inclusion, generator)
            chosen = Round(latest, inclusion[latest], float(inclusion[left].min()))
            before = time.perf_counter()
            found = None if store is None else store.load(number, latest)
            if found is None:
                found = {**self._score(latest, table, model, self.seed + number), "tasks": latest}
                if store is not None:
                    store.save(number, found)
            scoring += time.perf_counter() - before
            name, counted = str(found["scorer"]), bool(found["counted"])
            rounds.append(chosen)
            scored = np.concatenate([scored, latest])
            scores, failure, rare = (
                np.concatenate([old, found[key]]) for old, key in ((scores, "scores"), (failure, "failure"), (rare, "rare"))
            )
            if self._precise_enough(rounds, failure, len(table)):
                break
        modes = find_modes(table, failure, rounds, self.level)
        return ActiveReport(
            len(table), tuple(rounds), scores, failure, rare, self.level, self.seed, name, counted, modes, scoring,
            time.perf_counter() - choosing - scoring,
        )  # fmt: skip

    def _precise_enough(self, rounds: list[Round], failure: NDArray[np.float64], n_tasks: int) -> bool:
        # the first rounds have not seen enough to know how wide the interval should be
        if self.precision is None or len(rounds) < _ROUNDS_TO_STOP:
            return False
        ends = np.cumsum([len(chosen.tasks) for chosen in rounds])[:-1]
        mean = estimate_total(rounds, np.split(failure, ends), n_tasks, self.level, like_seen=True)
        return mean.value > 0.0 and mean.high - mean.value <= self.precision * mean.value

    def _score(self, tasks: NDArray[np.int64], table: Table, model: Any, seed: int) -> dict[str, Any]:
        part = self.pool.subset(tasks)
        if self.given is None and isinstance(part, Described):
            again = part.descriptors().values[:, table.kept]
            if not np.array_equal(again, table.raw(tasks)):
                raise ValueError("pool must give the same tasks each time, got other descriptors the second time; "
                                 "draw tasks from their index and a fixed seed")  # fmt: skip
        rare = np.asarray(part.rare, dtype=np.bool_) if isinstance(part, KnowsRare) else np.zeros(len(tasks), dtype=np.bool_)
        if self._scorer is not None:
            scores = np.asarray(self._scorer.score(model, tasks).detach().cpu().double().numpy())
            if scores.shape != tasks.shape or np.isnan(scores).any():
                raise ValueError(
                    f"scorer must give one score per task and no NaN, got shape {scores.shape} for {len(tasks)} tasks, "
                    f"{int(np.isnan(scores).sum())} of them NaN; correct its score(model, tasks)"
                )
            return {"scores": scores, "failure": scores_to_failure(scores), "rare": rare, "scorer": type(self._scorer).__name__,
                    "counted": False}  # fmt: skip
        assert self._named is not None
        if self.workers is not None:
            block = self.workers.measure(self._named, part, model, seed, self.counting)
            counted = self._named == "frequency"
            return {"scores": block.psi, "failure": block.failure, "rare": rare, "scorer": self._named, "counted": counted}
        scorer = make_measuring_scorer(self._named, part, model, seed, self.counting)
        found = scorer.measure(model, seed=seed)
        return {"scores": found.scores, "failure": found.frequencies, "rare": rare, "scorer": type(scorer).__name__,
                "counted": scorer.counts_failures}  # fmt: skip

    def _about(self, model: Any) -> dict[str, Any]:
        """Everything that choices and scores depend on."""
        given = None if self.given is None else zlib.crc32(np.ascontiguousarray(self.given.values).tobytes())
        return {
            "pool": self.pool.key, "model": model_checksum(model), "budget": self.budget, "n_rounds": self.n_rounds, "seed": self.seed,
            "uniform_share": self.uniform_share, "scorer": self._named or self.identity, "counting": self.counting, "descriptors": given,
            # workers score in units, each with a seed of its own
            **({} if self.workers is None else {"workers": True}),
        }  # fmt: skip


def _check_scorer(scorer: Scorer, pool: Any) -> None:
    """Refuse a scorer object that does not score single tasks of the pool."""
    if not scorer.supports_partial:
        raise ValueError(
            f"scorer must be able to score single tasks, got {type(scorer).__name__}, which scores the whole pool; use its name"
        )
    if scorer.counts_failures:
        raise ValueError(
            f"scorer must give probabilities if it is an object, got {type(scorer).__name__}; use scorer='frequency' and counting="
        )
    if scorer.n_tasks != len(pool) or (scorer.key is not None and scorer.key != pool.key):
        raise ValueError(
            f"scorer must score the {len(pool)} tasks of the pool, got one that scores {scorer.n_tasks} tasks ({scorer.key}); "
            "build it from this pool, or use its name"
        )
