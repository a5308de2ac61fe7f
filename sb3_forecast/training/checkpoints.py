"""Checkpoints from which training resumes exactly: they hold the model, the environments and the random state."""

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
    """A vectorised environment that can return to an earlier state."""

    def get_state(self) -> dict[str, Any]:
        """The whole state of the running episodes."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`get_state`."""


class TrainingCheckpoints(BaseCallback):
    """Saves a checkpoint every n rollouts, for :func:`resume_training`. For on-policy algorithms.

    A checkpoint is a folder ``checkpoint-<timesteps>``. It is written under another name and then renamed, so a checkpoint with this name is
    always complete. If saving fails, for example on a full disk, the training stops with the error and the last checkpoint stays. Saving does
    not change the run, with one exception: with state-dependent exploration (``use_sde``) the noise is drawn anew.

    :param folder: folder of the checkpoints
    :param every: save at the start of every n-th rollout
    :param keep: number of checkpoints to keep; older ones are deleted
    :param verbose: 1 prints a line per checkpoint
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, folder: str | pathlib.Path, every: int = 10, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; use a positive number")
        self.folder, self.every, self.keep = pathlib.Path(folder), every, keep
        self._rollouts = 0

    def _on_training_start(self) -> None:
        later = [path for path in checkpoints(self.folder) if int(path.name.split("-")[1]) > self.model.num_timesteps]
        if later:
            raise ValueError(
                f"folder must not hold a later checkpoint of another run, got {str(self.folder)!r} with {later[-1].name}; "
                "use another folder, or resume from this one with resume_training"
            )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # only here nothing is half done: the last rollout has been trained on, and the next one has not begun
        if self._rollouts and self._rollouts % self.every == 0:
            path = save_training(self.model, self.folder)
            if isinstance(self.model, OnPolicyAlgorithm) and self.model.use_sde:
                # this rollout's noise was drawn before saving, but a resumed run draws it after: draw it again, so that both are equal
                self.model.policy.reset_noise(self.training_env.num_envs)
            for old in checkpoints(self.folder)[: -self.keep]:
                if old != path:
                    shutil.rmtree(old)
            if self.verbose:
                print(f"Saved {path}")  # noqa: T201  # as SB3's CheckpointCallback does
        self._rollouts += 1


def save_training(model: BaseAlgorithm, folder: str | pathlib.Path) -> pathlib.Path:
    """Save one checkpoint; see :class:`TrainingCheckpoints`.

    :param model: the model, between two rollouts
    :param folder: folder of the checkpoints
    :return: the folder of the new checkpoint
    :raises OSError: if it cannot be written; earlier checkpoints stay complete
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
            # the LSTM states of RecurrentPPO in the running episodes; its own save leaves them out
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
        last = f"resume from the last complete one, {whole[-1]}" if whole else "there is no earlier one"
        raise OSError(f"checkpoint {target} could not be written ({error}); {last}") from error
    return target


def checkpoints(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """The complete checkpoints in a folder, oldest first.

    :param folder: folder of the checkpoints
    :return: one folder per checkpoint
    """
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in pathlib.Path(folder).glob("checkpoint-*")}
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=lambda path: steps[path])


def resume_training(
    algorithm: type[Algorithm], folder: str | pathlib.Path, env: GymEnv, device: th.device | str = "auto"
) -> Algorithm:
    """Load the newest checkpoint. Then ``learn(remaining, reset_num_timesteps=False)`` resumes the training exactly.

    Make ``env`` in the same way as for the run; it is then put into its saved state. Environments in other processes (``SubprocVecEnv``)
    cannot be saved: they start new episodes, with a warning.

    :param algorithm: class of the model, such as ``ForecastPPO``
    :param folder: folder of :class:`TrainingCheckpoints`, or of one checkpoint
    :param env: environments of the same kind and number as in the run
    :param device: as in SB3
    :return: the model
    :raises FileNotFoundError: if there is no checkpoint
    :raises ValueError: if the environments differ from those of the run
    """
    path = pathlib.Path(folder)
    if not (path / MODEL_FILE).exists():
        found = checkpoints(path)
        if not found:
            raise FileNotFoundError(
                f"folder must hold a complete checkpoint, got {str(folder)!r} without one; start the training anew"
            )
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
            "the checkpoint does not hold the state of the environments: the resumed run starts new episodes, "
            "and differs from a run that did not stop",
            stacklevel=2,
        )
    _restore_random(state["random"])
    return model


def _pickled(environment: dict[str, Any] | None) -> bytes | None:
    """The state as bytes; ``None`` if it cannot be pickled, such as the open file of a Monitor."""
    if environment is None:
        return None
    try:
        content: bytes = cloudpickle.dumps(environment)
    except Exception as error:
        # pickling can raise anything: the objects are the user's own
        warnings.warn(f"the environments cannot be pickled ({error}): a resumed run will start new episodes", stacklevel=2)
        return None
    return content


def _environment_state(env: VecEnv | None) -> dict[str, Any] | None:
    """State of a vectorised environment and its wrappers; ``None`` if it runs in other processes."""
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
        raise ValueError(
            f"env must have {state['type']} here, as the run had, got {type(env).__name__}; make env as for the run"
        )
    if isinstance(env, VecEnvWrapper):
        vars(env).update(state["own"])
        _restore_environment(env.venv, state["inner"])
    elif isinstance(env, DummyVecEnv):
        if env.num_envs != state["own"]["num_envs"]:
            raise ValueError(
                f"env must have {state['own']['num_envs']} environments, as the run had, got {env.num_envs}; make env as for the run"
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
