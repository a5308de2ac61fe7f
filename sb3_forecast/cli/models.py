"""Load saved models of any algorithm."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path

from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

#: algorithms of SB3, and the class names of those of sb3-contrib
_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC, "td3": TD3, "ddpg": DDPG}
_CONTRIB = {
    "trpo": "TRPO", "maskableppo": "MaskablePPO", "recurrentppo": "RecurrentPPO", "qrdqn": "QRDQN", "tqc": "TQC", "ars": "ARS",
    "crossq": "CrossQ",
}  # fmt: skip
#: packages whose policies only one algorithm uses
_PACKAGES = {
    "sb3_contrib.common.maskable": "maskableppo", "sb3_contrib.common.recurrent": "recurrentppo", "sb3_contrib.crossq": "crossq",
}  # fmt: skip
#: entries of a saved model that show its algorithm; the first row that fits decides
_MARKS = (
    ("ppo", ("clip_range",)), ("trpo", ("cg_max_steps",)), ("qrdqn", ("n_quantiles",)),
    ("dqn", ("exploration_rate",)), ("tqc", ("top_quantiles_to_drop_per_net",)), ("td3", ("target_policy_noise",)), ("sac", ("target_entropy",)),
    ("a2c", ("normalize_advantage",)),
)  # fmt: skip


def load_model(path: Path, algo: str = "auto") -> BaseAlgorithm:
    """Load a model of SB3 or sb3-contrib to the CPU.

    :param path: the file
    :param algo: name of the algorithm; ``"auto"`` to recognise it from the file
    :return: the model
    :raises ValueError: if the file is not a saved model, the algorithm is unknown, or it needs sb3-contrib, which is not installed
    """
    if algo == "auto":
        algo = _algorithm_of(path)
    name = algo.lower().replace("_", "").replace("-", "")
    if name == "forecastppo":
        name = "ppo"
    if name in _ALGORITHMS:
        return _ALGORITHMS[name].load(path, device="cpu")
    if name not in _CONTRIB:
        raise ValueError(
            f"algo must be one of {[*_ALGORITHMS, *_CONTRIB]}, got {algo!r}; use the algorithm that saved the model"
        )
    try:
        contrib = importlib.import_module("sb3_contrib")
    except ImportError as error:
        raise ValueError(f"algo={algo!r} needs sb3-contrib, which is not installed; run `pip install sb3-contrib`") from error
    algorithm: type[BaseAlgorithm] = getattr(contrib, _CONTRIB[name])
    return algorithm.load(path, device="cpu")


def statistics_file(model: Path, given: Path | None) -> Path | None:
    """The file with the statistics of VecNormalize that belong to a model.

    An agent that was trained with VecNormalize and plays without it acts on numbers that it has never seen, and fails. So a file of such
    statistics beside the model is not passed over in silence. SB3 and RL Zoo call it ``vecnormalize.pkl`` or
    ``rl_model_vecnormalize_1000_steps.pkl``.

    :param model: the file of the model
    :param given: the file that the user named; ``none`` for no statistics; ``None`` if the user said nothing
    :return: the file; ``None`` for no statistics
    :raises ValueError: if the file does not exist, or the user said nothing and there is such a file beside the model
    """
    if given is not None:
        if str(given) == "none":
            return None
        if not given.is_file():
            raise ValueError(
                f"vec_normalize must be an existing file, got {given}; pass the file that VecNormalize.save() wrote"
            )
        return given
    # RL Zoo keeps the statistics in a folder that has the name of the environment
    beside = [
        path
        for path in sorted((*model.parent.glob("*.pkl"), *model.parent.glob("*/vecnormalize.pkl")))
        if _is_statistics(path)
    ]
    if beside:
        raise ValueError(
            f"vec_normalize must be given, because {', '.join(map(str, beside))} is beside the model, got none; use --vec-normalize "
            f"{beside[0]}, or --vec-normalize none if the model was trained without VecNormalize"
        )
    return None


def _is_statistics(path: Path) -> bool:
    return "vecnormalize" in path.name.lower().replace("_", "").replace("-", "")


def _algorithm_of(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = set(json.loads(archive.read("data")))
            policy = str(json.loads(archive.read("data"))["policy_class"])
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"model must be a file that SB3 saved, got {path} ({error}); pass the .zip that model.save() wrote"
        ) from error
    for package, name in _PACKAGES.items():
        if package in policy:
            return name
    for name, marks in _MARKS:
        if entries.issuperset(marks):
            return name
    raise ValueError(
        f"algo must be given for model={path}, because the file does not show it; use one of {[*_ALGORITHMS, *_CONTRIB]}"
    )
