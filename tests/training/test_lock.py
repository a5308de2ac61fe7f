"""A folder is held by one run; what is left of an ended run does not hold it."""

import fcntl
import os

import pytest

from sb3_forecast.training import lock as module
from sb3_forecast.training.lock import FolderLock


def locked_by_another(path):
    """Whether someone else could not lock the file."""
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def test_taken_and_given_back(tmp_path):
    lock = FolderLock(tmp_path / "a" / "run")
    lock.take()
    assert lock.path == tmp_path / "a" / "run" / ".running"
    assert locked_by_another(lock.path)
    lock.take()  # a second time changes nothing
    assert locked_by_another(lock.path)
    for _ in range(2):
        lock.release()
        assert not lock.path.exists()
    assert lock.path.resolve() not in module._HELD


def test_it_can_be_taken_again(tmp_path):
    lock = FolderLock(tmp_path)
    for _ in range(2):
        lock.take()
        assert locked_by_another(lock.path)
        lock.release()


def test_the_next_run_of_the_process_takes_over(tmp_path):
    left, following = FolderLock(tmp_path), FolderLock(tmp_path)
    left.take()
    following.take()
    assert locked_by_another(following.path)
    left.release()  # it holds nothing any more
    assert locked_by_another(following.path)
    following.release()


def test_another_holder_keeps_it_and_is_not_disturbed(tmp_path):
    file = os.open(tmp_path / ".running", os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    lock = FolderLock(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"folder must not be used by another run, got .*where one is at work") as caught:
            lock.take()
        assert str(tmp_path) in str(caught.value)
    lock.release()
    assert (tmp_path / ".running").exists()
    os.close(file)
    lock.take()
    lock.release()


def test_without_locks_of_the_system_nothing_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fcntl", None)
    lock = FolderLock(tmp_path)
    lock.take()
    assert not lock.path.exists()
    lock.release()
