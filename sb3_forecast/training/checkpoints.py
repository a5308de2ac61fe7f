"""Checkpoints of a training that can be gone on with as if it had not stopped: model, environments and random numbers."""

from __future__ import annotations

import os
import pathlib
import random
import re
import shutil
import warnings
from typing import Any, Protocol, TypeVar, runtime_checkable

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

MODEL_FILE, TRAINING_FILE = "model.zip", "training.pkl"

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)


@runtime_checkable
class Restorable(Protocol):
    """A vectorised environment that can be put back into an earlier state."""

    def get_state(self) -> dict[str, Any]:
        """Everything about the running episodes."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_state`."""


class TrainingCheckpoints(BaseCallback):
    """Saves a checkpoint every so many rollouts, for :func:`resume_training`; for on-policy algorithms.

    A checkpoint is a folder ``checkpoint-<timesteps>``, written under another name first: one that exists is whole. If saving fails, as on a
    full disk, the training stops with the error and the last checkpoint stays. Saving changes nothing of the run, but for state-dependent
    exploration (``use_sde``), whose noise is drawn anew.

    :param folder: where to
    :param every: save at the start of every n-th rollout
    :param keep: how many checkpoints are kept, the newest
    :param verbose: 1 for a line per checkpoint
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, folder: str | pathlib.Path, every: int = 10, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"{name}={value} keeps nothing; use {name} >= 1")
        self.folder, self.every, self.keep = pathlib.Path(folder), every, keep
        self._rollouts = 0

    def _on_training_start(self) -> None:
        later = [path for path in checkpoints(self.folder) if int(path.name.split("-")[1]) > self.model.num_timesteps]
        if later:
            raise ValueError(
                f"folder={str(self.folder)!r} holds {later[-1].name} of another run, which resume_training would take for this one's; "
                "choose another folder, or go on from there"
            )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # nothing is under way here: the last rollout has been trained on, the next has not begun
        if self._rollouts and self._rollouts % self.every == 0:
            path = save_training(self.model, self.folder)
            if isinstance(self.model, OnPolicyAlgorithm) and self.model.use_sde:
                # its noise for this rollout was drawn before; the resumed run draws it from the saved random state
                self.model.policy.reset_noise(self.training_env.num_envs)
            for old in checkpoints(self.folder)[: -self.keep]:
                if old != path:
                    shutil.rmtree(old)
            if self.verbose:
                print(f"Saved {path}")  # noqa: T201  # as SB3's CheckpointCallback does
        self._rollouts += 1


def save_training(model: BaseAlgorithm, folder: str | pathlib.Path) -> pathlib.Path:
    """Save a checkpoint; see :class:`TrainingCheckpoints`.

    :param model: between two rollouts
    :param folder: where to
    :return: the checkpoint
    :raises OSError: if it could not be written; earlier ones are whole
    """
    target = pathlib.Path(folder) / f"checkpoint-{model.num_timesteps}"
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        model.save(partial / MODEL_FILE)
        state = {
            "environment": _pickled(_environment_state(model.get_env())),
            "random": _random_state(),
            # what RecurrentPPO remembers of the running episodes; its own save leaves it out
            "memory": vars(model).get("_last_lstm_states"),
        }
        (partial / TRAINING_FILE).write_bytes(cloudpickle.dumps(state))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        whole = checkpoints(folder)
        last = f"the last whole one is {whole[-1]}" if whole else "there is none before it"
        raise OSError(f"checkpoint {target} could not be written ({error}); {last}") from error
    return target


def checkpoints(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """The whole checkpoints in a folder, oldest first.

    :param folder: where to look
    """
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in pathlib.Path(folder).glob("checkpoint-*")}
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=lambda path: steps[path])


def resume_training(
    algorithm: type[Algorithm], folder: str | pathlib.Path, env: GymEnv, device: th.device | str = "auto"
) -> Algorithm:
    """Load the newest checkpoint; ``learn(remaining, reset_num_timesteps=False)`` then goes on as if it had not stopped.

    The environments, made as at the start, are put into the state that they had. Those in other processes (``SubprocVecEnv``) start new episodes
    instead, with a warning.

    :param algorithm: class of the model, such as ``ForecastPPO``
    :param folder: of :class:`TrainingCheckpoints`, or one checkpoint
    :param env: environments like those of the run
    :param device: as in SB3
    :return: the model
    :raises FileNotFoundError: if there is no checkpoint
    :raises ValueError: if the environments are not like those of the run
    """
    path = pathlib.Path(folder)
    if not (path / MODEL_FILE).exists():
        found = checkpoints(path)
        if not found:
            raise FileNotFoundError(f"folder={str(folder)!r} holds no whole checkpoint; start the training anew")
        path = found[-1]
    state = cloudpickle.loads((path / TRAINING_FILE).read_bytes())
    exact = state["environment"] is not None
    model = algorithm.load(path / MODEL_FILE, env=env, device=device, force_reset=not exact)
    if exact:
        _restore_environment(model.get_env(), cloudpickle.loads(state["environment"]))
        if state["memory"] is not None:
            vars(model)["_last_lstm_states"] = state["memory"]
    else:
        warnings.warn(
            "the environments of the run could not be saved: the resumed run starts new episodes, and will differ",
            stacklevel=2,
        )
    _restore_random(state["random"])
    return model


def _pickled(environment: dict[str, Any] | None) -> bytes | None:
    """The state as bytes; ``None`` for one that cannot be written, such as a Monitor's open file."""
    if environment is None:
        return None
    try:
        content: bytes = cloudpickle.dumps(environment)
    except Exception as error:
        # whatever an environment's own objects raise
        warnings.warn(f"the environments cannot be saved ({error}): a resumed run will start new episodes", stacklevel=2)
        return None
    return content


def _environment_state(env: VecEnv | None) -> dict[str, Any] | None:
    """State of a vectorised environment with its wrappers; ``None`` if it lives in other processes."""
    if isinstance(env, VecEnvWrapper):
        inner = _environment_state(env.venv)
        own = {key: value for key, value in vars(env).items() if key not in ("venv", "class_attributes")}
        return None if inner is None else {"type": type(env).__name__, "own": own, "inner": inner}
    if isinstance(env, DummyVecEnv):
        return {"type": "DummyVecEnv", "own": {k: v for k, v in vars(env).items() if k != "metadata"}}
    if isinstance(env, Restorable):
        return {"type": type(env).__name__, "own": env.get_state()}
    return None


def _restore_environment(env: VecEnv | None, state: dict[str, Any]) -> None:
    if type(env).__name__ != state["type"]:
        raise ValueError(f"env has {type(env).__name__} where the run had {state['type']}; make it as for the run")
    if isinstance(env, VecEnvWrapper):
        vars(env).update(state["own"])
        _restore_environment(env.venv, state["inner"])
    elif isinstance(env, DummyVecEnv):
        if env.num_envs != state["own"]["num_envs"]:
            raise ValueError(
                f"env has {env.num_envs} environments where the run had {state['own']['num_envs']}; make it as for the run"
            )
        vars(env).update(state["own"])
    elif isinstance(env, Restorable):
        env.set_state(state["own"])


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  # SB3's buffers shuffle with it
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
    }


def _restore_random(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    th.set_rng_state(state["torch"])
    if state["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all(state["cuda"])
