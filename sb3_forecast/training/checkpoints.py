"""Checkpoints from which training resumes exactly: they hold the model, the environments and the random state.

Everything but the model is plain data (:mod:`sb3_forecast.training.plain`), with checksums. The model is SB3's own zip: loading it executes code
that it may hold, as SB3 documents, so load only what you trust. So do the environments of a ``DummyVecEnv``, which only a pickle can hold.
"""

from __future__ import annotations

import os
import pathlib
import random
import re
import shutil
import warnings
from contextlib import suppress
from typing import Any, Protocol, TypeVar, runtime_checkable

import cloudpickle
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_forecast.checks import whole
from sb3_forecast.files import write_whole
from sb3_forecast.training.lock import FolderLock
from sb3_forecast.training.plain import DamagedError, NotPlainError, check_checksums, read_plain, write_checksums, write_plain

MODEL_FILE, TRAINING, PICKLE = "model.zip", "training", "environments.pkl"
#: ends of the names of what is no checkpoint: being written, being removed, about to be replaced, damaged
_PARTIAL, _REMOVED, _REPLACED, _DAMAGED = ".partial", ".removed", ".replaced", ".damaged"
#: attributes of SB3's wrappers that are configuration, not state: a wrapper that is made in the same way has the same
_CONFIGURATION = (
    "venv",
    "class_attributes",
    "observation_space",
    "action_space",
    "metadata",
    "render_mode",
    "results_writer",
    "spec",
)

