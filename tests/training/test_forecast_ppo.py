import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.make import make_scorer
from tests.conftest import SMALL_PPO

FORECAST = {"eval_size": 60, "k": 5, "n_partitions": 32, "gradient_every": 2}


def env(pool, seed=3):
    return VecMonitor(sfe.GridVecEnv(pool, 8, seed=seed))


def parameters(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.mark.parametrize("kind", ["vec", "dummy"])
def test_coefficient_zero_is_ppo_bit_for_bit(pool, kind):
    def make_env():
        if kind == "vec":
            return env(pool)
        return make_vec_env("SB3Forecast/ThinIce-8x8-v0", 4, seed=3, env_kwargs={"pool": pool})

    ppo = PPO("MlpPolicy", make_env(), seed=5, **SMALL_PPO).learn(1024)
    ours = sf.ForecastPPO("MlpPolicy", make_env(), seed=5, forecast_coef=0.0, **SMALL_PPO).learn(1024)
    assert th.equal(parameters(ppo), parameters(ours))


def test_the_gradient_reaches_the_policy(pool):
    plain = sf.ForecastPPO("MlpPolicy", env(pool), seed=5, forecast_coef=0.0, **SMALL_PPO).learn(1024)
    ours = sf.ForecastPPO("MlpPolicy", env(pool), seed=5, drawn_share=0.0, **FORECAST, **SMALL_PPO).learn(1024)
    assert not th.equal(parameters(plain), parameters(ours))


@pytest.mark.parametrize("scorer", ["exact", "survival"])
@pytest.mark.parametrize("kind", ["squared", "guarded"])
def test_a_step_along_the_gradient_lowers_the_loss(pool, clumsy, scorer, kind):
    """Of any agent, here one without any training: the loss of the same partitions falls, as much as the gradient says."""
    loss = sf.ForecastLoss(60, 5, 32, kind, p_floor=0.0)
    objective = sf.ForecastObjective(make_scorer(scorer, pool, seed=0), loss, seed=0)
    objective.refresh(clumsy)
    parameters = [p for p in clumsy.policy.parameters() if p.requires_grad]
    before = objective.loss(clumsy)
    gradients = th.autograd.grad(before, parameters, allow_unused=True)
    slope = sum(float(g.double().square().sum()) for g in gradients if g is not None)
    assert slope > 0.0
    # the guard cuts the gradient, not the value: along what is left the value falls at least as fast where nothing is cut
    step = 1e-3 / np.sqrt(slope)
    with th.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= step * gradient
    fallen = before.item() - objective.loss(clumsy).item()
    if kind == "squared":
        assert fallen == pytest.approx(step * slope, rel=0.1)
    else:
        assert fallen > 0.0


def test_same_seed_same_parameters(pool):
    a, b = (sf.ForecastPPO("MlpPolicy", env(pool), seed=1, **FORECAST, **SMALL_PPO).learn(512) for _ in range(2))
    assert th.equal(parameters(a), parameters(b))


def test_logger_keys(pool):
    model = sf.ForecastPPO("MlpPolicy", env(pool), seed=1, **FORECAST, **SMALL_PPO)
    dumped = []
    logger = Logger(None, [])
    original = logger.dump
    logger.dump = lambda step=0: (dumped.append(dict(logger.name_to_value)), original(step))
    model.set_logger(logger)
    model.learn(1024)
    logged = set().union(*dumped)
    for key in ("loss", "error", "forecast", "realised_max", "scale", "tasks_touched", "seconds"):
        assert f"forecast/{key}" in logged
    assert "rollout/ep_cost_mean" in logged
    last = dumped[-1]
    assert last["forecast/error"] >= 0
    assert 6 <= last["forecast/tasks_touched"] <= 300
    assert 0 <= last["rollout/ep_cost_mean"] <= 1


@pytest.mark.parametrize("scorer", ["exact", "survival"])
def test_save_load_and_go_on(pool, tmp_path, scorer):
    """Stopping, saving, loading and going on gives the same parameters as not stopping, bit for bit."""
    straight = sf.ForecastPPO("MlpPolicy", sfe.GridVecEnv(pool, 8, seed=3), seed=1, scorer=scorer, **FORECAST, **SMALL_PPO)
    straight.learn(512)
    straight.save(tmp_path / "half.zip")
    loaded = sf.ForecastPPO.load(tmp_path / "half.zip", device="cpu")
    finished = []
    for model in (straight, loaded):
        # both go on from fresh environments with the same seeds: an SB3 checkpoint does not hold its environments
        model.set_env(sfe.GridVecEnv(pool, 8, seed=9))
        set_random_seed(0)  # SB3's buffers shuffle with the global generator
        model.learn(512, reset_num_timesteps=False)
        finished.append(parameters(model))
    assert th.equal(*finished)
    assert straight.num_timesteps == loaded.num_timesteps == 1024
    assert loaded.objective.n_refreshes == straight.objective.n_refreshes
    np.testing.assert_array_equal(loaded.objective.task_weights, straight.objective.task_weights)


def test_prediction_survives_saving(pool, tmp_path):
    model = sf.ForecastPPO("MlpPolicy", env(pool), seed=1, **FORECAST, **SMALL_PPO).learn(128)
    model.save(tmp_path / "model.zip")
    observations = env(pool).reset()
    for loaded in (sf.ForecastPPO.load(tmp_path / "model.zip", device="cpu"), PPO.load(tmp_path / "model.zip", device="cpu")):
        np.testing.assert_array_equal(
            model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
        )


def test_set_env_changes_the_pool(pool):
    model = sf.ForecastPPO("MlpPolicy", env(pool), seed=1, **FORECAST, **SMALL_PPO).learn(128)
    other = sfe.TaskPool("ThinIce-8x8", 150, seed=8)
    model.set_env(env(other))
    model.learn(128, reset_num_timesteps=False)
    assert model.objective.scorer.n_tasks == 150


def test_from_ppo_takes_over_everything(pool, clumsy, tmp_path):
    agent = clumsy.learn(128)  # its optimizer has moments
    agent.save(tmp_path / "ppo.zip")
    for source in (agent, tmp_path / "ppo.zip"):
        model = sf.ForecastPPO.from_ppo(source, env(pool), device="cpu", **FORECAST)
        assert th.equal(parameters(model), parameters(agent))
        assert (model.n_steps, model.batch_size, model.n_epochs) == (16, 64, 2)
        assert model.policy.optimizer.state_dict()["state"]
        moments = [state["exp_avg"].clone() for state in agent.policy.optimizer.state.values()]
        model.learn(256)
        assert all(th.equal(a, s["exp_avg"]) for a, s in zip(moments, agent.policy.optimizer.state.values(), strict=True))


def test_dummy_vec_env_of_minigrid(pool):
    vec = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 4, seed=3, env_kwargs={"pool": pool})
    model = sf.ForecastPPO("MlpPolicy", vec, seed=1, **FORECAST, **SMALL_PPO).learn(256)
    assert model.objective.n_refreshes == 4
    assert isinstance(vec, DummyVecEnv)


