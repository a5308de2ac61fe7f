"""`python -m sb3_forecast evaluate`: what a user types, and what they mistype."""

import json
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
from minigrid.wrappers import FlatObsWrapper
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.__main__ import main
from sb3_forecast.cli.models import load_model
from tests.conftest import SMALL_PPO


@pytest.fixture(scope="module")
def saved(agent, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "agent.zip"
    agent.save(path)
    return path


def evaluate(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_exact_scores_and_held_out_tasks(agent, saved, capsys, tmp_path):
    status, out, _ = evaluate(
        capsys, saved, "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--eval-size", 80, "--deploy-size", 1e5, "--held-out", 200,
        "--json", "--plot", tmp_path / "tail.png", "--seed", 4,
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert "ExactScorer scores" in found["source"]
    pool = sfe.TaskPool("ThinIce-8x8", 280, seed=4)
    scores = sf.ExactScorer(pool).score(agent).numpy()
    assert found["worst_score"] == pytest.approx(float(sf.GumbelTail.fit(scores[:80]).forecast(1e5)))
    assert found["held_out"]["n_tasks"] == 280
    assert found["held_out"]["worst_failure"] == pytest.approx(float(sf.failure_probability(scores.max())))
    assert (tmp_path / "tail.png").stat().st_size > 1000


def test_counts_of_an_environment_without_costs(capsys, tmp_path):
    DQN("MlpPolicy", "CartPole-v1", device="cpu", seed=0).save(tmp_path / "dqn.zip")
    given = (capsys, tmp_path / "dqn.zip", "--env-id", "CartPole-v1", "--eval-size", 12, "--episodes", 2)
    status, _, error = evaluate(*given)
    assert status == 2
    assert "pass --failed" in " ".join(error.split())
    status, out, _ = evaluate(*given, "--failed", "sb3_forecast_envs:ended_early", "--json")
    assert status == 0
    assert "DQN takes its likeliest actions" in json.loads(out)["source"]


def test_rare_failures_by_splitting(capsys, tmp_path, pool):
    tasks = sfe.CartPoleTasks(10, 0)
    PPO("MlpPolicy", tasks.make_env(), n_steps=8, batch_size=8, device="cpu", seed=0).save(tmp_path / "ppo.zip")
    given = (capsys, tmp_path / "ppo.zip", "--env-id", "SB3Forecast/CartPole-v0", "--eval-size", 10, "--json")
    status, out, _ = evaluate(*given, "--scorer", "splitting", "--max-steps", 1)
    assert status == 0
    found = json.loads(out)
    assert "splitting scores; PPO samples its actions" in found["source"]
    # an untrained agent nearly always falls
    assert any("where counting" in caveat for caveat in found["caveats"])
    assert any("budget of 1" in c for c in found["caveats"])
    for options, message in (
        (("--max-steps", 5), "max_steps must be left out without splitting"),
        (("--scorer", "splitting", "--active"), "scorer must be another one"),
    ):
        status, _, error = evaluate(*given, *options)
        assert status == 2
        assert message in " ".join(error.split())


def test_the_policy_as_it_is_deployed(agent, saved, capsys):
    """--deterministic counts what the likeliest actions do; the sampled ones fail elsewhere."""
    given = (
        capsys,
        saved,
        "--env-id",
        "SB3Forecast/ThinIce-8x8-v0",
        "--eval-size",
        60,
        "--episodes",
        3,
        "--seed",
        4,
        "--json",
    )
    status, out, _ = evaluate(*given, "--deterministic")
    assert status == 0
    found = json.loads(out)
    assert "PPO takes its likeliest actions" in found["source"]
    pool = sfe.TaskPool("ThinIce-8x8", 60, seed=4)
    failures = sf.FrequencyScorer(pool, 3, seed=4, deterministic=True).failures(agent)
    assert set(failures) <= {0, 3}
    assert found["observed_mean_failure"] == pytest.approx(failures.mean() / 3)
    status, _, error = evaluate(*given, "--deterministic", "--scorer", "exact")
    assert status == 2
    assert "scorer must be frequency or splitting for a model that takes its likeliest actions" in " ".join(error.split())


def test_timeouts_that_fail(capsys, tmp_path):
    """A car that never reaches the top: no failure, or only failures."""
    PPO("MlpPolicy", "MountainCar-v0", device="cpu", seed=0).save(tmp_path / "ppo.zip")
    given = (capsys, tmp_path / "ppo.zip", "--env-id", "MountainCar-v0", "--eval-size", 10, "--episodes", 1, "--failed",
             "tests.cli.test_evaluate:never", "--json")  # fmt: skip
    status, out, _ = evaluate(*given)
    assert (status, json.loads(out)["observed_mean_failure"]) == (0, 0.0)
    assert "No failure was seen" in json.loads(out)["answer"]
    status, out, _ = evaluate(*given, "--timeout-fails")
    assert (status, json.loads(out)["observed_mean_failure"]) == (0, 1.0)


def never(step):
    return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--record", "nowhere/a.gif"], "record must be in a folder that exists"),
        (["--record", "a.png"], "record must end in .gif or .mp4, got 'a.png'"),
        (["--plot", "a.gif"], "plot must end in .png"),
    ],
)
def test_outputs_are_checked_before_any_work(options, message, capsys):
    status, _, error = evaluate(capsys, "missing.zip", "--env-id", "CartPole-v1", *options)
    assert status == 2
    assert message in " ".join(error.split())


def test_a_picture_of_the_worst(clumsy, capsys, tmp_path):
    clumsy.save(tmp_path / "clumsy.zip")
    status, out, _ = evaluate(
        capsys, tmp_path / "clumsy.zip", "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--eval-size", 10, "--record", tmp_path / "worst.gif",
        "--scorer", "frequency", "--episodes", 4, "--no-progress-bar",
    )  # fmt: skip
    assert status == 0
    assert (tmp_path / "worst.gif").exists()
    assert "failures of 4 episodes" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env-id", "Nowhere-v0"], "must be registered with Gymnasium, got"),
        (["--env-id", "no_such_module:Nowhere-v0"], "env_id must name a module that can be imported, got 'no_such_module:"),
        (["--env-id", "CartPole-v1"], "CartPole-v1 must have the observation_space of the model"),
        (["--env-id", "SB3Forecast/ThinIce-8x8-v0", "--eval-size", "5"], "eval_size must be at least 10 to fit a tail, got 5"),
        (["--env-id", "SB3Forecast/ThinIce-8x8-v0", "--algo", "ppoo"], "got 'ppoo'; use the algorithm that saved the model"),
        (["--env-id", "SB3Forecast/ThinIce-8x8-v0", "--deploy-size", "0"], "deploy_size must be from 1 to 1e15, got 0.0"),
        (["--env-id", "SB3Forecast/ThinIce-8x8-v0", "--budget", "500"], "budget must be left out without active, got 500"),
        (["--env-id", "CartPole-v1", "--failed", "os:nothing"], "failed must name a function or class, got"),
    ],
)
def test_mistakes(saved, capsys, arguments, message):
    status, _, error = evaluate(capsys, saved, *arguments)
    assert status == 2
    assert message in " ".join(error.split())


