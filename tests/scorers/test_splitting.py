"""SplittingScorer: unbiased whatever the coordinate is, in every kind of environment, and refused where states cannot be kept."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.make import make_scorer
from sb3_forecast.scorers.splitting.agent import Agent, doubted, tilted
from sb3_forecast.scorers.splitting.critic import Critic, Pilot
from sb3_forecast.scorers.splitting.intervals import log_normal_intervals
from sb3_forecast.scorers.splitting.keeping import Copies, OwnState, Replay, find_keeper, new_noise
from sb3_forecast.scorers.splitting.levels import KILLED, Path, Splitting
from sb3_forecast.statistics.scores import failure_probability

UP, TOP, HORIZON = 0.3, 7, 20


class Climb(gym.Env):
    """A walk that goes up with probability 0.3, else down to 0 at least; it fails at height 7. Nobody's actions matter."""

    observation_space = spaces.Box(0.0, 40.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.height, self.time = 0, 0
        return self._seen(), {}

    def _seen(self):
        return np.array([self.height, self.time], dtype=np.float32)

    def step(self, action):
        self.height = self.height + 1 if self.np_random.random() < UP else max(self.height - 1, 0)
        self.time += 1
        failed = self.height >= TOP
        return self._seen(), 0.0, failed, self.time >= HORIZON, {"cost": float(failed)}


class Simulator(Climb):
    """The same, with an object that cannot be copied, as Box2D has."""

    def __init__(self):
        self.world = threading.Lock()


class ClimbWithState(Simulator):
    """The same, with methods of its own to keep its state."""

    def get_state(self):
        return self.height, self.time

    def set_state(self, state):
        self.height, self.time = state


class MadeAnew(Climb, EzPickle):
    """Copies of it by ``copy.deepcopy`` begin from the start, as those of MuJoCo's environments in Gymnasium."""

    def __init__(self):
        EzPickle.__init__(self)


class HiddenNoise(Climb):
    """Its random events come from where nobody can renew them."""

    def step(self, action):
        if self.time == 0:
            self._own = np.random.default_rng(int(self.np_random.integers(2**31)))
        self.np_random = np.random.default_rng(int(self._own.integers(2**31)))
        return super().step(action)


class Forgetful(Climb):
    """Restoring does not bring the same future back."""

    elsewhere: ClassVar[list[int]] = [0]

    def step(self, action):
        self.elsewhere[0] += 1
        return np.array([self.height, self.elsewhere[0] % 40], dtype=np.float32), *super().step(action)[1:]


def truth() -> float:
    """The failure probability of :class:`Climb`, by its transition matrix."""
    at = np.zeros(TOP + 1)
    at[0] = 1.0
    for _ in range(HORIZON):
        after = np.zeros(TOP + 1)
        after[TOP] = at[TOP]
        for height in range(TOP):
            after[height + 1] += UP * at[height]
            after[max(height - 1, 0)] += (1.0 - UP) * at[height]
        at = after
    return float(at[TOP])


def tasks_of(env, n_tasks=3):
    return sfe.SeededTasks(env, n_tasks, identity=env.__name__)


@pytest.fixture(scope="module")
def walker():
    return PPO("MlpPolicy", Climb(), n_steps=8, batch_size=8, seed=0, device="cpu")


def height_of(observations):
    return observations[:, 0]


@pytest.mark.parametrize(
    ("env", "way"), [(ClimbWithState, OwnState), (MadeAnew, Copies), (Simulator, Replay)], ids=["own", "copies", "replay"]
)
@pytest.mark.parametrize("coordinate", [height_of, lambda seen: -np.abs(seen[:, 0] - 3.0)], ids=["good", "bad"])
def test_the_mean_is_the_probability_whatever_the_coordinate_is(env, way, coordinate, walker):
    scorer = sf.SplittingScorer(tasks_of(env, 4), 20, repetitions=30, coordinate=coordinate, seed=3)
    assert type(scorer.keeper) is way
    found = scorer.estimate(walker)
    estimates = found.estimates.reshape(-1)
    error = estimates.std() / np.sqrt(len(estimates))
    assert 2e-3 < truth() < 2e-2
    assert abs(estimates.mean() - truth()) < 3.0 * error
    assert found.pilot_steps == 0
    assert found.steps == scorer.steps_played > 0


def test_a_good_coordinate_has_less_spread(walker):
    good, bad = (
        sf.SplittingScorer(tasks_of(Climb, 4), 20, 20, coordinate, seed=1).estimate(walker).estimates.std()
        for coordinate in (height_of, lambda seen: 0.0 * seen[:, 0])
    )
    assert good < 0.7 * bad


def test_the_critic_finds_the_coordinate_itself(walker):
    found = sf.SplittingScorer(tasks_of(Climb, 4), 30, 20, pilot=2000, seed=1).estimate(walker)
    estimates = found.estimates.reshape(-1)
    assert abs(estimates.mean() - truth()) < 3.0 * estimates.std() / np.sqrt(len(estimates))
    # naive counting of 30 episodes has a relative spread of 1 / sqrt(30 p)
    assert estimates.std() / truth() < 0.5 / np.sqrt(30 * truth())
    assert found.pilot_steps > 0


@pytest.mark.slow
def test_tilted_actions_agree_with_exact_scores(pool, agent):
    tasks = pool.subset(np.arange(8))
    exact = failure_probability(sf.ExactScorer(tasks).score(agent).numpy())
    found = sf.SplittingScorer(tasks, 20, 4, seed=2, pilot=200).estimate(agent)
    # without tilt, the same effort sees nothing of failures that one action in a million causes
    blind = sf.SplittingScorer(tasks, 20, 4, tilt=0.0, seed=2, pilot=200).estimate(agent)
    rare = (exact > 1e-9) & (exact < 1e-3)
    error = np.abs(np.log10(np.maximum(found.probabilities, 1e-12) / exact))
    assert rare.any()
    assert np.median(error[rare]) < 0.5
    assert (found.probabilities[rare] > 0).mean() > (blind.probabilities[rare] > 0).mean()


def test_the_same_seed_gives_the_same_result(pool, agent):
    tasks = pool.subset(np.arange(5))
    first, second, other = (sf.SplittingScorer(tasks, 8, 2, pilot=50, seed=seed).score(agent) for seed in (1, 1, 2))
    assert th.equal(first, second)
    assert not th.equal(first, other)


def test_gusts_are_new_after_a_branch():
    tasks = sfe.TaskPool("Wind-8x8", 4, 0)
    assert isinstance(find_keeper(tasks), OwnState)
    env = tasks.make_env()
    env.reset(seed=1, options={"task": 0})
    before = int(env.unwrapped._stream)
    new_noise(env, 5)
    after = int(env.unwrapped._stream)
    assert after != before
    keeper = find_keeper(tasks)
    branch = keeper.branch(keeper.keep(keeper.start(0, 1)), 5)
    assert int(branch.env.unwrapped._stream) == after
    assert int(keeper.restore(keeper.keep(branch)).env.unwrapped._stream) == after


class Hill(ClimbWithState):
    """How steep it is belongs to the task, and decides alone whether it fails."""

    steep = 0.0

    def step(self, action):
        seen, reward, _, late, _ = super().step(action)
        failed = self.time == 5 and self.steep > 0.5
        return seen, reward, failed, late, {"cost": float(failed)}


def test_contexts_stay_with_their_tasks(walker):
    """An environment that was restored for one task is used for another one afterwards."""
    tasks = sfe.ContextTasks(Hill, 12, {"steep": sfe.Uniform(0.0, 1.0)}, identity="Hill")
    scorer = sf.SplittingScorer(tasks, 8, 2, lambda seen: seen[:, 1], slots=4)
    assert type(scorer.keeper) is OwnState
    for task in (0, 1):
        kept = scorer.keeper.keep(scorer.keeper.start(task, 0))
        scorer.keeper.release(scorer.keeper.restore(kept))
    fails = tasks.contexts[:, 0] > 0.5
    assert fails.any()
    assert not fails.all()
    assert np.array_equal(scorer.estimate(walker).probabilities > 0.5, fails)


@pytest.mark.parametrize(
    ("env", "what"),
    [(Forgetful, "another (course|future)"), (HiddenNoise, r"set_noise\(seed\)")],
    ids=["another future", "old noise"],
)
def test_environments_whose_state_cannot_be_kept_are_refused(env, what):
    with pytest.raises(ValueError, match=r"env must be one whose state can be kept.*" + what):
        sf.SplittingScorer(tasks_of(env))


def test_a_pool_without_single_environments_is_refused():
    with pytest.raises(ValueError, match="make_env"):
        sf.SplittingScorer(object())


def test_a_cost_that_is_never_seen_is_said(walker):
    class Safe(Climb):
        def step(self, action):
            seen, reward, _, late, _ = super().step(action)
            return seen, reward, False, late, {"cost": 0.0}

    scorer = sf.SplittingScorer(tasks_of(Safe), 8, 2, pilot=20)
    found = scorer.measure(walker)
    assert np.isneginf(found.scores).all()
    assert (found.frequencies == 0.0).all()
    assert "none of 20 pilot episodes failed" in found.warnings[0]
    assert "no path failed" in found.warnings[1]


def test_an_environment_without_a_cost_is_refused(walker):
    class Silent(Climb):
        def step(self, action):
            return *super().step(action)[:4], {}

    with pytest.raises((KeyError, ValueError), match="cost"):
        sf.SplittingScorer(tasks_of(Silent), 8, 2).score(walker)


def test_a_coordinate_that_is_no_number_is_refused(walker):
    with pytest.raises(ValueError, match="one number per observation"):
        sf.SplittingScorer(tasks_of(Climb), 8, 2, lambda seen: seen).score(walker)


def test_the_budget_ends_after_two_repetitions_and_says_so(walker):
    scorer = sf.SplittingScorer(tasks_of(Climb), 8, 10, height_of, budget=10)
    found = scorer.measure(walker)
    assert scorer.last.estimates.shape == (3, 2)
    assert any("more than the budget of 10" in note for note in found.warnings)
    enough = sf.SplittingScorer(tasks_of(Climb), 8, 10, height_of, budget=10**6).estimate(walker)
    assert enough.estimates.shape == (3, 10)


def test_gsde_is_refused():
    model = PPO("MlpPolicy", Climb(), n_steps=8, batch_size=8, use_sde=True, device="cpu")
    with pytest.raises(ValueError, match="use_sde"):
        sf.SplittingScorer(tasks_of(Climb), 8, 2, height_of).score(model)


def test_it_has_no_gradient(walker):
    with pytest.raises(ValueError, match="gradient"):
        sf.SplittingScorer(tasks_of(Climb), 8, 2, height_of).rescore(walker, np.array([0]))


def test_off_policy_and_normalised_and_recurrent_models_are_measured():
    tasks = tasks_of(Climb, 2)
    env = VecNormalize(tasks.make_vec_env(2))
    from sb3_contrib import RecurrentPPO

    for model in (
        SAC("MlpPolicy", Climb(), device="cpu", seed=0),
        PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0),
        RecurrentPPO("MlpLstmPolicy", Climb(), n_steps=8, batch_size=8, device="cpu", seed=0),
    ):
        found = sf.SplittingScorer(tasks, 20, 10, height_of, seed=4).estimate(model)
        assert found.estimates.mean() == pytest.approx(truth(), rel=0.8)
    poles = sfe.CartPoleTasks(3, 0)
    greedy = DQN("MlpPolicy", poles.make_env(), device="cpu", seed=0)
    assert sf.SplittingScorer(poles, 8, 2, pilot=30).estimate(greedy).estimates.shape == (3, 2)
    memory = RecurrentPPO("MlpLstmPolicy", poles.make_env(), n_steps=8, batch_size=8, device="cpu", seed=0)
    certain = sf.SplittingScorer(poles, 8, 2, pilot=30).estimate(memory).probabilities
    counted = sf.FrequencyScorer(poles, 50).measure(memory).frequencies
    assert certain == pytest.approx(counted, abs=0.35)


