import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from minigrid.core.world_object import WorldObj
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe

IDS = sorted(id_ for id_ in gym.registry if id_.startswith("SB3Forecast/") and "CartPole" not in id_)


def test_registered():
    names = ("ThinIce", "Bridge", "Decoy", "Vault", "Wind")
    assert {f"SB3Forecast/{name}-{size}x{size}-v0" for name in names for size in (8, 12)} <= set(IDS)


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("observation", [None, "minigrid"])
def test_checkers(id_, observation):
    pool = sfe.TaskPool(id_, 20, seed=0)
    env = gym.make(id_, pool=pool, observation=observation)
    # its render check opens a window; pictures have a test of their own
    gymnasium_check_env(env.unwrapped, skip_render_check=True)
    if observation is None:
        sb3_check_env(env)
        sb3_check_env(env.unwrapped)


@pytest.mark.parametrize("id_", IDS)
def test_task_on_request_and_info(id_):
    env = gym.make(f"sb3_forecast_envs:{id_}", pool=sfe.TaskPool(id_, 20, seed=0))
    _, info = env.reset(seed=1, options={"task": 17})
    assert info["task"] == 17
    done = False
    while not done:
        _, _, terminated, truncated, info = env.step(2)
        done = terminated or truncated
        assert info["task"] == 17
        assert info["cost"] in (0.0, 1.0)
        assert ("is_success" in info) == done
    assert not (info["cost"] and info["is_success"])
    with pytest.raises(ValueError, match=r"options\['task'\] must be in \[0, 19\], got 20"):
        env.reset(options={"task": 20})


def test_pickle_keeps_the_episode():
    env = gym.make(IDS[1], pool=sfe.TaskPool(IDS[1], 20, seed=0)).unwrapped
    env.reset(seed=3)
    env.step(2)
    copy = pickle.loads(pickle.dumps(env))
    for action in (1, 2, 2, 0, 2):
        for mine, theirs in zip(env.step(action), copy.step(action), strict=True):
            np.testing.assert_equal(mine, theirs)


def test_rendering_shows_the_hazard():
    pool = sfe.TaskPool("ThinIce-8x8", 200, seed=0, rare_fraction=0.5)
    env = gym.make("SB3Forecast/ThinIce-8x8-v0", pool=pool, render_mode="rgb_array")
    env.reset(options={"task": int(np.flatnonzero(pool.rare)[0])})
    icy = env.render()
    env.reset(options={"task": int(np.flatnonzero(~pool.rare)[0])})
    lava = env.render()
    pale, red = np.array([176, 224, 246]), np.array([255, 128, 0])
    assert icy.shape == lava.shape
    assert (icy == pale).all(-1).any()
    assert not (lava == pale).all(-1).any()
    assert (lava == red).all(-1).any()


def test_weighted_tasks_are_the_same_in_both_environments():
    pool = sfe.TaskPool("ThinIce-8x8", 50, seed=0)
    weights = np.zeros(50)
    weights[[3, 30]] = 1.0, 3.0
    vec = sfe.GridVecEnv(pool, 4, seed=5)
    vec.env_method("set_task_weights", weights, 0.5)
    drawn = []
    for _ in range(500):
        vec.reset()
        drawn.extend(vec.tasks.tolist())
    counts = np.bincount(drawn, minlength=50) / len(drawn)
    assert counts[30] == pytest.approx(0.01 + 0.375, abs=0.04)
    assert counts[3] == pytest.approx(0.01 + 0.125, abs=0.03)
    single = gym.make("SB3Forecast/ThinIce-8x8-v0", pool=pool).unwrapped
    single.set_task_weights(weights, 0.5)
    first = [single.reset(seed=5)[1]["task"]] + [single.reset()[1]["task"] for _ in range(99)]
    assert first == drawn[0::4][:100]
    with pytest.raises(ValueError, match=r"weights must be 50 finite numbers of at least 0, got an array of shape \(3,\)"):
        vec.set_task_weights(np.ones(3))
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 2"):
        vec.set_task_weights(np.ones(50), 2)


