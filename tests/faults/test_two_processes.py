"""Two processes in one folder: where both can work they both finish and what they leave is whole, and elsewhere the second one is refused."""

import fcntl
import time
from functools import partial

import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.training.lock import FolderLock
from sb3_forecast.training.plain import DamagedError
from studies.records import read_records
from tests.faults import jobs
from tests.faults.victims import Victim, result

# each case is a process of its own
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


def both(job):
    """Run a job in two processes at once; return how each ended."""
    victims = [Victim(job), Victim(job)]
    return [victim.end() for victim in victims]


@pytest.mark.slow
def test_two_explorations_of_one_cache_both_finish(tmp_path):
    reference = result(partial(jobs.explore, tmp_path / "reference"))
    for ended in both(partial(jobs.explore, tmp_path / "both")):
        assert ended.error is None, ended.trace
        for one, other in zip(ended.value, reference, strict=True):
            np.testing.assert_array_equal(one, other)
    # what they left is whole: it is read again, and nothing is made anew
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "both").rglob("seeds-*")}
    assert len(files) == 6
    np.testing.assert_array_equal(result(partial(jobs.explore, tmp_path / "both"))[0], reference[0])
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_two_scorings_of_one_large_pool_both_finish(agent, tmp_path):
    reference = result(partial(jobs.score, agent, tmp_path / "reference"))
    for ended in both(partial(jobs.score, agent, tmp_path / "both")):
        assert ended.error is None, ended.trace
        np.testing.assert_array_equal(ended.value, reference)
    np.testing.assert_array_equal(result(partial(jobs.score, agent, tmp_path / "both")), reference)


@pytest.mark.slow
def test_the_second_training_in_a_folder_is_refused_and_harms_nothing(pool, tmp_path):
    reference = result(partial(jobs.train, pool, tmp_path / "reference"))
    first = Victim(partial(jobs.train, pool, tmp_path / "both"))
    while not (tmp_path / "both" / "checkpoint-128").exists():
        time.sleep(0.01)
    model = sf.ForecastPPO("MlpPolicy", jobs.grid(pool), seed=1, **{**jobs.FORECAST, **jobs.SMALL_PPO})
    with pytest.raises(ValueError, match="folder must not be used by another run"):
        model.learn(256, callback=sf.TrainingCheckpoints(tmp_path / "both", every=1))
    ended = first.end()
    assert ended.error is None, ended.trace
    np.testing.assert_array_equal(ended.value, reference)


def slowly(job):
    """A study's function that leaves the other process time to come."""
    time.sleep(0.3)
    return jobs.run_method(job)


def slow_study(folder):
    return [record.result for record in jobs.run_study(jobs.Study("toy", slowly, *jobs.STUDY_PARTS), jobs.Settings(folder))]


def test_the_second_study_in_a_folder_is_refused_and_harms_nothing(tmp_path):
    ended = both(partial(slow_study, tmp_path))
    refused = [end.error for end in ended if end.error is not None]
    finished = [end.value for end in ended if end.error is None]
    assert [error[0] for error in refused] == ["ValueError"]
    assert refused[0][1].startswith("folder must not be used by another run, got ")
    assert [found["value"] for found in finished[0]] == [0.0, 10.0, 0.0, 20.0, 0.0, 30.0]
    assert len(read_records(tmp_path / "records")) == 6


def test_two_studies_share_a_folder_if_their_seeds_differ(tmp_path):
    others = Victim(lambda: jobs.run_study(jobs.STUDY, jobs.Settings(tmp_path, first_seed=4)))
    assert len(result(partial(jobs.study, tmp_path))) == 6
    assert others.end().error is None
    assert len(read_records(tmp_path / "records")) == 12


def test_a_lock_whose_file_was_just_removed_is_not_taken(tmp_path, monkeypatch):
    """Another run gives the lock back after we opened its file: locking that would leave the name free for a third one."""
    real, calls = fcntl.flock, []

    def flock(file, how):
        if not calls:
            (tmp_path / ".running").unlink()
        calls.append(file)
        return real(file, how)

    lock = FolderLock(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    lock.take()
    monkeypatch.undo()
    try:
        third = result(partial(take_and_say, tmp_path))
    finally:
        lock.release()
    assert third == "refused"


def take_and_say(folder):
    """Whether another process can take the lock."""
    try:
        # the child is a copy of this process, which knows the lock as its own
        from sb3_forecast.training import lock

        lock._HELD.clear()
        FolderLock(folder).take()
    except ValueError:
        return "refused"
    return "taken"


@pytest.mark.slow
def test_reading_while_another_run_saves_finds_a_whole_checkpoint(pool, tmp_path):
    first = Victim(lambda: len(jobs.train(pool, tmp_path, 4)))
    read, wrong = 0, []
    while first.process.is_alive():
        try:
            sf.resume_training(sf.ForecastPPO, tmp_path, jobs.grid(pool), device="cpu")
            read += 1
        except FileNotFoundError:
            continue  # not one yet, or the one that was read has just been removed
        except DamagedError as error:
            wrong.append(str(error))
    assert first.end().error is None
    assert (wrong, read > 0) == ([], True)
