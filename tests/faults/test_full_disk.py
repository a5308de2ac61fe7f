"""A full disk, by a limit on the size of files: the earlier file stays whole, and the error names the file and the remedy."""

import os
import resource
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.files import write_json, write_text
from sb3_forecast.measuring.recording import _film
from sb3_forecast.training.checkpoints import checkpoints
from sb3_forecast.training.plain import check_checksums
from sb3_forecast_envs.gridworld.pictures import failure_map
from tests.faults import jobs
from tests.faults.victims import run

# each case is a process of its own
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
#: enough for a pipe or a lock, too little for any result
LIMIT = 100


@pytest.fixture(scope="module")
def report(agent, pool):
    return sf.evaluate_forecast(agent, pool, 60, 20, deploy_size=200, k=5)


WRITERS = {
    "report.json": lambda path, agent, pool, report: report.to_json(path),
    "report.npz": lambda path, agent, pool, report: report.save(path),
    "figure.png": lambda path, agent, pool, report: report.plot(path),
    "figure.svg": lambda path, agent, pool, report: report.plot(path),
    "figure.pdf": lambda path, agent, pool, report: report.plot(path),
    "worst.gif": lambda path, agent, pool, report: sf.record_worst(agent, pool.subset([0, 1]), 1, path, "exact", tries=1),
    "table.md": lambda path, agent, pool, report: write_text(path, "| 1 |\n" * 100),
    "table.json": lambda path, agent, pool, report: write_json(path, list(range(1000))),
    "forecast_ppo.zip": lambda path, agent, pool, report: sf.ForecastPPO.from_ppo(agent, jobs.grid(pool), device="cpu").save(
        path
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("figure.pdf", "figure.svg") else n for n in WRITERS]
)
def test_an_earlier_file_stays_whole_and_the_error_names_it(agent, pool, report, tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, agent, pool, report)
    earlier = path.read_bytes()
    ended = run(partial(WRITERS[name], path, agent, pool, report), limit=LIMIT)
    assert ended.error == (
        "OSError",
        f"{path} could not be written (File too large); the earlier file is unchanged; allow larger files (ulimit -f), or use another disk",
    ), ended.trace
    assert path.read_bytes() == earlier
    assert os.listdir(tmp_path) == [name]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [LIMIT, 50_000, 200_000])
def test_a_film_is_whole_or_not_there(tmp_path, limit):
    """ffmpeg is another process, which says nothing of a write that failed."""
    from sb3_forecast.files import write_by_name

    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (160, 160, 3)).astype(np.uint8) for _ in range(60)]
    path = tmp_path / "worst.mp4"
    write_by_name(path, lambda name: _film(frames[:5], name, 8))
    earlier = path.read_bytes()
    ended = run(lambda: write_by_name(path, lambda name: _film(frames, name, 8)), limit=limit)
    assert ended.error is not None
    assert ended.error[1].startswith(f"{path} could not be written (")
    assert path.read_bytes() == earlier
    assert os.listdir(tmp_path) == ["worst.mp4"]


@pytest.mark.parametrize("limit", [LIMIT, 5_000, 30_000])
def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_one(pool, tmp_path, limit):
    """The limit hits the model, or the state of the environments; each of the writers of archives hides the cause in a way of its own."""
    model = sf.ForecastPPO("MlpPolicy", jobs.grid(pool), seed=1, **{**jobs.FORECAST, **jobs.SMALL_PPO})
    sf.save_training(model, tmp_path)
    model.num_timesteps = 128
    ended = run(partial(sf.save_training, model, tmp_path), limit=limit)
    assert ended.error == (
        "OSError",
        f"checkpoint {tmp_path / 'checkpoint-128'} could not be written ([Errno 27] File too large); "
        f"resume from the last complete one, {tmp_path / 'checkpoint-0'}",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0"]
    check_checksums(checkpoints(tmp_path)[0])


def test_a_block_of_a_large_pool_that_does_not_fit_leaves_the_others(agent, tmp_path):
    stream = sfe.TaskStream("ThinIce-8x8", 40, seed=3)
    sf.score_large_pool(agent, stream, tmp_path, block_size=20)
    (tmp_path / "tasks-20-39.npz").unlink()
    ended = run(partial(sf.score_large_pool, agent, stream, tmp_path, 20), limit=LIMIT)
    assert ended.error is not None
    assert ended.error[1].startswith(
        f"{tmp_path / 'tasks-20-39.npz'} could not be written (File too large); no part of it is left; "
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["about.json", "tasks-0-19.npz"]


@pytest.mark.slow
def test_explored_states_that_do_not_fit_leave_no_part(tmp_path):
    ended = run(partial(jobs.explore, tmp_path), limit=LIMIT)
    assert ended.error is not None
    assert "seeds-0-1.npz could not be written (File too large); no part of it is left; " in ended.error[1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_record_that_does_not_fit_leaves_the_others(tmp_path):
    jobs.study(tmp_path, seeds=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    ended = run(partial(jobs.study, tmp_path, seeds=2), limit=LIMIT)
    assert ended.error is not None
    assert ended.error[1].startswith(f"{tmp_path / 'records' / 'base-seed2.json'} could not be written (File too large); ")
    assert {path.name: path.read_bytes() for path in (tmp_path / "records").iterdir()} == before


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(tmp_path):
    scores = tmp_path / "scores.csv"
    scores.write_text("p\n" + "\n".join(str(0.001 * (i + 1)) for i in range(100)))
    picture = tmp_path / "tail.png"
    Image.new("RGB", (2, 2)).save(picture)
    earlier = picture.read_bytes()
    command = [sys.executable, "-m", "sb3_forecast", "forecast", str(scores), "--plot", str(picture)]
    wide = {**os.environ, "COLUMNS": "500", "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, env=wide)
    said = [line for line in ended.stderr.splitlines() if "font_manager cache" not in line]
    assert (ended.returncode, said) == (
        2,
        [
            f"error: {picture} could not be written (File too large); the earlier file is unchanged; "
            "allow larger files (ulimit -f), or use another disk"
        ],
    )
    assert picture.read_bytes() == earlier


@pytest.mark.slow
def test_a_picture_of_tasks_is_whole_or_not_there(pool, tmp_path):
    from sb3_forecast_envs.gridworld.pictures import draw_tasks

    def uniform(observations):
        return np.full((len(observations), pool.family.n_actions), 1.0 / pool.family.n_actions)

    assert failure_map(pool, 0, uniform).sum() >= 0.0
    path = tmp_path / "tasks.png"
    path.write_bytes(b"the earlier one")
    ended = run(lambda: draw_tasks(pool, [("one", [0], uniform)], path), limit=LIMIT)
    assert ended.error is not None
    assert ended.error[1].startswith(f"{path} could not be written (File too large); the earlier file is unchanged")
    assert path.read_bytes() == b"the earlier one"
