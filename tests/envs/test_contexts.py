"""Foreign environments whose numbers differ from task to task."""

import pickle

import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.cli.pools import make_pool
from sb3_forecast_envs.contexts.attributes import ContextSetter

USUAL = {"gravity": sfe.Normal(9.8, 0.2), "length*": sfe.Uniform(0.8, 1.2)}
RARE = {"gravity": sfe.Uniform(14.0, 15.0)}


@pytest.fixture(scope="module")
def tasks():
    return sfe.ContextTasks("CartPole-v1", 300, USUAL, sfe.ended_early, seed=3, rare=RARE, rare_fraction=0.1)


def test_numbers_are_drawn_as_they_are_distributed(tasks):
    usual, rare = tasks.contexts[~tasks.rare], tasks.contexts[tasks.rare]
    assert 10 < tasks.rare.sum() < 60
    assert abs(usual[:, 0].mean() - 9.8) < 4 * 0.2 / np.sqrt(len(usual))
    assert ((rare[:, 0] >= 14.0) & (rare[:, 0] <= 15.0)).all()
    # what the rare mode does not name is drawn as usual
    assert ((tasks.contexts[:, 1] >= 0.8) & (tasks.contexts[:, 1] <= 1.2)).all()
    assert rare[:, 1].std() > 0.05


def test_tasks_do_not_depend_on_their_number_and_seeds_share_none(tasks):
    fewer = sfe.ContextTasks("CartPole-v1", 20, USUAL, sfe.ended_early, seed=3, rare=RARE, rare_fraction=0.1)
    np.testing.assert_array_equal(fewer.contexts, tasks.contexts[:20])
    assert fewer.task_keys() == tasks.task_keys()[:20]
    other = sfe.ContextTasks("CartPole-v1", 20, USUAL, sfe.ended_early, seed=4, rare=RARE, rare_fraction=0.1)
    assert not set(other.task_keys()) & set(tasks.task_keys())
    assert other.key != fewer.key
    # the same reset seeds in other physics are other tasks
    heavier = sfe.ContextTasks("CartPole-v1", 20, {**USUAL, "gravity": sfe.Normal(12.0, 0.2)}, sfe.ended_early, seed=3)
    np.testing.assert_array_equal(heavier.seeds, fewer.seeds)
    assert not set(heavier.task_keys()) & set(fewer.task_keys())


def test_the_environment_has_the_numbers_of_its_task(tasks):
    env = tasks.make_env()
    original = 0.5
    for task in (7, 3, 7):
        _, info = env.reset(options={"task": task})
        assert info["task"] == task
        assert env.unwrapped.gravity == tasks.contexts[task, 0]
        # a factor multiplies what the environment had first, not what the last task left
        assert env.unwrapped.length == original * tasks.contexts[task, 1]


def test_parts_and_travelling(tasks):
    part = tasks.subset([5, 9])
    np.testing.assert_array_equal(part.contexts, tasks.contexts[[5, 9]])
    again = pickle.loads(pickle.dumps(part))  # our own
    assert again.key == part.key
    env = again.make_env()
    env.reset(options={"task": 1})
    assert env.unwrapped.gravity == tasks.contexts[9, 0]
    joined = part.joined(tasks.subset([0]))
    np.testing.assert_array_equal(joined.contexts, tasks.contexts[[5, 9, 0]])


def test_descriptors_and_names(tasks):
    found = tasks.descriptors()
    assert found.names == ("gravity", "length*")
    np.testing.assert_allclose(found.values, tasks.contexts, rtol=1e-6)
    assert tasks.label(4).startswith(f"task 4 (seed {tasks.seeds[4]}, gravity {tasks.contexts[4, 0]:.4g}")


def test_options_of_reset():
    tasks = sfe.ContextTasks(
        "CartPole-v1", 30, {"reset.low": sfe.Choice((0.1,)), "reset.high": sfe.Choice((0.11,))}, sfe.ended_early
    )
    observation, _ = tasks.make_env().reset(options={"task": 2})
    assert ((observation >= 0.1) & (observation <= 0.11)).all()


class Boxed(PendulumEnv):
    """A pendulum with an array."""

    def __init__(self):
        super().__init__()
        self.parts = np.array([1.0, 2.0])


def test_entries_of_arrays_and_whole_arrays():
    setter = ContextSetter(Boxed(), ["parts[1]"])
    setter.set([5.0])
    np.testing.assert_array_equal(setter.env.unwrapped.parts, [1.0, 5.0])
    setter = ContextSetter(Boxed(), ["parts*"])
    for factor in (3.0, 2.0):
        setter.set([factor])
        np.testing.assert_array_equal(setter.env.unwrapped.parts, [factor, 2.0 * factor])


def heavy(step):
    """Whether gravity is that of the rare mode, so that no agent's luck decides what fails."""
    return step.env.unwrapped.gravity > 12.0


def test_active_evaluation_looks_at_the_numbers():
    """The whole way from contexts to the kind that fails, by its name."""
    from stable_baselines3 import PPO

    tasks = sfe.ContextTasks("CartPole-v1", 1000, USUAL, heavy, seed=1, rare=RARE, rare_fraction=0.02)
    model = PPO("MlpPolicy", tasks.make_vec_env(1), n_steps=8, batch_size=8, seed=0, device="cpu")
    report = sf.ActiveEvaluation("frequency", tasks, 180, seed=1, counting={"episodes": 1}).run(model)
    assert report.rare.mean() > 2.0 * tasks.rare.mean()
    np.testing.assert_array_equal(report.failure, report.rare)
    assert report.found[0].rule.startswith("gravity > 1")


