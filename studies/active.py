"""The study of active evaluation: what a chosen sample finds and estimates, against a random sample of the same size.

The deployment is scored as a whole, so that the truth is known. Then samples of several sizes are drawn many times. The control has descriptors
that belong to other tasks, so that they tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray
from rich.console import Console

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.checks import whole
from sb3_forecast.files import write_text, write_whole
from sb3_forecast.measuring.active.plots import samples_plot
from sb3_forecast.measuring.active.report import ActiveReport
from sb3_forecast.scorers.protocols import Scorer
from sb3_forecast.statistics.design import round_weights
from studies.active_domains import CART_POLE, PASSWORD_GAME, deployment_of, describe, train_and_score
from studies.records import Record
from studies.runner import Run, Study
from studies.statistics import Column
from studies.tables import markdown_of

#: kinds of sample
KINDS = {"random": "random", "active": "chosen", "noise": "chosen, descriptors of other tasks"}

COLUMNS = {
    "found": Column("worst found within 0.5 psi", ("worst_within",), "{:.0%}"),
    "rare": Column("rare tasks, times their share", ("rare_factor",), "{:.0f}"),
    "bias": Column("mean failure: bias in s.d.", ("mean_z",), "{:+.2f}"),
    "variance": Column("variance / random's", ("variance_ratio",), "{:.2f}"),
    "mean": Column("interval of the mean holds", ("mean_holds",), "{:.0%}"),
    "hundredth": Column("interval of the number p > 0.01 holds", ("worse_than_0.01_holds",), "{:.0%}"),
    "tenth": Column("... p > 0.1", ("worse_than_0.1_holds",), "{:.0%}"),
    "limit": Column("95% limit of the worst unseen holds", ("limit_holds",), "{:.0%}"),
}


@dataclass(frozen=True)
class Settings:
    """Evaluate a small part of a large deployment, chosen or at random, and compare with what scoring all of it says.

    A run that was stopped goes on when it is started again with the same output folder.
    """

    seeds: int = 1
    """Number of seeds; training and deployment differ per seed."""
    first_seed: int = 1
    """The first of them."""
    family: str = "ThinIce-8x8"
    """Task family, '<Name>-<S>x<S>'; 'CartPole', whose truth is 16 survival episodes per task; or 'PasswordGame', with the tiny model."""
    rare_fraction: float = 0.002
    """Mass of the rare mode."""
    budgets: tuple[int, ...] = field(default=(300, 1000, 3000))
    """Numbers of scored tasks; the control is run with 1,000 only."""
    repeats: int = 20
    """Samples of each kind and size."""
    deploy_size: int = 100_000
    """Tasks of the deployment."""
    total_timesteps: int = 1_500_000
    """Environment steps of the agent."""
    pool_size: int = 50_000
    """Training tasks."""
    n_envs: int = 128
    """Environments stepped together."""
    output: Path = Path("runs/active")
    """Where checkpoints, truths, records and the table go."""
    jobs: int | Literal["ray"] = 1
    """Seeds run side by side, each in a process with one thread. `ray`: as tasks of the Ray cluster of RAY_ADDRESS, or of this machine."""
    progress_bar: bool = True
    """Show SB3's progress bar (only with one job)."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts."""
        if self.family not in (CART_POLE, PASSWORD_GAME):
            sfe.make_family(self.family, self.rare_fraction)
        for name in ("seeds", "repeats", "pool_size", "n_envs"):
            whole(name, getattr(self, name), low=1)
        whole("deploy_size", self.deploy_size, low=max(self.budgets), use="more tasks than the largest budget")

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        left_out = ("seeds", "first_seed", "budgets", "output", "jobs", "progress_bar")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


class Known(Scorer):
    """Scores that were computed before.

    :param scores: of all tasks, shape (N,), float64
    """

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self.scores, self.n_tasks = scores, len(scores)

    @property
    def key(self) -> None:
        """Unknown."""
        return None

    def score(self, model: Any, tasks: NDArray[np.int64] | None = None) -> th.Tensor:
        """Scores of some tasks."""
        return th.from_numpy(self.scores if tasks is None else self.scores[tasks])

    def rescore(self, model: Any, tasks: NDArray[np.int64]) -> th.Tensor:
        """Not possible."""
        raise ValueError("scores must be computed anew for a gradient, got known ones; use ExactScorer")


def methods(args: Settings) -> Sequence[str]:
    """The truth first, then every kind and size."""
    samples = [f"{kind}_{budget}" for kind in ("random", "active") for budget in args.budgets]
    return ("base", *samples, *(f"noise_{budget}" for budget in args.budgets if budget == 1000))


def run(job: Run) -> dict[str, Any]:
    """Train the agent and score the deployment, or draw the samples of one kind and size.

    :param job: what to run
    """
    args: Settings = job.settings
    deployment = deployment_of(args.family, args.deploy_size, args.rare_fraction, job.seed)
    path = job.folder / "truth.npz"
    if job.method == "base":
        truth = train_and_score(job, deployment)
        write_whole(path, lambda file: np.savez(file, psi=truth.scores, seconds=truth.seconds))
        p, rare = sf.failure_probability(truth.scores), deployment.rare
        return {"mean_failure": p.mean(), "worst_failure": p.max(), "rare": int(rare.sum()), "rare_mean_failure": p[rare].mean(),
                "worse_than_0.01": int((p > 0.01).sum()), "worse_than_0.1": int((p > 0.1).sum()), "scoring_seconds": truth.seconds}  # fmt: skip
    kind, budget = job.method.split("_")
    with np.load(path) as file:
        scores = file["psi"]
    return measure(deployment, scores, kind, int(budget), args.repeats, job.seed)


