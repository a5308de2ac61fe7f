"""A pytest plugin that puts ForecastPPO in the place of PPO, for Stable-Baselines3's own tests; see ``make test-sb3``.

Their environments have no tasks, so that the forecast is switched off: what is tested is that nothing else has changed.
"""

from __future__ import annotations

from typing import Any

import stable_baselines3

import sb3_forecast as sf


class PPO(sf.ForecastPPO):
    """ForecastPPO without a forecast, under the name that the tests look for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"forecast_coef": 0.0, **kwargs})

    def learn(self, *args: Any, tb_log_name: str = "PPO", **kwargs: Any) -> Any:
        return super().learn(*args, tb_log_name=tb_log_name, **kwargs)


stable_baselines3.PPO = PPO
stable_baselines3.ppo.PPO = PPO
