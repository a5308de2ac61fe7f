"""Files of scores as users have them: encodings, separators, broken rows, look-alike columns. Read rightly, or refused with the place."""

import bz2
import gzip
import json
import lzma
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sb3_forecast as sf
from sb3_forecast.cli.readers import read_scores
from sb3_forecast.cli.reading.tables import ParquetTable, RowTable, TextTable

P = [0.9, 0.009, 0.25]


def probabilities(path, **options):
    return sf.failure_probability(read_scores(path, **options).values)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
@pytest.mark.parametrize("header", ["p\n", "p,größe\n", ""])
def test_encodings(tmp_path, encoding, header):
    """A byte-order mark is no part of the first cell, with a header or without."""
    more = ",x" if "," in header else ""
    text = header + "".join(f"{p}{more}\n" for p in P)
    text = "\ufeff" + text if encoding.endswith("-bom") else text
    (tmp_path / "a.csv").write_bytes(text.encode(encoding.removesuffix("-bom")))
    np.testing.assert_allclose(probabilities(tmp_path / "a.csv"), P)


def test_latin_1_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("p,größe\n0.1,x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"must be text in UTF-8 or UTF-16, got the byte 0xf6.*latin-1.*iconv"):
        read_scores(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "p;note\n0,9;x\n0,009;y\n0,25;z\n"),
        ("a.csv", "p;note\n0.9;x\n0.009;y\n0.25;z\n"),
        ("a.tsv", "p\tnote\n0.9\tx\n0.009\ty\n0.25\tz\n"),
        ("a.csv", 'note,p\n"a, b",0.9\n"c ""d""",0.009\n"two\nlines",0.25\n'),
        ("a.csv", "p,note\r\n0.9,x\r\n0.009,y\r\n0.25,z\r\n"),
        ("a.csv", "p , note\n 0.9 ,x\n9e-3,y\n.25,z"),
        ("a.csv", "Unnamed: 0,share\n0,0.9\n1,0.009\n2,0.25\n"),
        ("a.csv", "task_id,share\n0,0.9\n1,0.009\n2,0.25\n"),
        ("a.csv", "seed,docId,share\n0,3,0.9\n0,4,0.009\n0,5,0.25\n"),
        ("a.csv", "p;q\n0,9;0\n0,009;1\n0,25;1\n"),
    ],
)
def test_what_spreadsheets_write(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    np.testing.assert_allclose(probabilities(tmp_path / name), P)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p,q\n0.9,0.009,\n0.1,0.2,\n", r"line 2: a row must have 2 cells.*got 3 .*remove the separator at the end"),
        ("p,q\n0.9,0.009\n0.1,0.2,0.3\n", r"line 3: a row must have 2 cells.*got 3 .*quote cells that hold a comma"),
        ("p\n0,009\n", r"line 2: a row must have 1 cells.*decimals with a point"),
        ("n,p\n1,234,0.5\n", r"line 2: .*got 3"),
        ("p,q\n0.9\n", r"line 2: .*got 1 .*write an empty cell"),
        ("p\n0.9;1\n", r"line 2: a row must have 1 cell .*same separator"),
        ("p;q\n0,9;1.5\n", r"must write decimals in one way, got commas in some cells and points in others"),
        ('p,q\n0.9,"x\n0.1,y\n', r"must be cells separated by ',', got a broken one .*close the quotation marks"),
        ("p,p\n0.9,0.1\n", r"must have columns of different names, got 'p' twice"),
        ("p\n" + "0.9\n" * 1100 + "oops\n", r"line 1102: p must be a number, got 'oops'"),
        ("p\n0.9\nnan\n0.1\nNA\n", r"p must be a number in every row, got an empty cell or NaN in line 3 \(2 of 4 rows\)"),
        ("p\n", r"must have a column of numbers, got the columns \['p'\]"),
        ("p\n1_0\n", r"must have a column of numbers"),
        ("score\ninf\n", r"score must be finite, got inf in line 2"),
        ("task_id,seed\n0,1\n1,2\n", r"got only \['task_id', 'seed'\], which number the tasks"),
    ],
)
def test_broken_text_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "name", ["success_rate", "pass_rate", "pass@1", "passRate", "accuracy_norm", "exact_match", "mean_reward", "is_correct"]
)
def test_successes_are_not_failures(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"{name}\n0.9\n0.8\n")
    with pytest.raises(ValueError, match=rf"must be about failures, got '{name}', which means successes"):
        read_scores(tmp_path / "a.csv")
    assert read_scores(tmp_path / "a.csv", kind="prob").values is not None  # who says what it holds is believed


