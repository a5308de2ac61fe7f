import json

import numpy as np
import pandas as pd
import pytest

import sb3_forecast as sf
from sb3_forecast.__main__ import main
from sb3_forecast.cli.readers import read_scores
from sb3_forecast.statistics.plots import return_level_plot, spacing_plot, stability_plot, tail_plot


@pytest.fixture
def scores():
    return 0.6 * np.random.default_rng(0).gumbel(size=300) - 3.0


@pytest.fixture
def files(scores, tmp_path):
    """The same scores in every format and unit."""
    log_p = -np.exp(-scores)
    frame = pd.DataFrame({"id": range(300), "log_prob": log_p, "probability": np.exp(log_p)})
    frame[["id", "log_prob"]].to_csv(tmp_path / "log.csv", index=False)
    frame[["probability"]].to_parquet(tmp_path / "p.parquet")
    np.save(tmp_path / "log.npy", log_p)
    (tmp_path / "repulse_results.jsonl").write_text(
        "\n".join(json.dumps({"query": f"q{i}", "p_elicit": float(np.exp(v)), "judge": 3}) for i, v in enumerate(log_p))
    )
    (tmp_path / "samples_task.jsonl").write_text(
        "\n".join(json.dumps({"doc_id": i, "target": "x", "filtered_resps": [[str(v), "False"]]}) for i, v in enumerate(log_p))
    )
    return tmp_path


