"""Gymnasium ids of the families."""

from __future__ import annotations

import gymnasium as gym

from sb3_forecast_envs.tasks import TaskFamily

NAMESPACE = "SB3Forecast"


def register_family(family: TaskFamily) -> str:
    """Register a family's environment; registering it again changes nothing.

    :param family: the family
    :return: the Gymnasium id, ``SB3Forecast/<Name>-<S>x<S>-v0``
    """
    id_ = f"{NAMESPACE}/{family.id}-v0"
    if id_ not in gym.registry:
        gym.register(id_, entry_point="sb3_forecast_envs.gridworld:GridWorldEnv", kwargs={"family": family})
    return id_
