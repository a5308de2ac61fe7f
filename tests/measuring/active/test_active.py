"""Active evaluation: what it finds, what it promises, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.measuring.active.choosing import Chooser, by_rank
from sb3_forecast.measuring.active.modes import Mode, _condition, find_modes
from sb3_forecast.measuring.active.plots import samples_plot
from sb3_forecast.measuring.active.table import Table
from sb3_forecast.statistics.design import Round
from studies.active import Known

N = 4000


class Game:
    """Tasks that are two numbers. Those with a mark, one in a hundred, fail often; the others hardly ever."""

    scorers = ()

    def __init__(self, seed=0, marked=0.01, indices=None):
        rng = np.random.default_rng(seed)
        self._mark = rng.random(N) < marked
        self._values = np.stack([self._mark * (1.0 + rng.random(N)), rng.random(N)], axis=1).astype(np.float32)
        self._scores = np.where(self._mark, 1.0, -6.0) + rng.gumbel(size=N) * 0.3
        self.indices = np.arange(N) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    @property
    def key(self):
        return "game"

    @property
    def rare(self):
        return self._mark[self.indices]

    @property
    def scores(self):
        return self._scores[self.indices]

    def subset(self, indices):
        part = Game.__new__(Game)
        part.__dict__ = {**self.__dict__, "indices": self.indices[indices]}
        return part

    def descriptors(self):
        return sf.Descriptors(self._values[self.indices], ("mark", "noise"))


@pytest.fixture(scope="module")
def game():
    return Game()


@pytest.fixture(scope="module")
def report(game):
    return sf.ActiveEvaluation(Known(game.scores), game, 240, seed=1).run(None)


def test_it_finds_what_looks_different(game, report):
    assert report.rare.mean() > 8 * game.rare.mean()
    assert report.worst.score == pytest.approx(game.scores.max(), abs=0.5)
    assert report.worst.failure == pytest.approx(float(sf.failure_probability(report.worst.score)))


def test_it_scores_each_task_once_and_no_more_than_the_budget(report):
    assert len(report.tasks) == len(set(report.tasks.tolist())) == len(report.scores) == 240


def test_the_mode_is_named_with_its_share(game, report):
    mode = report.found[0]
    assert "mark" in mode.rule
    # the tree may split the marked tasks once more; shares are counted, not estimated
    assert sum(each.share for each in report.found if "mark" in each.rule) == pytest.approx(game.rare.mean())
    assert set(mode.worst) <= set(np.flatnonzero(game.rare))
    assert mode.failure == pytest.approx(sf.failure_probability(game.scores)[game.rare].mean(), rel=0.5)
    assert mode.share <= game.rare.mean()


def test_estimates_are_unbiased_with_less_variance_than_a_random_sample(game):
    p = sf.failure_probability(game.scores)
    means = [sf.ActiveEvaluation(Known(game.scores), game, 240, seed=s).run(None).mean_failure for s in range(30)]
    values = np.array([mean.value for mean in means])
    assert abs(values.mean() - p.mean()) < 4 * values.std() / np.sqrt(30)
    assert values.var() < 0.6 * p.var() / 240
    assert sum(mean.low <= p.mean() <= mean.high for mean in means) >= 25


def test_numbers_of_failing_tasks_lie_in_their_intervals(game):
    p = sf.failure_probability(game.scores)
    reports = [sf.ActiveEvaluation(Known(game.scores), game, 240, seed=s).run(None) for s in range(20)]
    counts = [report.worse_than(0.1) for report in reports]
    assert sum(count.low <= (p > 0.1).sum() <= count.high for count in counts) >= 18


def test_a_uniform_share_of_one_is_a_random_sample(game):
    inclusions = []
    sf.ActiveEvaluation(Known(game.scores), game, 240, uniform_share=1.0, on_round=inclusions.append).run(None)
    assert len(inclusions) == 6
    for inclusion in inclusions:
        assert len(np.unique(np.round(inclusion[inclusion > 0.0], 12))) == 1


def test_every_task_keeps_its_uniform_chance(game):
    inclusions = []
    sf.ActiveEvaluation(Known(game.scores), game, 240, uniform_share=0.5, on_round=inclusions.append).run(None)
    for number, inclusion in enumerate(inclusions):
        left = N - 40 * number
        assert inclusion[inclusion > 0.0].min() >= 0.5 * 40 / left * 0.99
        assert inclusion.sum() == pytest.approx(40)
        assert (inclusion > 0.0).sum() == left


def test_the_same_seed_gives_the_same_tasks(game, report):
    again = sf.ActiveEvaluation(Known(game.scores), game, 240, seed=1).run(None)
    np.testing.assert_array_equal(again.tasks, report.tasks)
    other = sf.ActiveEvaluation(Known(game.scores), game, 240, seed=2).run(None)
    assert set(other.tasks) != set(report.tasks)


class Stopping(Known):
    """Stops after some rounds, as a killed process does."""

    def __init__(self, scores, rounds):
        super().__init__(scores)
        self.left = rounds

    def score(self, model, tasks=None):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().score(model, tasks)


def network():
    th.manual_seed(0)
    return th.nn.Linear(2, 1)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(game, report, tmp_path):
    stored = {"seed": 1, "folder": tmp_path, "identity": "known"}
    with pytest.raises(KeyboardInterrupt):
        sf.ActiveEvaluation(Stopping(game.scores, 3), game, 240, **stored).run(network())
    rest = Stopping(game.scores, 3)
    resumed = sf.ActiveEvaluation(rest, game, 240, **stored).run(network())
    assert rest.left == 0
    np.testing.assert_array_equal(resumed.tasks, report.tasks)
    np.testing.assert_array_equal(resumed.scores, report.scores)


@pytest.mark.parametrize(
    "change", [{"budget": 300}, {"identity": "other"}, {"descriptors": np.random.default_rng(0).random((N, 2))}, {"uniform_share": 0.5}], ids=str
)  # fmt: skip
def test_a_folder_of_another_evaluation_is_refused(game, tmp_path, change):
    usual = {"budget": 240, "folder": tmp_path, "identity": "known"}
    sf.ActiveEvaluation(Known(game.scores), game, **usual).run(network())
    with pytest.raises(ValueError, match=r"folder must hold this evaluation, got .* with .*; use another folder"):
        sf.ActiveEvaluation(Known(game.scores), game, **{**usual, **change}).run(network())


def test_other_counts_and_other_statistics_are_another_evaluation(pool, tmp_path):
    env = VecNormalize(sfe.GridVecEnv(pool, 2), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0)
    usual = {"budget": 120, "folder": tmp_path, "counting": {"episodes": 1}}
    sf.ActiveEvaluation("frequency", pool, **usual).run(model)
    with pytest.raises(ValueError, match="folder must hold this evaluation"):
        sf.ActiveEvaluation("frequency", pool, **{**usual, "counting": {"episodes": 2}}).run(model)
    env.obs_rms.mean += 1.0
    with pytest.raises(ValueError, match="folder must hold this evaluation"):
        sf.ActiveEvaluation("frequency", pool, **usual).run(model)


def test_damaged_rounds_are_set_aside_and_scored_again(game, report, tmp_path):
    stored = {"seed": 1, "folder": tmp_path, "identity": "known"}
    sf.ActiveEvaluation(Known(game.scores), game, 240, **stored).run(network())
    path = tmp_path / "round-2.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"round-2.npz are damaged .*: they are set aside as round-2.damaged and made again"):
        again = sf.ActiveEvaluation(Known(game.scores), game, 240, **stored).run(network())
    np.testing.assert_array_equal(again.scores, report.scores)
    (tmp_path / "about.json").write_text("{")
    with pytest.raises(ValueError, match=r"whose about.json is damaged; use another folder"):
        sf.ActiveEvaluation(Known(game.scores), game, 240, **stored).run(network())


def test_an_agent_on_gridworlds_by_the_name_of_its_scorer(clumsy, tmp_path):
    pool = sfe.TaskPool("ThinIce-8x8", 600, seed=4, rare_fraction=0.05)
    found = sf.ActiveEvaluation("auto", pool, 120, folder=tmp_path).run(clumsy)
    assert found.scorer == "ExactScorer"
    np.testing.assert_allclose(found.scores, sf.ExactScorer(pool).score(clumsy).numpy()[found.tasks], rtol=1e-9)
    stream = sfe.TaskStream("ThinIce-8x8", 600, seed=4, rare_fraction=0.05)
    again = sf.ActiveEvaluation("exact", stream, 120).run(clumsy)
    np.testing.assert_array_equal(again.tasks, found.tasks)


def test_counts_tell_the_mean_and_no_more(clumsy):
    pool = sfe.TaskPool("ThinIce-8x8", 300, seed=4)
    found = sf.ActiveEvaluation("frequency", pool, 120, counting={"episodes": 2}).run(clumsy)
    assert set(found.failure.tolist()) <= {0.0, 0.5, 1.0}
    assert 0.0 < found.mean_failure.value < 1.0
    for ask in (lambda: found.worse_than(0.5), found.limit):
        with pytest.raises(sf.NoForecastError, match="must have the failure probability of each task, got counts of episodes"):
            ask()
    assert json.loads(found.to_json())["worse_than"] is None
    assert "with probability above" not in found.summary()


@pytest.mark.parametrize("scores", [np.full(N, -np.inf), np.full(N, np.inf), np.full(N, 2.0), -6.3 - 0.01 * np.arange(N) / N])
def test_scores_at_the_ends_of_their_range(game, scores):
    """Never, always, all equal, and probabilities of 1e-236: valid JSON, and limits that are numbers."""
    found = sf.ActiveEvaluation(Known(scores), game, 240).run(None)
    p = sf.failure_probability(scores)
    mean = found.mean_failure
    assert mean.low <= p.mean() * (1 + 1e-9)
    assert p.mean() <= mean.high * (1 + 1e-9)
    json.loads(found.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "nan" not in found.summary()


def test_everything_scored_is_known_exactly(game):
    part = game.subset(np.arange(300))
    found = sf.ActiveEvaluation(Known(part.scores), part, 300).run(None)
    p = sf.failure_probability(part.scores)
    mean = found.mean_failure
    assert (mean.value, mean.low, mean.high) == pytest.approx((p.mean(),) * 3)
    assert found.unseen_share == 0.0
    assert found.worse_than(0.1).value == (p > 0.1).sum()
    with pytest.raises(sf.NoForecastError, match="n_deploy must be given where all 300 tasks were scored"):
        found.limit()


class Bad(Known):
    """Gives NaN."""

    def score(self, model, tasks=None):
        return super().score(model, tasks) * np.nan


def test_scores_that_are_no_numbers_spoil_no_folder(game, tmp_path):
    stored = {"seed": 1, "folder": tmp_path, "identity": "known"}
    with pytest.raises(ValueError, match=r"scorer must give one score per task and no NaN, got shape .* 40 of them NaN"):
        sf.ActiveEvaluation(Bad(game.scores), game, 240, **stored).run(network())
    assert len(sf.ActiveEvaluation(Known(game.scores), game, 240, **stored).run(network()).scores) == 240


def test_the_report_as_text_and_as_json(report, tmp_path):
    content = json.loads(report.to_json(tmp_path / "report.json"))
    assert content == json.loads((tmp_path / "report.json").read_text())
    assert content["mean_failure"]["value"] == report.mean_failure.value
    assert content["worst"]["task"] == report.worst.task
    text = " ".join(report.summary().split())
    assert "failures per million tasks (95% interval), from 240 of 4,000 tasks" in text
    assert f"less than {report.unseen_share:.2%} of all" in text


def test_what_cannot_be_seen_shrinks_with_chance(game):
    shares = [
        sf.ActiveEvaluation(Known(game.scores), game, budget, uniform_share=uniform).run(None).unseen_share
        for budget, uniform in ((240, 0.5), (240, 1.0), (960, 1.0))
    ]
    assert shares[0] > shares[1] > shares[2]
    assert shares[1] == pytest.approx(1.0 - 0.05 ** (1.0 / 240), rel=0.05)


def test_the_limit_of_the_unseen_grows_with_their_number(report):
    assert report.limit(10) < report.limit() < report.limit(10**6)
    assert report.limit(level=0.5) < report.limit(level=0.99)


@pytest.mark.parametrize(
    ("values", "above", "below", "said"),
    [
        ([0.0, 1.0, 2.0], 0.5, None, "lava >= 1"),
        ([0.0, 1.0, 2.0], None, 1.5, "lava <= 1"),
        ([0.0, 1.0, 2.0], None, 0.5, "no lava"),
        ([3.0, 4.0], None, 0.5, "lava <= 0"),
        ([0.0, 1.0, 2.0, 3.0], 0.5, 2.5, "lava from 1 to 2"),
        ([0.0, 1.0, 2.0], 0.5, 1.5, "lava = 1"),
        ([0.1, 0.25], 0.123456, None, "lava > 0.123"),
        ([0.1, 0.25], 0.123456, 0.2, "lava > 0.123 and lava <= 0.2"),
    ],
)
def test_rules_read_well(values, above, below, said):
    assert _condition("lava", np.array(values, dtype=np.float32), above, below) == said


def test_it_stops_when_it_is_precise_enough(game):
    whole = sf.ActiveEvaluation(Known(game.scores), game, 1200, seed=1).run(None)
    early = sf.ActiveEvaluation(Known(game.scores), game, 1200, seed=1, precision=5.0).run(None)
    never = sf.ActiveEvaluation(Known(game.scores), game, 1200, seed=1, precision=0.01).run(None)
    assert len(early.tasks) == 800  # four rounds: the first ones must not decide
    assert early.mean_failure.high <= 6.0 * early.mean_failure.value
    assert len(never.tasks) == len(whole.tasks) == 1200
    np.testing.assert_array_equal(early.tasks, whole.tasks[:800])


def test_a_picture_of_what_was_seen(game, report, tmp_path):
    figure = samples_plot({"chosen": report}, game.scores, tmp_path / "seen.png")
    assert (tmp_path / "seen.png").stat().st_size > 10_000
    assert f"{report.rare.sum()} of the rare mode among them" in [
        text.get_text() for text in figure.axes[0].get_legend().texts
    ]


def test_no_failure_at_all_has_no_mode():
    rounds = [Round(np.arange(40), np.full(40, 0.01), 0.01)]
    assert find_modes(Table(Game()), np.zeros(40), rounds, 0.95) == ()


def test_ranks_decide_and_scored_tasks_get_nothing():
    weights = by_rank(np.array([3.0, 9.0, 5.0]), np.array([True, False, True]))
    assert weights[1] == 0.0
    assert weights[2] > weights[0] > 0.0
    assert weights.sum() == pytest.approx(1.0)


def test_a_stream_keeps_its_descriptors_in_a_file(tmp_path):
    stream = sfe.TaskStream("Decoy-8x8", 9000, seed=0)
    table, whole = Table(stream, folder=tmp_path), Table(sfe.TaskPool("Decoy-8x8", 9000, seed=0))
    assert (tmp_path / "descriptors.npy").exists()
    np.testing.assert_allclose(table.standardised(slice(8190, 8200)), whole.standardised(slice(8190, 8200)), rtol=1e-4)
    assert Chooser(table, 0.5).weights(
        np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64), np.random.default_rng(0)
    ).sum() == pytest.approx(1.0)


class Forgetful(Game):
    """Gives other tasks the second time."""

    def subset(self, indices):
        part = super().subset(indices)
        part._values = part._values + 1.0
        return part


class Whole(Known):
    """Can only score all tasks."""

    supports_partial = False


class Counting(Known):
    """Counts failures."""

    counts_failures = True


class Foreign(Known):
    """Scores another pool of the same size."""

    key = "another pool"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 100}, "budget must be at least 120, got 100; use at least 20 tasks per round"),
        ({"budget": N + 1}, f"budget must be at most the number of tasks {N}, got {N + 1}"),
        ({"descriptors": np.ones((N, 3))}, f"descriptors must differ between tasks, got the same numbers for all {N}"),
        ({"descriptors": np.full((N, 1), np.nan)}, "descriptors must be finite, got nan in column 'column 0' of task 0"),
        ({"descriptors": np.arange(10.0)[:, None]}, f"descriptors must have one row per task \\({N}\\), got 10"),
        ({"scorer": Whole(np.zeros(N))}, "scorer must be able to score single tasks, got Whole"),
        ({"scorer": Known(np.zeros(7))}, f"scorer must score the {N} tasks of the pool, got one that scores 7"),
        (
            {"scorer": "exact", "counting": {"episodes": 3}},
            r"counting must be left out for a scorer that counts nothing, got {'episodes': 3}",
        ),
        ({"scorer": "episodes"}, r"scorer must be one of \('auto', 'exact', 'survival', 'frequency'\), got 'episodes'"),
        (
            {"scorer": Counting(np.zeros(N))},
            "scorer must give probabilities if it is an object, got Counting; use scorer='frequency'",
        ),
        ({"scorer": Foreign(np.zeros(N))}, r"got one that scores 4000 tasks \(another pool\); build it from this pool"),
        ({"folder": "anywhere"}, "identity must be given where folder and a scorer object are, got None"),
        ({"pool": Forgetful()}, "pool must give the same tasks each time, got other descriptors the second time"),
        ({"precision": 0.0}, "precision must be at least 0.01, got 0.0; use a share of the mean such as 0.3, or None"),
        ({"uniform_share": 0.0}, r"uniform_share must be in \[0.05, 1\], got 0"),
    ],
)
def test_what_is_refused(game, change, message):
    arguments = {"scorer": Known(game.scores), "pool": game, "budget": 240, **change}
    with pytest.raises(ValueError, match=message):
        sf.ActiveEvaluation(**arguments).run(None)


def test_a_pool_that_says_nothing_about_its_tasks():
    with pytest.raises(TypeError, match=r"pool must have descriptors\(\) or block\(begin, end\), got list; pass descriptors="):
        sf.ActiveEvaluation(Known(np.zeros(300)), list(range(300)), 240).run(None)


def test_scikit_learn_is_missing(game, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"run `pip install 'sb3-forecast\[active\]'`"):
        sf.ActiveEvaluation(Known(game.scores), game, 240)


def test_films_of_the_kinds_that_fail(agent, tmp_path):
    pool = sfe.TaskPool("ThinIce-8x8", 400, seed=5, rare_fraction=0.1)
    report = sf.ActiveEvaluation("exact", pool, 200, seed=1).run(agent)
    # the agent's failures are too even to be named: two kinds by hand
    kinds = tuple(Mode(f"kind {i}", 0.1, 0.5, 5, (int(report.tasks[np.argsort(-report.scores)[i]]),)) for i in range(2))
    report = replace(report, found=kinds)
    films = sf.record_modes(agent, pool, report, tmp_path / "modes.gif", n=1, tries=2)
    assert list(films) == [mode.rule for mode in report.found]
    for number, (film, mode) in enumerate(zip(films.values(), report.found, strict=True), start=1):
        assert film.path == tmp_path / f"modes-{number}.gif"
        assert film.path.stat().st_size > 1000
        assert film.tasks == [mode.worst[0]]
    with pytest.raises(ValueError, match="report must name a kind of task that fails"):
        sf.record_modes(agent, pool, replace(report, found=()), tmp_path / "modes.gif")
