"""Whatever acts, is scored as it acts: normalised observations, masks, other algorithms, schedules."""

import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.baselines.mean_failure import MeanFailureLoss
from sb3_forecast.scorers.actor import Actor
from sb3_forecast.training.injection import _HOOKS
from tests.conftest import SMALL_PPO

FORECAST = {"eval_size": 60, "k": 5, "n_partitions": 32, "gradient_every": 2}


@pytest.fixture(scope="module")
def few(pool):
    """Four of the tasks, two of them rare."""
    return pool.subset(np.concatenate([np.flatnonzero(pool.rare)[:2], np.flatnonzero(~pool.rare)[:2]]))


def agrees(model, few, env=None, episodes=1500):
    """Exact probabilities are those of the episodes that the model plays in its own environment."""
    exact = sf.ExactScorer(few).outcomes(model).failure
    counts = sf.FrequencyScorer(few, episodes, seed=1, env=env, n_envs=64).failures(model)
    spread = np.sqrt(exact * (1 - exact) / episodes)
    np.testing.assert_array_less(np.abs(counts / episodes - exact), 4.5 * spread + 1e-3)
    assert exact.max() > 0.001


def test_normalised_observations(pool, few):
    env = VecNormalize(sfe.GridVecEnv(pool, 16, seed=1))
    model = PPO("MlpPolicy", env, seed=0, **SMALL_PPO).learn(20_000)
    agrees(model, few)  # the scorer's own environments, with the model's statistics
    own = VecNormalize(sfe.GridVecEnv(few, 64, seed=2))
    own.obs_rms = env.obs_rms
    agrees(model, few, own)
    assert own.training
    assert not np.allclose(
        sf.ExactScorer(few).outcomes(model).failure,
        sf.ExactScorer(few).outcomes(PPO_without_statistics(model, few)).failure,
    )


def PPO_without_statistics(model, few):
    bare = PPO("MlpPolicy", sfe.GridVecEnv(few, 4), seed=0, **SMALL_PPO)
    bare.policy.load_state_dict(model.policy.state_dict())
    return bare


def test_fine_tuning_with_normalised_observations(pool):
    env = VecNormalize(sfe.GridVecEnv(pool, 8, seed=3))
    model = sf.ForecastPPO("MlpPolicy", env, seed=1, **FORECAST, **SMALL_PPO).learn(512)
    assert model.objective.n_refreshes == 4
    fresh = sf.ExactScorer(pool).score(model)
    assert not th.isnan(fresh).any()


def test_frame_stacks_are_refused_by_exact_scores_and_counted(pool, few):
    env = VecFrameStack(sfe.GridVecEnv(few, 8), 2)
    with pytest.raises(ValueError, match=r"must fit the model's observation_space .*, got shape \(125,\)"):
        sf.ForecastPPO("MlpPolicy", VecFrameStack(sfe.GridVecEnv(pool, 4), 2), validation_share=0.0, **FORECAST, **SMALL_PPO)
    model = PPO("MlpPolicy", env, seed=0, **SMALL_PPO)
    counts = sf.FrequencyScorer(few, 50, env=env).failures(model)
    assert counts.shape == (4,)
    assert counts.sum() > 0


def test_masks_are_those_of_the_environment(pool):
    """Both environments mask what the compact view says, and a masked action would have changed nothing."""
    vec = sfe.GridVecEnv(pool, 4, seed=0)
    single = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 4, seed=0, env_kwargs={"pool": pool})
    vec.reset()
    single.seed(0)
    single.reset()
    generator = np.random.default_rng(0)
    blocked = 0
    for _ in range(200):
        masks = np.stack(vec.env_method("action_masks"))
        np.testing.assert_array_equal(masks, np.stack(single.env_method("action_masks")))
        before = vec.pos.copy(), vec.direction.copy()
        actions = generator.integers(0, 3, 4)
        _, _, dones, _ = vec.step(actions)
        single.step(actions)
        for i in range(4):
            if not masks[i, actions[i]] and not dones[i]:
                blocked += 1
                assert (vec.pos[i], vec.direction[i]) == (before[0][i], before[1][i])
    assert blocked > 10


def test_masks_of_keys_and_doors():
    pool = sfe.TaskPool("Vault-8x8", 20, seed=0)
    vec = sfe.GridVecEnv(pool, 16, seed=0)
    vec.reset()
    family, generator = pool.family, np.random.default_rng(0)
    useful = dict.fromkeys(family.actions, 0)
    for _ in range(300):
        masks = vec.action_masks()
        for name, allowed in zip(family.actions, masks.T, strict=True):
            useful[name] += int(allowed.sum())
        before = vec._played.copy(), vec.load.copy(), vec.pos.copy(), vec.direction.copy()
        actions = generator.integers(0, family.n_actions, 16)
        _, _, dones, _ = vec.step(actions)
        changed = (
            (vec._played != before[0]).any(axis=1)
            | (vec.load != before[1])
            | (vec.pos != before[2])
            | (vec.direction != before[3])
        )
        np.testing.assert_array_equal(changed[~dones], masks[np.arange(16), actions][~dones])
    assert min(useful.values()) > 0


def test_maskable_ppo(pool, few):
    env = sfe.GridVecEnv(pool, 16, seed=1)
    model = MaskablePPO("MlpPolicy", env, seed=0, **SMALL_PPO).learn(10_000)
    agrees(model, few)
    with pytest.raises(ValueError, match="masks must be given for a model with masked actions, got None"):
        Actor(model, 3).log_probabilities(env.reset())


