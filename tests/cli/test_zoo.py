"""RL Zoo, for real: train, search, enjoy."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.cli.zoo import convert_params, sample_forecast_ppo

SHORT = [
    "--env", "SB3Forecast/ThinIce-8x8-v0", "--device", "cpu", "--seed", "1", "--verbose", "0", "--vec-env", "dummy",
    "-params", "n_envs:4", "n_steps:32", "batch_size:64", "n_epochs:1",
]  # fmt: skip


def zoo(*arguments, cwd):
    command = [sys.executable, "-W", "ignore", "-m", "sb3_forecast.zoo", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_train_and_enjoy(tmp_path):
    zoo("train", "--algo", "forecast_ppo", *SHORT, "-n", 512, "--eval-freq", -1, "-f", tmp_path / "logs", cwd=tmp_path)
    (model,) = (tmp_path / "logs" / "forecast_ppo").rglob("*ThinIce-8x8-v0.zip")
    loaded = sf.ForecastPPO.load(model, device="cpu")
    # the hyperparameters of the package, and what the command line changed of them
    assert (loaded.p_floor, loaded.forecast_coef, loaded.n_steps) == (1e-10, 1.0, 32)
    out = zoo(
        "enjoy", "--algo", "forecast_ppo", "--env", "SB3Forecast/ThinIce-8x8-v0", "-f", tmp_path / "logs", "-n", 100, "--no-render",
        "--device", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert "Loading" in out


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["CartPole-v1", "MiniGrid-LavaGapS5-v0"])
def test_environments_of_others(tmp_path, env_id):
    """The hyperparameter file wraps them in PlayTasks, so that they have a pool."""
    short = [env_id if word == SHORT[1] else word for word in SHORT]
    zoo("train", "--algo", "forecast_ppo", *short, "-n", 512, "--eval-freq", -1, "-f", tmp_path / "logs", cwd=tmp_path)
    (model,) = (tmp_path / "logs" / "forecast_ppo").rglob(f"*{env_id}.zip")
    assert sf.ForecastPPO.load(model, device="cpu").num_timesteps >= 512


@pytest.mark.slow
def test_search(tmp_path):
    zoo(
        "train", "--algo", "forecast_ppo", *SHORT, "-n", 256, "-optimize", "--n-trials", 1, "--n-evaluations", 1, "--eval-episodes", 1,
        "--n-startup-trials", 0, "--no-optim-plots", "-f", tmp_path / "logs", cwd=tmp_path,
    )  # fmt: skip
    (report,) = (tmp_path / "logs").rglob("report*.csv")
    assert "params_forecast_coef" in Path(report).read_text()


def test_help_and_registration(capsys):
    from rl_zoo3 import hyperparams_opt, utils

    from sb3_forecast.cli import zoo as ours

    ours.main(["--help"])
    assert "train --algo forecast_ppo" in capsys.readouterr().out
    ours.register()
    assert utils.ALGOS["forecast_ppo"] is sf.ForecastPPO
    assert hyperparams_opt.HYPERPARAMS_SAMPLER["forecast_ppo"] is ours.sample_forecast_ppo
    assert ours.HYPERPARAMS.exists()
    with pytest.raises(SystemExit, match="command must be train or enjoy, got 'trian'"):
        ours.main(["trian"])


def test_a_finished_trial_gives_its_arguments_again(pool):
    """What RL Zoo's --trial-id does: parameters as the storage has them, turned into arguments."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    sampled = sample_forecast_ppo(trial, 3, 4, {})
    converted = convert_params(dict(trial.params))
    own = ("forecast_coef", "drawn_share", "gradient_every", "p_floor")
    assert {name: converted[name] for name in own} == {name: sampled[name] for name in own}
    assert not any(name.startswith("log10") for name in converted)
    settings = {name: value for name, value in converted.items() if name != "n_timesteps"}
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 4), eval_size=30, **settings)
    assert model.forecast_coef == sampled["forecast_coef"]