#: key of the attributes of an object inside a wrapper
_OBJECT = "attributes"

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
    not change the run, with one exception: with state-dependent exploration (``use_sde``) the noise is drawn anew. While it trains, a lock file
    keeps other runs out of the folder. What a killed run left half-written or half-removed is deleted at the start.

    :param folder: folder of the checkpoints
    :param every: save at the start of every n-th rollout
    :param keep: number of checkpoints to keep; older ones are deleted
    :param verbose: 1 prints a line per checkpoint
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, folder: str | pathlib.Path, every: int = 10, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        whole("every", every, low=1, use="a number of rollouts such as 10")
        whole("keep", keep, low=1, use="a number of checkpoints such as 2")
        self.folder, self.every, self.keep = pathlib.Path(folder), every, keep
        self._rollouts = 0
        self._lock: FolderLock

    def _on_training_start(self) -> None:
        self._lock = FolderLock(self.folder)
        self._lock.take()
        _tidy(self.folder)
        later = [path for path in checkpoints(self.folder) if int(path.name.split("-")[1]) > self.model.num_timesteps]
        if later:
            self._lock.release()
            raise ValueError(
                f"folder must not hold a later checkpoint of another run, got {str(self.folder)!r} with {later[-1].name}; "
                "use another folder, or resume from this one with resume_training"
            )

    def _on_training_end(self) -> None:
        self._lock.release()

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
                    _remove(old)
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
    partial = target.with_name(target.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_whole(partial / MODEL_FILE, lambda file: model.save(file))
        # the LSTM states of RecurrentPPO in the running episodes; its own save leaves them out
        memory = vars(model).get("_last_lstm_states")
        state = {
            "environment": None,
            "random": _random_state(),
            "memory": None if memory is None else [list(memory.pi), list(memory.vf)],
            "timesteps": model.num_timesteps,
        }
        environment = _environment_state(model.get_env())
        try:
            write_plain(partial, TRAINING, {**state, "environment": environment})
        except NotPlainError:
            pickled = _pickled(environment)
            write_plain(partial, TRAINING, state)
            if pickled is not None:
                write_whole(partial / PICKLE, lambda file: file.write(pickled))
        write_checksums(partial)
        earlier = target.with_name(target.name + _REPLACED)
        if target.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            os.replace(target, earlier)
        os.replace(partial, target)
        shutil.rmtree(earlier, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        whole = checkpoints(folder)
        last = f"resume from the last complete one, {whole[-1]}" if whole else "there is no earlier one"
        # the disk's own error, not which of the files inside was hit
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise OSError(f"checkpoint {target} could not be written ({reason}); {last}") from error
    return target


def checkpoints(folder: str | pathlib.Path) -> list[pathlib.Path]:
    """The complete checkpoints in a folder, oldest first.

    :param folder: folder of the checkpoints
    :return: one folder per checkpoint
    """
    found = {
        path: re.fullmatch(rf"checkpoint-(\d+)({re.escape(_REPLACED)})?", path.name)
        for path in pathlib.Path(folder).glob("checkpoint-*")
    }
    # one that was about to be replaced counts if the kill came before the new one had the name
    steps = {
        path: int(match[1]) for path, match in found.items() if match and not (match[2] and path.with_suffix("").exists())
    }
    return sorted(steps, key=lambda path: steps[path])


def _remove(path: pathlib.Path) -> None:
    """Remove a checkpoint. It loses its name first, so that a kill leaves no half of it under this name."""
    removed = path.with_name(path.name + _REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    os.replace(path, removed)
    shutil.rmtree(removed, ignore_errors=True)


def _tidy(folder: pathlib.Path) -> None:
    """Clean up what a killed run left in its folder: nothing that was complete is lost."""
    for earlier in folder.glob(f"checkpoint-*{_REPLACED}"):
        # killed between the two renames: the new one has not got the name yet
        target = earlier.with_name(earlier.name.removesuffix(_REPLACED))
        if not target.exists():
            os.replace(earlier, target)
    for suffix in (_PARTIAL, _REMOVED, _REPLACED):
        for left in folder.glob(f"checkpoint-*{suffix}"):
            shutil.rmtree(left, ignore_errors=True)


def resume_training(
    algorithm: type[Algorithm],
    folder: str | pathlib.Path,
    env: GymEnv,
    device: th.device | str = "auto",
    unpickle: bool = False,
    fall_back: bool = False,
) -> Algorithm:
    """Load the newest checkpoint. Then ``learn(remaining, reset_num_timesteps=False)`` resumes the training exactly.

    Make ``env`` in the same way as for the run; it is then put into its saved state. Environments in other processes (``SubprocVecEnv``)
    cannot be saved: they start new episodes, with a warning. So do those of a ``DummyVecEnv`` without ``unpickle``.

    Loading the model executes code that its file may hold, as in SB3: resume only from folders that you trust.

    :param algorithm: class of the model, such as ``ForecastPPO``
    :param folder: folder of :class:`TrainingCheckpoints`, or of one checkpoint
    :param env: environments of the same kind and number as in the run
    :param device: as in SB3
    :param unpickle: whether to restore the environments of a ``DummyVecEnv`` from their pickle. This, too, executes code that it may hold
    :param fall_back: whether to use the newest whole checkpoint if a newer one is damaged; that one is then set aside
    :return: the model
    :raises FileNotFoundError: if there is no checkpoint
    :raises DamagedError: if the newest checkpoint is damaged; the message names it and the newest whole one
    :raises ValueError: if the environments differ from those of the run
    """
    path = pathlib.Path(folder)
    if not (path / MODEL_FILE).exists():
        found = checkpoints(path)
        if not found:
            raise FileNotFoundError(
                f"folder must hold a complete checkpoint, got {str(folder)!r} without one; start the training anew"
            )
        path = _newest_whole(found, fall_back)
    else:
        check_checksums(path)
    state = read_plain(path, TRAINING)
    environment = state["environment"]
    pickled = path / PICKLE
    if environment is None and pickled.exists() and unpickle:
        environment = cloudpickle.loads(pickled.read_bytes())
    exact = environment is not None
    model = algorithm.load(path / MODEL_FILE, env=env, device=device, force_reset=not exact)
    if exact:
        _restore_environment(model.get_env(), environment)
        if state["memory"] is not None:
            pi, vf = (tuple(part) for part in state["memory"])
            vars(model)["_last_lstm_states"] = type(vars(model)["_last_lstm_states"])(pi, vf)
    else:
        why = (
            "the state of its environments is a pickle; use unpickle=True if you trust the folder"
            if pickled.exists()
            else "it does not hold the state of the environments"
        )
        warnings.warn(
            f"the run that is resumed from {path.name} starts new episodes, and differs from a run that did not stop: {why}",
            stacklevel=2,
        )
    _restore_random(state["random"])
    return model


def _newest_whole(found: list[pathlib.Path], fall_back: bool) -> pathlib.Path:
    """The newest checkpoint that is whole. Without ``fall_back`` a damaged newer one is an error."""
    damaged: DamagedError | None = None
    for path in reversed(found):
        try:
            check_checksums(path)
        except DamagedError as error:
            damaged = damaged or error
            continue
        if damaged is None:
            return path
        if fall_back:
            for later in found[found.index(path) + 1 :]:
                # out of the way of the run that goes on, which will save a checkpoint of the same name
                aside = later.with_name(later.name + _DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                with suppress(OSError):  # a folder that can only be read
                    os.replace(later, aside)
            warnings.warn(
                f"{damaged}: training resumes from {path.name}, the newest whole checkpoint; damaged ones are set aside as "
                f"checkpoint-*{_DAMAGED}",
                stacklevel=3,
            )
            return path
        raise DamagedError(
            f"{damaged}; use fall_back=True to resume from {path.name}, the newest whole checkpoint"
        ) from damaged
    raise DamagedError(f"{damaged}, and no older checkpoint is whole; start the training anew") from damaged


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
        own = {key: _state_of(value) for key, value in vars(env).items() if key not in _CONFIGURATION}
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
        _restore(env, state["own"])
        _restore_environment(env.venv, state["inner"])
    elif isinstance(env, DummyVecEnv):
        if env.num_envs != state["own"]["num_envs"]:
            raise ValueError(
                f"env must have {state['own']['num_envs']} environments, as the run had, got {env.num_envs}; make env as for the run"
            )
        vars(env).update(state["own"])
    elif isinstance(env, Restorable):
        env.set_state(state["own"])


def _state_of(value: Any) -> Any:
    """Plain data as it is; of SB3's helpers, such as running means and stacks of frames, their attributes."""
    if type(value).__module__.startswith("stable_baselines3."):
        return {
            _OBJECT: {key: _state_of(v) for key, v in vars(value).items() if key not in _CONFIGURATION and not _is_space(v)}
        }
    return value


def _is_space(value: Any) -> bool:
    return isinstance(value, spaces.Space)


def _restore(target: Any, saved: dict[str, Any]) -> None:
    """Give an object its saved attributes. Objects inside it stay the same objects."""
    for key, value in saved.items():
        if isinstance(value, dict) and set(value) == {_OBJECT}:
            _restore(getattr(target, key), value[_OBJECT])
        else:
            setattr(target, key, value)


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