def test_reports_take_it(walker):
    tasks = tasks_of(Climb, 16)
    report = sf.evaluate_forecast(walker, tasks, 8, 10, k=4, scorer=sf.SplittingScorer(tasks, 20, 2, height_of))
    assert report.scorer == "SplittingScorer"
    assert 0.0 < report.worst_failure < 1.0
    assert isinstance(make_scorer("splitting", tasks), sf.SplittingScorer)


def test_splitting_of_one_task_by_hand():
    run = Splitting(0, 4, np.random.default_rng(0))
    for path, (height, records) in zip(
        run.paths, [(1.0, [1.0]), (2.0, [1.0, 2.0]), (3.0, [1.0, 3.0]), (np.inf, [1.0, 2.0])], strict=False
    ):
        path.height, path.records = height, [(value, f"at {value}") for value in records]
    assert KILLED == 0.25
    assert not run.paths[0].failed
    assert run.paths[3].failed
    ((dead, start),) = run.kill()
    assert dead == 0
    assert run.level == 1.0
    assert run.share == 0.75
    assert start in ("at 2.0", "at 3.0")
    assert all(value > 1.0 for path in run.paths for value, _ in path.records)
    # a path that rose above the level only by failing is copied, and a weight counts where it failed
    run.paths = [Path(1.5), Path(np.inf, -1.0), Path(np.inf, -1.0), Path(np.inf, -1.0)]
    assert run.kill() == []
    assert not run.finished
    assert run.paths[0].failed
    assert run.kill() == []
    assert run.finished
    assert run.estimate == pytest.approx(0.75 * 0.75 * np.exp(-1.0))


