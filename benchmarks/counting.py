"""How a budget of episodes is best counted: many tasks once, then failing ones again, against 20 episodes of each of a few tasks.

    python -m benchmarks.counting [--repetitions 1000] [--worst 60] [--budget 4000]

Failure probabilities of the tasks are known here, so it is known whether intervals hold: that of the mean failure probability (in
`--repetitions` measurements), and that of the worst of n deployment tasks (in the first `--worst` of them). Both ways have the same number of
episodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sb3_forecast.statistics.allocation import Design
from sb3_forecast.statistics.count_checks import best_fit
from sb3_forecast.statistics.expected import expected_failures
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.scores import failure_probability

#: tasks of a deployment
N = 100_000
#: bootstrap fits of an interval; fewer than the library's 200, to save time
BOOTSTRAPS = 50

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
POPULATIONS: dict[str, Draw] = {
    "all alike, 2 in 100": lambda generator, m: np.full(m, 0.02),
    "beta(0.1, 4)": lambda generator, m: generator.beta(0.1, 4.0, m),
    "beta(0.5, 50)": lambda generator, m: generator.beta(0.5, 50.0, m),
    "1% fail at 0.9, others at 0.001": lambda generator, m: np.where(generator.random(m) < 0.01, 0.9, 0.001),
    "3% always fail, others never": lambda generator, m: (generator.random(m) < 0.03).astype(np.float64),
    "rare: beta(0.002, 20)": lambda generator, m: generator.beta(0.002, 20.0, m),
}


@cache
def mean_of(name: str) -> float:
    """Mean failure probability of a population."""
    return float(POPULATIONS[name](np.random.default_rng(1), 4_000_000).mean())


def count(draw: Draw, budget: int, adaptive: bool, seed: int) -> tuple[NDArray[np.int64], ...]:
    """One measurement: failures, trials, and failures among the first episodes."""
    generator = np.random.default_rng([seed, int(adaptive)])
    if adaptive:
        return Design(1, budget).simulate(draw(generator, 3 * budget // 4), generator)
    m = budget // 20
    failures = generator.binomial(20, draw(generator, m))
    return failures, np.full(m, 20), failures


def worst_holds(
    draw: Draw, counts: tuple[NDArray[np.int64], ...], design: Design | None, seed: int
) -> tuple[bool, bool] | None:
    """Whether the upper and the lower limit of the worst task hold; ``None`` if nothing could be fitted."""
    worst = float(draw(np.random.default_rng([seed, 2]), N).max())
    try:
        low, high = best_fit(counts[0], counts[1], design)[0].interval(N, n_boot=BOOTSTRAPS, seed=seed)
    except NoForecastError:
        return None
    return worst <= failure_probability(high) * (1 + 1e-9), failure_probability(low) <= worst * (1 + 1e-9)


def row(name: str, adaptive: bool, budget: int, repetitions: int, worst: int) -> str:
    """One row of the table."""
    draw, mean, design = POPULATIONS[name], mean_of(name), Design(1, budget) if adaptive else None
    holds, widths, limits = [], [], []
    for seed in range(repetitions):
        counts = count(draw, budget, adaptive, seed)
        found = expected_failures(counts[2] / (1 if adaptive else 20))
        holds.append(found.low <= mean <= found.high)
        widths.append((found.high - found.low) / 2.0 / mean)
        if seed < worst:
            limits.append(worst_holds(draw, counts, design, seed))
    fitted = np.array([limit for limit in limits if limit is not None])
    shares = [f"{share:.0%}" for share in fitted.mean(axis=0)] if len(fitted) else ["-", "-"]
    way = "many tasks, then failing ones" if adaptive else "20 episodes of each task"
    return f"| {name} | {way} | {np.mean(holds):.0%} | {np.mean(widths):.2f} | {' | '.join(shares)} | {len(fitted)} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--worst", type=int, default=60)
    parser.add_argument("--budget", type=int, default=4000)
    args = parser.parse_args()
    heads = ("failure probabilities", "counted", "90% interval of the mean holds", "half width / mean", "95% limit of the worst holds",
             "lower limit holds", "fits")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in POPULATIONS:
        for adaptive in (False, True):
            print(row(name, adaptive, args.budget, args.repetitions, args.worst), flush=True)


if __name__ == "__main__":
    main()
