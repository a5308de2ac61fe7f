"""Finding the machines, and seeing before any work that they can do it."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sb3_forecast.cluster.folder import ScoresFolder

#: memory that a worker needs besides the model: Python, torch and a block of tasks, in bytes
_BASE_MEMORY = 700 * 2**20


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to Ray. A connection that is there already is used and kept; one that is made here is closed.

    :param address: ``None`` for workers on this machine, ``"auto"`` for the cluster that this machine belongs to, or ``"host:port"``
    :raises ValueError: for an address of Ray Client, which Ray Data cannot use
    :raises ConnectionError: if nothing answers there
    """
    if (address or "").startswith("ray://"):
        raise ValueError(
            f"address must be 'auto' or 'host:port', got {address!r}, with which Ray Data does not work; run the program on a machine of the "
            "cluster, for example with `ray job submit`, and use 'auto'"
        )
    if ray.is_initialized():
        yield
        return
    _answers(address)
    # references of an earlier connection have the same numbers as new ones: those that nobody holds must be gone before
    gc.collect()
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if address else False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"address must be that of a running Ray cluster, got {address!r} ({error}); start one with `ray start --head`, give this "
            "machine its token (RAY_AUTH_MODE, see docs/cluster.md), or leave address out to use this machine"
        ) from error
    try:
        yield
    finally:
        gc.collect()
        ray.shutdown()


def _answers(address: str | None) -> None:
    """Refuse an address that does not answer. Ray itself waits for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((host, int(port)), timeout=5.0):
            pass
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"address must be that of a running Ray cluster, got {address!r}, which does not answer ({error}); start one with "
            "`ray start --head`, or leave address out to use this machine"
        ) from error


def worker_options(model_bytes: int, num_cpus: float, num_gpus: float, memory: int | None) -> dict[str, Any]:
    """What one worker asks for, which at least one machine must have.

    :param model_bytes: size of the packed model and tasks
    :param num_cpus: cores
    :param num_gpus: GPUs
    :param memory: memory that the user asks for, in bytes; ``None`` for four times the model and 700 MB
    :return: options of Ray
    :raises ValueError: if no machine has all of it
    """
    needed = 4 * model_bytes + _BASE_MEMORY if memory is None else memory
    asked = {"CPU": num_cpus, "GPU": num_gpus, "memory": needed}
    nodes = [node["Resources"] for node in _alive()]
    if not any(all(node.get(name, 0.0) >= amount for name, amount in asked.items()) for node in nodes):
        offers = "; ".join(
            f"CPU {n.get('CPU', 0):g}, GPU {n.get('GPU', 0):g}, memory {n.get('memory', 0) / 2**20:,.0f} MB" for n in nodes[:3]
        )
        raise ValueError(
            f"num_cpus, num_gpus and memory of a worker must fit one machine, got {num_cpus:g}, {num_gpus:g} and {needed / 2**20:,.0f} MB where "
            f"machines offer {offers}; use less, or larger machines"
        )
    return {"num_cpus": num_cpus, "num_gpus": num_gpus, "memory": needed}


def room(options: dict[str, Any]) -> int:
    """Number of workers that the machines have room for now.

    :param options: as :func:`worker_options` gives them
    """
    asked = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options["memory"]}
    nodes = [node["Resources"] for node in _alive()]
    return max(1, sum(min(int(node.get(name, 0.0) // amount) for name, amount in asked.items() if amount) for node in nodes))


def elsewhere(bad: set[str], options: dict[str, Any]) -> dict[str, Any]:
    """Options of a worker that runs on a machine that has shown no fault.

    :param bad: ids of the nodes that have
    :param options: as :func:`worker_options` gives them
    :return: the options with a node; unchanged if there is no other node
    """
    cores = options["num_cpus"]
    good = [node["NodeID"] for node in _alive() if node["NodeID"] not in bad and node["Resources"].get("CPU", 0.0) >= cores]
    return {**options, "scheduling_strategy": NodeAffinitySchedulingStrategy(good[0], soft=True)} if good else options


def check_shared(folder: ScoresFolder) -> None:
    """See that every machine can read what the driver writes into the folder.

    :param folder: where the scores go
    :raises ValueError: if one cannot
    """
    name, content = folder.token()
    try:
        asked = {
            node["NodeID"]: _read.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(folder.where, name)
            for node in _alive()
        }
        for node, answer in asked.items():
            if ray.get(answer) != content.encode():
                raise ValueError(
                    f"folder must be shared by all machines, got {folder.where!r}, which node {node[:12]} does not see; use a network disk or "
                    "an object store such as s3://"
                )
    finally:
        folder.remove(name)


@ray.remote(num_cpus=0)
def _read(where: str, name: str) -> bytes | None:
    try:
        return ScoresFolder(where).read(name)
    except OSError:
        return None


def _alive() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [node for node in nodes if node["Alive"]]
