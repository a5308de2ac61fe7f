"""Seeds of a study as tasks of Ray."""

import pytest

from studies.runner import Study, run_study
from tests.studies.test_runner import Settings, methods, report, run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray warns of itself
STUDY = Study("toy", run, methods, report, ("studies/runner.py",))


def test_seeds_as_tasks_of_ray(cluster, tmp_path):
    here = run_study(STUDY, Settings(tmp_path / "here", seeds=3))
    there = run_study(STUDY, Settings(tmp_path / "there", seeds=3, jobs="ray"))
    assert [record.result for record in there] == [record.result for record in here]
    (tmp_path / "there" / "records" / "ours-seed2.json").unlink()
    again = run_study(STUDY, Settings(tmp_path / "there", seeds=3, jobs="ray"))
    assert [record.result for record in again] == [record.result for record in here]


def test_bad_jobs(tmp_path):
    for jobs in (0, -1):
        with pytest.raises(ValueError, match="jobs must be at least 1"):
            run_study(STUDY, Settings(tmp_path, jobs=jobs))