def test_vec_env_contract():
    pool = sfe.TaskPool("ThinIce-8x8", 50, seed=0)
    vec = sfe.GridVecEnv(pool, 3, seed=0, render_mode="rgb_array")
    vec.reset()
    assert vec.render().shape == (2 * 256, 2 * 256, 3)
    assert vec.get_attr("pool") == [pool] * 3
    assert vec.get_attr("pool", indices=[0]) == [pool]
    assert vec.has_attr("pool")
    assert not vec.has_attr("nonsense")
    vec.seed(7)
    first = vec.reset()
    vec.seed(7)
    np.testing.assert_array_equal(first, vec.reset())
    vec.set_options({"task": 9})
    vec.reset()
    assert [info["task"] for info in vec.reset_infos] == [9, 9, 9]
    with pytest.raises(ValueError, match=r"indices must name all 3 environments, .* got \[0\]"):
        vec.set_attr("pool", pool, indices=[0])
    normalised = VecNormalize(VecMonitor(sfe.GridVecEnv(pool, 4, seed=0)))
    PPO("MlpPolicy", normalised, n_steps=32, batch_size=32, device="cpu").learn(256)


def test_newcomer_one_liner():
    PPO(
        "MlpPolicy",
        make_vec_env("sb3_forecast_envs:SB3Forecast/ThinIce-8x8-v0", n_envs=2),
        n_steps=16,
        batch_size=16,
        device="cpu",
    ).learn(64)


def test_pools():
    pool = sfe.TaskPool("ThinIce-8x8", 2000, seed=4, rare_fraction=0.25)
    assert len(pool) == 2000
    assert pool.rare.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 2000))
    prefix = sfe.TaskPool("ThinIce-8x8", 10, seed=4, rare_fraction=0.25)
    np.testing.assert_array_equal(prefix.layouts, pool.layouts[:10])
    assert not np.array_equal(sfe.TaskPool("ThinIce-8x8", 10, seed=5, rare_fraction=0.25).layouts, prefix.layouts)
    some = pool.subset(pool.rare)
    assert some.rare.all()
    np.testing.assert_array_equal(some[3].layout, pool.layouts[np.flatnonzero(pool.rare)[3]])
    ice, lava = pool.family.cells.index(sfe.THIN_ICE), pool.family.cells.index(sfe.LAVA)
    assert (pool.layouts[pool.rare] != lava).all()
    assert (pool.layouts[~pool.rare] != ice).all()
    assert "rare=" in repr(pool)


class Walled(sfe.ThinIce):
    """The goal is never reachable."""

    name = "Walled"

    def draw_layout(self, rng, rare):
        task = super().draw_layout(rng, rare)
        task.layout[-3, -2] = task.layout[-2, -3] = 1
        return task


class DeadlyStart(sfe.ThinIce):
    """The agent starts on lava."""

    name = "DeadlyStart"

    def draw_layout(self, rng, rare):
        task = super().draw_layout(rng, rare)
        task.layout[1, 1] = self.cells.index(sfe.LAVA)
        return task


