"""RL Zoo with ForecastPPO: ``python -m sb3_forecast.zoo train --algo forecast_ppo --env SB3Forecast/ThinIce-8x8-v0``.

RL Zoo has no hook for algorithms of others: its dictionaries of algorithms, samplers and converters are filled in place, and its own commands
are run. Without ``--conf-file`` the hyperparameters of this package are used.
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

#: what this package adds to RL Zoo
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "forecast_ppo": ForecastPPO,
    "ppo_lagrangian": PPOLagrangian,
    "cvar_ppo": CVaRPPO,
}


def register() -> None:
    """Make ``forecast_ppo``, ``ppo_lagrangian`` and ``cvar_ppo`` known to RL Zoo, and the task families to Gymnasium.

    :raises ImportError: if RL Zoo is not installed
    """
    try:
        from rl_zoo3 import hyperparams_opt, utils
    except ImportError as error:
        raise ImportError("RL Zoo is not installed: pip install 'sb3-forecast[zoo]'") from error
    # loading what offers pools registers its environments
    pool_makers()
    utils.ALGOS.update(ALGORITHMS)
    samplers = {
        "forecast_ppo": sample_forecast_ppo, "ppo_lagrangian": hyperparams_opt.sample_ppo_params, "cvar_ppo": hyperparams_opt.sample_ppo_params,
    }  # fmt: skip
    hyperparams_opt.HYPERPARAMS_SAMPLER.update(samplers)
    hyperparams_opt.HYPERPARAMS_CONVERTER.update(dict.fromkeys(ALGORITHMS, convert_params))


def sample_forecast_ppo(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """Search space: RL Zoo's for PPO, and what matters most of the forecast.

    :param trial: Optuna's trial
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
    """What a trial sampled, as arguments of the algorithm.

    :param sampled_params: parameters of a finished trial
    """
    from rl_zoo3.hyperparams_opt import convert_onpolicy_params

    converted: dict[str, Any] = convert_onpolicy_params(sampled_params)
    if "log10_p_floor" in converted:
        converted["p_floor"] = 10.0 ** converted.pop("log10_p_floor")
    return converted


def main(arguments: list[str] | None = None) -> None:
    """Run a command of RL Zoo.

    :param arguments: the command line; ``None`` for the process's own
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(f"{__doc__}\nCommands: train and enjoy, with the options of `python -m rl_zoo3.train` and `rl_zoo3.enjoy`.")  # noqa: T201  # help
        return
    if given[0] not in ("train", "enjoy"):
        raise SystemExit(f"command {given[0]!r} is unknown; use train or enjoy (for plots: python -m rl_zoo3.cli)")
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
    # RL Zoo's commands read the process's own command line, without their name
    sys.argv = ["python -m sb3_forecast.zoo", *given[1:]]
    getattr(importlib.import_module(f"rl_zoo3.{given[0]}"), given[0])()


if __name__ == "__main__":
    main()
