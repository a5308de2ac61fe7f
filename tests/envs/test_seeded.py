"""Existing MiniGrid environments as pools."""

import functools
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from minigrid.wrappers import FlatObsWrapper, FullyObsWrapper, ImgObsWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.files import save_arrays
from sb3_forecast.scorers.make import make_measuring_scorer, make_scorer
from sb3_forecast.scorers.tasks_of import tasks_of
from sb3_forecast_envs.seeded.exploration import Step
from sb3_forecast_envs.seeded.identity import fingerprint

TESTED = ["LavaCrossingS9N1", "LavaGapS5", "DistShift1", "DoorKey-5x5", "SimpleCrossingS9N1"]


@pytest.fixture
def make(tmp_path):
    return lambda id_, n_tasks=2, **kwargs: sfe.SeededTasks(id_, n_tasks, cache_dir=tmp_path, **kwargs)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("sb3_forecast_envs.seeded.model.BLOCK", 2)


@pytest.mark.parametrize(("id_", "module", "extra"), [("Hopper-v5", "mujoco", "mujoco"), ("LunarLander-v3", "Box2D", "box2d")])
def test_a_simulator_that_is_not_installed(monkeypatch, id_, module, extra):
    """Modules of Gymnasium that an earlier test has imported are imported again."""
    for name in [name for name in sys.modules if name.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"got '{id_}' .*; use pip install 'sb3-forecast\[{extra}\]'$"):
        sfe.SeededTasks(id_, 3, failed=sfe.ended_early)


@pytest.mark.parametrize("name", TESTED)
def test_finite_model_predicts_real_episodes(name, make):
    """Random episodes of the real environment, followed step by step in the explored tables."""
    tasks = make(f"MiniGrid-{name}-v0")
    model = tasks.finite_model()
    first, successors, views, chances = model.tables(np.arange(2))
    observations = model.observations(views)
    assert chances.shape == (0, 7)
    env, rng, ends = tasks.make_env(), np.random.default_rng(0), set()
    for episode in range(30):
        observation, _ = env.reset(seed=episode, options={"task": episode % 2})
        state = base = first[episode % 2]
        done = False
        while not done:
            np.testing.assert_array_equal(observation, observations[state])
            action = rng.choice(7, p=[0.15, 0.15, 0.4, 0.1, 0.05, 0.1, 0.05])
            observation, _, terminated, truncated, info = env.step(action)
            following = successors[state, action]
            done = terminated or truncated
            assert terminated == (following < 0)
            assert info["cost"] == (following == -2)
            if terminated:
                assert info["is_success"] == (following == -1)
                ends.add(int(following))
            state = base + following
    assert (-2 in ends) == ("Lava" in name or "DistShift" in name)


def test_wrappers_with_a_state_of_their_own_allow_counting_only(make):
    tasks = make(lambda: _Cycled(ImgObsWrapper(gym.make("MiniGrid-LavaGapS5-v0"))))
    assert tasks.scorers == ("episodes", "frequency", "splitting")
    with pytest.raises(
        ValueError, match=r"got none: wrappers must only change observations, got _Cycled.*use scorer='frequency'"
    ):
        tasks.finite_model()
    model = PPO("MlpPolicy", tasks.make_vec_env(2), n_steps=8, batch_size=8, device="cpu", seed=0)
    assert isinstance(make_measuring_scorer("auto", tasks, model, counting={"episodes": 2}), sf.FrequencyScorer)


def test_success_is_what_the_user_says_or_unknown():
    def last_info(**arguments):
        env = sfe.SeededTasks("CartPole-v1", 2, failed=sfe.ended_early, **arguments).make_env()
        env.reset(seed=0)
        ended = False
        while not ended:
            *_, terminated, truncated, info = env.step(0)
            ended = terminated or truncated
        return info

    assert "is_success" not in last_info()
    assert last_info(succeeded=lambda step: True)["is_success"] is False  # a failed episode is none
    tasks = sfe.SeededTasks("CartPole-v1", 2, failed=lambda step: False, succeeded=lambda step: step.terminated)
    again = pickle.loads(pickle.dumps(tasks))
    assert again.succeeded(Step(None, 1.0, True, False, {}))


