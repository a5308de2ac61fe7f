"""Tables come from records: what is in the pages is what the committed records say, and a record knows its code."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from studies.__main__ import Tables, tables
from studies.records import PUBLISHED, ROOT, checksum, make_record, read_record, read_records
from studies.statistics import (
    Column,
    bootstrap_interval,
    interquartile_mean,
    median_and_range,
    middle_and_interval,
    paired_differences,
)
from studies.tables import Row, Table, pages, with_tables
from studies.tables_in_docs import SOURCES, TABLES

ERROR = Column("error", ("error", "mean_abs"), "{:.2f}")


def record(method, seed, value, **changes):
    result = {"error": {"mean_abs": value}}
    made = make_record("toy", method, seed, {"size": 3}, result, 1.25, ("studies/records.py",))
    return replace(made, **changes)


def test_the_pages_agree_with_the_records():
    """`make tables` would change nothing."""
    assert tables(Tables(check=True), Console(quiet=True)) == 0


def test_every_table_is_in_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    assert all(f"<!-- table {name}:" in text for name in TABLES)


def test_a_changed_number_is_noticed(tmp_path):
    for seed, value in ((1, 0.25), (2, 0.5), (3, 4.0)):
        record("ours", seed, value).write(tmp_path / "toy")
    table = {"toy": Table("toy", [Row("ours", "ours"), Row("never run", "none")], [ERROR])}
    page = "before\n<!-- table toy: from studies/records, by `make tables` -->\nold\n<!-- end of table -->\nafter\n"
    made = with_tables(page, table, tmp_path)
    assert "| ours | 0.50 [0.25, 4.00] |" in made
    assert "never run" not in made
    assert made.startswith("before\n")
    assert made.endswith("after\n")
    assert with_tables(made, table, tmp_path) == made
    record("ours", 3, 5.0).write(tmp_path / "toy")
    assert with_tables(made, table, tmp_path) != made
    with pytest.raises(ValueError, match="table must be one of"):
        with_tables(page.replace("table toy", "table other"), table, tmp_path)


def test_paired_differences_are_taken_by_seed(tmp_path):
    ours = [record("ours", seed, value) for seed, value in ((1, 1.0), (2, 2.0), (3, 3.0))]
    theirs = [record("theirs", seed, value) for seed, value in ((3, 1.0), (1, 4.0))]
    np.testing.assert_array_equal(paired_differences(ours, theirs, ERROR), [-3.0, 2.0])
    for each in (*ours, *theirs):
        each.write(tmp_path / "toy")
    table = Table("toy", [Row("ours", "ours"), Row("theirs", "theirs")], [ERROR], paired={"theirs": ERROR})
    lines = table.markdown(tmp_path).splitlines()
    assert lines[2] == "| ours | 2.00 [1.00, 3.00] | -0.50 [-3.00, +2.00] |"
    assert lines[3].endswith("| - |")


def test_middles_and_intervals():
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0, 2.5, 3.5, 0.0])
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[2:6].mean())
    low, high = bootstrap_interval([values])
    assert low < interquartile_mean(values) < high
    # strata are drawn by themselves: a family without spread adds none
    still = bootstrap_interval([values, np.full(5, 7.0)])
    assert still[1] - still[0] == pytest.approx((high - low) / 2.0, rel=0.1)
    assert bootstrap_interval([values]) == (low, high)
    rng = np.random.default_rng(0)
    covers = [lo <= 0.0 <= hi for lo, hi in (bootstrap_interval([rng.normal(size=30)], 0.9) for _ in range(60))]
    assert stats.binomtest(sum(covers), 60, 0.9).pvalue > 1e-3
    assert median_and_range(np.array([np.nan]), "{:.1f}") == "-"
    assert median_and_range(np.array([2.0, np.nan]), "{:.1f}") == "2.0"
    assert middle_and_interval(np.array([2.0]), "{:.1f}") == "2.0 (2.0, 2.0)"


def test_records_are_complete(tmp_path):
    path = record("ours", 4, 0.5).write(tmp_path)
    assert path.name == "ours-seed4.json"
    found = read_record(path)
    assert found == record("ours", 4, 0.5)
    assert found.code["sources"] == checksum(("studies/records.py",))
    assert {"torch", "numpy", "stable-baselines3"} <= set(found.packages)
    assert found.seconds == 1.2
    assert found.threads >= 1
    assert json.loads(path.read_text())["settings"] == {"size": 3}


def test_the_checksum_follows_the_code(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("x = 1\n")
    before = checksum(("a/*.py",), tmp_path)
    assert checksum(("a/*.py", "a/one.py"), tmp_path) == before
    (tmp_path / "a" / "one.py").write_text("x = 2\n")
    after = checksum(("a/*.py",), tmp_path)
    (tmp_path / "a" / "one.py").rename(tmp_path / "a" / "two.py")
    assert len({before, after, checksum(("a/*.py",), tmp_path)}) == 3


def test_published_records_can_be_read():
    folders = [folder for folder in PUBLISHED.iterdir() if folder.is_dir()]
    assert {table.study for table in TABLES.values()} <= {folder.name for folder in folders}
    for folder in folders:
        records = read_records(folder)
        assert records
        assert len({(r.method, r.seed) for r in records}) == len(records)
        assert len({json.dumps(r.settings, sort_keys=True) for r in records}) == 1, f"{folder.name} mixes settings"
        assert all(r.study in SOURCES for r in records)
    assert all((ROOT / source).exists() for sources in SOURCES.values() for source in sources)
