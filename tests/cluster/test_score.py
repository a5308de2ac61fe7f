"""Scoring with Ray: what one process says, whoever is lost on the way."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.cluster.connection import connected
from tests.cluster import jobs

pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of itself
SMALL = {"block_size": 1024, "progress_bar": False}
N = 3000


@pytest.fixture(scope="module")
def stream():
    return sfe.TaskStream("ThinIce-6x6", N, seed=5, rare_fraction=0.05)


@pytest.fixture(scope="module")
def reference(agent, stream, tmp_path_factory):
    """All scores by one process."""
    return sf.score_large_pool(agent, stream, tmp_path_factory.mktemp("reference"))


def equal(folder, sketch, reference):
    """Nothing twice, nothing missing, and every number that of one process."""
    found = sf.cluster.read_scores(folder)
    np.testing.assert_array_equal(found["task"], np.arange(N))
    for name, column in (("psi", "psi"), ("p", "failure"), ("success", "success"), ("rare", "rare")):
        np.testing.assert_array_equal(found[name], getattr(reference, column))
    assert sketch.to_bytes() == reference.sketch().to_bytes()
    assert sf.cluster.read_errors(folder) == {}


def test_it_is_what_one_process_says(cluster, agent, stream, reference, tmp_path):
    sketch = sf.cluster.score(agent, stream, tmp_path, **SMALL)
    equal(tmp_path, sketch, reference)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "about.json", "sketch.npz", "tasks-0-1023.parquet", "tasks-1024-2047.parquet", "tasks-2048-2999.parquet"
    ]  # fmt: skip
    assert sf.TailSketch.from_bytes((tmp_path / "sketch.npz").read_bytes()).to_bytes() == sketch.to_bytes()


@pytest.mark.slow
def test_it_goes_on_with_what_is_missing(cluster, agent, stream, reference, tmp_path):
    folder, drawn = tmp_path / "scores", tmp_path / "drawn"
    drawn.mkdir()
    sf.cluster.score(agent, stream, folder, **SMALL)
    (folder / "tasks-1024-2047.parquet").unlink()
    content = bytearray((folder / "tasks-2048-2999.parquet").read_bytes())
    (folder / "tasks-2048-2999.parquet").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="tasks-2048-2999.parquet of .* are damaged"):
        sketch = sf.cluster.score(agent, jobs.Counting(stream, drawn), folder, "exact", **SMALL)
    equal(folder, sketch, reference)
    blocks = {tuple(map(int, path.name.split("-")[1:3])) for path in drawn.iterdir()}
    # the first block is not drawn again, but for the one task that is tried out
    assert blocks == {(0, 1), (1024, 2048), (2048, 3000)}
    assert sf.cluster.score(agent, stream, folder, **SMALL).to_bytes() == sketch.to_bytes()


@pytest.mark.slow
def test_a_worker_that_dies_costs_nothing(cluster, agent, stream, reference, tmp_path):
    deadly = jobs.Deadly(1500, 1, tmp_path)
    sketch = sf.cluster.score(
        agent, stream, tmp_path / "scores", deadly, identity="deadly", block_size=1024, progress_bar=False
    )
    assert (tmp_path / "death-0").exists()
    np.testing.assert_array_equal(sf.cluster.read_scores(tmp_path / "scores")["psi"], reference.psi)
    assert sketch.n_errors == 0


@pytest.mark.slow
def test_a_task_that_always_kills_is_recorded(cluster, agent, stream, reference, tmp_path):
    deadly = jobs.Deadly(2500, 99, tmp_path)
    sketch = sf.cluster.score(
        agent, stream, tmp_path / "scores", deadly, identity="deadly", block_size=1024, progress_bar=False
    )
    errors = sf.cluster.read_errors(tmp_path / "scores")
    assert set(errors) == set(range(2304, 2560))  # the tasks that are scored with it
    assert set(errors.values()) == {"the worker died 3 times while tasks 2304 to 2559 were scored"}
    assert len(list(tmp_path.glob("death-*"))) == 4
    good = np.delete(np.arange(N), np.arange(2304, 2560))
    np.testing.assert_array_equal(sf.cluster.read_scores(tmp_path / "scores")["psi"][good], reference.psi[good])
    assert (sketch.n_tasks, sketch.n_errors) == (N - 256, 256)


@pytest.mark.slow
def test_a_task_that_always_raises_is_recorded(cluster, agent, stream, reference, tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    sketch = sf.cluster.score(agent, jobs.Poisoned(stream, drawn, 1030), tmp_path / "scores", "exact", **SMALL)
    assert sf.cluster.read_errors(tmp_path / "scores") == {1030: "ArithmeticError: task 1030 is poisoned"}
    found = sf.cluster.read_scores(tmp_path / "scores")
    assert np.isnan(found["psi"][1030])
    assert np.isnan(found["p"][1030])
    np.testing.assert_array_equal(np.delete(found["rare"], 1030), np.delete(reference.rare, 1030))
    assert (sketch.n_tasks, sketch.n_errors) == (N - 1, 1)


@pytest.mark.slow
def test_a_full_disk_loses_what_is_missing_only(cluster, agent, stream, reference, tmp_path):
    """A folder takes the place of a block's file, so that it cannot be written."""
    (tmp_path / "tasks-1024-2047.parquet").mkdir(parents=True)
    (tmp_path / "tasks-1024-2047.parquet" / "file").touch()
    with pytest.raises(
        RuntimeError, match=r"got 1 that were not, the first at task 1024: .*tasks-1024-2047.parquet could not be written"
    ):
        sf.cluster.score(agent, stream, tmp_path, **SMALL)
    (tmp_path / "tasks-1024-2047.parquet" / "file").unlink()
    (tmp_path / "tasks-1024-2047.parquet").rmdir()
    equal(tmp_path, sf.cluster.score(agent, stream, tmp_path, **SMALL), reference)


