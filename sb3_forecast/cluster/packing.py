"""What travels to the machines: the model, the tasks, and how they are scored."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any, cast

import cloudpickle
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_forecast.scorers.blocks import MakeScorer
from sb3_forecast.scorers.checksum import model_checksum


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs.

    :param model: SB3 model, language model, or any object that the scorer takes
    :param tasks: the deployment
    :param make: makes the scorer of some tasks
    :param seed: seed of the deployment
    :param unit: number of tasks that are scored together
    """

    model: Any
    tasks: Any
    make: MakeScorer
    seed: int
    unit: int


def pack(job: Job) -> bytes:
    """A job as bytes. An SB3 model travels as its own ``save`` writes it, without environments and buffers.

    :param job: the job
    :return: the bytes
    :raises ValueError: if a part of it cannot be pickled
    """
    parts = []
    for name, value in (("model", job.model), ("tasks", job.tasks), ("scorer", job.make)):
        try:
            parts.append(_pack_model(value) if isinstance(value, BaseAlgorithm) else cloudpickle.dumps(_on_cpu(value)))
        except Exception as error:  # whatever an object's own pickling raises
            raise ValueError(
                f"{name} must be one that can be pickled, to travel to the workers, got {type(value).__name__} ({error}); leave out open "
                "files, locks, loggers and environments"
            ) from error
    return cast(bytes, cloudpickle.dumps((*parts, job.seed, job.unit)))


def _on_cpu(value: Any) -> Any:
    """A network as a copy on the CPU, so that machines without a GPU can read it; anything else as it is."""
    if isinstance(value, th.nn.Module) and any(parameter.device.type != "cpu" for parameter in value.parameters()):
        return copy.deepcopy(value).to("cpu")
    return value


def unpack(content: bytes) -> Job:
    """Read the result of :func:`pack`.

    :param content: the bytes
    """
    model, tasks, make, seed, unit = cloudpickle.loads(content)
    found = cloudpickle.loads(model)
    return Job(
        _unpack_model(found) if isinstance(found, _SavedModel) else found,
        cloudpickle.loads(tasks),
        cloudpickle.loads(make),
        seed,
        unit,
    )


@dataclass(frozen=True)
class _SavedModel:
    """A saved SB3 model.

    :param algorithm: its class
    :param content: the content of its file
    :param normalize: its VecNormalize, without environments; ``None`` if it has none
    :param checksum: see :func:`~sb3_forecast.scorers.checksum.model_checksum`
    """

    algorithm: type[BaseAlgorithm]
    content: bytes
    normalize: Any
    checksum: str


def _pack_model(model: BaseAlgorithm) -> bytes:
    file = io.BytesIO()
    model.save(file)
    saved = _SavedModel(type(model), file.getvalue(), model.get_vec_normalize_env(), model_checksum(model))
    return cast(bytes, cloudpickle.dumps(saved))


def _unpack_model(saved: _SavedModel) -> BaseAlgorithm:
    with th.random.fork_rng(devices=[]):
        # loading draws weights, which are overwritten, and the noise of gSDE, which is not
        th.manual_seed(0)
        model = saved.algorithm.load(io.BytesIO(saved.content), device="cpu")
    # scorers look for the statistics there; the environments stay where they are
    model._vec_normalize_env = saved.normalize
    found = model_checksum(model)
    if found != saved.checksum:
        raise RuntimeError(
            f"the model must be the same after it has travelled, got checksum {found} instead of {saved.checksum}; "
            "report this with the versions of all packages"
        )
    return model
