"""kill -9 at seeded random moments: what was finished stays, nothing half-written has a final name, and going on ends as if nothing had been."""

from functools import partial

import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.training.checkpoints import checkpoints
from sb3_forecast.training.plain import check_checksums
from studies.records import read_record
from tests.faults import jobs
from tests.faults.victims import kill_often, result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12 and later warn of forks beside threads
]
TIMES = 20


class Grows:
    """Checks that what is finished stays: the names in a folder only grow, as long as it is the same folder.

    :param finished: what is finished in a folder, as a set
    """

    def __init__(self, finished):
        self.finished, self.before = finished, {}

    def __call__(self, folder):
        now = self.finished(folder)
        assert self.before.get(folder, set()) <= now
        self.before[folder] = now


def test_a_killed_training_goes_on_as_if_it_had_not_been_killed(pool, tmp_path):
    reference = result(partial(jobs.train, pool, tmp_path / "reference"))
    newest = {}

    def check(folder):
        found = checkpoints(folder)
        for path in found:
            check_checksums(path)
        steps = max((int(path.name.split("-")[1]) for path in found), default=0)
        assert steps >= newest.get(folder, 0)
        newest[folder] = steps

    for parameters in kill_often(partial(jobs.train, pool), tmp_path, check, TIMES, seed=1):
        np.testing.assert_array_equal(parameters, reference)
    # what the kills left is cleaned up by whoever goes on: only the last two checkpoints stay
    last = {path.name for path in (tmp_path / "reference").iterdir()}
    assert last == {f"checkpoint-{4 * jobs.ROLLOUT}", f"checkpoint-{5 * jobs.ROLLOUT}"}
    assert {path.name for path in (tmp_path / "run0").iterdir()} == last


def test_a_killed_scoring_of_a_large_pool_loses_no_block(agent, tmp_path):
    reference = result(partial(jobs.score, agent, tmp_path / "reference"))

    def finished(folder):
        for path in folder.glob("tasks-*.npz"):
            with np.load(path) as file:
                assert len(file["psi"]) == 20
        return {path.name for path in folder.glob("tasks-*.npz")}

    for scores in kill_often(partial(jobs.score, agent), tmp_path, Grows(finished), TIMES, seed=3):
        np.testing.assert_array_equal(scores, reference)


def test_a_killed_exploration_loses_no_block(tmp_path):
    reference = result(partial(jobs.explore, tmp_path / "reference"))

    def finished(folder):
        for path in folder.glob("seeded-*/seeds-*.npz"):
            with np.load(path) as file:
                assert all(len(file[name]) for name in ("first", "successors", "views"))
        return {path.name for path in folder.glob("seeded-*/seeds-*.npz")}

    for found in kill_often(jobs.explore, tmp_path, Grows(finished), TIMES, seed=4):
        for one, other in zip(found, reference, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_killed_writer_leaves_whole_reports(agent, pool, tmp_path):
    report = sf.evaluate_forecast(agent, pool, 60, 20, deploy_size=200, k=5)
    check = partial(jobs.check_report, report)
    kill_often(partial(jobs.write_report, report), tmp_path, check, TIMES, seed=5)
    # the uninterrupted one, over what the kills left
    for folder in tmp_path.glob("run*"):
        jobs.write_report(report, folder)
        check(folder)
        assert {path.name for path in folder.glob("[!.]*")} == {"report.json", "report.npz", "report.png"}


def test_a_killed_film_leaves_the_earlier_one(clumsy, pool, tmp_path):
    small = pool.subset(np.arange(4))

    def film(folder):
        sf.record_worst(clumsy, small, n=1, path=folder / "worst.gif", scorer="exact", tries=1)

    film(tmp_path)
    whole = (tmp_path / "worst.gif").read_bytes()

    def check(folder):
        path = folder / "worst.gif"
        assert not path.exists() or path.read_bytes() == whole

    kill_often(film, tmp_path, check, TIMES, seed=6)


def test_a_killed_study_repeats_no_finished_run(tmp_path):
    reference = result(partial(jobs.study, tmp_path / "reference"))

    def finished(folder):
        return {read_record(path).method + path.name for path in (folder / "records").glob("*.json")}

    for results in kill_often(jobs.study, tmp_path, Grows(finished), TIMES, seed=7):
        assert results == reference