def test_extinction_is_an_estimate_of_zero():
    run = Splitting(0, 4, np.random.default_rng(0))
    for path in run.paths:
        path.height = 1.0
    assert run.kill() == []
    assert run.finished
    assert run.estimate == 0.0


def test_tilting_keeps_every_action_of_the_policy_possible():
    pi = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]])
    risks = np.array([[0.0, 1.0, 1.0], [0.4, 0.4, 0.4]])
    drawn = tilted(pi, risks, 0.5)
    assert drawn.sum(axis=1) == pytest.approx(1.0)
    assert (drawn >= 0.5 * pi - 1e-12).all()
    assert drawn[0, 1] > 0.4
    assert drawn[0, 2] == 0.0
    assert drawn[1] == pytest.approx(pi[1])  # no action is worse than what the policy does


def test_actions_that_nobody_thinks_dangerous_are_taken_now_and_then():
    pi = np.array([[0.98, 0.02, 0.0], [0.5, 0.5, 0.0]])
    allowed = np.array([[True, True, True], [True, True, False]])
    drawn = doubted(pi, allowed, 0.3)
    assert drawn == pytest.approx(np.array([[0.786, 0.114, 0.1], [0.5, 0.5, 0.0]]))
    assert doubted(pi, allowed, 0.0) == pytest.approx(pi)