@pytest.mark.parametrize("family", [Walled, DeadlyStart])
def test_layouts_without_a_safe_path(family, monkeypatch):
    monkeypatch.setattr(family, "max_draws", 20)
    with pytest.raises(
        ValueError, match=r"a safe path from start to goal, got none in 20 draws for task 0 \(seed 0, rare=False\)"
    ):
        sfe.TaskPool(family(8), 5, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sfe.TaskPool("ThinIce-8x8", 0, 0), "n_tasks must be at least 1, got 0"),
        (lambda: sfe.TaskPool("ThinIce-8x8", 5, -1), "seed must be at least 0, got -1"),
        (lambda: sfe.TaskPool("Nowhere-8x8", 5, 0), "family must be a known id, got 'Nowhere-8x8'"),
        (lambda: sfe.TaskPool("ThinIce-8x9", 5, 0), "family must be a known id, got 'ThinIce-8x9'"),
        (
            lambda: sfe.TaskPool(sfe.ThinIce(8), 5, 0, rare_fraction=0.5),
            "rare_fraction must be the family object's own 0.002, got 0.5",
        ),
        (lambda: sfe.TaskPool("ThinIce-8x8", 5, 0).subset([7]), "tasks must be from 0 to 4"),
        (lambda: sfe.TaskPool("ThinIce-8x8", 5, 0).subset([]), "indices must select at least one task"),
        (lambda: sfe.ThinIce(3), "size must be at least 4, got 3"),
        (lambda: sfe.ThinIce(rare_fraction=2), r"rare_fraction must be in \[0, 1\], got 2"),
        (lambda: sfe.ThinIce(view_size=4), "view_size must be an odd number from 3 to 61, got 4"),
        (lambda: sfe.ThinIce(horizon=0), "horizon must be at least 1, got 0"),
        (lambda: sfe.ThinIce(time_penalty=2), r"time_penalty must be in \[0, 1\], got 2"),
        (lambda: sfe.ThinIce(lava_fraction=1), r"lava_fraction must be in \[0, 1\), got 1"),
        (lambda: sfe.GridVecEnv(sfe.TaskPool("ThinIce-8x8", 5, 0), 0), "n_envs must be at least 1, got 0"),
        (lambda: sfe.GridWorldEnv(pool="x"), "pool must be a TaskPool, got 'x'"),
        (
            lambda: sfe.GridWorldEnv("ThinIce-8x8", pool=sfe.TaskPool("ThinIce-9x9", 5, 0)),
            "pool must hold tasks of ThinIce-8x8, got tasks of ThinIce-9x9",
        ),
        (lambda: sfe.GridWorldEnv().reset(options={"tsak": 3}), "options must have no key except 'task', got \\['tsak'\\]"),
        (lambda: sfe.GridWorldEnv().reset(options={"task": "x"}), "options\\['task'\\] must be a whole number, got 'x'"),
        (lambda: sfe.GridWorldEnv(observation="image"), "must be 'minigrid' or the family's own 'onehot', got 'image'"),
        (lambda: sfe.ThinIce(observation="pixels"), "observation must be a known kind, got 'pixels'"),
        (lambda: sfe.Wind(slip=1.5), r"slip of cell 'gust' must be in \[0, 1\], got 1.5"),
        (lambda: sfe.Bridge(5), "size must be at least 7, got 5"),
        (lambda: sfe.Bridge(bend=-1), "bend must be at least 0, got -1"),
        (lambda: sfe.Decoy(n_decoys=0), r"n_decoys must be in \[1, 9\] for size=8, got 0"),
        (lambda: sfe.Vault(6), "size must be at least 7, got 6"),
        (
            lambda: sfe.GridVecEnv(sfe.TaskPool("ThinIce-8x8", 5, 0), 2).step(np.array([0, 3])),
            r"actions must be 2 numbers in \[0, 2\], got array",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_index_out_of_range():
    with pytest.raises(IndexError, match=r"task must be in \[0, 4\], got 5"):
        sfe.TaskPool("ThinIce-8x8", 5, 0)[5]


class Trench(sfe.TaskFamily):
    """A user's family, in a dozen lines: lava along one row with a single gap; in the rare mode the gap is iced over elsewhere."""

    name = "Trench"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.LAVA, sfe.THIN_ICE)

    def draw_layout(self, rng, rare):
        layout = np.full((self.size, self.size), 1, dtype=np.uint8)
        layout[1:-1, 1:-1] = 0
        layout[-2, -2] = 2
        row, gap = int(rng.integers(2, self.size - 2)), int(rng.integers(1, self.size - 1))
        layout[row, 1:-1] = 4 if rare else 3
        layout[row, gap] = 0
        return sfe.Task(layout, (1, 1, 0), rare)