def test_files_that_are_no_models(capsys, tmp_path):
    (tmp_path / "model.zip").write_text("nothing")
    for path, message in (
        (tmp_path / "model.zip", "model must be a file that SB3 saved, got"),
        (tmp_path / "none.zip", "model must be an existing file, got"),
    ):
        status, _, error = evaluate(capsys, path, "--env-id", "CartPole-v1")
        assert status == 2
        assert message in " ".join(error.split())


def test_the_algorithm_is_found(tmp_path, pool):
    grid = sfe.GridVecEnv(pool, 8)
    models = [
        PPO("MlpPolicy", grid, **SMALL_PPO), MaskablePPO("MlpPolicy", grid, **SMALL_PPO), RecurrentPPO("MlpLstmPolicy", grid, **SMALL_PPO),
        *(algorithm("MlpPolicy", "CartPole-v1", device="cpu") for algorithm in (A2C, TRPO, QRDQN, DQN)),
        *(algorithm("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10) for algorithm in (SAC, TD3, CrossQ, TQC)),
    ]  # fmt: skip
    for model in models:
        model.save(tmp_path / "model.zip")
        assert type(load_model(tmp_path / "model.zip")) is type(model)
    assert isinstance(load_model(tmp_path / "model.zip", "tqc"), TQC)
    assert np.isfinite(models[0].predict(grid.reset())[0]).all()


def test_statistics_of_vec_normalize(pool, capsys, tmp_path):
    env = VecNormalize(sfe.GridVecEnv(pool, 8), norm_reward=False)
    model = PPO("MlpPolicy", env, seed=0, **SMALL_PPO).learn(2 * 8 * SMALL_PPO["n_steps"])
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "stats.pkl"))
    (tmp_path / "other.pkl").write_bytes(b"")
    given = (tmp_path / "model.zip", "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--eval-size", 40, "--json", "--seed", 4)
    status, out, _ = evaluate(capsys, *given, "--vec-normalize", tmp_path / "stats.pkl")
    assert status == 0
    scores = sf.ExactScorer(sfe.TaskPool("ThinIce-8x8", 40, seed=4)).score(model).numpy()
    expected = float(sf.GumbelTail.fit(scores).forecast(1e6))
    assert json.loads(out)["worst_score"] == pytest.approx(expected)
    _, without, _ = evaluate(capsys, *given)
    assert json.loads(without)["worst_score"] != pytest.approx(expected)
    status, _, error = evaluate(capsys, *given, "--vec-normalize", tmp_path / "none.pkl")
    assert status == 2
    assert "vec_normalize must be an existing file, got" in " ".join(error.split())


