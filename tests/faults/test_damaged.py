"""A damaged file is named, and set aside or refused; what can be made again is made again."""

import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from studies.records import read_records
from tests.faults import jobs


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [flip, cut, empty])


@DAMAGES
def test_a_damaged_block_of_a_large_pool_is_scored_again(agent, tmp_path, damage):
    stream = sfe.TaskStream("ThinIce-8x8", 20, seed=3)
    before = sf.score_large_pool(agent, stream, tmp_path, block_size=10)
    damage(tmp_path / "tasks-10-19.npz")
    with pytest.warns(UserWarning, match=r"tasks-10-19\.npz are damaged .*: they are set aside as tasks-10-19\.damaged"):
        after = sf.score_large_pool(agent, stream, tmp_path, block_size=10)
    np.testing.assert_array_equal(after.psi, before.psi)
    assert (tmp_path / "tasks-10-19.damaged").exists()


def test_a_block_of_another_model_is_scored_again(agent, clumsy, tmp_path):
    """Two runs that claim one folder in the same moment can leave each other's blocks."""
    stream = sfe.TaskStream("ThinIce-8x8", 20, seed=3)
    expected = sf.score_large_pool(agent, stream, tmp_path / "agent", block_size=10)
    sf.score_large_pool(clumsy, stream, tmp_path / "clumsy", block_size=10)
    (tmp_path / "clumsy" / "tasks-0-9.npz").replace(tmp_path / "agent" / "tasks-0-9.npz")
    with pytest.warns(UserWarning, match=r"tasks-0-9\.npz are damaged \(its checksum is another\)"):
        found = sf.score_large_pool(agent, stream, tmp_path / "agent", block_size=10)
    np.testing.assert_array_equal(found.psi, expected.psi)


@DAMAGES
def test_a_folder_of_scores_that_does_not_say_whose_is_refused(agent, tmp_path, damage):
    stream = sfe.TaskStream("ThinIce-8x8", 20, seed=3)
    sf.score_large_pool(agent, stream, tmp_path)
    damage(tmp_path / "about.json")
    with pytest.raises(ValueError, match=r"folder must (say|hold) .*use another folder, or delete this one"):
        sf.score_large_pool(agent, stream, tmp_path)


@DAMAGES
def test_a_damaged_record_is_set_aside_and_its_run_done_again(tmp_path, damage):
    jobs.study(tmp_path, seeds=1)
    damage(tmp_path / "records" / "ours-seed1.json")
    with pytest.warns(
        UserWarning, match=r"ours-seed1\.json is damaged .*: it is set aside as ours-seed1\.damaged, and its run"
    ):
        assert jobs.study(tmp_path, seeds=1) == [{"value": 0.0}, {"value": 10.0}]
    assert [record.method for record in read_records(tmp_path / "records")] == ["base", "ours"]


def test_a_changed_number_in_a_record_is_found(tmp_path):
    jobs.study(tmp_path, seeds=1)
    path = tmp_path / "records" / "ours-seed1.json"
    path.write_text(path.read_text().replace("10.0", "70.0"))
    with pytest.raises(
        ValueError, match=r"ours-seed1\.json is damaged \(its checksum is another\); delete it, and run it again"
    ):
        read_records(tmp_path / "records")


@DAMAGES
def test_a_damaged_report_is_named(agent, pool, tmp_path, damage):
    sf.evaluate_forecast(agent, pool, 60, 20, deploy_size=200, k=5).save(tmp_path / "report.npz")
    damage(tmp_path / "report.npz")
    with pytest.raises(ValueError, match=r"path must be a file that ForecastReport\.save wrote, got .*report\.npz"):
        sf.ForecastReport.load(tmp_path / "report.npz")
