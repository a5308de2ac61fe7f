"""What ForecastPPO does with its arguments: those of PPO reach PPO, the others the parts that they describe."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.training.forecast_ppo import _PPO_ARGUMENTS, _usual_eval_size
from sb3_forecast.training.objective import LEAST_RISKY
from tests.conftest import SMALL_PPO

#: an argument of PPO each, with a value that is not the usual one
UNUSUAL = {
    "learning_rate": 1e-4, "n_steps": 24, "batch_size": 12, "n_epochs": 3, "gamma": 0.9, "gae_lambda": 0.8, "clip_range": 0.1,
    "clip_range_vf": 0.3, "normalize_advantage": False, "ent_coef": 0.01, "vf_coef": 0.4, "max_grad_norm": 0.7, "use_sde": True,
    "sde_sample_freq": 4, "rollout_buffer_class": RolloutBuffer, "rollout_buffer_kwargs": {}, "target_kl": 0.1, "tensorboard_log": "logs",
    "policy_kwargs": {"net_arch": [8]}, "verbose": 0, "seed": 4,
}  # fmt: skip


def settings(model):
    found = {name: getattr(model, name) for name in _PPO_ARGUMENTS}
    found["stats_window_size"] = model._stats_window_size
    found["device"] = str(model.device)
    # schedules: constants here
    return {
        name: value(0.5) if name.startswith("clip_range") and value is not None else value for name, value in found.items()
    }


def test_all_arguments_of_ppo_are_named():
    assert set(UNUSUAL) == set(_PPO_ARGUMENTS)


def test_arguments_of_ppo_reach_ppo(tmp_path):
    given = {**UNUSUAL, "tensorboard_log": str(tmp_path), "stats_window_size": 7, "device": "cpu"}
    env = gym.make("Pendulum-v1")
    ppo, ours = PPO("MlpPolicy", env, **given), sf.ForecastPPO("MlpPolicy", env, forecast_coef=0.0, **given)
    assert settings(ours) == settings(ppo)
    assert [p.shape for p in ours.policy.parameters()] == [p.shape for p in ppo.policy.parameters()]
    assert ours._stats_window_size == 7


def test_what_is_usual_for_ppo_is_usual_here():
    env = gym.make("CartPole-v1")
    assert settings(sf.ForecastPPO("MlpPolicy", env, forecast_coef=0.0)) == settings(PPO("MlpPolicy", env))


def test_what_is_usual_for_the_forecast(pool):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), **SMALL_PPO)
    usual = {
        "forecast_coef": 1.0, "eval_size": None, "k": 10, "n_partitions": 128, "scorer": "auto", "forecast_kind": "auto",
        "forecast_method": "jones", "p_floor": 1e-9, "drawn_share": 0.25, "gradient_every": 8, "full_every": None, "n_candidates": None,
        "forecast_loss": None, "pool": None, "validation_share": 0.2, "validate_every": 10, "min_success": None, "restore_best": True,
    }  # fmt: skip
    assert {name: getattr(model, name) for name in usual} == usual
    loss, validation = model.objective.pool_loss, model.validation
    assert isinstance(loss, sf.TailLineLoss)
    learning = len(model.objective.learning)
    assert (loss.eval_size, loss.k, loss.p_target, loss.n_partitions) == (20, 10, 1e-9, 128)
    assert loss.deploy_size == min(19 * 20, learning - 20)
    assert (model.objective.full_every, model.objective.n_candidates) == (5, loss.reach(learning))
    assert (validation.k, validation.eval_size, validation.seed, validation.min_success) == (
        len(validation.pool) // 8,
        len(validation.pool) // 4,
        0,
        None,
    )
    assert isinstance(model.objective.scorer, sf.ExactScorer)


@pytest.mark.parametrize(
    ("n", "k", "expected"), [(4000, 10, 200), (100_000, 10, 200), (3000, 10, 150), (100, 10, 20), (100, 2, 5)]
)
def test_a_twentieth_but_at_most_200_and_enough_for_the_top_scores(n, k, expected):
    assert _usual_eval_size(n, k) == expected


def idle(**arguments):
    """A model without a forecast, whose parts can be looked at."""
    return sf.ForecastPPO("MlpPolicy", "CartPole-v1", forecast_coef=0.0, n_steps=32, batch_size=32, device="cpu", **arguments)


@pytest.mark.parametrize(
    ("arguments", "n", "expected"),
    [
        ({}, 10_000, (200, 3800, 10, 1e-9, 128)),
        ({}, 1000, (50, 950, 10, 1e-9, 128)),
        ({"eval_size": 30, "k": 4, "p_floor": 1e-5, "n_partitions": 9}, 100, (30, 70, 4, 1e-5, 9)),
        ({"n_partitions": "exact"}, 10_000, (200, 3800, 10, 1e-9, 64)),
    ],
)
def test_the_line_that_the_arguments_describe(arguments, n, expected):
    loss = idle(**arguments)._loss(n, False)
    assert (loss.eval_size, loss.deploy_size, loss.k, loss.p_target, loss.n_partitions) == expected


@pytest.mark.parametrize(
    ("arguments", "n", "expected"),
    [
        ({"forecast_kind": "guarded"}, 10_000, (500, 10, 128, "guarded", "jones", 1e-9)),
        ({"forecast_kind": "squared", "k": 30, "forecast_method": "blue"}, 1000, (60, 30, 128, "squared", "blue", 1e-9)),
        (
            {"forecast_kind": "hinge", "eval_size": 77, "n_partitions": 5, "p_floor": 1e-3},
            1000,
            (77, 10, 5, "hinge", "jones", 1e-3),
        ),
    ],
)
def test_the_other_losses_that_the_arguments_describe(arguments, n, expected):
    loss = idle(**arguments)._loss(n, False)
    assert (loss.eval_size, loss.k, loss.n_partitions, loss.kind, loss.method, loss.p_floor) == expected


@pytest.mark.parametrize("kind", ["line", "guarded"])
def test_an_evaluation_set_must_leave_something_to_deploy(kind):
    with pytest.raises(ValueError, match="eval_size must be below the pool size 50, got 50"):
        idle(forecast_kind=kind, eval_size=50)._loss(50, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_size": 1}, "eval_size must be at least 2, got 1; use None for 200"),
        ({"k": 1}, "k must be at least 2, got 1"),
        ({"p_floor": 0.0}, "p_floor must be strictly between 0 and 1, got 0.0"),
        ({"forecast_kind": "curve"}, "forecast_kind must be one of"),
        ({"forecast_method": "magic"}, "forecast_method must be one of"),
        ({"validation_share": -0.1}, r"validation_share must be in \[0, 0.9\], got -0.1"),
        ({"min_success": -0.1}, r"min_success must be in \[0, 1\], got -0.1"),
        ({"validate_every": 0}, "validate_every must be at least 1, got 0"),
        ({"gradient_every": 0}, "gradient_every must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        idle(**arguments)


def test_smallest_and_largest_arguments():
    model = idle(eval_size=2, k=2, validation_share=0.9, validate_every=1, min_success=1.0)
    assert (model.validation_share, model.min_success) == (0.9, 1.0)
    assert idle(validation_share=0.0, min_success=0.0).min_success == 0.0


def test_arguments_reach_the_objective_and_the_validation(pool):
    env = sfe.GridVecEnv(pool, 8, seed=0)
    model = sf.ForecastPPO(
        "MlpPolicy",
        env,
        seed=6,
        eval_size=30,
        k=4,
        full_every=3,
        n_candidates=70,
        validation_share=0.4,
        min_success=0.3,
        **SMALL_PPO,
    )
    objective, validation = model.objective, model.validation
    assert (objective.full_every, objective.n_candidates, objective.pool_loss.eval_size) == (3, 70, 30)
    assert (validation.seed, validation.k, validation.min_success) == (6, 4, 0.3)
    assert len(objective.validation) == len(validation.pool) >= 0.4 * 300 - 1
    assert validation.eval_size == min(30, len(validation.pool) // 4)
    # the partitions and the tasks that are kept back follow the seed
    other = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), seed=7, validation_share=0.4, **SMALL_PPO)
    assert not np.array_equal(objective.validation, other.objective.validation)
    assert objective.generator.random() == np.random.default_rng(6).random()


def test_a_schedule_forecasts_and_a_coefficient_of_0_does_not(pool):
    for coef, forecasting in ((lambda progress: progress, True), (1e-9, True), (0.0, False)):
        model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), forecast_coef=coef, **SMALL_PPO)
        assert (model.objective is not None) == forecasting


def test_a_forecast_that_is_switched_off_later_is_not_refreshed(pool):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), **SMALL_PPO).learn(128)
    model.forecast_coef = 0.0
    model.learn(128)
    assert (model.objective.n_refreshes, model.validation.rollouts) == (1, 1)


def test_no_validation_keeps_no_task_back(pool):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), validation_share=0.0, **SMALL_PPO)
    assert model.validation is None
    assert len(model.objective.learning) == 300


def test_a_survival_scorer_scores_the_whole_pool(pool):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), scorer="survival", validation_share=0.0, **SMALL_PPO)
    assert model.objective.full_every == 1


def test_a_loss_object_is_used_as_it_is(pool):
    loss = sf.MeanFailureLoss()
    assert (
        sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), forecast_loss=loss, **SMALL_PPO).objective.pool_loss
        is loss
    )


def test_a_pool_of_other_tasks_is_refused(pool):
    with pytest.raises(ValueError, match="pool must hold the tasks that env plays"):
        sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), pool=pool.subset(range(200)), **SMALL_PPO)
    same = sfe.TaskPool("ThinIce-8x8", 300, seed=1, rare_fraction=0.1)
    assert sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), pool=same, **SMALL_PPO).pool is same


def test_what_is_saved_holds_no_pool_and_no_objective(pool, tmp_path):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), pool=pool, **SMALL_PPO).learn(128)
    model.save(tmp_path / "model.zip")
    assert model.forecast_state is None
    found = vars(sf.ForecastPPO.load(tmp_path / "model.zip", device="cpu"))
    assert found["forecast_state"]["pool"] == pool.key
    assert found["forecast_state"]["validation"]["rollouts"] == 1
    assert [found.get(name) for name in ("objective", "pool", "validation")] == [None] * 3
    assert found["_objective_key"] == ""
    model.save(tmp_path / "small.zip", exclude=["seed"])
    model.save(tmp_path / "large.zip", include=["pool"])
    assert sf.ForecastPPO.load(tmp_path / "small.zip", device="cpu").seed is None
    assert sf.ForecastPPO.load(tmp_path / "large.zip", device="cpu").pool.key == pool.key


def test_the_validation_goes_on_after_loading(pool, tmp_path):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), **SMALL_PPO).learn(256)
    model.validation.factor = 0.25
    model.save(tmp_path / "model.zip")
    again = sf.ForecastPPO.load(tmp_path / "model.zip", env=sfe.GridVecEnv(pool, 8, seed=0), device="cpu")
    again._build_objective()
    assert (again.validation.factor, again.validation.rollouts) == (0.25, 2)
    assert again.forecast_state is None


def test_an_objective_is_kept_while_the_pool_stays(pool):
    model = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), **SMALL_PPO)
    kept, validation = model.objective, model.validation
    model.set_env(sfe.GridVecEnv(pool, 8, seed=5))
    model._build_objective()
    assert model.objective is kept
    assert model.validation is validation


def test_arguments_of_learn_reach_ppo(pool, tmp_path):
    env = sfe.GridVecEnv(pool, 8, seed=0)
    model = sf.ForecastPPO("MlpPolicy", env, tensorboard_log=str(tmp_path), **SMALL_PPO)
    dumped = []
    model.dump_logs = lambda iteration: dumped.append(iteration)
    model.learn(4 * 128, log_interval=2, tb_log_name="mine")
    assert dumped == [2, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["mine_1"]
    model.learn(128, tb_log_name="mine", reset_num_timesteps=False)
    assert model.num_timesteps == 5 * 128
    model.learn(128)
    assert model.num_timesteps == 128
    assert dumped == [2, 4, 1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ForecastPPO_1", "mine_1"]


def test_from_ppo_takes_over_every_argument(pool):
    given = {**UNUSUAL, "use_sde": False, "rollout_buffer_class": None, "rollout_buffer_kwargs": None, "tensorboard_log": None}
    source = PPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=0), stats_window_size=7, device="cpu", **given)
    before = copy.deepcopy(source.get_parameters())
    model = sf.ForecastPPO.from_ppo(source, sfe.GridVecEnv(pool, 8, seed=0), device="cpu", eval_size=30, k=4)
    ours, theirs = settings(model), settings(source)
    assert ours == theirs
    assert (model.eval_size, model.k) == (30, 4)
    other = sf.ForecastPPO.from_ppo(source, sfe.GridVecEnv(pool, 8, seed=0), device="cpu", gamma=0.5, forecast_coef=0.0)
    assert other.gamma == 0.5
    model.learn(24 * 8)
    for mine, kept in zip(source.policy.state_dict().values(), before["policy"].values(), strict=True):
        assert th.equal(mine, kept)


def test_other_actions_are_refused():
    source = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu")
    env = gym.make("CartPole-v1")
    env.action_space = gym.spaces.Discrete(3)
    with pytest.raises(ValueError, match=r"action_space of env must be that of the PPO \(Discrete\(2\)\), got Discrete\(3\)"):
        sf.ForecastPPO.from_ppo(source, env, device="cpu", forecast_coef=0.0)


def test_what_is_risky_follows_p_floor():
    """Between full scorings only tasks above it are scored again, on request."""
    tasks = sfe.TaskPool("ThinIce-6x6", 600, 0)
    sizes = []
    for floor in (1e-300, 0.999999):
        model = sf.ForecastPPO(
            "MlpPolicy",
            tasks.make_vec_env(2),
            n_candidates="risky",
            p_floor=floor,
            eval_size=40,
            k=5,
            n_steps=8,
            batch_size=16,
            device="cpu",
        )
        model._build_objective()
        model.objective.refresh(model)
        sizes.append(len(model.objective.candidates))
    assert sizes[0] > sizes[1] == LEAST_RISKY


def test_a_scorer_that_learns_gets_the_guarded_loss():
    """Its errors let the line hold tasks that should fall."""
    assert isinstance(idle()._loss(1000, False), sf.TailLineLoss)
    assert idle()._loss(1000, True).kind == "guarded"
    assert isinstance(idle(forecast_kind="line")._loss(1000, True), sf.TailLineLoss)


def test_a_training_that_learns_from_costs_is_watched_by_counting():
    """Its pool may know the physics; the training may not."""
    tasks = sfe.CartPoleTasks(120, 0)
    model = sf.ForecastPPO(
        "MlpPolicy",
        tasks.make_vec_env(2),
        scorer=sf.EpisodeScorer(tasks),
        eval_size=20,
        k=3,
        n_steps=8,
        batch_size=16,
        device="cpu",
    )
    model._build_objective()
    assert isinstance(model.validation.scorer(model), sf.FrequencyScorer)
    known = sf.ForecastPPO("MlpPolicy", tasks.make_vec_env(2), eval_size=20, k=3, n_steps=8, batch_size=16, device="cpu")
    known._build_objective()
    assert isinstance(known.validation.scorer(known), sf.SurvivalScorer)
