"""Combinations of policy, spaces and wrappers that the compatibility table and the parity test go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

import sb3_forecast_envs as sfe


class Doubled(BaseFeaturesExtractor):
    """A custom extractor."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, 2 * observation_space.shape[0])

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.cat([observations, observations.square()], dim=1)


def ended(step: sfe.Step) -> bool:
    return step.terminated


def unlucky(step: sfe.Step) -> bool:
    """For environments without any failure of their own: a reward below what chance gives."""
    return step.reward < 0.5


@dataclass(frozen=True)
class Combination:
    """What is run.

    :param name: row of the table
    :param policy: policy name
    :param make: makes one environment
    :param failed: what counts as failure there
    :param wrap: vectorised wrappers
    :param settings: further arguments of the algorithm
    :param subprocess: environments in processes of their own
    """

    name: str
    policy: str
    make: Callable[[], gym.Env[Any, Any]]
    failed: Callable[[sfe.Step], bool] = ended
    wrap: Callable[[VecEnv], VecEnv] = VecMonitor
    settings: dict[str, Any] = field(default_factory=dict)
    subprocess: bool = False

    def tasks(self) -> Any:
        """Forty tasks."""

        def make() -> gym.Env[Any, Any]:
            env = self.make()
            # SB3's test environments draw from their spaces, which a reset does not seed
            env.observation_space.seed(0)
            env.action_space.seed(0)
            return env

        return sfe.SeededTasks(make, 40, self.failed)

    def env(self, tasks: Any, n_envs: int = 8) -> VecEnv:
        """The environments of a training."""
        if self.subprocess:
            plain: VecEnv = SubprocVecEnv([partial(sfe.seeded.SeededEnv, tasks)] * n_envs)
        else:
            plain = tasks.make_vec_env(n_envs)
        plain.seed(3)
        return self.wrap(plain)


def cartpole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", max_episode_steps=40)


def pendulum() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=40)


COMBINATIONS = [
    Combination("CartPole", "MlpPolicy", cartpole),
    Combination("CartPole, VecNormalize", "MlpPolicy", cartpole, wrap=VecNormalize),
    Combination("CartPole, VecFrameStack", "MlpPolicy", cartpole, wrap=partial(VecFrameStack, n_stack=3)),
    Combination("CartPole, SubprocVecEnv", "MlpPolicy", cartpole, subprocess=True),
    Combination(
        "CartPole, custom extractor, target_kl, schedules", "MlpPolicy", cartpole,
        settings={
            "policy_kwargs": {"features_extractor_class": Doubled, "net_arch": [16]}, "target_kl": 0.01,
            "learning_rate": LinearSchedule(1e-3, 1e-4, 1.0), "clip_range": LinearSchedule(0.2, 0.1, 1.0),
        },
    ),
    Combination("images", "CnnPolicy", partial(FakeImageEnv, screen_height=40, screen_width=40, n_channels=3, discrete=True), unlucky),
    Combination("dictionary of observations", "MultiInputPolicy", partial(SimpleMultiObsEnv, random_start=True), unlucky),
    Combination("Discrete observations", "MlpPolicy", partial(IdentityEnv, dim=4, ep_length=10), unlucky),
    Combination("MultiDiscrete actions", "MlpPolicy", partial(IdentityEnvMultiDiscrete, dim=3, ep_length=10), unlucky),
    Combination("MultiBinary actions", "MlpPolicy", partial(IdentityEnvMultiBinary, dim=3, ep_length=10), unlucky),
    Combination("continuous actions", "MlpPolicy", pendulum, lambda step: step.reward < -10.0),
    Combination(
        "continuous actions, SDE, VecNormalize", "MlpPolicy", pendulum, lambda step: step.reward < -10.0, VecNormalize,
        {"use_sde": True, "sde_sample_freq": 4},
    ),
]  # fmt: skip