@pytest.mark.slow
def test_counted_episodes_do_not_depend_on_the_cut(cluster, agent, tmp_path):
    stream = sfe.TaskStream("ThinIce-6x6", 200, seed=5, rare_fraction=0.05)
    counting = {"episodes": 2, "n_envs": 4}
    one, other = (
        sf.cluster.score(
            agent, stream, tmp_path / str(size), "frequency", 3, counting, workers=workers, block_size=size, progress_bar=False
        )
        for size, workers in ((64, 2), (128, 1))
    )
    assert one.to_bytes() == other.to_bytes()
    found = sf.cluster.read_scores(tmp_path / "64")
    assert (found["steps"] > 0).all()
    assert set(found["p"]) <= {0.0, 0.5, 1.0}


@pytest.mark.slow
def test_pools_travel_as_well_as_streams(cluster, agent, reference, tmp_path):
    pool = sfe.TaskPool("ThinIce-6x6", N, seed=5, rare_fraction=0.05)
    np.testing.assert_array_equal(sf.cluster.score(agent, pool, tmp_path, **SMALL).top_scores, reference.sketch().top_scores)


@pytest.mark.slow
def test_statistics_of_the_observations_travel(cluster, agent, tmp_path):
    from stable_baselines3 import PPO

    pool = sfe.TaskPool("ThinIce-6x6", 64, seed=1)
    env = VecNormalize(sfe.GridVecEnv(pool, 2, seed=0), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, seed=0, device="cpu")
    env.obs_rms.mean = env.obs_rms.mean + 3.0
    sketch = sf.cluster.score(model, pool, tmp_path, progress_bar=False)
    np.testing.assert_array_equal(sketch.top_scores, -np.sort(-sf.ExactScorer(pool, cache_tasks=0).outcomes(model).psi))


@pytest.mark.slow
def test_rounds_of_an_active_evaluation(cluster, agent):
    stream = sfe.TaskStream("ThinIce-6x6", 2000, seed=5, rare_fraction=0.05)
    one, other = (
        sf.ActiveEvaluation("exact", stream, 200, seed=1, workers=sf.cluster.Workers(workers=workers)).run(agent)
        for workers in (1, 2)
    )
    np.testing.assert_array_equal(one.tasks, other.tasks)
    np.testing.assert_array_equal(one.scores, other.scores)
    here = sf.ActiveEvaluation("exact", stream, 200, seed=1).run(agent)
    np.testing.assert_array_equal(here.tasks, one.tasks)
    np.testing.assert_allclose(here.scores, one.scores, rtol=1e-6)  # float32 network, other batch sizes
    with pytest.raises(ValueError, match="scorer must be named where workers score, got 'auto'"):
        sf.ActiveEvaluation("auto", stream, 200, workers=sf.cluster.Workers())


