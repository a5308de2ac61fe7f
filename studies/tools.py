"""What the reinforcement-learning studies share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

import sb3_forecast as sf
from sb3_forecast.files import write_whole

#: a checkpoint of any method is a PPO policy; what else it holds is not needed to look at it
AS_PPO: dict[str, Any] = {"forecast_state": None}


def save_model(model: BaseAlgorithm, path: Path) -> None:
    """Save a model; the file is whole or not there.

    :param model: the model
    :param path: the file
    """
    write_whole(path, lambda file: model.save(file))


def load_as_ppo(path: Path) -> PPO:
    """A saved model of any on-policy method, to look at.

    :param path: the file
    """
    return PPO.load(path, device="cpu", custom_objects=AS_PPO)


class Budget(BaseCallback):
    """Ends the training when its own steps and those of a scorer or a validation that plays episodes have used up a budget.

    The last rollout is cut short and not trained on, as in SB3, for every method alike.

    :param steps: the budget
    :param count_scoring: whether steps of scoring and probing use it up
    """

    def __init__(self, steps: int, count_scoring: bool = True) -> None:
        super().__init__()
        self.steps, self.count_scoring = steps, count_scoring

    @property
    def played(self) -> int:
        """Environment steps of the scorer and of the validation so far."""
        if not isinstance(self.model, sf.ForecastPPO) or self.model.objective is None:
            return 0
        validation = self.model.validation
        return self.model.objective.scorer.steps_played + (0 if validation is None else validation.steps_played)

    def _on_step(self) -> bool:
        return self.num_timesteps + (self.played if self.count_scoring else 0) < self.steps


class Curves(BaseCallback):
    """Scores a small pool of its own now and then, for the figure of the training; nothing is chosen by it.

    :param scorer: exact scores of that pool
    :param every: rollouts between two points
    """

    def __init__(self, scorer: sf.ExactScorer, every: int = 10) -> None:
        super().__init__()
        self.scorer, self.every = scorer, every
        self.points: dict[str, list[tuple[int, float]]] = {}
        self.rollouts = 0

    def _on_step(self) -> bool:
        return True

    def measure(self) -> None:
        """Add a point to every curve."""
        outcomes = self.scorer.outcomes(self.model)
        for name, value in {
            "worst failure probability": outcomes.failure.max(),
            "mean failure probability": outcomes.failure.mean(),
            "success": outcomes.success.mean(),
        }.items():
            self.points.setdefault(name, []).append((self.model.num_timesteps, float(value)))

    def _on_rollout_start(self) -> None:
        if self.rollouts % self.every == 0:
            self.measure()
        self.rollouts += 1


def check_sizes(settings: Any, at_least_one: tuple[str, ...]) -> None:
    """Check the sizes that the reinforcement-learning studies share.

    :param settings: options with ``eval_size``, ``deploy_size`` and ``held_out_size``
    :param at_least_one: names of options that must be 1 or more
    :raises ValueError: if one does not fit
    """
    for name in at_least_one:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}; use a positive number")
    if settings.eval_size + settings.deploy_size > settings.held_out_size:
        raise ValueError(
            f"held_out_size must be at least eval_size + deploy_size = {settings.eval_size + settings.deploy_size}, "
            f"got {settings.held_out_size}; use a larger one"
        )


def take_over(model: BaseAlgorithm, checkpoint: Path, whole: bool) -> None:
    """Give a model the parameters of a checkpoint of PPO.

    :param model: the model
    :param checkpoint: the file
    :param whole: whether it has no parameters besides
    """
    parameters: Any = PPO.load(checkpoint, device="cpu").get_parameters()
    model.set_parameters(parameters, exact_match=whole, device="cpu")