@pytest.mark.parametrize(
    "name", ["task_failure", "exact_failure_probability", "accuracyError", "is_incorrect", "seed_failures"]
)
def test_failures_by_other_names(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"{name},task_id\n0.9,1\n0.8,2\n")
    np.testing.assert_allclose(probabilities(tmp_path / "a.csv"), [0.9, 0.8])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("failures,n\n3,2\n", {"trials": "n"}, r"failures must be at most the number of trials, got 3\.0 in line 2"),
        ("failures,n\n-1,2\n", {"trials": "n"}, r"failures must be at least 0, got -1\.0 in line 2"),
        (
            "failures,n\n1,\n1,2\n",
            {"trials": "n"},
            r"trials must be a number in every row, got an empty cell or NaN in line 2",
        ),
        ("p,n\n0.1,2\n", {"trials": "n", "kind": "prob"}, r"trials must be left out for input 'prob'"),
    ],
)
def test_counts_that_cannot_be(tmp_path, text, options, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "a.csv", **options)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_files(tmp_path, suffix, pack):
    data = pack(b"p\n" + b"0.9\n0.009\n0.25\n" * 500)
    (tmp_path / f"a.csv{suffix}").write_bytes(data)
    np.testing.assert_allclose(probabilities(tmp_path / f"a.csv{suffix}")[:3], P)
    for damaged in (data[:-9], b"no archive at all"):
        (tmp_path / f"b.csv{suffix}").write_bytes(damaged)
        with pytest.raises(ValueError, match="must be a whole compressed file, got a damaged one"):
            read_scores(tmp_path / f"b.csv{suffix}")
    (tmp_path / f"c.jsonl{suffix}").write_bytes(pack("".join(json.dumps({"p": p}) + "\n" for p in P).encode()))
    np.testing.assert_allclose(probabilities(tmp_path / f"c.jsonl{suffix}"), P)
    (tmp_path / f"d.parquet{suffix}").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got suffix '\.parquet' of .*; decompress it"):
        read_scores(tmp_path / f"d.parquet{suffix}")


