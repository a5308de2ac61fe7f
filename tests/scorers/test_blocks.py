"""Blocks: the same scores however a deployment is cut, and tasks that raise are found."""

import pickle

import numpy as np
import pytest

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.blocks import BlockScores, MachineError, score_block, scorer_maker


@pytest.fixture(scope="module")
def stream():
    return sfe.TaskStream("ThinIce-6x6", 300, seed=5, rare_fraction=0.1)


class Poisoned:
    """Tasks of which some raise an error when they are drawn.

    :param tasks: the tasks
    :param bad: indices of those that raise
    """

    scorers = ("exact",)

    def __init__(self, tasks, bad):
        self.tasks, self.bad, self.calls = tasks, bad, 0

    @property
    def key(self):
        return self.tasks.key

    def __len__(self):
        return len(self.tasks)

    def block(self, begin, end):
        self.calls += 1
        for task in self.bad:
            if begin <= task < end:
                raise ValueError(f"task {task} is poisoned")
        return self.tasks.block(begin, end)


@pytest.mark.parametrize(
    ("scorer", "counting"), [("exact", {}), ("survival", {}), ("frequency", {"episodes": 2, "n_envs": 4})]
)
def test_the_cut_does_not_matter(agent, stream, scorer, counting):
    make, _ = scorer_maker(scorer, counting)
    unit = 50
    whole = score_block(stream, 0, 300, make, agent, 3, unit)
    parts = [score_block(stream, a, b, make, agent, 3, unit) for a, b in ((0, 50), (50, 200), (200, 300))]
    joined = BlockScores.join(parts)
    for name in ("psi", "failure", "success", "rare", "steps"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert whole.sketch().to_bytes() == parts[2].sketch().merge(parts[0].sketch()).merge(parts[1].sketch()).to_bytes()
    assert (whole.steps > 0).all() == (scorer == "frequency")


def test_other_seeds_give_other_samples(agent, stream):
    make, _ = scorer_maker("survival")
    one, other = (score_block(stream, 0, 100, make, agent, seed, 50) for seed in (0, 1))
    assert (one.psi != other.psi).any()


class Repeated:
    """The same fifty tasks again and again.

    :param pool: the tasks
    """

    key = "repeated"

    def __init__(self, pool):
        self.pool = pool

    def __len__(self):
        return 100

    def block(self, begin, end):
        return self.pool.subset(np.arange(begin, end) % 50)


def test_each_unit_has_a_seed_of_its_own(agent):
    make, _ = scorer_maker("survival")
    found = score_block(Repeated(sfe.TaskPool("ThinIce-6x6", 50, seed=5)), 0, 100, make, agent, 0, 50)
    assert (found.psi[:50] != found.psi[50:]).any()


def test_exact_scores_are_those_of_the_scorer(agent, stream):
    make, unit = scorer_maker("exact")
    found = score_block(stream, 0, 300, make, agent, 0, unit)
    np.testing.assert_array_equal(found.psi, sf.ExactScorer(stream.block(0, 300), cache_tasks=0).outcomes(agent).psi)


def test_tasks_that_raise_are_found(agent, stream):
    make, _ = scorer_maker("exact")
    clean = score_block(stream, 0, 300, make, agent, 0, 100)
    found = score_block(Poisoned(stream, {7, 250}), 0, 300, make, agent, 0, 100)
    assert found.errors == {7: "ValueError: task 7 is poisoned", 250: "ValueError: task 250 is poisoned"}
    good = ~np.isin(np.arange(300), [7, 250])
    np.testing.assert_allclose(found.psi[good], clean.psi[good], rtol=1e-6)  # float32 network, other batch sizes
    np.testing.assert_array_equal(found.psi[100:200], clean.psi[100:200])
    assert np.isnan(found.psi[[7, 250]]).all()
    sketch = found.sketch()
    assert (sketch.n_tasks, sketch.n_errors) == (298, 2)
    # halves until one task is left: not one task at a time
    tasks = Poisoned(stream, {7})
    score_block(tasks, 0, 100, make, agent, 0, 100)
    assert tasks.calls < 20


def test_an_error_that_goes_away_leaves_no_trace(agent, stream):
    make, _ = scorer_maker("exact")
    tasks = Poisoned(stream, {7})

    clean = score_block(stream, 0, 100, make, agent, 0, 50)
    block = tasks.block

    def flaky(begin, end):
        try:
            return block(begin, end)
        finally:
            tasks.bad = ()

    tasks.block = flaky
    found = score_block(tasks, 0, 100, make, agent, 0, 50)
    assert found.errors == {}
    np.testing.assert_array_equal(found.psi, clean.psi)


class Faulty:
    """Makes exact scorers, but raises an error some times first.

    :param error: the error
    :param times: how often
    :param when: pools for which it raises
    """

    def __init__(self, error, times, when=lambda pool: True):
        self.error, self.times, self.when = error, times, when

    def __call__(self, model, pool, seed):
        if self.times and self.when(pool):
            self.times -= 1
            raise self.error
        return sf.ExactScorer(pool, cache_tasks=0)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), MemoryError("short"), ImportError("no box2d")])