def test_steps_at_random_are_counted_and_the_reason_is_told(make):
    tasks = make("MiniGrid-Dynamic-Obstacles-5x5-v0", 3)
    model = PPO("MlpPolicy", tasks.make_vec_env(2), n_steps=8, batch_size=8, device="cpu", seed=0)
    scorer = make_measuring_scorer("auto", tasks, model, counting={"episodes": 2})
    assert isinstance(scorer, sf.FrequencyScorer)
    assert "must have deterministic steps without hidden state for exact scores" in scorer.reason


def test_an_environment_that_another_tool_made_plays_tasks():
    env = sfe.PlayTasks(
        gym.make("MiniGrid-LavaGapS5-v0"), n_tasks=5, first_seed=3, wrappers=["minigrid.wrappers:ImgObsWrapper"],
        failed="sb3_forecast_envs:ended_early",
    )  # fmt: skip
    assert list(env.pool.seeds) == [3, 4, 5, 6, 7]
    observation, info = env.reset(options={"task": 2})
    np.testing.assert_array_equal(observation, ImgObsWrapper(gym.make("MiniGrid-LavaGapS5-v0")).reset(seed=5)[0])
    assert info["task"] == 2
    assert tasks_of(DummyVecEnv([lambda: env])) is env.pool
    ended = False
    while not ended:
        *_, terminated, truncated, info = env.step(2)
        ended = terminated or truncated
    assert info["cost"] == float(terminated)
    assert info["episode"]["l"] > 0
    shorter = sfe.PlayTasks(gym.make("Pendulum-v1", g=2.0, max_episode_steps=7), n_tasks=2, failed=sfe.ended_early)
    assert (shorter.unwrapped.g, shorter.spec.max_episode_steps) == (2.0, 7)
    with pytest.raises(ValueError, match=r"env must have no wrappers, which are made anew, got \['ImgObsWrapper'\]"):
        sfe.PlayTasks(ImgObsWrapper(gym.make("MiniGrid-LavaGapS5-v0")))
    with pytest.raises(ValueError, match="failed must name a function or class, got 'os:nothing'"):
        sfe.PlayTasks(gym.make("CartPole-v1"), failed="os:nothing")


class _Cycled(gym.Wrapper):
    """A wrapper of which nothing is known."""


def test_cache_is_used_written_atomically_and_checked(make, tmp_path, monkeypatch):
    tasks = make("MiniGrid-LavaGapS5-v0", 6)
    whole = tasks.finite_model().tables(np.arange(6))
    files = sorted(path.name for path in tmp_path.glob("seeded-*/*"))
    assert files == ["seeds-0-1.npz", "seeds-2-3.npz", "seeds-4-5.npz"]
    explored = []
    monkeypatch.setattr("sb3_forecast_envs.seeded.model.explore_episode", lambda *a: explored.append(a))
    again = make("MiniGrid-LavaGapS5-v0", 6).finite_model().tables(np.arange(6))
    assert not explored
    for mine, theirs in zip(whole, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # another definition of failure, another folder
    with pytest.raises(TypeError):
        make("MiniGrid-LavaGapS5-v0", 6, failed=lambda step: False).finite_model().tables(np.arange(1))
    assert explored
    # a file of an environment that has changed since
    folder = tasks.finite_model().folder
    with np.load(folder / "seeds-0-1.npz") as file:
        content = {name: file[name] for name in ("first", "successors")} | {"views": file["views"] ^ 1}
    save_arrays(folder / "seeds-0-1.npz", content)
    with pytest.raises(ValueError, match="the environment's code has changed; delete that folder"):
        tasks.finite_model().tables(np.arange(1))


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_cache_is_named_set_aside_and_made_again(make, tmp_path, damage):
    tasks = make("MiniGrid-LavaGapS5-v0", 2)
    whole = tasks.finite_model().tables(np.arange(2))
    path = next(tmp_path.glob("seeded-*/seeds-0-1.npz"))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with np.load(path) as file:
            np.savez(path, **{**file, "successors": file["successors"] + 1})
    with pytest.warns(
        UserWarning, match=r"seeds-0-1\.npz are damaged .*: they are set aside as seeds-0-1\.damaged and made again"
    ):
        again = tasks.finite_model().tables(np.arange(2))
    for mine, theirs in zip(whole, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert path.exists()
    assert path.with_suffix(".damaged").exists()


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        (lambda step: step.truncated, r"timeout_fails must be True where .* reaches its time limit, got False at step \d+"),
        (lambda step: step.env.unwrapped.agent_dir == 1, r"where an episode ends.*got True in the middle, at step \d+"),
    ],
)
def test_failures_that_exact_scores_cannot_see_are_refused(make, failed, message):
    tasks = make("MiniGrid-LavaGapS5-v0", 2, failed=failed)
    with pytest.raises(ValueError, match=message):
        sf.ExactScorer(tasks)