def measure(deployment: Any, scores: NDArray[np.float64], kind: str, budget: int, repeats: int, seed: int) -> dict[str, Any]:
    """What samples of one kind and size find and estimate.

    :param deployment: all tasks
    :param scores: their true scores
    :param kind: see :data:`KINDS`
    :param budget: number of scored tasks
    :param repeats: number of samples
    :param seed: of the run
    """
    p = sf.failure_probability(scores)
    described = describe(deployment)
    reports, variances = [], []
    for repeat in range(repeats):
        if kind == "noise":
            shuffled = np.random.default_rng([seed, repeat]).permutation(len(p))
            given = sf.Descriptors(described.values[shuffled], described.names)
        else:
            given = described
        inclusions: list[NDArray[np.float64]] = []
        evaluation = sf.ActiveEvaluation(
            Known(scores), deployment, budget, n_rounds=1 if kind == "random" else 6, descriptors=given, seed=1000 * seed + repeat,
            on_round=inclusions.append,
        )  # fmt: skip
        reports.append(evaluation.run(None))
        variances.append(design_variance(reports[-1], inclusions, p))
    means = np.array([report.mean_failure.value for report in reports])
    result = {
        "worst_within": share(report.worst.score >= scores.max() - 0.5 for report in reports),
        "rare_factor": float(np.mean([report.rare.sum() for report in reports]) / (budget * deployment.rare.mean())),
        "mean_z": float((means.mean() - p.mean()) / means.std()),
        "variance_ratio": float(np.mean(variances) / (len(p) ** 2 * p.var() / budget)),
        "mean_holds": share(report.mean_failure.low <= p.mean() <= report.mean_failure.high for report in reports),
        "seconds_choosing": float(np.mean([report.seconds_choosing for report in reports])),
        "limit_holds": share(limit_held(report, scores) for report in reports),
        "means": means.tolist(),
    }
    for c in (0.01, 0.1):
        true = int((p > c).sum())
        counts = [report.worse_than(c) for report in reports]
        result[f"worse_than_{c}_holds"] = share(count.low <= true <= count.high for count in counts)
        result[f"worse_than_{c}"] = [count.value for count in counts]
    return result


def limit_held(report: ActiveReport, scores: NDArray[np.float64]) -> bool:
    """Whether the limit of the worst unseen task holds. One that is refused, because the worst scores are equal, does not.

    :param report: of a sample
    :param scores: true scores of all tasks
    """
    try:
        return bool(np.delete(scores, report.tasks).max() <= report.limit())
    except sf.NoForecastError:
        return False


def design_variance(report: ActiveReport, inclusions: Sequence[NDArray[np.float64]], p: NDArray[np.float64]) -> float:
    """Variance of the estimated total, given what was chosen before each round, from the truth (Deville's formula for fixed sizes).

    :param report: of a sample
    :param inclusions: inclusion probabilities of all tasks in each round
    :param p: true failure probabilities
    """
    weights = round_weights([len(chosen.tasks) for chosen in report.rounds], report.n_tasks)
    total = 0.0
    for weight, inclusion in zip(weights, inclusions, strict=True):
        open_ = (inclusion > 0.0) & (inclusion < 1.0)
        pi, part = inclusion[open_], p[open_] / inclusion[open_]
        c = pi * (1.0 - pi)
        total += weight**2 * float(c @ (part - float(c @ part) / float(c.sum())) ** 2)
    return total


def share(held: Any) -> float:
    """Share of the repeats in which something held."""
    return float(np.mean(list(held)))


def report(args: Settings, records: list[Record], console: Console) -> None:
    """Print and write the table, and draw the first seed's first samples of the middle size.

    :param args: the options
    :param records: what was run
    :param console: where to print
    """
    labels = {method: f"{KINDS[method.split('_')[0]]}, {int(method.split('_')[1]):,}" for method in methods(args)[1:]}
    text = markdown_of(records, labels, list(COLUMNS.values()))
    console.print(text, markup=False, highlight=False)
    write_text(args.output / "table.md", text)
    seed, budget = args.first_seed, sorted(args.budgets)[len(args.budgets) // 2]
    deployment = deployment_of(args.family, args.deploy_size, args.rare_fraction, seed)
    with np.load(args.output / f"seed{seed}" / "truth.npz") as file:
        scores = file["psi"]
    described = describe(deployment)
    shown = {
        title: sf.ActiveEvaluation(
            Known(scores), deployment, budget, n_rounds=rounds, descriptors=described, seed=1000 * seed
        ).run(None)
        for title, rounds in (("a random sample", 1), ("active evaluation", 6))
    }
    samples_plot(shown, scores, args.output / "samples.png")


_SOURCES = ("studies/active.py", "studies/active_domains.py", "studies/gridworld_methods.py", "studies/tools.py")
STUDY = Study("active", run, methods, report, _SOURCES)