@pytest.mark.parametrize("algorithm", [A2C, *(pytest.param(a, marks=pytest.mark.slow) for a in (TRPO, MaskablePPO))])
def test_the_callback_trains_other_algorithms(pool, algorithm):
    """With the callback's gradient the pool fails less than without."""
    failures = []
    for coef in (0.0, 3.0):
        settings = {"n_steps": 16, "device": "cpu", "learning_rate": 1e-3} | ({} if algorithm is A2C else {"batch_size": 64})
        model = algorithm("MlpPolicy", sfe.GridVecEnv(pool, 16, seed=1), seed=0, **settings)
        objective = sf.ForecastObjective(sf.ExactScorer(pool), MeanFailureLoss())
        callback = sf.ForecastCallback(objective, drawn_share=0.25, forecast_coef=coef, gradient_every=2)
        model.set_logger(Logger(None, []))
        model.learn(6_000, callback=callback)
        assert model.policy.optimizer not in _HOOKS
        failures.append(sf.ExactScorer(pool).outcomes(model).failure.mean())
    assert failures[1] < 0.8 * failures[0]


def test_the_callback_is_forecast_ppo(pool):
    """Attached to PPO it gives what ForecastPPO gives, bit for bit."""

    def settings():
        return {"policy": "MlpPolicy", "env": VecMonitor(sfe.GridVecEnv(pool, 8, seed=3)), "seed": 1, **SMALL_PPO}

    plain = {"forecast_kind": "guarded", "validation_share": 0.0}
    ours = sf.ForecastPPO(**settings(), **FORECAST, **plain, forecast_coef=0.3, p_floor=1e-6, full_every=1).learn(512)
    theirs = PPO(**settings())
    objective = sf.ForecastObjective(sf.ExactScorer(pool), sf.ForecastLoss(60, 5, 32, p_floor=1e-6), seed=1)
    theirs.learn(512, callback=sf.ForecastCallback(objective, 0.25, forecast_coef=0.3, gradient_every=2))
    assert all(th.equal(a, b) for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True))


def test_off_policy_algorithms_are_refused_by_the_callback(pool):
    model = DQN("MlpPolicy", sfe.GridVecEnv(pool, 1), device="cpu", buffer_size=100)
    objective = sf.ForecastObjective(sf.ExactScorer(pool), MeanFailureLoss())
    with pytest.raises(ValueError, match=r"model must be an on-policy algorithm .*, got DQN"):
        model.learn(10, callback=sf.ForecastCallback(objective, forecast_coef=0.3))


def test_coefficients_by_schedule(pool):
    """A schedule that is 0 leaves PPO alone, one that falls to 0 is logged falling."""

    def learn(coef, steps=768):
        model = sf.ForecastPPO(
            "MlpPolicy",
            sfe.GridVecEnv(pool, 8, seed=3),
            seed=1,
            forecast_coef=coef,
            drawn_share=0.0,
            validation_share=0.0,
            **FORECAST,
            **SMALL_PPO,
        )
        logged = []
        logger = Logger(None, [])
        original = logger.dump
        logger.dump = lambda step=0: (logged.append(dict(logger.name_to_value).get("forecast/coef")), original(step))
        model.set_logger(logger)
        model.learn(steps)
        return th.cat([p.detach().flatten() for p in model.policy.parameters()]), [c for c in logged if c is not None]

    plain, _ = learn(0.0)
    nothing, _ = learn(lambda progress: 0.0)
    assert th.equal(plain, nothing)
    falling, coefficients = learn(LinearSchedule(1.0, 0.0, 1.0))
    assert not th.equal(plain, falling)
    assert coefficients == sorted(coefficients, reverse=True)
    assert coefficients[-1] < 0.5 < coefficients[0]
    with pytest.raises(ValueError, match=r"forecast_coef must be at least 0, got -1\.0 from the schedule"):
        learn(lambda progress: -1.0)


def test_recurrent_agents_are_counted(few):
    model = RecurrentPPO("MlpLstmPolicy", sfe.GridVecEnv(few, 4), n_steps=16, batch_size=32, seed=0, device="cpu").learn(256)
    with pytest.raises(ValueError, match=r"model must act without a memory for .*, got RecurrentPPO"):
        sf.ExactScorer(few).score(model)
    scorer = sf.FrequencyScorer(few, 20, n_envs=7)
    first, again = scorer.score(model), scorer.score(model)
    assert th.equal(first, again)
    assert th.isfinite(first).all()


def test_counts_do_not_depend_on_the_order_of_ending(pool, few):
    """Every task gets its episodes, whichever environment plays them; both environments play the same tasks."""
    model = PPO("MlpPolicy", sfe.GridVecEnv(few, 4), seed=0, **SMALL_PPO)
    for n_envs in (3, 64):
        counts = sf.FrequencyScorer(few, 400, n_envs=n_envs, seed=5)
        exact = sf.ExactScorer(few).outcomes(model)
        spread = np.sqrt(exact.failure * (1 - exact.failure) / 400)
        assert (np.abs(counts.failures(model) / 400 - exact.failure) < 4.5 * spread + 1e-3).all()
        assert np.abs(counts.success() - exact.success).max() < 0.12
    single = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 5, env_kwargs={"pool": few})
    episodes = sf.play(model, single, np.arange(4).repeat(3), seed=0)
    assert episodes.failed.shape == (12,)
    assert (episodes.lengths >= 1).all()


@pytest.mark.slow
def test_subprocesses(few):
    model = PPO("MlpPolicy", sfe.GridVecEnv(few, 4), seed=0, **SMALL_PPO)
    env = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 2, env_kwargs={"pool": few}, vec_env_cls=SubprocVecEnv)
    same = make_vec_env("SB3Forecast/ThinIce-8x8-v0", 2, env_kwargs={"pool": few})
    counts = [sf.FrequencyScorer(few, 5, env=each).failures(model) for each in (env, same)]
    env.close()
    np.testing.assert_array_equal(*counts)