def test_an_observation_that_depends_on_time_is_refused(make):
    class Clock(gym.ObservationWrapper):
        def observation(self, observation):
            return (observation + self.unwrapped.step_count).astype(np.uint8)

    tasks = make(lambda: Clock(ImgObsWrapper(gym.make("MiniGrid-LavaGapS5-v0"))), 2)
    with pytest.raises(ValueError, match=r"must show what the environment shows, got another observation at step \d+"):
        sf.ExactScorer(tasks)


def test_ids_of_our_own_families(make):
    tasks = make("SB3Forecast/ThinIce-8x8-v0", 3, failed=sfe.ended_without_reward)
    env = tasks.make_vec_env(2)
    assert env.reset().shape == (2, *env.observation_space.shape)


def limited(limit):
    return lambda step: step.reward < limit


LIMIT = 3.0


def below_the_global(step):
    return step.reward < LIMIT


class Counter:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, step):
        return bool(step.reward < self.weights.sum())


def test_pools_are_told_apart_by_what_their_functions_do(monkeypatch):
    """By the code, what it closes over, what it calls and the global values that it reads; not by name and line."""

    def key(failed, env="CartPole-v1"):
        return sfe.SeededTasks(env, 3, failed=failed).key

    assert key(limited(1.0)) == key(limited(1.0))
    assert key(limited(1.0)) != key(limited(2.0))
    assert key(lambda step: step.reward < 1) != key(lambda step: step.reward < 2)
    assert key(functools.partial(limited, 1.0)) != key(functools.partial(limited, 2.0))
    assert key(Counter(np.ones(3))) == key(Counter(np.ones(3)))
    assert key(Counter(np.ones(3))) != key(Counter(np.ones(4)))
    before = key(below_the_global)
    monkeypatch.setitem(below_the_global.__globals__, "LIMIT", 4.0)
    assert key(below_the_global) != before
    with_speed = [lambda speed=speed: gym.make("MountainCarContinuous-v0", goal_velocity=speed) for speed in (0.0, 0.1)]
    keys = [sfe.SeededTasks(make_env, 3, failed=limited(1.0)).key for make_env in with_speed]
    assert keys[0] != keys[1]
    wrapped = sfe.SeededTasks(lambda: gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1")), 3, failed=limited(1.0))
    assert wrapped.key != key(limited(1.0))
    # the same after pickling, and in another process
    assert pickle.loads(pickle.dumps(wrapped)).key == wrapped.key
    code = (
        "from tests.envs.test_seeded import limited; from sb3_forecast_envs.seeded.identity import fingerprint; "
        "print(fingerprint(limited(1.0)))"
    )
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip() == fingerprint(limited(1.0))


def test_what_does_not_say_what_it_is_needs_a_name():
    generator = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match=r"identity must be given, because env or failed holds an object .*Generator, got None"
    ):
        sfe.SeededTasks("CartPole-v1", 3, failed=lambda step: generator.random() < 0.5)
    named = [sfe.SeededTasks("CartPole-v1", 3, failed=lambda step: generator.random() < 0.5, identity=name) for name in "ab"]
    assert named[0].key != named[1].key