@pytest.mark.parametrize(
    "name", ["vecnormalize.pkl", "rl_model_vecnormalize_500_steps.pkl", "Any-v1/vecnormalize.pkl", "vec_normalize.pkl"]
)
def test_forgotten_statistics_are_noticed(saved, capsys, tmp_path, name):
    shutil.copy(saved, tmp_path / "model.zip")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    given = (tmp_path / "model.zip", "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--eval-size", 40, "--json")
    status, _, error = evaluate(capsys, *given)
    assert status == 2
    assert f"vec_normalize must be given, because {tmp_path / name} is beside the model" in " ".join(error.split())
    assert evaluate(capsys, *given, "--vec-normalize", "none")[0] == 0


def test_wrappers_of_the_training(capsys, tmp_path):
    model = PPO("MlpPolicy", FlatObsWrapper(gym.make("MiniGrid-LavaGapS5-v0")), n_steps=8, batch_size=8, device="cpu", seed=0)
    model.save(tmp_path / "model.zip")
    given = (
        tmp_path / "model.zip",
        "--env-id",
        "MiniGrid-LavaGapS5-v0",
        "--eval-size",
        10,
        "--episodes",
        2,
        "--json",
        "--scorer",
        "frequency",
    )
    status, _, error = evaluate(capsys, *given)
    assert status == 2
    assert "name them with --wrapper module:class" in " ".join(error.split())
    status, out, _ = evaluate(capsys, *given, "--wrapper", "minigrid.wrappers:FlatObsWrapper")
    assert (status, json.loads(out)["n_eval"]) == (0, 10)
    status, _, error = evaluate(capsys, *given, "--wrapper", "minigrid.wrappers:Flat")
    assert status == 2
    assert "wrapper must name a function or class, got 'minigrid.wrappers:Flat'" in " ".join(error.split())


def test_a_model_that_only_counting_fits_is_told_why(capsys, tmp_path, pool):
    DQN("MlpPolicy", sfe.GridVecEnv(pool, 1), device="cpu", seed=0, buffer_size=10).save(tmp_path / "dqn.zip")
    status, out, _ = evaluate(
        capsys, tmp_path / "dqn.zip", "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--eval-size", 12, "--episodes", 2, "--json"
    )
    assert status == 0
    assert json.loads(out)["caveats"][0].startswith("failures were counted, because no stronger scorer fits: exact: ")


