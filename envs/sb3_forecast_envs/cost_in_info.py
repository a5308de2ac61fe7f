"""A wrapper for environments that return the cost of a step as a value of its own, as Safety-Gymnasium does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class CostInInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Put the cost of a step into ``info["cost"]``, so that ``step`` returns Gymnasium's five values.

    Safety-Gymnasium returns six values: observation, reward, cost, terminated, truncated, info. Its cost counts every contact, step by step.
    A step with a positive cost is a failure.

    :param env: the environment, such as ``safety_gymnasium.make("SafetyPointGoal1-v0")``
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        :param action: an action of the environment
        :return: observation, reward, terminated, truncated, and info with the cost
        :raises ValueError: if the environment does not return six values, or its cost is negative
        """
        returned: tuple[Any, ...] = self.env.step(action)
        if len(returned) != 6:
            raise ValueError(
                f"env.step must return six values, the cost among them, got {len(returned)} from {self.env.unwrapped}; leave CostInInfo out, "
                "and report info['cost'] or use SeededTasks(..., failed=...)"
            )
        observation, reward, cost, terminated, truncated, info = returned
        if not cost >= 0.0:
            raise ValueError(
                f"cost must be at least 0, got {cost} from {self.env.unwrapped}; use a cost of 0 for steps without failure"
            )
        return observation, float(reward), bool(terminated), bool(truncated), {**info, "cost": float(cost)}