def test_a_killed_exploration_leaves_whole_files_only(make, tmp_path, monkeypatch):
    from sb3_forecast_envs.seeded import model as seeded_model

    real, calls = seeded_model.explore_episode, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(seeded_model, "explore_episode", interrupted)
    tasks = make("MiniGrid-LavaGapS5-v0", 4)
    with pytest.raises(KeyboardInterrupt):
        tasks.finite_model().tables(np.arange(4))
    assert [path.name for path in tmp_path.glob("seeded-*/*")] == ["seeds-0-1.npz"]
    tasks.finite_model().tables(np.arange(4))
    assert len(calls) == 6


@pytest.mark.parametrize("wrapper", [ImgObsWrapper, lambda env: ImgObsWrapper(FullyObsWrapper(env)), FlatObsWrapper])
def test_training_and_forecast_on_lava_crossing(make, wrapper):
    tasks = make(lambda: wrapper(gym.make("MiniGrid-LavaGapS5-v0")), 20)
    env = make_vec_env(tasks.make_env, n_envs=4, seed=0)
    model = sf.ForecastPPO("MlpPolicy", env, n_steps=64, batch_size=64, eval_size=8, k=3, seed=0, device="cpu").learn(512)
    report = sf.evaluate_forecast(model, tasks, eval_size=8, n_splits=10, k=3)
    assert np.isfinite(report.error.mean_abs)
    assert 0.0 < report.mean_failure < 1.0


def test_timeouts_can_count_as_failures(make):
    """In DoorKey nothing kills; failing is not getting there in time."""
    tasks = make("MiniGrid-DoorKey-5x5-v0", 2, timeout_fails=True)
    model = PPO("MlpPolicy", make_vec_env(tasks.make_env, n_envs=1), n_steps=16, batch_size=16, seed=0, device="cpu")
    late = sf.ExactScorer(tasks).outcomes(model)
    np.testing.assert_allclose(late.failure, 1.0 - late.success, rtol=1e-9)
    assert (late.failure > 0.5).all()
    never = sf.ExactScorer(make("MiniGrid-DoorKey-5x5-v0", 2)).outcomes(model)
    assert (never.failure == 0.0).all()
    np.testing.assert_allclose(never.success, late.success, rtol=1e-12)
    env = tasks.make_env()
    env.reset(options={"task": 0})
    while True:
        _, _, terminated, truncated, info = env.step(6)
        if terminated or truncated:
            break
    assert info["cost"] == 1.0
    assert not info["is_success"]
    # and their gradient
    scorer = sf.ExactScorer(tasks, rescoring="exact")
    (score,) = scorer.rescore(model, np.array([0]))
    score.backward()
    bias = model.policy.action_net.bias
    values = []
    for step in (1e-2, -2e-2):
        bias.data[2] += step
        values.append(scorer.score(model, np.array([0])).item())
    assert bias.grad[2].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=0.05)


def test_seeds_decide_the_start_and_nothing_else(make):
    tasks = make("MiniGrid-LavaCrossingS9N1-v0", 10, first_seed=100)
    env = tasks.make_env()
    observation, info = env.reset(seed=0, options={"task": 7})
    reference, _ = gym.make("MiniGrid-LavaCrossingS9N1-v0").reset(seed=107)
    np.testing.assert_array_equal(observation, reference["image"])
    assert info["task"] == 7
    luck = [env.reset(options={"task": 7}) and env.unwrapped.np_random.random() for _ in range(2)]
    assert luck[0] != luck[1]
    assert len(tasks.subset([3, 4])) == 2
    assert tasks.subset([3]).seeds[0] == 103
    assert tasks.key != tasks.subset(range(9)).key
    assert pickle.loads(pickle.dumps(tasks)).key == tasks.key


