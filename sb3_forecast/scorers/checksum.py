"""Telling one model from another."""

from __future__ import annotations

import hashlib
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forecast.scorers.playing import normalisation_of


def model_checksum(model: Any) -> str:
    """A checksum of a model's parameters, and of the statistics that normalise what it sees.

    :param model: SB3 model, or a network
    :return: 16 hexadecimal digits
    :raises TypeError: if it is neither
    """
    if not isinstance(model, (BaseAlgorithm, th.nn.Module)):
        raise TypeError(
            f"model must be an SB3 model or a network to be told from others, got {model!r}; pass the model itself"
        )
    network = model if isinstance(model, th.nn.Module) else model.policy
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # bytes, because numpy has no bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(th.uint8).numpy().tobytes())
    normalisation = normalisation_of(model) if isinstance(model, BaseAlgorithm) else None
    if normalisation is not None:
        # the same policy sees other observations when the statistics have moved
        for name, statistics in sorted(_statistics(normalisation).items()):
            digest.update(name.encode() + statistics.mean.tobytes() + statistics.var.tobytes())
        digest.update(f"{normalisation.clip_obs} {normalisation.epsilon}".encode())
    return digest.hexdigest()[:16]


def _statistics(normalisation: VecNormalize) -> dict[str, RunningMeanStd]:
    """Running statistics of the observations, by key; one key if they are no dictionary."""
    return normalisation.obs_rms if isinstance(normalisation.obs_rms, dict) else {"": normalisation.obs_rms}
