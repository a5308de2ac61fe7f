"""What an installed package must do, tried where no source is at hand."""

import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np

import sb3_forecast as sf

env = gym.make("sb3_forecast_envs:SB3Forecast/ThinIce-8x8-v0")
env.reset(seed=0, options={"task": 17})
tail = sf.GumbelTail.fit(np.random.default_rng(0).gumbel(size=200) - 3)
print(f"sb3_forecast {sf.__version__}: made {env.spec.id}, info {env.step(2)[4]}, forecast {tail.forecast(1e6):.3f}")
page = sf.write_html(Path(tempfile.mkdtemp()) / "report.html", scores=tail.scores)
print(f"a report of {page.stat().st_size:,} bytes")