def test_json_lines_end_at_line_feeds_only(tmp_path):
    rows = [{"p": p, "text": "a\u2028b\u0085c"} for p in P]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    np.testing.assert_allclose(probabilities(tmp_path / "a.jsonl"), P)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"p": 0.1}\n\n{"p": 0.1\n', r"a\.jsonl, line 3: a line must be one JSON object, got '\{\"p\": 0\.1'"),
        ("[0.1]\n", r"line 1: a line must be a JSON object, got list; write objects"),
        (
            '{"p": 0.1}\n' * 1100 + '{"p": "0.2"}\n',
            r"line 1101: p must be a number, got '0\.2'; write it without quotation marks",
        ),
        ('{"p": 0.1}\n{"q": 1}\n', r"p must be a number in every row, got an empty cell or NaN in line 2 \(1 of 2 rows\)"),
        ('{"p": NaN}\n', r"p must be a number in every row, got an empty cell or NaN in line 1"),
        ('{"score": 1' + "0" * 400 + "}\n", r"line 1: score must be a float64, got"),
    ],
)
def test_broken_json_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"filtered_resps": [["nan", True]]}, r"line 1: filtered_resps must hold log-likelihoods of at most 0, got \[nan\]"),
        ({"filtered_resps": [[0.7, True]]}, r"must hold log-likelihoods of at most 0, got \[0\.7\]"),
        ({"filtered_resps": [[-1, True], [-2, True]], "target": 2}, r"target must be the number of a choice, got 2"),
    ],
)
def test_samples_of_lm_eval_that_cannot_be(tmp_path, row, message):
    (tmp_path / "samples.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "samples.jsonl")


def test_inspect_logs(tmp_path, monkeypatch):
    """Against a stand-in for inspect_ai, which has two samples of three epochs."""
    values = ["C", "I", 1.0, "I", 0, False]
    log = SimpleNamespace(
        samples=[SimpleNamespace(id=i // 3, scores={"s": SimpleNamespace(value=v)}) for i, v in enumerate(values)]
    )
    monkeypatch.setitem(sys.modules, "inspect_ai", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "inspect_ai.log", SimpleNamespace(read_eval_log=lambda path: log))
    (tmp_path / "a.eval").write_bytes(b"x")
    found = read_scores(tmp_path / "a.eval")
    assert (found.failures.tolist(), found.trials.tolist()) == ([1, 3], [3, 3])
    log.samples[0].scores["s"].value = "P"
    with pytest.raises(ValueError, match=r"sample 0: a score must be correct or incorrect \('C', 'I', 1 or 0\), got 'P'"):
        read_scores(tmp_path / "a.eval")


def test_parquet(tmp_path):
    table = pa.table(
        {"p": pa.array([0.9, None, 0.25]), "list": [[1.0], [2.0], [3.0]], "n": [1, 2, 3], "share": pa.array([0.1, 0.2, 0.3])}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert ParquetTable(tmp_path / "a.parquet").numeric == ["p", "n", "share"]
    np.testing.assert_allclose(probabilities(tmp_path / "a.parquet", column="share"), [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"p must be a number in every row, got an empty cell or NaN in row 2"):
        read_scores(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column must be a numeric column of .*got 'list'; use one of \['p', 'n', 'share'\]"):
        read_scores(tmp_path / "a.parquet", column="list")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="must be a Parquet file, got other or damaged content"):
        read_scores(tmp_path / "b.parquet")


def test_numpy_files(tmp_path):
    np.savez(tmp_path / "a.npz", p=P, ids=np.arange(3), grid=np.zeros((2, 2)))
    np.testing.assert_allclose(probabilities(tmp_path / "a.npz"), P)
    np.save(tmp_path / "b.npy", np.array([{"p": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(
        ValueError, match=r"must be a whole file of numpy numbers, got .*; write it with np\.save or np\.savez"
    ):
        read_scores(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"must hold an array of shape \(m,\), got shape \(2, 2\)"):
        read_scores(tmp_path / "c.npy")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1e-300, 0.999), min_size=1, max_size=30),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
    st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, values, separator, encoding, headless, comma):
    """Any probabilities, separator, encoding and decimal sign: the same numbers come back, bit for bit before they are scored."""
    comma = comma and separator == ";"
    cells = [repr(v).replace(".", ",") if comma else repr(v) for v in values]
    extra = "0" if headless else "x"
    rows = ([] if headless else [f"p{separator}note"]) + [f"{cell}{separator}{extra}" for cell in cells]
    path = tmp_path_factory.mktemp("read") / "a.csv"
    path.write_bytes("\n".join(rows).encode(encoding))
    table = TextTable(path)
    assert table.column(table.numeric[0]).values.tolist() == values


def test_rows_are_counted_in_a_stream(tmp_path):
    """Two columns beside each other: only the one that is asked for is kept."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"p": 0.5, "text": "x" * 100}) + "\n" for _ in range(2000)))
    column = RowTable(path).column("p")
    assert len(column.values) == 2000
    assert column.places[1999] == "line 2000"