@pytest.mark.slow
def test_scores_of_somebody_else(cluster, agent, stream, tmp_path):
    few = sfe.TaskStream("ThinIce-6x6", 20, seed=5)
    sf.cluster.score(agent, few, tmp_path, **SMALL)
    for tasks, changes in ((sfe.TaskStream("ThinIce-6x6", 20, seed=6), {}), (few, {"seed": 1}), (few, {"scorer": "survival"})):
        with pytest.raises(ValueError, match="folder must hold scores that were made with the same"):
            sf.cluster.score(agent, tasks, tmp_path, **SMALL, **changes)
    (tmp_path / "about.json").write_text("{")
    with pytest.raises(ValueError, match="damaged about"):
        sf.cluster.score(agent, few, tmp_path, **SMALL)
    (tmp_path / "about.json").unlink()
    with pytest.raises(ValueError, match="with scores and no about"):
        sf.cluster.score(agent, few, tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": [1, 2]}, TypeError, "tasks must be ones that can be drawn by their index"),
        ({"scorer": "best"}, ValueError, "scorer must be one of"),
        ({"scorer": jobs.Deadly(0, 0, "")}, ValueError, "identity must be given for a scorer that is no name"),
        ({"block_size": 1000}, ValueError, "block_size must be at least 1024"),
        ({"block_size": 1500}, ValueError, "block_size must be a multiple of 1024.* use 1024"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"memory": 2**60}, ValueError, "num_cpus, num_gpus and memory of a worker must fit one machine"),
        ({"num_gpus": 1}, ValueError, "num_cpus, num_gpus and memory of a worker must fit one machine"),
        ({"num_cpus": 99}, ValueError, "num_cpus, num_gpus and memory of a worker must fit one machine"),
        ({"num_cpus": 0}, ValueError, "num_cpus must be at least 0.1"),
        ({"top": 5}, ValueError, "top must be at least 10"),
        ({"counting": {"episodes": 3}}, ValueError, "counting must be left out for a scorer that counts nothing"),
        ({"folder": "unknown://folder"}, ValueError, "folder must be a path or an address that pyarrow knows"),
        ({"tasks": sfe.CartPoleTasks(20, seed=0)}, ValueError, "tasks must be ones that the model can be scored on"),
    ],
)
def test_bad_input(cluster, agent, stream, tmp_path, changes, error, message):
    arguments = {"tasks": stream, "folder": tmp_path, "scorer": "exact", "progress_bar": False, **changes}
    with pytest.raises(error, match=message):
        sf.cluster.score(agent, **arguments)
    # the corrected call must not be refused
    assert not list(tmp_path.glob("*"))


def test_what_cannot_be_pickled(agent, stream, tmp_path):
    lock = threading.Lock()

    def make(model, pool, seed):
        assert lock is not None
        return sf.ExactScorer(pool, cache_tasks=0)

    with pytest.raises(
        ValueError, match=r"scorer must be one that can be pickled, to travel to the workers, got function .*lock"
    ):
        sf.cluster.score(agent, stream, tmp_path, make, identity="lock", progress_bar=False)


def test_ray_client_is_refused():
    with (
        pytest.raises(ValueError, match=r"address must be 'auto' or 'host:port', got 'ray://127.0.0.1:1'"),
        connected("ray://127.0.0.1:1"),
    ):
        pass


@pytest.mark.slow
def test_errors_can_be_tried_again(cluster, agent, stream, reference, tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    sf.cluster.score(agent, jobs.Poisoned(stream, drawn, 1030), tmp_path / "scores", "exact", **SMALL)
    # the same call keeps what is there
    assert sf.cluster.score(agent, stream, tmp_path / "scores", "exact", **SMALL).n_errors == 1
    equal(
        tmp_path / "scores",
        sf.cluster.score(agent, stream, tmp_path / "scores", "exact", retry_errors=True, **SMALL),
        reference,
    )


@pytest.mark.slow
def test_a_relative_folder(cluster, agent, tmp_path, monkeypatch):
    """Workers have another working folder than the driver."""
    monkeypatch.chdir(tmp_path)
    sf.cluster.score(agent, sfe.TaskStream("ThinIce-6x6", 20, seed=5), "scores", **SMALL)
    assert (tmp_path / "scores" / "tasks-0-19.parquet").exists()


@pytest.mark.slow
def test_noise_of_gsde_does_not_depend_on_the_worker(cluster, tmp_path):
    from stable_baselines3 import PPO

    tasks = sfe.SeededTasks("Pendulum-v1", 96, failed=jobs.far, first_seed=3)
    model = PPO("MlpPolicy", tasks.make_vec_env(2), n_steps=8, batch_size=16, use_sde=True, device="cpu")
    one, other = (
        sf.cluster.score(
            model,
            tasks,
            tmp_path / str(size),
            "frequency",
            1,
            {"episodes": 2},
            workers=size // 64,
            block_size=size,
            progress_bar=False,
        )
        for size in (64, 128)
    )
    assert one.to_bytes() == other.to_bytes()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_address_that_does_not_answer():
    code = (
        "import sb3_forecast.cluster.connection as c\n"
        "for address in ('127.0.0.1:1', 'nonsense:port'):\n"
        "    try:\n"
        "        with c.connected(address): print('connected')\n"
        "    except ConnectionError as error: print(error)\n"
    )
    lines = run(code).stdout.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("address must be that of a running Ray cluster, got ") for line in lines)


def test_without_ray():
    code = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'ray' else find(name, *rest)\n"
        "import sb3_forecast as sf\n"
        "sf.cluster\n"
    )
    assert "ImportError: sb3_forecast.cluster needs ray; run `pip install 'sb3-forecast[cluster]'`" in run(code).stderr
