"""A local cluster for the tests of a file."""

import os

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray's workers make way for other processes by default; beside other tests they would hardly run at all
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # the name that Ray reads


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, with two cores."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