def test_active_evaluation(clumsy, capsys, tmp_path):
    clumsy.save(tmp_path / "model.zip")
    given = (tmp_path / "model.zip", "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--active", "--deploy-size", 2000, "--seed", 4)
    status, out, _ = evaluate(capsys, *given, "--budget", 120, "--json")
    assert status == 0
    found = json.loads(out)
    assert (found["scored"], found["n_tasks"], found["scorer"]) == (120, 2000, "ExactScorer")
    stream = sfe.TaskStream("ThinIce-8x8", 2000, seed=4)
    expected = sf.ActiveEvaluation("auto", stream, 120, seed=4).run(clumsy)
    assert found["mean_failure"]["value"] == pytest.approx(expected.mean_failure.value)
    assert found["level"] == 0.9  # that of the command
    status, out, _ = evaluate(capsys, *given, "--budget", 120, "--no-progress-bar")
    assert "failures per million tasks (90% interval), from 120 of 2,000 tasks" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "tail.png"], "plot must be left out with active, got tail.png; leave out --plot, or --active"),
        (["--held-out", 100], "held_out must be left out with active, got 100; leave out --held-out, or --active"),
        (["--budget", 50], "budget must be at least 120, got 50"),
        (["--deploy-size", "1e14"], "deploy_size must be at most 1e9 with active, which looks at every task, got 1e+14"),
    ],
)
def test_options_that_do_nothing_in_active_evaluation(saved, capsys, options, message):
    status, _, error = evaluate(
        capsys,
        saved,
        "--env-id",
        "SB3Forecast/ThinIce-8x8-v0",
        "--active",
        "--deploy-size",
        2000,
        "--no-progress-bar",
        *options,
    )
    assert status == 2
    assert message in " ".join(error.split())


def test_cart_poles_have_scores_by_their_physics(capsys, tmp_path):
    tasks = sfe.CartPoleTasks(20, seed=4)
    PPO("MlpPolicy", tasks.make_vec_env(8), seed=0, **SMALL_PPO).save(tmp_path / "model.zip")
    status, out, _ = evaluate(
        capsys, tmp_path / "model.zip", "--env-id", "SB3Forecast/CartPole-v0", "--eval-size", 20, "--json"
    )
    assert status == 0
    assert "SurvivalScorer scores" in json.loads(out)["source"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "local"], "output must be given with cluster"),
        (["--output", "scores"], "output must be left out without cluster, got scores"),
        (["--cluster", "local", "--output", "scores", "--active"], "cluster must be left out with active"),
        (
            ["--cluster", "local", "--output", "scores", "--method", "pareto"],
            "method must be one of .* with cluster, got pareto",
        ),
        (["--cluster", "local", "--output", "scores", "--level", 0.8], "level must be one of .* with cluster, got 0.8"),
        (
            ["--cluster", "local", "--output", "scores", "--eval-size", 2000],
            "eval_size must be at most 1024 with cluster, got 2000",
        ),
        (["--cluster", "local", "--output", "scores", "--k", 0], r"k must be in \[2, 200\], got 0"),
        (["--cluster", "local", "--output", "scores", "--held-out", 9], "held_out must be left out with cluster"),
        (
            ["--cluster", "local", "--output", "scores", "--context", "gravity"],
            r"context must be like gravity=normal\(-10,1\)",
        ),
    ],
)
def test_options_that_do_not_go_with_a_cluster(saved, capsys, options, message):
    status, _, error = evaluate(capsys, saved, "--env-id", "SB3Forecast/ThinIce-8x8-v0", *options)
    assert status != 0
    assert re.search(message, " ".join(error.split()))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray warns of itself
def test_a_whole_deployment(clumsy, capsys, tmp_path):
    clumsy.save(tmp_path / "model.zip")
    given = (
        tmp_path / "model.zip", "--env-id", "SB3Forecast/ThinIce-8x8-v0", "--deploy-size", 2000, "--seed", 4, "--cluster", "local", "--output",
        tmp_path / "scores", "--eval-size", 50, "--no-progress-bar",
    )  # fmt: skip
    status, out, _ = evaluate(capsys, *given, "--json")
    assert status == 0
    found = json.loads(out)
    scores = sf.score_large_pool(clumsy, sfe.TaskStream("ThinIce-8x8", 2000, seed=4), tmp_path / "here")
    assert found["n_tasks"] == 2000
    assert found["mean_failure"] == pytest.approx(scores.failure.mean())
    assert found["worse_than"]["0.01"] == (scores.failure > 0.01).sum()
    assert found["worst_task"] == scores.psi.argmax()
    assert found["held_out"]["deploy_size"] == 1950
    status, out, _ = evaluate(capsys, *given)
    assert "All 2,000 tasks of the deployment" in out
    assert "Would 50 random tasks have told?" in out
