"""ActiveEvaluation: looks at all tasks of a deployment, chooses which to score, and says what the others hide."""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sb3_forecast.checks import check_seed, inside_unit, real, whole
from sb3_forecast.descriptors import Descriptors
from sb3_forecast.files import read_json, write_json, write_whole
from sb3_forecast.measuring.active.choosing import Chooser, need_sklearn
from sb3_forecast.measuring.active.modes import find_modes
from sb3_forecast.measuring.active.report import ActiveReport, scores_to_failure
from sb3_forecast.measuring.active.table import Described, Table
from sb3_forecast.scorers.make import complete, make_measuring_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Scorer
from sb3_forecast.statistics.design import Round, draw, estimate_total, inclusion_probabilities

#: fewest tasks of a round
_FEWEST = 20


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
    :param precision: stop before the budget is used up once the interval of the mean failure reaches no further than this share of the mean
        above it, for example 0.3; ``None`` to use the whole budget. A run that stops for this reason is a little too sure of itself
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
        precision: float | None = None,
        progress_bar: bool = False,
        on_round: Callable[[NDArray[np.float64]], None] | None = None,
    ) -> None:
        need_sklearn()
        whole("n_rounds", n_rounds, low=1, use="6")
        whole("budget", budget, low=_FEWEST * n_rounds, use=f"at least {_FEWEST} tasks per round, or fewer rounds")
        if budget > len(pool):
            raise ValueError(
                f"budget must be at most the number of tasks {len(pool)}, got {budget}; score the whole pool instead"
            )
        real("uniform_share", uniform_share, low=0.05, high=1.0, use="the default 2/3; 1 for a random sample")
        inside_unit("level", level)
        if precision is not None:
            real("precision", precision, low=0.01, use="a share of the mean such as 0.3, or None")
        check_seed(seed)
        self._named = scorer if isinstance(scorer, str) else None
        self._scorer = None if isinstance(scorer, str) else complete(scorer)
        if self._scorer is not None:
            if not self._scorer.supports_partial:
                raise ValueError(
                    f"scorer must be able to score single tasks, got {type(scorer).__name__}, which scores the whole pool; use its name"
                )
            if self._scorer.n_tasks != len(pool):
                raise ValueError(
                    f"scorer must score the {len(pool)} tasks of the pool, got one that scores {self._scorer.n_tasks}; build it from this pool"
                )
        self.pool, self.budget, self.n_rounds = pool, budget, n_rounds
        self.uniform_share, self.level, self.seed = uniform_share, level, seed
        self.precision = precision
        self.counting, self.progress_bar, self.on_round = counting, progress_bar, on_round
        self.given = (
            descriptors if descriptors is None or isinstance(descriptors, Descriptors) else Descriptors.of(descriptors)
        )
        self.folder = None if folder is None else pathlib.Path(folder)

    def run(self, model: Any) -> ActiveReport:
        """Choose and score tasks, round by round.

        :param model: the agent or language model
        :return: the report
        :raises ValueError: if the folder holds another evaluation, the descriptors tell nothing apart, or the pool gives other tasks the second
            time
        """
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim(self.folder, model)
        choosing, scoring = time.perf_counter(), 0.0
        table = Table(self.pool, self.given, self.folder)
        chooser = Chooser(table, self.uniform_share)
        sizes = [len(part) for part in np.array_split(np.arange(self.budget), self.n_rounds)]
        rounds: list[Round] = []
        scores, failure, rare = np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_)
        scored = latest = np.empty(0, dtype=np.int64)
        name = ""
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
            found = self._round(number, chosen, table, model)
            scoring += time.perf_counter() - before
            name = str(found["scorer"])
            rounds.append(chosen)
            scored = np.concatenate([scored, latest])
            scores, failure, rare = (
                np.concatenate([old, found[key]]) for old, key in ((scores, "scores"), (failure, "failure"), (rare, "rare"))
            )
            if self._precise_enough(rounds, failure, len(table)):
                break
        modes = find_modes(table.raw(scored), table.names, failure, rounds, len(table), self.level)
        return ActiveReport(
            len(table), tuple(rounds), scores, failure, rare, self.level, self.seed, name, modes, scoring,
            time.perf_counter() - choosing - scoring,
        )  # fmt: skip

    def _precise_enough(self, rounds: list[Round], failure: NDArray[np.float64], n_tasks: int) -> bool:
        # the first round is random, and must not decide alone
        if self.precision is None or len(rounds) < 2:
            return False
        ends = np.cumsum([len(chosen.tasks) for chosen in rounds])[:-1]
        mean = estimate_total(rounds, np.split(failure, ends), n_tasks, self.level, like_seen=True)
        return mean.value > 0.0 and mean.high - mean.value <= self.precision * mean.value

    def _round(self, number: int, chosen: Round, table: Table, model: Any) -> dict[str, NDArray[Any]]:
        """Scores of one round, from the folder if they are there."""
        path = None if self.folder is None else self.folder / f"round-{number}.npz"
        if path is not None and path.exists():
            with np.load(path) as file:
                found = dict(file)
            if np.array_equal(found["tasks"], chosen.tasks):
                return found
            raise ValueError(
                f"folder must hold rounds of this evaluation, got other tasks in {path}; the pool, the model or a package changed: use another "
                "folder, or delete this one"
            )
        found = self._score(chosen.tasks, table, model, self.seed + number)
        found["tasks"] = chosen.tasks
        if path is not None:
            write_whole(path, lambda file: np.savez(file, **found))
        return found

    def _score(self, tasks: NDArray[np.int64], table: Table, model: Any, seed: int) -> dict[str, Any]:
        part = self.pool.subset(tasks)
        if self.given is None and isinstance(part, Described):
            again = part.descriptors().values[:, table.kept]
            if not np.array_equal(again, table.raw(tasks)):
                raise ValueError("pool must give the same tasks each time, got other descriptors the second time; "
                                 "draw tasks from their index and a fixed seed")  # fmt: skip
        rare = np.asarray(part.rare, dtype=np.bool_)
        if self._scorer is not None:
            scores = self._scorer.score(model, tasks).numpy()
            return {
                "scores": scores,
                "failure": scores_to_failure(scores),
                "rare": rare,
                "scorer": np.array(type(self._scorer).__name__),
            }
        assert self._named is not None
        scorer = make_measuring_scorer(self._named, part, model, seed, self.counting)
        found = scorer.measure(model, seed=seed)
        return {"scores": found.scores, "failure": found.frequencies, "rare": rare, "scorer": np.array(type(scorer).__name__)}

    def _claim(self, folder: pathlib.Path, model: Any) -> None:
        """Write into the folder which evaluation it holds, or refuse a folder that holds another."""
        path = folder / "about.json"
        content = {
            "pool": self.pool.key, "model": _checksum(model), "budget": self.budget, "n_rounds": self.n_rounds, "seed": self.seed,
            "uniform_share": self.uniform_share, "scorer": self._named or type(self._scorer).__name__,
        }  # fmt: skip
        if not path.exists():
            write_json(path, content)
        elif (found := read_json(path)) != content:
            other = {key: found.get(key) for key in content if found.get(key) != content[key]}
            raise ValueError(f"folder must hold this evaluation, got {str(folder)!r} with {other}; use another folder")


def _checksum(model: Any) -> str:
    """A digest of the parameters of an agent or a network."""
    network = model if isinstance(model, th.nn.Module) else model.policy
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
