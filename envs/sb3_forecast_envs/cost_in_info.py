"""Environments that return the cost of a step beside its reward, as Safety-Gymnasium's do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class CostInInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Gymnasium's five values with ``info["cost"]``, from the six of Safety-Gymnasium: observation, reward, cost, terminated, truncated, info.

    Safety-Gymnasium's costs count any contact, step by step; a failure is a step of positive cost.

    :param env: the environment, such as ``safety_gymnasium.make("SafetyPointGoal1-v0")``
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        :param action: as the environment takes it
        :return: observation, reward, terminated, truncated, and info with the cost
        :raises ValueError: if the environment does not return six values, or its cost is negative
        """
        returned: tuple[Any, ...] = self.env.step(action)
        if len(returned) != 6:
            raise ValueError(
                f"env={self.env.unwrapped} returned {len(returned)} values, but six hold a cost; leave CostInInfo out and report info['cost'], "
                "or tell failures by SeededTasks(..., failed=...)"
            )
        observation, reward, cost, terminated, truncated, info = returned
        if not cost >= 0.0:
            raise ValueError(f"env={self.env.unwrapped} returned a cost of {cost}; costs must not be negative")
        return observation, float(reward), bool(terminated), bool(truncated), {**info, "cost": float(cost)}
