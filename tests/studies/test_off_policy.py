"""The off-policy attempt: its ledger, its critic, and the gradient that it adds to the actor of SAC."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

import sb3_forecast as sf
from studies.failure_critic import FailureCritic, FailureCriticCallback, Ledger
from studies.off_policy import METHODS, SAC_SETTINGS
from studies.pushed_poles import PushedPoleTasks

SMALL = {**SAC_SETTINGS, "buffer_size": 4096, "learning_starts": 256, "batch_size": 32, "gradient_steps": 1, "device": "cpu"}


class Watch(BaseCallback):
    """Remembers what the environments said of every step."""

    def __init__(self):
        super().__init__()
        self.tasks, self.costs = [], []

    def _on_step(self):
        self.tasks.append([info["task"] for info in self.locals["infos"]])
        self.costs.append([info["cost"] for info in self.locals["infos"]])
        return True


@pytest.fixture(scope="module")
def trained():
    """A short training with the failure critic, and what was seen of it."""
    pool = PushedPoleTasks(64, 3, 0.2)
    model = SAC("MlpPolicy", pool.make_vec_env(8, 0), seed=1, **SMALL)
    ledger, watch = Ledger.empty(4096, 8), Watch()
    (forecast,) = METHODS["forecast"](pool, ledger, 0)
    forecast.loss = sf.ForecastLoss(eval_size=24, k=5, n_partitions=16, p_floor=1e-6)
    before = model.actor.mu.weight.detach().clone()
    model.learn(1600, callback=[ledger, watch, forecast])
    return model, ledger, watch, forecast, before


def test_the_ledger_agrees_with_the_steps_and_the_buffer(trained):
    model, ledger, watch, _, _ = trained
    steps = len(watch.tasks)
    np.testing.assert_array_equal(ledger.tasks[:steps], watch.tasks)
    np.testing.assert_array_equal(ledger.costs[:steps] > 0.0, np.array(watch.costs) > 0.0)
    assert (ledger.tasks[steps:] == -1).all()
    # an agent that has learnt nothing falls, and a fall ends the episode
    failed = ledger.costs[:steps] > 0.0
    assert failed.any()
    assert model.replay_buffer.dones[:steps][failed].all()


def test_the_critic_tells_failing_tasks_from_others(trained):
    _, ledger, _, forecast, _ = trained
    rows = np.arange(ledger.costs.size)
    stored = ledger.tasks.reshape(-1) >= 0
    failed = ledger.costs.reshape(-1) > 0.0
    observations, actions = forecast._batch(rows[stored])[:2]
    c = forecast.critic.failure(observations, actions).detach().numpy()
    assert c[failed[stored]].mean() > c[~failed[stored]].mean() + 0.1


def test_the_gradient_asks_for_less_failure(trained):
    model, _, _, forecast, before = trained
    assert len(forecast.weighed)
    assert not th.equal(before, model.actor.mu.weight)
    # the critic learns a step, then gives the gradient: what it expects falls along it
    model.actor.optimizer.zero_grad()
    forecast._gradient().backward()
    observations = forecast._batch(forecast.weighed)[0]

    def expected():
        with th.no_grad():
            return float(forecast.critic.failure(observations, model.actor(observations, deterministic=True)).mean())

    start = expected()
    with th.no_grad():
        for parameter in model.actor.parameters():
            if parameter.grad is not None:
                parameter -= 1e-2 * parameter.grad / parameter.grad.norm().clamp(min=1e-8)
    assert expected() < start


def test_nothing_is_added_before_enough_has_failed():
    model = SAC("MlpPolicy", PushedPoleTasks(64, 3, 0.2).make_vec_env(8, 0), seed=1, **SMALL)
    ledger = Ledger.empty(4096, 8)
    firsts = np.zeros((64, model.observation_space.shape[0]), dtype=np.float32)
    forecast = FailureCriticCallback(ledger, firsts, sf.ForecastLoss(eval_size=24, k=5), wait=10**6)
    model.learn(800, callback=[ledger, forecast])
    assert forecast.count > 0
    assert not len(forecast.failing)
    assert not forecast._gradient().requires_grad


def test_a_critic_begins_at_rare_failures():
    th.manual_seed(0)
    critic = FailureCritic(4)
    assert critic(th.zeros(3, 3), th.zeros(3, 1)).shape == (2, 3)
    assert critic.failure(th.randn(50, 3), th.randn(50, 1)).max() < 0.05
