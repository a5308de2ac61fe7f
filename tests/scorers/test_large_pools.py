"""Scoring block by block: same scores, resumable, and nobody else's."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers import large_pools


def test_same_as_the_pool_in_memory(agent, tmp_path):
    stream = sfe.TaskStream("ThinIce-8x8", 300, seed=3, rare_fraction=0.1)
    pool = sfe.TaskPool("ThinIce-8x8", 300, seed=3, rare_fraction=0.1)
    np.testing.assert_array_equal(stream.block(100, 150).layouts, pool.layouts[100:150])
    scores = sf.score_large_pool(agent, stream, tmp_path / "scores", block_size=70)
    outcomes = sf.ExactScorer(pool).outcomes(agent)
    np.testing.assert_allclose(scores.psi, outcomes.psi, rtol=1e-6)  # float32 network, other batch sizes
    np.testing.assert_allclose(scores.success, outcomes.success, rtol=1e-6)
    np.testing.assert_allclose(scores.failure, outcomes.failure, rtol=1e-5)
    np.testing.assert_array_equal(scores.rare, pool.rare)


def test_a_killed_run_goes_on_where_it_was(agent, tmp_path, monkeypatch):
    stream = sfe.TaskStream("ThinIce-8x8", 200, seed=3)
    reference = sf.score_large_pool(agent, stream, tmp_path / "reference", block_size=50)
    real, drawn = sfe.TaskStream.block, []

    def block(self, begin, end):
        drawn.append(begin)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return real(self, begin, end)

    monkeypatch.setattr(sfe.TaskStream, "block", block)
    with pytest.raises(KeyboardInterrupt):
        sf.score_large_pool(agent, stream, tmp_path / "scores", block_size=50)
    assert len(list((tmp_path / "scores").glob("tasks-*"))) == 2
    scores = sf.score_large_pool(agent, stream, tmp_path / "scores", block_size=50)
    assert drawn == [0, 50, 100, 100, 150]
    np.testing.assert_array_equal(scores.psi, reference.psi)


def test_a_full_disk_leaves_no_half_file(agent, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    stream = sfe.TaskStream("ThinIce-8x8", 20, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(large_pools.np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            sf.score_large_pool(agent, stream, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["about.json"]
    assert len(sf.score_large_pool(agent, stream, tmp_path).psi) == 20


def test_scores_of_somebody_else(agent, tmp_path):
    sf.score_large_pool(agent, sfe.TaskStream("ThinIce-8x8", 20, seed=3), tmp_path)
    with pytest.raises(
        ValueError,
        match=r"with scores made with \{'tasks': .*seed 3.* instead of .*seed 4.*; use another folder, or delete this one",
    ):
        sf.score_large_pool(agent, sfe.TaskStream("ThinIce-8x8", 20, seed=4), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sfe.TaskStream("ThinIce-8x8", 0, 0), "n_tasks must be at least 1, got 0"),
        (lambda: sfe.TaskStream("ThinIce-8x8", 5, -1), "seed must be at least 0, got -1"),
        (
            lambda: sfe.TaskStream("ThinIce-8x8", 5, 0).block(3, 9),
            r"begin and end must be in \[0, 5\] with begin < end, got 3 and 9",
        ),
        (lambda: sfe.TaskPool("ThinIce-8x8", 5, 0, first=-1), "first must be at least 0, got -1"),
        (
            lambda: sf.score_large_pool(None, sfe.TaskStream("ThinIce-8x8", 5, 0), "x", block_size=0),
            "block_size must be at least 1, got 0",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scores_of_another_model(agent, clumsy, tmp_path):
    stream = sfe.TaskStream("ThinIce-8x8", 20, seed=3)
    sf.score_large_pool(agent, stream, tmp_path)
    with pytest.raises(ValueError, match=r"the same tasks, model and block_size.*with scores made with \{'model'"):
        sf.score_large_pool(clumsy, stream, tmp_path)


def test_scores_under_other_statistics(clumsy, pool, tmp_path):
    """The weights are the same, but VecNormalize has moved on: the policy sees other observations."""
    stream = sfe.TaskStream("ThinIce-8x8", 20, seed=3)
    clumsy.set_env(VecNormalize(clumsy.get_env()))
    sf.score_large_pool(clumsy, stream, tmp_path)
    clumsy.get_env().obs_rms.mean += 0.1
    with pytest.raises(ValueError, match=r"with scores made with \{'model'"):
        sf.score_large_pool(clumsy, stream, tmp_path)
