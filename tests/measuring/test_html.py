"""The report that one can send: one file, the library's own numbers, and nothing that a user wrote is run."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from typing import Annotated

import numpy as np
import pytest
import tyro

import sb3_forecast as sf
from sb3_forecast.__main__ import main
from sb3_forecast.cli.commands import Evaluate, Forecast, command_of
from sb3_forecast.measuring.html.page import write_html
from sb3_forecast.measuring.html.parts import Example
from sb3_forecast.measuring.html.pictures import embedded_file
from sb3_forecast.measuring.html.sizes import forecasts_by_size
from sb3_forecast.statistics.words import count_in_words, probability_in_words

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags of a page, and the addresses that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(pool, agent):
    return sf.evaluate_forecast(agent, pool, 60, 30, k=6)


@pytest.fixture(scope="module")
def written(report, pool, agent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    film = sf.record_worst(agent, pool, n=1, path=folder / "worst.gif", tries=2)
    path = report.to_html(
        folder / "report.html", f"Agent {EVIL}", before=report, recording=film, settings={"command": EVIL},
        examples=[Example(EVIL, 0.25, EVIL, [EVIL])],
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


def test_one_file_without_network(written):
    page = Page(written)
    addresses = [a[key] for _, a in page.tags for key in ("src", "href") if a.get(key)]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert "http" not in re.sub(r"data:[^\"]+", "", written)
    assert len(written) < 3_000_000


def test_what_users_wrote_is_text(written):
    assert EVIL not in written
    assert written.count("&lt;script&gt;alert") >= 4
    assert len(Page(written).all("script")) == 2  # the numbers, and the slider


def test_every_picture_says_what_it_shows(written):
    page = Page(written)
    assert len(page.all("img")) == 4
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"
    labels = {label.get("for") for label in page.all("label")}
    assert {entry["id"] for entry in page.all("input")} <= labels


def test_the_slider_has_the_numbers_of_the_library(written, report):
    data = json.loads(re.search(r'id="sizes-data">(.*?)</script>', written).group(1))
    tail = sf.GumbelTail.fit(report.scores)
    sizes = [float(row["size"].replace(",", "")) for row in data["rows"]]
    assert sizes[0] >= len(report.scores)
    assert sizes[-1] == 1e9
    for n, row in zip(sizes, data["rows"], strict=True):
        assert row["forecast"] == probability_in_words(float(sf.failure_probability(tail.forecast(n))))
        assert row["limit"] == probability_in_words(float(sf.failure_probability(tail.interval(int(n), 0.9)[1])))
        assert row["any"] == probability_in_words(float(tail.aggregate_risk(n)))


def test_a_forecast_that_failed_is_said_first(report, tmp_path):
    from dataclasses import replace

    bad = replace(report, limit_holds=0.4).to_html(tmp_path / "bad.html").read_text(encoding="utf-8")
    good = replace(report, limit_holds=0.97).to_html(tmp_path / "good.html").read_text(encoding="utf-8")
    first = re.compile(r'<p id="answer" class="answer (\w+)">(.{20})')
    assert first.search(bad).groups()[0] == "bad"
    assert first.search(bad).groups()[1].startswith("The forecast did NOT")
    assert first.search(good).groups()[0] == "good"
    assert first.search(good).groups()[1].startswith("Expect about")


def test_the_same_report_gives_the_same_file(report, tmp_path):
    texts = [report.to_html(tmp_path / f"{i}.html").read_bytes() for i in range(2)]
    assert texts[0] == texts[1]


def test_scores_that_show_no_tail(tmp_path):
    text = write_html(tmp_path / "a.html", scores=np.zeros(50)).read_text(encoding="utf-8")
    assert "There is no forecast for larger deployments: the worst scores are equal" in text
    with pytest.raises(ValueError, match="report, scores or active"):
        write_html(tmp_path / "b.html")
    with pytest.raises(ValueError, match="path"):
        write_html(tmp_path / "b.txt", scores=np.zeros(50))
    with pytest.raises(ValueError, match="picture must be one of"):
        embedded_file(tmp_path / "film.mp4")


def test_the_command_line_writes_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "p.csv").write_text("p\n" + "\n".join(str(p) for p in rng.beta(0.5, 50, 100)))
    assert main(["forecast", str(tmp_path / "p.csv"), "--html", str(tmp_path / "report.html")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with 95% confidence" in out
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "with 95% confidence, the worst of 1,000,000" in text
    assert f"python -m sb3_forecast forecast {tmp_path}/p.csv --html {tmp_path}/report.html<" in text
    (tmp_path / "n.csv").write_text("failures\n" + "\n".join("0" if i % 7 else "2" for i in range(60)))
    assert main(["forecast", str(tmp_path / "n.csv"), "--trials", "20", "--html", str(tmp_path / "counts.html")]) == 0
    assert 'type="range"' not in (tmp_path / "counts.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (float("nan"), "unknown"), (0.0, "0"), (1.0, "all but certain"), (1 - 8e-12, "all but certain"), (0.98, "0.98"), (0.5, "0.5"),
        (0.012, "0.012"), (4e-6, "1 in 250,000"), (1e-10, "1 in 10 billion"), (3e-20, "3e-20"),
    ],
)  # fmt: skip
def test_probabilities_in_words(p, words):
    assert probability_in_words(p) == words


def test_counts_in_words():
    assert [count_in_words(n) for n in (0.4, 1234, 2.5e6, 1e12, 3.14e17)] == [
        "0",
        "1,200",
        "2.5 million",
        "1 trillion",
        "3.1e+17",
    ]


def test_sizes_begin_at_the_evaluation():
    found = forecasts_by_size(np.random.default_rng(0).gumbel(size=300), largest=1e5)
    assert found.sizes.tolist() == [500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]
    assert (np.diff(found.limit) > 0).all()
    safe = forecasts_by_size(np.random.default_rng(0).gumbel(-3.0, 0.1, size=300))
    assert safe.any_failure[0] < 1e-3 < safe.any_failure[-1]
    assert safe.any_failure[3] == pytest.approx(float(safe.tail.aggregate_risk(safe.sizes[3])))
    assert (found.forecast <= found.limit).all()


def test_the_command_of_a_report_gives_its_options_again():
    for words in (
        [
            "evaluate",
            "a b.zip",
            "--env-id",
            "X-v0",
            "--wrapper",
            "m:A",
            "m:B",
            "--no-progress-bar",
            "--deterministic",
            "--seed",
            "7",
        ],
        ["forecast", "a.csv", "--deploy-size", "1e8", "--k", "12"],
    ):
        args = tyro.cli(
            Annotated[Forecast, tyro.conf.subcommand("forecast")] | Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
            args=words,
        )
        again = tyro.cli(
            Annotated[Forecast, tyro.conf.subcommand("forecast")] | Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
            args=shlex.split(command_of(args))[3:],
        )
        assert again == args
