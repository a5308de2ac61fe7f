"""What tasks look like, in numbers."""

import gymnasium as gym
import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast_envs.gridworld.descriptors import describe_layouts


def test_counts_distances_and_neighbours_of_a_layout():
    layout = np.array([[[0, 2, 0], [1, 2, 0], [0, 0, 1]]], dtype=np.uint8)
    found = describe_layouts(layout, np.array([[0, 0, 0]]), ["empty", "wall", "lava"])
    row = dict(zip(found.names, found.values[0].tolist(), strict=True))
    assert (row["empty cells"], row["wall cells"], row["lava cells"]) == (5, 2, 2)
    assert (row["distance to lava"], row["distance to wall"], row["distance to empty"]) == (1, 1, 0)
    assert row["lava beside lava"] == 1
    assert row["wall beside lava"] == 1
    assert row["empty beside lava"] == 4
    assert row["wall two squares from wall"] == 0
    assert row["empty two squares from wall"] == 3


def test_a_kind_that_is_not_there_is_far_away():
    found = describe_layouts(np.zeros((1, 4, 4), dtype=np.uint8), np.array([[1, 1, 0]]), ["empty", "lava"])
    assert dict(zip(found.names, found.values[0].tolist(), strict=True))["distance to lava"] == 8


@pytest.mark.parametrize("family", [sfe.ThinIce, sfe.Decoy, sfe.Wind, sfe.Bridge])
def test_rare_tasks_of_families_stand_out(family):
    """Some column differs between rare and common tasks by two of its standard deviations; nothing of it is told what the family is about."""
    pool = sfe.TaskPool(family(8, rare_fraction=0.1), 400, seed=0)
    values = pool.descriptors().values
    spread = values.std(axis=0) + 1e-9
    assert (np.abs(values[pool.rare].mean(axis=0) - values[~pool.rare].mean(axis=0)) / spread).max() > 2.0


def test_a_stream_and_a_pool_describe_the_same_tasks():
    pool, stream = sfe.TaskPool("Decoy-8x8", 50, seed=3), sfe.TaskStream("Decoy-8x8", 50, seed=3)
    np.testing.assert_array_equal(stream.block(10, 20).descriptors().values, pool.descriptors().values[10:20])
    np.testing.assert_array_equal(stream.subset([4, 40]).layouts, pool.layouts[[4, 40]])
    np.testing.assert_array_equal(pool.subset([7, 3]).descriptors().values, pool.descriptors().values[[7, 3]])


def test_cart_poles_are_described_by_their_physics():
    tasks = sfe.CartPoleTasks(5, seed=0)
    found = tasks.descriptors()
    np.testing.assert_allclose(found.values[:, found.names.index("wind force")], tasks.parameters[:, 5], rtol=1e-6)


def test_other_environments_are_described_by_their_first_observation():
    found = sfe.SeededTasks("CartPole-v1", 3, first_seed=8, failed=sfe.ended_early).descriptors()
    np.testing.assert_array_equal(found.values[1], gym.make("CartPole-v1").reset(seed=9)[0])
    with pytest.raises(ValueError, match="observations must be arrays of numbers to describe tasks, got Dict"):
        sfe.SeededTasks(lambda: gym.make("MiniGrid-Empty-5x5-v0"), 2).descriptors()


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        (np.zeros((3, 2)), ("a",), r"one column per name, got shape \(3, 2\) and 1 names"),
        (np.zeros(3), None, r"one row per task and one column per name, got shape \(3,\)"),
        (np.array([[0.0, 1.0], [2.0, np.nan]]), ("a", "b"), "must be finite, got nan in column 'b' of task 1"),
    ],
)
def test_bad_descriptors(values, names, message):
    with pytest.raises(ValueError, match=message):
        sf.Descriptors.of(values, names)
