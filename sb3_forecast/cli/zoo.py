"""RL Zoo with ForecastPPO: ``python -m sb3_forecast.zoo train --algo forecast_ppo --env SB3Forecast/ThinIce-8x8-v0``.

RL Zoo has no hook for algorithms of other packages. So this command adds them to RL Zoo's dictionaries of algorithms, samplers and
converters, and then runs RL Zoo's own commands. Without ``--conf-file`` it uses the hyperparameters of this package.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_forecast.baselines.cvar_ppo import CVaRPPO
from sb3_forecast.baselines.ppo_lagrangian import PPOLagrangian
from sb3_forecast.cli.pools import pool_makers
from sb3_forecast.training.forecast_ppo import ForecastPPO

HYPERPARAMS = pathlib.Path(__file__).parent / "hyperparams" / "forecast_ppo.yml"

#: the algorithms that this package adds to RL Zoo
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "forecast_ppo": ForecastPPO,
    "ppo_lagrangian": PPOLagrangian,
    "cvar_ppo": CVaRPPO,
}


def register() -> None:
    """Register ``forecast_ppo``, ``ppo_lagrangian`` and ``cvar_ppo`` with RL Zoo, and the task families with Gymnasium.

    :raises ImportError: if RL Zoo is not installed
    """
    try:
        from rl_zoo3 import hyperparams_opt, utils
    except ImportError as error:
        raise ImportError("RL Zoo is not installed; run `pip install 'sb3-forecast[zoo]'`") from error
    # loading the makers of pools registers their environments with Gymnasium
    pool_makers()
    utils.ALGOS.update(ALGORITHMS)
    samplers = {
        "forecast_ppo": sample_forecast_ppo, "ppo_lagrangian": hyperparams_opt.sample_ppo_params, "cvar_ppo": hyperparams_opt.sample_ppo_params,
    }  # fmt: skip
    hyperparams_opt.HYPERPARAMS_SAMPLER.update(samplers)
    hyperparams_opt.HYPERPARAMS_CONVERTER.update(dict.fromkeys(ALGORITHMS, convert_params))


def sample_forecast_ppo(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Sample hyperparameters of ForecastPPO: RL Zoo's search space of PPO, and the most important settings of the forecast.

    :param trial: the trial of Optuna
    :param n_actions: as RL Zoo passes it
    :param n_envs: as RL Zoo passes it
    :param additional_args: as RL Zoo passes it
    :return: arguments of :class:`ForecastPPO`
    """
    from rl_zoo3.hyperparams_opt import sample_ppo_params

    sampled: dict[str, Any] = sample_ppo_params(trial, n_actions, n_envs, additional_args)
    return sampled | {
        "forecast_coef": trial.suggest_float("forecast_coef", 0.1, 3.0, log=True),
        "drawn_share": trial.suggest_float("drawn_share", 0.0, 0.5),
        "gradient_every": trial.suggest_categorical("gradient_every", [2, 4, 8]),
        "p_floor": 10.0 ** trial.suggest_int("log10_p_floor", -10, -4),
    }


def convert_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Convert the parameters that a trial sampled into arguments of the algorithm.

    :param sampled_params: parameters of a finished trial
    :return: arguments of the algorithm
    """
    from rl_zoo3.hyperparams_opt import convert_onpolicy_params

    converted: dict[str, Any] = convert_onpolicy_params(sampled_params)
    if "log10_p_floor" in converted:
        converted["p_floor"] = 10.0 ** converted.pop("log10_p_floor")
    return converted


def main(arguments: list[str] | None = None) -> None:
    """Run a command of RL Zoo.

    :param arguments: the words of the command line; ``None`` for those of this process (``sys.argv``)
    :raises SystemExit: if the command is unknown or RL Zoo is not installed
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(  # noqa: T201  # this is the help text
            f"{__doc__}\nCommands: train and enjoy, with the options of `python -m rl_zoo3.train` and `python -m rl_zoo3.enjoy`."
        )
        return
    if given[0] not in ("train", "enjoy"):
        raise SystemExit(f"command must be train or enjoy, got {given[0]!r}; for plots use `python -m rl_zoo3.cli`")
    try:
        register()
    except ImportError as error:
        raise SystemExit(str(error)) from error
    if (
        given[0] == "train"
        and not any(word.startswith(("-conf", "--conf-file")) for word in given)
        and "forecast_ppo" in given
    ):
        given = [*given, "--conf-file", str(HYPERPARAMS)]
    # RL Zoo's commands read sys.argv, and expect only their options in it
    sys.argv = ["python -m sb3_forecast.zoo", *given[1:]]
    getattr(importlib.import_module(f"rl_zoo3.{given[0]}"), given[0])()


if __name__ == "__main__":
    main()