def test_tasks_of_functions_written_on_the_spot_can_be_pickled():
    import gymnasium as gym

    limit = 30
    tasks = sfe.SeededTasks(lambda: gym.make("CartPole-v1", max_episode_steps=limit), 5, failed=lambda step: step.terminated)
    again = pickle.loads(pickle.dumps(tasks))
    assert again.make().spec.max_episode_steps == limit
    assert again.key == tasks.key
    assert len(again.subset([1, 2])) == 2


def test_other_environments_have_no_finite_model():
    tasks = sfe.SeededTasks("CartPole-v1", 5, failed=lambda step: step.terminated)
    assert tasks.scorers == ("episodes", "frequency", "splitting")
    with pytest.raises(ValueError, match="need a finite model, got none: CartPoleEnv is not a MiniGrid environment"):
        tasks.finite_model()
    with pytest.raises(ValueError, match=r"must be one that the pool can serve ..episodes', 'frequency'"):
        make_scorer("exact", tasks)


def test_costs_that_are_not_reported():
    env = sfe.SeededTasks("CartPole-v1", 5).make_env()
    env.reset()
    with pytest.raises(KeyError, match="info must have the key 'cost', got none; use failed="):
        env.step(0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda make: make("MiniGrid-LavaGapS5-v0", 0), "n_tasks must be at least 1, got 0"),
        (lambda make: make("MiniGrid-LavaGapS5-v0", 5, first_seed=-1), "first_seed must be at least 0, got -1"),
        (lambda make: make("MiniGrid-LavaGapS5-v0", 5, max_states=0), "max_states must be at least 1, got 0"),
        (lambda make: make("MiniGrid-LavaGapS5-v0", 5, rare=[True]), r"rare must have the shape \(5,\), got \(1,\)"),
        (lambda make: make(7, 5), "env must be an id or a function, got 7"),
        (lambda make: make("MiniGrid-LavaGapS5-v0", 5).subset([9]), "tasks must be from 0 to 4"),
        (lambda make: make("MiniGrid-LavaGapS5-v0", 5).subset([]), "indices must select at least one task"),
        (
            lambda make: make(lambda: gym.make("MiniGrid-LavaGapS5-v0"), 5).finite_model(),
            "observations must be one array, got Dict",
        ),
        (
            lambda make: make("MiniGrid-Dynamic-Obstacles-5x5-v0").finite_model().tables(np.arange(1)),
            "got a step that draws random numbers",
        ),
        (
            lambda make: make("MiniGrid-DoorKey-5x5-v0", max_states=50).finite_model().tables(np.arange(1)),
            "state space too large: a task of DoorKeyEnv must have at most max_states=50 states",
        ),
    ],
)
def test_bad_input(build, message, make):
    with pytest.raises(ValueError, match=message):
        build(make)


class SixValues(gym.Env):
    """As Safety-Gymnasium's environments: the cost is a value of its own. Action 1 costs, from the third step on."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.steps += 1
        cost = float(action == 1 and self.steps >= 3)
        return np.full(1, self.steps / 5, dtype=np.float32), 1.0, cost, False, self.steps >= 5, {"note": 7}


def test_a_cost_beside_the_reward():
    env = sfe.CostInInfo(SixValues())
    env.reset(seed=0)
    costs = []
    for _ in range(5):
        _, reward, terminated, truncated, info = env.step(1)
        assert (reward, terminated, info["note"]) == (1.0, False, 7)
        costs.append(info["cost"])
    assert costs == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert truncated
    check_env(sfe.CostInInfo(SixValues()))
    tasks = sfe.SeededTasks(lambda: sfe.CostInInfo(SixValues()), n_tasks=4)
    model = PPO("MlpPolicy", tasks.make_vec_env(2), n_steps=16, batch_size=32, seed=0, device="cpu")
    frequency = sf.FrequencyScorer(tasks, episodes=50).failures(model) / 50
    # one of three moves at random
    assert (np.abs(frequency - 0.875) < 0.2).all()
    five = sfe.CostInInfo(gym.make("CartPole-v1"))
    five.reset(seed=0)
    with pytest.raises(ValueError, match="must return six values, the cost among them, got 5"):
        five.step(0)