@pytest.mark.parametrize("name", ["log.csv", "p.parquet", "log.npy", "repulse_results.jsonl", "samples_task.jsonl"])
def test_every_format_gives_the_same_forecast(files, scores, name, capsys):
    np.testing.assert_allclose(read_scores(files / name).values, scores, rtol=1e-9)
    assert main(["forecast", str(files / name), "--deploy-size", "1e5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    tail = sf.GumbelTail.fit(scores)
    assert result["worst_score"] == pytest.approx(tail.forecast(1e5), rel=1e-8)
    assert result["interval"] == pytest.approx(tail.interval(100_000), rel=1e-8)
    assert result["any_failure"] == pytest.approx(tail.aggregate_risk(1e5), rel=1e-6)
    assert result["k"] == tail.k


@pytest.mark.parametrize("method", ["blue", "jones", "direct", "pareto", "lognormal"])
def test_table_for_people(files, method, capsys, tmp_path):
    picture = tmp_path / "tail.png"
    assert main(["forecast", str(files / "log.csv"), "--method", method, "--plot", str(picture)]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "forecast to fail with probability" in words
    assert "no extrapolation can see it" in words
    assert picture.stat().st_size > 10_000


def test_multiple_choice_of_lm_eval(tmp_path):
    rows = [{"target": 1, "filtered_resps": [[-2.0, False], [-1.0, True], [-3.0, False]]} for _ in range(20)]
    (tmp_path / "samples_mc.jsonl").write_text("\n".join(map(json.dumps, rows)))
    p_right = np.exp(-1) / np.exp([-2.0, -1.0, -3.0]).sum()
    np.testing.assert_allclose(sf.failure_probability(read_scores(tmp_path / "samples_mc.jsonl").values), 1 - p_right)


def test_counts_with_many_zeros(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pd.DataFrame({"failures": rng.binomial(30, rng.beta(0.3, 9, size=80)), "n": 30}).to_csv(tmp_path / "c.csv", index=False)
    assert main(["forecast", str(tmp_path / "c.csv"), "--trials", "n", "--json"]) == 0
    by_column = json.loads(capsys.readouterr().out)
    assert main(["forecast", str(tmp_path / "c.csv"), "--trials", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["worst_score"] == by_column["worst_score"]
    assert by_column["method"] == "beta-binomial"
    assert by_column["interval"][0] < by_column["worst_score"] < by_column["interval"][1]
    assert main(["forecast", str(tmp_path / "c.csv"), "--trials", "n"]) == 0
    assert "these are counts" in capsys.readouterr().out


def test_probabilities_close_to_one_keep_their_precision(tmp_path):
    np.save(tmp_path / "p.npy", np.array([1 - 1e-9, 0.3, 0.5]))
    values = read_scores(tmp_path / "p.npy").values
    assert values[0] == pytest.approx(-np.log(-np.log1p(-1e-9)), rel=1e-6)


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("missing.csv", None, [], "scores must be an existing file, got"),
        ("a.csv", "p\n0.1\n0.2\n", ["--deploy-size", "0"], "deploy_size must be from 1 to 1e15, got 0.0"),
        (
            "a.csv",
            "a,b\n0.1,0.2\n",
            [],
            "must have one numeric column or one with a known name, got ['a', 'b']; choose one with --column",
        ),
        ("a.csv", "[/a],b\n0.1,0.2\n", [], "got ['[/a]', 'b']; choose one"),  # no markup of the console's
        ("a.csv", "a,b\n0.1,0.2\n", ["--column", "c"], "got 'c'; use one of ['a', 'b']"),
        (
            "a.csv",
            "a\n0.1\n0.3\n3\n-1\n",
            [],
            "a must hold only probabilities or only log-probabilities, got 3.0 among others",
        ),
        ("a.csv", "p,x\n0.1,a\n,b\n", [], "p must be a number in every row, got an empty cell or NaN in line 3 (1 of 2 rows)"),
        ("a.csv", "0.1\n\n0.2\n", [], "column 1 must be a number in every row, got an empty cell or NaN in line 2"),
        ("a.csv", "p\n0.1\n1.5\n", [], "p must be a probability from 0 to 1, got 1.5 in line 3 (1 of 2 rows)"),
        ("a.csv", "p\n0.1\n1\n", [], "p must be a probability below 1 to have a score, got exactly 1 in line 3"),
        ("a.csv", "log_p\n-0.1\n0.5\n", [], "log_p must be a log-probability, at most 0, got 0.5 in line 3"),
        ("a.csv", "success\n0.1\n0.5\n", [], "the column must be about failures, got 'success', which means successes"),
        (
            "a.csv",
            "successes,n\n9,10\n8,10\n",
            ["--trials", "n"],
            "the column must be about failures, got 'successes', which means successes",
        ),
        ("a.csv", "p|q\n0.1|0.2\n", [], "must have a column of numbers, got the columns ['p|q']"),
        ("a.csv", "", [], "must begin with a header or a number, got an empty first line"),
        ("a.csv", "p\n0.1\n0.2\n", ["--deploy-size", "inf"], "deploy_size must be from 1 to 1e15, got inf"),
        ("a.csv", "p\n" + "0\n" * 40, [], "only 0 of 40 scores are finite"),
        (
            "a.csv",
            "failures\n1\n2\n",
            [],
            "the number of trials must be given for the counts of failures, got none; use --trials",
        ),
        ("a.csv", "failures\n1\n2\n", ["--trials", "what"], "trials must be a whole number or a column of"),
        ("a.csv", "failures\n0.5\n2\n", ["--trials", "5"], "failures must hold whole numbers, got 0.5"),
        ("a.xyz", "1", [], "file, got suffix '.xyz'"),
        ("a.jsonl", "", [], "must have one JSON object per task, got an empty file"),
        ("samples.jsonl", '{"filtered_resps": ["text"]}', [], "filtered_resps must hold log-likelihoods, got other values"),
        (
            "samples.jsonl",
            '{"filtered_resps": [[-1, true], [-2, false]], "target": "A"}',
            [],
            "target must be the number of a choice, got 'A'",
        ),
        ("a.csv", "p\n" + "0\n" * 40 + "0.1\n" * 1, [], "only 1 of 41 scores are finite"),
    ],
)
def test_bad_input_is_explained(tmp_path, capsys, name, text, options, message):
    path = tmp_path / name if text is None else write(tmp_path / name, text)
    assert main(["forecast", str(path), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_inspect_logs_need_inspect(tmp_path, capsys):
    assert main(["forecast", str(write(tmp_path / "log.eval", "x"))]) == 2
    assert (
        "inspect_ai.log must be installed to read Inspect logs, got an ImportError; run `pip install inspect-ai`"
        in " ".join(capsys.readouterr().err.split())
    )


def test_version(capsys):
    assert main(["version"]) == 0
    assert sf.__version__ in capsys.readouterr().out


def test_plots(scores, tmp_path):
    tail = sf.GumbelTail.fit(scores)
    figures = {
        "tail": tail_plot(tail, [1e3, 1e6]),
        "spacing": spacing_plot(tail),
        "stability": stability_plot(scores, 1e6),
        "return": return_level_plot(tail),
    }
    for name, figure in figures.items():
        assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes[-1:])
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 8_000
    returned = figures["return"].axes[0].lines[0].get_ydata()
    assert (np.diff(returned) > 0).all()


def test_a_file_without_a_header_keeps_its_first_task(scores, tmp_path):
    text = "\n".join(str(float(v)) for v in -np.exp(-scores))
    for name in ("a.csv", "a.txt"):
        np.testing.assert_allclose(read_scores(write(tmp_path / name, text + "\n")).values, scores)


def test_counts_beside_their_trials_need_no_column(tmp_path):
    rng = np.random.default_rng(0)
    pd.DataFrame({"fails": rng.binomial(30, 0.1, 50), "tries": 30}).to_csv(tmp_path / "c.csv", index=False)
    assert read_scores(tmp_path / "c.csv", trials="tries").trials.tolist() == [30] * 50


def test_only_our_own_methods_print_an_interval(files, capsys):
    assert main(["forecast", str(files / "log.csv"), "--method", "pareto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["interval"] == [None, None]
    assert main(["forecast", str(files / "log.csv"), "--method", "jones", "--json"]) == 0
    assert None not in json.loads(capsys.readouterr().out)["interval"]


def test_the_first_line_answers_the_first_question(files, capsys, tmp_path):
    assert main(["forecast", str(files / "log.csv")]) == 0
    first = capsys.readouterr().out.split("\n")[0]
    assert first.startswith("Expect about ")
    assert "failures in 1,000,000 tasks, each tried once" in first
    # counts with few failures, or none, are a result, too
    none = "No failure was seen. With 90% confidence at most 23,000 of 1,000,000 tasks fail"
    for failures, answer in (([0] * 100, none), ([1, 2] + [0] * 98, "Expect about")):
        path = tmp_path / "counts.csv"
        pd.DataFrame({"failures": failures}).to_csv(path, index=False)
        assert main(["forecast", str(path), "--trials", "10"]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert words.startswith(answer)
        assert "no forecast of the worst task" in words
        assert "of all tasks are such that fail here. Only if all tasks were alike" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "nowhere/a.png"], "plot must be in a folder that exists, got 'nowhere/a.png'; make 'nowhere' first"),
        (["--plot", "a.xyz"], "plot must end in .png or .pdf or .svg or .jpg, got 'a.xyz'; use a.png"),
    ],
)
def test_outputs_are_checked_before_the_input_is_read(options, message, capsys):
    assert main(["forecast", "missing.csv", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("options", [["--plot", "a.png"], ["--k", "5"], ["--method", "jones"]])
def test_options_that_say_nothing_about_counts_are_refused(options, tmp_path, capsys):
    path = write(tmp_path / "c.csv", "failures\n" + "1\n0\n2\n" * 20)
    assert main(["forecast", str(path), "--trials", "5", *options]) == 2
    assert f"{options[0][2:]} must be left out for counts" in " ".join(capsys.readouterr().err.split())


def test_an_unexpected_error_is_a_line(files, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("oops [/x]")

    monkeypatch.setattr("sb3_forecast.cli.forecast.outlook_of_scores", broken)
    assert main(["forecast", str(files / "log.csv")]) == 1
    assert "error: unexpected RuntimeError: oops [/x]; --traceback shows where" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(RuntimeError, match="oops"):
        main(["forecast", str(files / "log.csv"), "--traceback"])


def test_two_models_that_disagree_say_so(tmp_path, capsys):
    """Scores with a bounded tail: a Pareto tail sees the bound, the exponential one does not."""
    scores = 3.0 - np.random.default_rng(0).random(400) ** 2
    np.savez(tmp_path / "a.npz", score=scores)
    assert main(["forecast", str(tmp_path / "a.npz"), "--method", "pareto"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "only the forecast of the worst task is that of 'pareto'" in words
    assert "disagree by more than the 90% interval" in words
