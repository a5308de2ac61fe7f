"""Score vectors and score files of every kind, for property-based tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

#: scores that occur: certain failure, none, nearly so, equal ones, and ordinary ones. float64 has none beyond 745, and near 0 they are
#: multiples of 1e-16, because log p is near -1 there
_SCORE = st.one_of(
    st.floats(-40.0, 40.0).map(lambda score: round(score, 15)),
    st.sampled_from([-np.inf, np.inf, -700.0, 700.0, 0.0, -0.0, 1e-15, 3.0, 3.0, np.nextafter(3.0, 4.0), -1e6, 1e6]),
)


@st.composite
def score_vectors(draw):
    """From 1 to 60 scores: drawn one by one, all from a few values so that ties abound, or a smooth sample with some at -inf."""
    m = draw(st.integers(1, 60))
    kind = draw(st.sampled_from(["any", "ties", "smooth"]))
    if kind == "any":
        return np.array(draw(st.lists(_SCORE, min_size=m, max_size=m)))
    if kind == "ties":
        few = draw(st.lists(_SCORE, min_size=1, max_size=3))
        return np.array(draw(st.lists(st.sampled_from(few), min_size=m, max_size=m)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = draw(st.floats(-20.0, 20.0)) + rng.gumbel(size=m) * draw(st.floats(1e-6, 50.0))
    scores[rng.random(m) < draw(st.sampled_from([0.0, 0.5, 0.99]))] = -np.inf
    return scores


_CELL = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.floats(0.0, 1.0).map(repr),
    st.integers(-3, 100).map(str),
    st.sampled_from(
        ["", " ", "NA", "nan", "true", '"', '"0.5"', "0,5", "1,234", "1e-400", "٣", "p", "é", "[/red]", "\u2028", "\x00"]
    ),
)
_HEADER = st.sampled_from(
    ["p", "log_p", "psi", "failures", "success_rate", "id", "task", "index", "", "p,", "é", "[bold]", "0.5"]
)


@st.composite
def score_files(draw):
    """Name and bytes of a file: tables with all that goes wrong in them, JSON lines, or noise."""
    suffix = draw(
        st.sampled_from([".csv", ".tsv", ".txt", ".jsonl", ".npy", ".npz", ".parquet", ".eval", ".json", ".csv.gz", ".xlsx"])
    )
    if draw(st.booleans()):
        return f"scores{suffix}", draw(st.binary(max_size=200))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    if suffix == ".jsonl":
        rows = draw(st.lists(st.dictionaries(_HEADER, _CELL | st.floats() | st.none(), max_size=3), max_size=8))
        text = "\n".join(repr(row).replace("'", '"').replace("None", "null") for row in rows)
    else:
        separator = draw(st.sampled_from([",", ";", "\t", " "]))
        width = draw(st.integers(1, 3))
        rows = draw(st.lists(st.lists(_CELL, min_size=width, max_size=width + 1), max_size=8))
        header = draw(st.lists(_HEADER, min_size=width, max_size=width))
        text = draw(st.sampled_from(["\n", "\r\n"])).join(separator.join(row) for row in [header, *rows])
    return f"scores{suffix}", text.encode(encoding, errors="replace")
