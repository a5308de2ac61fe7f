"""One save, killed at each of its events in turn: there is no moment at which a kill does harm."""

from functools import partial

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.files import write_by_name, write_whole
from sb3_forecast.training.checkpoints import checkpoints
from sb3_forecast.training.plain import check_checksums
from tests.faults import jobs
from tests.faults.victims import Kill, run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def kill_everywhere(job, root, prepare, check):
    """Kill a job at each event on its folder, each time in a new folder.

    :param job: works in a folder
    :param root: where the folders are made
    :param prepare: fills a folder
    :param check: looks at a folder after the kill
    """
    event, killed = 1, True
    while killed:
        folder = root / f"event{event}"
        folder.mkdir()
        prepare(folder)
        ended = run(partial(job, folder), Kill(folder, event))
        assert ended.error is None, ended.trace
        check(folder)
        killed = ended.killed
        event += 1
    assert event > 3


@pytest.mark.parametrize("writer", ["open file", "name"])
def test_a_file_is_the_old_or_the_new_one_at_every_moment(tmp_path, writer):
    def write(folder):
        if writer == "open file":
            write_whole(folder / "file.txt", lambda file: file.write(b"new" * 10_000))
        else:
            write_by_name(folder / "file.txt", lambda path: path.write_bytes(b"new" * 10_000))

    def check(folder):
        assert (folder / "file.txt").read_bytes() in (b"old", b"new" * 10_000)

    kill_everywhere(write, tmp_path, lambda folder: (folder / "file.txt").write_bytes(b"old"), check)


@pytest.fixture(scope="module")
def model(pool):
    model = sf.ForecastPPO("MlpPolicy", jobs.grid(pool), seed=1, **{**jobs.FORECAST, **jobs.SMALL_PPO})
    return model.learn(jobs.ROLLOUT)


def whole_ones(folder):
    for path in checkpoints(folder):
        check_checksums(path)
    return [path.name for path in checkpoints(folder)]


@pytest.mark.slow
def test_no_moment_of_a_save_hits_a_checkpoint(model, tmp_path):
    """The new one is written and the oldest one removed; a killed save leaves two or three, all whole."""

    def at(steps, folder):
        model.num_timesteps = steps
        callback = sf.TrainingCheckpoints(folder, every=1, keep=2)
        callback.model, callback._rollouts = model, 1
        callback._on_rollout_start()

    def prepare(folder):
        at(100, folder)
        at(200, folder)

    def check(folder):
        assert whole_ones(folder)[-2:] in (["checkpoint-100", "checkpoint-200"], ["checkpoint-200", "checkpoint-300"])

    kill_everywhere(partial(at, 300), tmp_path, prepare, check)


@pytest.mark.slow
def test_no_moment_of_a_second_save_of_the_same_step_loses_it(model, tmp_path):
    def save(folder):
        sf.save_training(model, folder)

    def check(folder):
        assert len(whole_ones(folder)) == 1
        resumed = sf.resume_training(sf.ForecastPPO, folder, jobs.grid(model.objective.scorer.pool), device="cpu")
        assert resumed.num_timesteps == model.num_timesteps

    kill_everywhere(save, tmp_path, save, check)


def test_the_next_run_cleans_up_what_kills_left(tmp_path):
    for name in ("checkpoint-640.partial", "checkpoint-128.removed", "checkpoint-256.replaced"):
        (tmp_path / name).mkdir()
    callback = sf.TrainingCheckpoints(tmp_path)
    callback.model = type("Model", (), {"num_timesteps": 300})
    callback._on_training_start()
    callback._on_training_end()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-256"]


def test_a_run_that_fell_back_trains_on_in_the_same_folder(pool, tmp_path):
    reference = jobs.train(pool, tmp_path / "reference", rollouts=4)
    jobs.train(pool, tmp_path / "run", rollouts=4)
    (tmp_path / "run" / "checkpoint-384" / "model.zip").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"checkpoint-384.*set aside as checkpoint-\*\.damaged"):
        model = sf.resume_training(sf.ForecastPPO, tmp_path / "run", jobs.grid(pool), device="cpu", fall_back=True)
    model.learn(256, callback=sf.TrainingCheckpoints(tmp_path / "run", every=1), reset_num_timesteps=False)
    found = th.cat([p.detach().flatten() for p in model.policy.parameters()]).numpy()
    np.testing.assert_array_equal(found, reference)
    assert whole_ones(tmp_path / "run") == ["checkpoint-256", "checkpoint-384"]