def test_the_command_line_makes_them():
    pool = make_pool(
        "CartPole-v1", 10, 3, "sb3_forecast_envs:ended_early", contexts=["gravity=normal(9.8,0.2)", "length*=0.9"]
    )
    assert isinstance(pool, sfe.ContextTasks)
    assert pool.names == ("gravity", "length*")
    assert (pool.contexts[:, 1] == 0.9).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gravity=normal(-10, 1)", ("gravity", sfe.Normal(-10.0, 1.0))),
        ("a.b[2]=uniform(0,15)", ("a.b[2]", sfe.Uniform(0.0, 15.0))),
        ("mode=choice(0,1,2)", ("mode", sfe.Choice((0.0, 1.0, 2.0)))),
        ("gravity=-8", ("gravity", sfe.Choice((-8.0,)))),
        ("mass*=1e-3", ("mass*", sfe.Choice((1e-3,)))),
    ],
)
def test_texts(text, expected):
    assert sfe.parse_context(text) == expected


@pytest.mark.parametrize(
    "text",
    ["gravity", "gravity=", "=3", "gravity=beta(1,2)", "gravity=normal(1)", "gravity=uniform(2,1)", "g=1,2", "g=normal(a,b)"],
)
def test_bad_texts(text):
    with pytest.raises(ValueError, match=r"context must be like gravity=normal\(-10,1\)"):
        sfe.parse_context(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contexts": {"gravty": sfe.Normal(9.8, 1.0)}}, "got 'gravty', and there is no 'gravty'; use one of gravity"),
        ({"contexts": {"spec.idd": sfe.Normal(9.8, 1.0)}}, "there is no 'idd'; use one of spec.id"),
        (
            {"contexts": {"kinematics_integrator": sfe.Normal(9.8, 1.0)}},
            "contexts must name numbers of the environment, got 'kinematics_integrator'",
        ),
        ({"contexts": {}}, "contexts must hold at least one number"),
        (
            {"contexts": {"gravity": sfe.Normal(9.8, 1.0)}, "rare": {"length": sfe.Normal(1.0, 0.1)}},
            r"rare must name numbers of contexts, got \['length'\]",
        ),
        ({"contexts": {"gravity": sfe.Normal(9.8, 1.0)}, "rare_fraction": 0.1}, "rare must be given for rare_fraction=0.1"),
        ({"contexts": {"gravity": sfe.Normal(9.8, 1.0)}, "rare_fraction": 2.0}, "rare_fraction must be in"),
        (
            {"contexts": {"reset.low": sfe.Choice((0.2,)), "reset.high": sfe.Choice((0.1,))}},
            "contexts must be ones that the environment can have, got reset",
        ),
        ({"contexts": {"gravity": sfe.Normal(9.8, 1.0)}, "seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_contexts(arguments, message):
    with pytest.raises(ValueError, match=message):
        sfe.ContextTasks("CartPole-v1", 10, **arguments)


def test_bad_distributions():
    with pytest.raises(ValueError, match="deviation must be at least 0"):
        sfe.Normal(0.0, -1.0)
    with pytest.raises(ValueError, match="values must hold at least one number"):
        sfe.Choice(())


def test_an_array_needs_an_entry_or_a_star():
    with pytest.raises(
        ValueError,
        match=r"contexts must name one number, got 'parts', which is an array of shape \(2,\); name an entry, as in parts\[0\]",
    ):
        ContextSetter(Boxed(), ["parts"])


def test_lunar_lander():
    pytest.importorskip("Box2D")
    tasks = sfe.ContextTasks(
        "LunarLander-v3", 20, {"gravity": sfe.Normal(-9.0, 0.5), "wind_power": sfe.Uniform(0.0, 15.0)}, sfe.ended_early
    )
    env = tasks.make_env()
    env.reset(options={"task": 4})
    # a float32 of Box2D
    assert env.unwrapped.world.gravity[1] == pytest.approx(tasks.contexts[4, 0], rel=1e-6)
    # the environment's own check of its argument
    with pytest.raises(
        ValueError, match=r"contexts must be ones that the environment can have, got gravity=.*must be between -12 and 0"
    ):
        sfe.ContextTasks("LunarLander-v3", 50, {"gravity": sfe.Normal(-9.0, 5.0)}, sfe.ended_early)


@pytest.mark.parametrize(
    "name", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "HalfCheetah-v5", "InvertedDoublePendulum-v5", "Pusher-v5"]
)
def test_mujoco(name):
    pytest.importorskip("mujoco")
    tasks = sfe.ContextTasks(
        name, 10, {"model.opt.gravity[2]": sfe.Normal(-9.81, 0.5), "model.body_mass*": sfe.Uniform(0.8, 1.2)}, sfe.ended_early
    )
    env = tasks.make_env()
    masses = []
    for task in (1, 2, 1):
        env.reset(options={"task": task})
        assert env.unwrapped.model.opt.gravity[2] == tasks.contexts[task, 0]
        masses.append(env.unwrapped.model.body_mass.copy())
    np.testing.assert_array_equal(masses[0], masses[2])
    assert (masses[0] != masses[1]).any()