def test_what_the_machine_lacks_is_not_the_tasks_fault(agent, stream, error):
    with pytest.raises(MachineError, match=f"tasks 0 to 49: {type(error).__name__}"):
        score_block(stream, 0, 100, Faulty(error, 1), agent, 0, 50)
    found = score_block(stream, 0, 100, Faulty(error, 99, lambda pool: 7 in pool.indices), agent, 0, 50, isolate="all")
    assert set(found.errors) == {7}


def test_two_errors_by_chance_do_not_change_a_sample(agent, stream):
    """Scored in halves, a unit would get other random numbers, and nobody would know."""
    with pytest.raises(
        MachineError, match="tasks 0 to 49 raised ValueError: chance, and none of them when they are scored in parts"
    ):
        score_block(stream, 0, 100, Faulty(ValueError("chance"), 2), agent, 0, 50)


def test_a_machine_on_which_every_task_raises(agent, stream):
    with pytest.raises(MachineError, match="tasks 0 to 49 raised ValueError: broken, and each of them by itself"):
        score_block(stream, 0, 100, Faulty(ValueError("broken"), 10**6), agent, 0, 50)
    assert len(score_block(stream, 0, 100, Faulty(ValueError("broken"), 10**6), agent, 0, 50, isolate="all").errors) == 100


def test_a_scorer_that_has_travelled_without_its_environments(agent):
    pool = sfe.TaskPool("ThinIce-8x8", 30, seed=1)
    scorer = pickle.loads(pickle.dumps(sf.EpisodeScorer(pool, seed=0, env=pool.make_vec_env(3))))  # our own
    other = scorer.on(sfe.TaskPool("ThinIce-8x8", 20, seed=2), seed=4)
    assert other.env.num_envs == 3
    assert other.score(agent).shape == (20,)


def test_without_isolation_errors_are_raised(agent, stream):
    make, unit = scorer_maker("exact")
    with pytest.raises(ValueError, match="task 7 is poisoned"):
        score_block(Poisoned(stream, {7}), 0, 300, make, agent, 0, unit, isolate="never")


def test_a_trained_cost_model_scores_other_tasks(agent, stream):
    pool = sfe.TaskPool("ThinIce-8x8", 30, seed=1)
    scorer = sf.EpisodeScorer(pool, seed=0)
    make, unit = scorer_maker(scorer)
    assert unit == 256
    assert make(agent, sfe.TaskPool("ThinIce-8x8", 20, seed=2), 4).n_tasks == 20


def test_bad_scorers():
    with pytest.raises(ValueError, match="scorer must be one of"):
        scorer_maker("best")
    with pytest.raises(TypeError, match="scorer must be a name, a function"):
        scorer_maker(3)