def test_partial_refresh_scores_the_candidates(pool, agent):
    loss = sf.ForecastLoss(60, 5, 32)
    objective = sf.ForecastObjective(sf.ExactScorer(pool), loss, full_every=5, n_candidates=100)
    objective.refresh(agent)
    cached = objective.scores.clone()
    moved = sf.ForecastPPO.from_ppo(agent, env(pool), device="cpu", forecast_coef=0.0).learn(512)
    objective.refresh(moved)
    top = cached.topk(100).indices
    rest = np.setdiff1d(np.arange(300), top.numpy())
    exact = sf.ExactScorer(pool).score(moved)
    np.testing.assert_allclose(objective.scores[top].numpy(), exact[top].numpy(), rtol=1e-6)
    np.testing.assert_array_equal(objective.scores[rest].numpy(), cached[rest].numpy())


def test_objective_errors(pool, agent):
    objective = sf.ForecastObjective(sf.ExactScorer(pool), sf.ForecastLoss(60, 5))
    with pytest.raises(RuntimeError, match=r"call refresh\(model\) first"):
        objective.loss(agent)
    with pytest.raises(ValueError, match="full_every must be at least 1, got 0"):
        sf.ForecastObjective(sf.ExactScorer(pool), sf.ForecastLoss(60, 5), full_every=0)
    with pytest.raises(ValueError, match="full_every must be 1 for a scorer that cannot score single tasks, got 2"):
        sf.ForecastObjective(sf.SurvivalScorer(pool), sf.ForecastLoss(60, 5), full_every=2)
    state = objective.state_dict()
    with pytest.raises(ValueError, match=r"as many tasks as the saved forecast state \(300\), got 10"):
        sf.ForecastObjective(sf.ExactScorer(pool.subset(range(10))), sf.ForecastLoss(5, 2)).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_size": 300}, "eval_size must be below the pool size 240, got 300"),
        ({"k": 1}, "k must be at least 2, got 1"),
        ({"k": 61}, "k must be at most eval_size=60, got 61"),
        ({"forecast_coef": -1.0}, "forecast_coef must be at least 0, got -1.0"),
        ({"gradient_every": 0}, "gradient_every must be at least 1, got 0"),
        ({"scorer": "guess"}, "scorer must be .* got 'guess'"),
        ({"drawn_share": 2.0}, r"drawn_share must be in \[0, 1\], got 2.0"),
    ],
)
def test_bad_arguments_before_training(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.ForecastPPO("MlpPolicy", env(pool), **{**FORECAST, **arguments}, **SMALL_PPO)


def test_environment_without_tasks():
    with pytest.raises(ValueError, match=r"env must play a pool of tasks, got .* without one; use SeededTasks"):
        sf.ForecastPPO("MlpPolicy", "CartPole-v1", device="cpu")
    sf.ForecastPPO("MlpPolicy", "CartPole-v1", forecast_coef=0.0, n_steps=32, batch_size=32, device="cpu").learn(64)


def test_checkpoint_of_another_observation_space(agent):
    other = sfe.TaskPool(sfe.ThinIce(8, view_size=7), 100, seed=0)
    with pytest.raises(ValueError, match="observation_space of env must be that of the PPO"):
        sf.ForecastPPO.from_ppo(agent, env(other))


def test_a_loss_that_is_not_finite_stops_training(pool, agent):
    class Broken(sf.MeanFailureLoss):
        def evaluate(self, touched_scores, partitions, n_pool):
            terms = super().evaluate(touched_scores, partitions, n_pool)
            return type(terms)(
                terms.loss * float("nan"), *[getattr(terms, f) for f in ("forecast", "realised", "scale", "weights")]
            )

    model = sf.ForecastPPO.from_ppo(agent, env(pool), device="cpu", forecast_loss=Broken(), drawn_share=0.0)
    with pytest.raises(FloatingPointError, match="the forecast gradient must be finite, got norm"):
        model.learn(256)
    assert not model.policy.optimizer._optimizer_step_pre_hooks


def test_lagrangian_and_penalty(pool, tmp_path):
    model = sf.PPOLagrangian("MlpPolicy", env(pool), seed=1, multiplier=1.0, multiplier_lr=1.0, cost_limit=0.0, **SMALL_PPO)
    model.learn(512)
    assert model.multiplier > 1.0  # a new agent fails often
    model.save(tmp_path / "lagrangian.zip")
    loaded = sf.PPOLagrangian.load(tmp_path / "lagrangian.zip", env=env(pool), device="cpu")
    assert loaded.multiplier == model.multiplier
    for mine, theirs in zip(model.cost_critic.parameters(), loaded.cost_critic.parameters(), strict=True):
        assert th.equal(mine, theirs)
    loaded.learn(256)
    with pytest.raises(ValueError, match="cost_limit must be at least 0, got -1"):
        sf.PPOLagrangian("MlpPolicy", env(pool), cost_limit=-1)
    with pytest.raises(ValueError, match="penalty must be at least 0, got -1"):
        sf.CostPenalty(env(pool), -1)


@pytest.mark.slow
def test_lagrangian_makes_a_new_agent_safer(pool):
    failures = []
    for multiplier in (0.0, 5.0):
        model = sf.PPOLagrangian("MlpPolicy", env(pool), seed=1, multiplier=multiplier, multiplier_lr=0.0, **SMALL_PPO).learn(
            30_000
        )
        failures.append(sf.ExactScorer(pool).outcomes(model).failure.mean())
    assert failures[1] < 0.7 * failures[0]


def test_lagrangian_with_multiplier_zero_is_ppo(pool):
    ppo = PPO("MlpPolicy", env(pool), seed=5, **SMALL_PPO)
    ours = sf.PPOLagrangian("MlpPolicy", env(pool), seed=5, multiplier=0.0, multiplier_lr=0.0, **SMALL_PPO)
    ours.policy.load_state_dict(ppo.policy.state_dict())
    for model in (ppo, ours):
        set_random_seed(0)  # SB3's buffers shuffle with the global generator
        model.learn(512)
    assert th.equal(parameters(ppo), parameters(ours))


def test_penalty_changes_rewards_by_the_cost(pool):
    plain, penalised = env(pool), sf.CostPenalty(env(pool), 4.0)
    plain.reset()
    penalised.reset()
    total = 0.0
    for actions in np.random.default_rng(0).integers(0, 3, (200, 8)):
        _, reward, _, infos = plain.step(actions)
        _, other, _, _ = penalised.step(actions)
        costs = np.array([info["cost"] for info in infos])
        np.testing.assert_allclose(other, reward - 4.0 * costs)
        total += costs.sum()
    assert total > 0


def test_callback_alone_logs_costs_of_other_algorithms(pool):
    model = A2C("MlpPolicy", env(pool), device="cpu", seed=0)
    model.set_logger(Logger(None, []))
    model.learn(400, callback=sf.ForecastCallback(None), log_interval=10**9)
    assert 0 <= model.logger.name_to_value["rollout/ep_cost_mean"] <= 1


class Counting(BaseCallback):
    """Counts how often it is initialised."""

    count = 0

    def _init_callback(self):
        self.count += 1

    def _on_step(self):
        return True


@pytest.mark.parametrize("algorithm", [sf.ForecastPPO, sf.PPOLagrangian])
def test_user_callbacks_are_initialised_once(pool, algorithm):
    arguments = FORECAST if algorithm is sf.ForecastPPO else {}
    callback = Counting()
    algorithm("MlpPolicy", env(pool), **arguments, **SMALL_PPO).learn(128, callback=callback)
    assert callback.count == 1
    assert callback.num_timesteps == 128


def test_drawn_tasks_end_with_the_training(pool):
    vec = sfe.GridVecEnv(pool, 8, seed=0)
    sf.ForecastPPO("MlpPolicy", vec, seed=1, **FORECAST, **SMALL_PPO).learn(256)
    assert vec.sampler._cumulative is None


def test_another_pool_of_the_same_size_starts_afresh(pool, tmp_path):
    model = sf.ForecastPPO("MlpPolicy", env(pool), seed=1, **FORECAST, **SMALL_PPO).learn(256)
    model.save(tmp_path / "model.zip")
    other = sfe.TaskPool("ThinIce-8x8", 300, seed=9, rare_fraction=0.1)
    loaded = sf.ForecastPPO.load(tmp_path / "model.zip", env=env(other), device="cpu").learn(128, reset_num_timesteps=False)
    assert loaded.objective.n_refreshes == 1
    # the same tasks in another object, as from a subprocess, go on
    same = sfe.TaskPool("ThinIce-8x8", 300, seed=1, rare_fraction=0.1)
    again = sf.ForecastPPO.load(tmp_path / "model.zip", env=env(same), device="cpu").learn(128, reset_num_timesteps=False)
    assert again.objective.n_refreshes == model.objective.n_refreshes + 1
    with pytest.raises(ValueError, match="scorer must score the tasks of the pool"):
        sf.evaluate_forecast(model, other, 60, k=5, scorer=sf.ExactScorer(pool))


def test_costs_are_needed():
    with pytest.raises(ValueError, match=r"env must report info\['cost'\] at every step for PPOLagrangian"):
        sf.PPOLagrangian("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, device="cpu").learn(32)
