"""Machines that come and go: a cluster of several nodes on this machine, and harm on purpose. What is scored equals the undisturbed run."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.blocks import OTHER_UNIT, score_block
from tests.cluster import jobs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray warns of itself
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
N = 12 * 1024


@pytest.fixture
def nodes():
    """A cluster of a head without cores, and two nodes with one core each; none of another test's."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def stream():
    return sfe.TaskStream("ThinIce-6x6", N, seed=5, rare_fraction=0.05)


@pytest.fixture(scope="module")
def reference(agent, stream, tmp_path_factory):
    return sf.score_large_pool(agent, stream, tmp_path_factory.mktemp("reference"))


def equal(folder, sketch, reference):
    found = sf.cluster.read_scores(folder)
    np.testing.assert_array_equal(found["task"], np.arange(N))
    np.testing.assert_array_equal(found["psi"], reference.psi)
    assert sketch.to_bytes() == reference.sketch().to_bytes()
    # a kill can leave a hidden half of a file, which nothing reads
    left = {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")} - {"about.json", "sketch.npz"}
    assert left == {f"tasks-{begin}-{begin + 1023}.parquet" for begin in range(0, N, 1024)}


class Running(threading.Thread):
    """A scoring in a thread of its own, so that harm can be done meanwhile."""

    def __init__(self, *arguments, **options):
        super().__init__()
        self.arguments, self.options = arguments, options
        self.result = self.error = None

    def run(self):
        try:
            self.result = sf.cluster.score(*self.arguments, block_size=1024, progress_bar=False, **self.options)
        except BaseException as error:
            self.error = error

    def done(self):
        self.join(500)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def blocks(folder):
    return list(folder.glob("tasks-*.parquet"))


def test_workers_that_are_killed_from_outside(nodes, agent, stream, reference, tmp_path):
    drawn, folder = tmp_path / "drawn", tmp_path / "scores"
    drawn.mkdir()
    running = Running(agent, jobs.Counting(stream, drawn), folder, "exact", address=nodes.address)
    running.start()
    killed = set()

    def workers():
        return {int(path.name.rsplit("-", 1)[1]) for path in drawn.iterdir()} - {os.getpid()} - killed

    for _ in range(3):
        wait_for(workers)
        victim = min(workers())
        killed.add(victim)
        os.kill(victim, signal.SIGKILL)
    equal(folder, running.done(), reference)


def test_a_node_goes_and_another_comes(nodes, agent, stream, reference, tmp_path):
    running = Running(agent, stream, tmp_path / "scores", "exact", address=nodes.address)
    running.start()
    wait_for(lambda: len(blocks(tmp_path / "scores")) >= 2)
    nodes.remove_node(nodes.workers[0], allow_graceful=False)
    nodes.add_node(num_cpus=1)
    equal(tmp_path / "scores", running.done(), reference)


def test_a_driver_that_is_killed_goes_on(nodes, agent, stream, reference, tmp_path):
    """kill -9 of the driver at seeded moments; whoever goes on ends with the same."""
    agent.save(tmp_path / "agent.zip")
    folder = tmp_path / "scores"
    code = (
        "import sys, sb3_forecast as sf, sb3_forecast_envs as sfe\n"
        "from stable_baselines3 import PPO\n"
        f"stream = sfe.TaskStream('ThinIce-6x6', {N}, seed=5, rare_fraction=0.05)\n"
        "agent = PPO.load(sys.argv[1], device='cpu')\n"
        "sf.cluster.score(agent, stream, sys.argv[2], 'exact', address=sys.argv[3], block_size=1024, progress_bar=False)\n"
    )
    generator = np.random.default_rng(0)
    for kill in range(5):
        before = len(blocks(folder)) if folder.exists() else 0
        driver = subprocess.Popen([sys.executable, "-c", code, tmp_path / "agent.zip", folder, nodes.address])
        wait_for(
            lambda before=before, driver=driver: (
                driver.poll() is not None or (folder.exists() and len(blocks(folder)) > before)
            )
        )
        time.sleep(generator.uniform(0.0, 1.0))
        driver.kill()
        driver.wait()
        assert len(blocks(folder)) > before, f"kill {kill}"
        if len(blocks(folder)) == N // 1024:
            break
    equal(
        folder,
        sf.cluster.score(agent, stream, folder, "exact", address=nodes.address, block_size=1024, progress_bar=False),
        reference,
    )


class FullDisk:
    """Exact scorers; on the marked node no file can hold more than a thousand bytes from then on."""

    def __call__(self, model, pool, seed):
        if os.environ.get("SB3_FORECAST_TEST_FULL_DISK"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return sf.ExactScorer(pool, cache_tasks=0)


def test_a_full_disk_at_one_node(nodes, agent, stream, tmp_path):
    full = nodes.add_node(num_cpus=1, env_vars={"SB3_FORECAST_TEST_FULL_DISK": "1"})
    nodes.remove_node(nodes.workers[0])
    nodes.wait_for_nodes()
    assert full
    folder = tmp_path / "scores"
    sketch = sf.cluster.score(
        agent, stream, folder, FullDisk(), address=nodes.address, identity="full", block_size=1024, progress_bar=False
    )
    reference = tmp_path / "reference"
    nodes.remove_node(full)
    again = sf.cluster.score(
        agent, stream, reference, FullDisk(), address=nodes.address, identity="full", block_size=1024, progress_bar=False
    )
    assert sketch.to_bytes() == again.to_bytes()
    assert len(blocks(folder)) == N // 1024


def test_a_folder_that_one_node_does_not_see(nodes, agent, stream, tmp_path, monkeypatch):
    """A node whose folder is another: it does not see what the driver wrote."""
    from sb3_forecast.cluster import connection

    real = connection.ScoresFolder.token

    def elsewhere(folder):
        name, _ = real(folder)
        return name, "what only the driver's disk holds"

    monkeypatch.setattr(connection.ScoresFolder, "token", elsewhere)
    with pytest.raises(ValueError, match=r"folder must be shared by all machines, got .* does not see"):
        sf.cluster.score(agent, stream, tmp_path, address=nodes.address, progress_bar=False)
    assert not list(tmp_path.glob(".shared-*"))


def test_prompts_through_two_workers(nodes, tmp_path):
    """20,000 prompts: equal to one process to 1e-6."""
    pytest.importorskip("transformers")
    from sb3_forecast import lm
    from sb3_forecast.lm.password_game.tiny import build_tokenizer
    from tests.lm.conftest import random_llama

    tokenizer = build_tokenizer()
    model = random_llama(len(tokenizer))
    game = lm.PasswordGame(20_000, seed=3)
    tasks = lm.PromptTasks(game.prompts, game.targets, game.rare)
    sf.cluster.score(
        model,
        tasks,
        tmp_path,
        lm.PromptScorers(tokenizer),
        identity="stems",
        address=nodes.address,
        workers=2,
        progress_bar=False,
    )
    found = sf.cluster.read_scores(tmp_path)
    here = score_block(tasks, 0, 20_000, lm.PromptScorers(tokenizer), model, 0, OTHER_UNIT)
    np.testing.assert_array_equal(found["psi"], here.psi)
    # one scorer of all prompts makes other batches of them, and the model counts in float32
    whole = lm.LMFailureScorer(model, tokenizer, game.prompts, game.targets).score(model).numpy()
    np.testing.assert_allclose(found["p"], sf.failure_probability(whole), rtol=0.0, atol=1e-6)
    assert len(list(Path(tmp_path).glob("tasks-*.parquet"))) == 5
