"""The runner: finished runs are kept, interrupted ones repeated, other settings refused."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from studies.records import read_records
from studies.runner import Study, run_study

RUNS = []


@dataclass(frozen=True)
class Settings:
    output: Path
    seeds: int = 2
    first_seed: int = 1
    jobs: int = 1
    progress_bar: bool = False
    size: int = 3

    def check(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}; use 3")

    def kept(self):
        return {"size": self.size}


def run(job):
    RUNS.append((job.method, job.seed))
    if job.method == "base":
        (job.folder / "base.txt").write_text(str(job.seed))
        return {"value": 0.0}
    # a method starts from what the first one left
    assert job.record_of("base").result == {"value": 0.0}
    return {"value": 10.0 * int((job.folder / "base.txt").read_text()) + job.settings.size}


def report(settings, records, console):
    (settings.output / "table.md").write_text(str([record.result["value"] for record in records]))


def methods(settings):
    return ("base", "ours")


STUDY = Study("toy", run, methods, report, ("studies/runner.py",))


@pytest.fixture(autouse=True)
def _no_runs():
    RUNS.clear()


def test_each_run_is_recorded_once(tmp_path):
    records = run_study(STUDY, Settings(tmp_path))
    assert RUNS == [("base", 1), ("ours", 1), ("base", 2), ("ours", 2)]
    assert [record.result["value"] for record in records] == [0.0, 13.0, 0.0, 23.0]
    assert (tmp_path / "table.md").read_text() == "[0.0, 13.0, 0.0, 23.0]"
    run_study(STUDY, Settings(tmp_path, seeds=3))
    assert RUNS[4:] == [("base", 3), ("ours", 3)]
    assert len(read_records(tmp_path / "records")) == 6


def test_a_run_that_was_stopped_is_done_again(tmp_path):
    def stopped(job):
        if (job.method, job.seed) == ("ours", 2):
            raise KeyboardInterrupt
        return run(job)

    with pytest.raises(KeyboardInterrupt):
        run_study(Study("toy", stopped, STUDY.methods, report, STUDY.sources), Settings(tmp_path))
    assert len(read_records(tmp_path / "records")) == 3
    RUNS.clear()
    run_study(STUDY, Settings(tmp_path))
    assert RUNS == [("ours", 2)]


def test_seeds_side_by_side_give_the_same(tmp_path):
    alone = run_study(STUDY, Settings(tmp_path / "alone"))
    together = run_study(STUDY, Settings(tmp_path / "together", jobs=2))
    assert [asdict(r)["result"] for r in alone] == [asdict(r)["result"] for r in together]


def test_records_of_other_settings_are_refused(tmp_path):
    run_study(STUDY, Settings(tmp_path))
    with pytest.raises(ValueError, match=r"differ in \['size'\]; choose another folder"):
        run_study(STUDY, Settings(tmp_path, size=4))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        run_study(STUDY, Settings(tmp_path / "new", size=0))
    assert not (tmp_path / "new").exists()