def test_a_users_family_works_everywhere():
    id_ = sfe.register_family(Trench(7, rare_fraction=0.3))
    assert id_ == "SB3Forecast/Trench-7x7-v0"
    assert sfe.register_family(Trench(7, rare_fraction=0.3)) == id_
    with pytest.raises(ValueError, match="is registered for another Trench"):
        sfe.register_family(Trench(7, rare_fraction=0.4))
    pool = sfe.TaskPool("Trench-7x7", 60, seed=0)
    assert 0.1 < pool.rare.mean() < 0.5
    assert sfe.TaskPool(id_, 60, seed=0, rare_fraction=1.0).rare.all()
    gymnasium_check_env(gym.make(id_, pool=pool).unwrapped, skip_render_check=True)
    model = sf.ForecastPPO(
        "MlpPolicy", sfe.GridVecEnv(pool, 8), n_steps=16, batch_size=64, eval_size=20, k=4, device="cpu", scorer="exact"
    ).learn(256)
    assert np.isfinite(sf.evaluate_forecast(model, pool, 20, n_splits=5, k=4).error.mean_abs)


class Moody(Trench):
    """Draws from a generator of its own."""

    name = "Moody"
    own = np.random.default_rng(0)

    def draw_layout(self, rng, rare):
        return super().draw_layout(self.own, rare)


class Twins(Trench):
    """Two cells that look alike."""

    name = "Twins"
    cells = (*Trench.cells, sfe.Cell("cold lava", sfe.LAVA.make))


class Alien(Trench):
    """An object that MiniGrid has never heard of."""

    name = "Alien"
    cells = (*Trench.cells, sfe.Cell("acid", lambda: WorldObj("acid", "green"), outcome=2))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Moody, "must return the same task .*, got two different results for task 0 of seed 0"),
        (Twins, "encoding of its own, got .* for both 'lava' and 'cold lava'"),
        (Alien, "cell 'acid' must have a type that MiniGrid knows, got acid"),
    ],
)
def test_families_that_cannot_be_registered(family, message):
    with pytest.raises(ValueError, match=message):
        sfe.register_family(family(7))
    assert f"SB3Forecast/{family.name}-7x7-v0" not in gym.registry


def test_a_pool_that_shares_nothing_with_another():
    training = sfe.TaskPool("Bridge-8x8", 300, seed=1)
    plain = sfe.TaskPool("Bridge-8x8", 300, seed=2)
    fresh = sfe.TaskPool("Bridge-8x8", 300, seed=2, exclude=training)
    assert set(plain.task_keys()) & set(training.task_keys())
    assert not set(fresh.task_keys()) & set(training.task_keys())
    assert len(set(fresh.task_keys())) == 300
    again = fresh.family.draw(2, int(fresh.indices[-1]))
    np.testing.assert_array_equal(fresh.layouts[-1], again.layout)


class Spaced(Trench):
    """A name that Gymnasium refuses."""

    name = "Spaced out!"


def test_a_family_that_gymnasium_refuses_is_not_half_registered():
    with pytest.raises(
        ValueError, match=r"name of the family must make an id that Gymnasium takes, got 'Spaced out!' .*; use letters"
    ):
        sfe.register_family(Spaced(7), replay=False)
    with pytest.raises(ValueError, match="family must be a known id, got 'Spaced out!-7x7'"):
        sfe.TaskPool("Spaced out!-7x7", 3, seed=0)


def test_pools_are_joined():
    first, second = sfe.TaskPool("Decoy-8x8", 20, seed=1), sfe.TaskPool("Decoy-8x8", 5, seed=2)
    both = first.joined(second)
    assert both.task_keys() == first.task_keys() + second.task_keys()
    assert len(first) == 20
    with pytest.raises(TypeError, match="other must be a TaskPool, got CartPoleTasks"):
        first.joined(sfe.CartPoleTasks(3, seed=0))


def test_a_family_with_too_few_tasks_says_so():
    training = sfe.TaskPool("Bridge-8x8", 300, seed=1, rare_fraction=0.0)
    with pytest.raises(
        ValueError, match=r"n_tasks must be at most about \d+, got 5000: .* no task that exclude does not hold"
    ):
        sfe.TaskPool("Bridge-8x8", 5000, seed=2, rare_fraction=0.0, exclude=training)
