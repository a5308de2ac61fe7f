"""Files are whole or not there."""

import os
import stat

import numpy as np
import pytest

from sb3_forecast.files import (
    cache_folder,
    fill_whole,
    load_arrays,
    read_json,
    save_arrays,
    write_json,
    write_text,
    write_whole,
)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def half(file):
        file.write(b"new, but")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]
    write_text(path, "näw")
    assert path.read_text(encoding="utf-8") == "näw"


def test_others_may_read_what_is_written(tmp_path):
    """As of any new file, the process's mask decides."""
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert read_json(tmp_path / "a.json") == {"a": [1, 2]}


def test_a_folder_is_filled_or_not_there(tmp_path):
    def fail(folder):
        (folder / "one").touch()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fill_whole(tmp_path / "deep" / "folder", fail)
    assert os.listdir(tmp_path / "deep") == []
    fill_whole(tmp_path / "deep" / "folder", lambda folder: (folder / "one").touch())
    assert os.listdir(tmp_path / "deep" / "folder") == ["one"]
    # another process was faster: its folder stays
    fill_whole(tmp_path / "deep" / "folder", lambda folder: (folder / "two").touch())
    assert os.listdir(tmp_path / "deep" / "folder") == ["one"]


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sb3_forecast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "sb3_forecast")


def test_arrays_come_back_as_they_were_saved(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"x": np.array([1.5, -np.inf]), "y": np.array([True, False]), "name": np.array("psi")}
    for compress in (False, True):
        save_arrays(path, arrays, "made of this", compress)
        found = load_arrays(path, "numbers", "made of this")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert load_arrays(tmp_path / "none.npz", "numbers") is None


@pytest.mark.parametrize("change", ["about", "value", "dtype", "cut"])
def test_arrays_that_are_not_what_was_saved_are_set_aside(tmp_path, change):
    path, about = tmp_path / "a.npz", "made of this"
    save_arrays(path, {"x": np.array([1.0, 2.0])}, about)
    with np.load(path) as file:
        content = dict(file)
    if change == "about":
        about = "made of that"
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        content["x"] = np.array([1.0, 3.0]) if change == "value" else content["x"].astype(np.float32)
        np.savez(path, **content)
    with pytest.warns(
        UserWarning, match=r"the stored numbers in .*a\.npz are damaged .*: they are set aside as a\.damaged and made again"
    ):
        assert load_arrays(path, "numbers", about) is None
    assert not path.exists()
    assert (tmp_path / "a.damaged").exists()
