"""
A file of scores
================

You have a file with one failure probability per task, from any model. Nothing else is needed.
"""

# %%
# Any column of probabilities will do. Log-probabilities are better: they show the tail down to 1e-300.

from pathlib import Path

import numpy as np
import pandas as pd

import sb3_forecast as sf

log_p = -np.exp(2.0 - 0.3 * np.random.default_rng(0).gumbel(size=300))
pd.DataFrame({"task": np.arange(300), "log_p": log_p}).to_csv("scores.csv", index=False)

# %%
# On the command line: ``python -m sb3_forecast forecast scores.csv --deploy-size 1e6 --html report.html``. It prints this:

from sb3_forecast.__main__ import main

status = main(["forecast", "scores.csv", "--deploy-size", "1e6"])

# %%
# The first line is the answer. The 95% limit says how bad the worst task can be. The notes say what to beware of.
#
# In Python, the same numbers:

scores = sf.failure_score(pd.read_csv("scores.csv")["log_p"].to_numpy())
tail = sf.GumbelTail.fit(scores)
low, high = tail.interval(1_000_000)
print("forecast of the worst of a million:", sf.failure_probability(tail.forecast(1_000_000)))
print("95% limit:", sf.failure_probability(high))
print("warnings:", tail.diagnostics().warnings)

# %%
# Look at the tail before you believe the line through it.

from sb3_forecast.statistics.plots import tail_plot

figure = tail_plot(tail, [1e4, 1e6], path="tail.png")
Path("scores.csv").unlink()
