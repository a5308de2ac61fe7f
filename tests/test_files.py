"""Files are whole or not there."""

import os
import stat

import pytest

from sb3_forecast.files import cache_folder, fill_whole, read_json, write_json, write_text, write_whole


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