@pytest.mark.parametrize("doubt", [0.0, 0.5])
def test_weights_make_up_for_doubt(agent, pool, doubt):
    """A critic that sees no danger anywhere leaves only doubt: the weight is that of the policy over the mixture."""
    env = pool.make_vec_env(4)
    actor, size = Agent(agent, False, np.random.default_rng(0)), 40
    observations = np.repeat(env.reset(), size // 4, axis=0)
    critic = SimpleNamespace(danger=lambda features: np.zeros((size, actor.n_actions)), doubt=doubt)
    decision = actor.decide(observations, np.zeros((size, 1), np.float32), [None] * size, None, np.zeros(size), 0.3, critic)
    with th.no_grad():
        policy = agent.policy.get_distribution(th.as_tensor(observations)).distribution
    pi = policy.probs.double().numpy()[np.arange(size), decision.indices]
    expected = np.log(pi) - np.log((1 - doubt) * pi + doubt / actor.n_actions)
    np.testing.assert_allclose(decision.log_weights, expected, atol=1e-5)
    assert (np.abs(decision.log_weights).max() > 0.1) == (doubt > 0.0)


def test_the_critic_doubts_less_per_step_in_long_episodes():
    features, actions = np.zeros((40, 2), dtype=np.float32), np.zeros(40, dtype=np.int64)
    steps = np.r_[np.arange(19.0, -1.0, -1.0), np.full(20, np.inf)]
    assert Critic(Pilot(features, actions, steps, 2), 1, 0).doubt == pytest.approx(0.3 / 20)
    assert Critic(Pilot(features, actions, steps, 40), 1, 0).doubt == 0.1  # episodes of one step


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_intervals_pool_the_spread_of_similar_tasks(spread):
    generator = np.random.default_rng(0)
    true = 10.0 ** generator.uniform(-6, -2, 400)
    estimates = true[:, None] * generator.lognormal(-(spread**2) / 2, spread, (400, 4))
    ends = log_normal_intervals(estimates)
    assert 0.85 < ((ends[:, 0] <= true) & (true <= ends[:, 1])).mean() < 0.95
    assert np.median(np.log(ends[:, 1] / ends[:, 0])) == pytest.approx(2 * 1.645 * spread / 2, rel=0.25)


def test_intervals_of_nothing():
    assert np.isnan(log_normal_intervals(np.zeros((3, 4)))).all()
    assert np.isnan(log_normal_intervals(np.ones((3, 1)))).all()


class Trap(gym.Env):
    """Five steps; action 0 fails at once."""

    observation_space = spaces.Box(0.0, 5.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.time += 1
        failed = int(action) == 0
        return np.full(1, self.time, dtype=np.float32), 0.0, failed, self.time >= 5, {"cost": float(failed)}


def test_weights_undo_the_tilt():
    """The policy takes the fatal action once in 10,000 steps; drawn more often and weighted, the mean is still its probability."""
    model = PPO("MlpPolicy", Trap(), n_steps=8, batch_size=8, seed=0, device="cpu")
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(th.tensor([np.log(1e-4), np.log1p(-1e-4)]))
    estimates = sf.SplittingScorer(tasks_of(Trap), 30, 20, pilot=200, seed=0).estimate(model).estimates.reshape(-1)
    exact = 1.0 - (1.0 - 1e-4) ** 5
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - exact) < 3.0 * error
    assert error < 0.1 * exact  # 1,800 counted episodes would see a failure or none


@pytest.mark.parametrize(("env_id", "needs", "way"), [("Hopper-v5", "mujoco", Copies), ("LunarLander-v3", "Box2D", Replay)])
def test_real_simulators(env_id, needs, way):
    pytest.importorskip(needs)
    tasks = sfe.SeededTasks(env_id, 3, failed=sfe.ended_early, identity=env_id)
    model = PPO("MlpPolicy", tasks.make_env(), n_steps=64, batch_size=64, device="cpu", seed=0)
    scorer = sf.SplittingScorer(tasks, 8, 2, pilot=20, seed=1)
    assert type(scorer.keeper) is way
    # an untrained agent falls in every episode
    assert (scorer.estimate(model).probabilities > 0.9).all()
