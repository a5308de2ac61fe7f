"""Only a file of failure probabilities, from any model: python examples/scores_file.py (a second).

The same from the command line: python -m sb3_forecast forecast scores.csv --deploy-size 1e6
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import sb3_forecast as sf

if __name__ == "__main__":
    # what an evaluation wrote: one failure probability per task
    path = Path(tempfile.mkdtemp()) / "scores.csv"
    log_p = -np.exp(2.0 - 0.3 * np.random.default_rng(0).gumbel(size=300))
    pd.DataFrame({"task": np.arange(300), "log_p": log_p}).to_csv(path, index=False)

    scores = sf.failure_score(pd.read_csv(path)["log_p"].to_numpy())
    tail = sf.GumbelTail.fit(scores)
    low, high = tail.interval(1_000_000)
    print(f"worst of 300 evaluated tasks:      p = {float(sf.failure_probability(scores.max())):.3g}")
    print(f"forecast of the worst of a million: p = {float(sf.failure_probability(tail.forecast(1e6))):.3g}")
    print(
        f"90% interval:                      {float(sf.failure_probability(low)):.3g} to {float(sf.failure_probability(high)):.3g}"
    )
    print(f"a task fails on average with       p = {float(np.exp(tail.log_mean_failure())):.3g}")
    for warning in tail.diagnostics().warnings:
        print("Note:", warning)
