"""An attempt: a failure critic that is trained off-policy on a replay buffer, and injected into the actor's optimizer.

It is part of a study and not of the library, because it did not win (``docs/model_free.md``, "Off-policy training: tried, not shipped").
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

import sb3_forecast as sf
from sb3_forecast.scorers.tasks_of import tasks_of
from sb3_forecast.training.costs import step_costs
from sb3_forecast.training.injection import GradientInjector, attach, detach

#: transitions of a batch of the critic; as many of the actor's gradient
BATCH = 256
#: share of a batch that comes from tasks which failed at least once. It is the task that is chosen by how it ended, not the step
FAILING = 0.5
#: how fast the target network follows
TAU = 0.01
#: largest norm of the added gradient; it is also held to that of SAC's own
NORM = 10.0


class FailureCritic(nn.Module):
    """The probability, as a logit, that the episode fails now or later: two networks, of which the more careful one counts.

    :param inputs: numbers in an observation and an action
    :param width: of the two hidden layers
    """

    def __init__(self, inputs: int, width: int = 64) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
            for _ in range(2)
        )
        for member in self.members:
            # failures are rare: a critic that begins at one half would need long to forget it
            nn.init.constant_(member[-1].bias, -5.0)  # type: ignore[index]  # the last layer of a Sequential

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Logits of both, shape (2, n).

        :param observations: shape (n, features), float32
        :param actions: as they are stored, in [-1, 1], shape (n, numbers), float32
        """
        inputs = th.cat([observations, actions], dim=1)
        return th.stack([member(inputs)[:, 0] for member in self.members])

    def failure(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """The larger probability of both, shape (n,)."""
        failure: th.Tensor = self(observations, actions).amax(0).sigmoid()
        return failure


class Ledger(BaseCallback):
    """Writes down task and cost of every step of a replay buffer, which SB3 does not store.

    :param tasks: task of each step so far, -1 for none, shape (size of the buffer, environments), int64
    :param costs: 1 where a step failed, else 0, same shape, float32
    """

    def __init__(self, tasks: NDArray[np.int64], costs: NDArray[np.float32]) -> None:
        super().__init__()
        self.tasks, self.costs = tasks, costs

    @classmethod
    def empty(cls, size: int, n_envs: int) -> Ledger:
        """For a buffer that holds nothing.

        :param size: steps of the buffer, of all environments together
        :param n_envs: environments
        """
        shape = (size // n_envs, n_envs)
        return cls(np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.float32))

    def _on_step(self) -> bool:
        # SB3 stores the step after this call, at the buffer's position
        assert isinstance(self.model, SAC)
        assert self.model.replay_buffer is not None
        infos: list[dict[str, Any]] = self.locals["infos"]
        position = self.model.replay_buffer.pos
        self.tasks[position] = [info["task"] for info in infos]
        self.costs[position] = step_costs(infos, "Ledger") > 0.0
        return True


class FailureCriticCallback(BaseCallback):
    """Adds the gradient of the forecastability loss to every step of SAC's actor. Scores are the critic's, at each task's first observation.

    The gradient of a task's score is that of the critic's value of the policy's action, at steps of that task in the replay buffer.

    :param ledger: of the replay buffer; a callback as well, before this one
    :param firsts: first observation of every task, shape (N, features), float32
    :param loss: the forecast loss
    :param every: steps of the actor between two forecasts
    :param wait: failed episodes before the gradient begins
    :param seed: seed of batches and partitions
    """

    def __init__(
        self,
        ledger: Ledger,
        firsts: NDArray[np.float32],
        loss: sf.ForecastLoss,
        every: int = 50,
        wait: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.ledger = ledger
        self.firsts, self.loss = th.from_numpy(firsts), loss
        self.every, self.wait = every, wait
        self.generator = np.random.default_rng([seed, 57])
        self.weights = np.zeros(len(firsts))
        #: steps of the buffer that are of tasks which failed, and those that the forecast weighs, with the chance of each
        self.failing = self.weighed = np.zeros(0, dtype=np.int64)
        self.chance = np.zeros(0)
        self.count = 0

    def _on_training_start(self) -> None:
        model = self.model
        assert isinstance(model, SAC)
        assert isinstance(model.replay_buffer, ReplayBuffer)
        assert len(tasks_of(self.training_env)) == len(self.firsts)
        self.buffer = model.replay_buffer
        th.manual_seed(int(self.generator.integers(2**31)))
        self.critic = FailureCritic(self.firsts.shape[1] + self.buffer.action_dim)
        self.target = copy.deepcopy(self.critic)
        self.optimizer = th.optim.Adam(self.critic.parameters(), lr=1e-3)
        attach(GradientInjector(self._gradient, lambda: 1.0, NORM, 1, gentle=True), model.actor.optimizer)

    def _on_training_end(self) -> None:
        assert isinstance(self.model, SAC)
        detach(self.model.actor.optimizer)

    def _on_step(self) -> bool:
        return True

    def _batch(self, rows: NDArray[np.int64]) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Observations, actions, next observations, costs, and whether the episode ended, of steps of the buffer."""
        position, env = np.divmod(rows, self.buffer.n_envs)
        b = self.buffer
        ended = b.dones[position, env]
        parts = (b.observations[position, env], b.actions[position, env], b.next_observations[position, env])
        tensors = [th.from_numpy(np.asarray(part, dtype=np.float32)) for part in parts]
        return tensors[0], tensors[1], tensors[2], th.from_numpy(self.ledger.costs[position, env]), th.from_numpy(ended)

    def _act(self, observations: th.Tensor) -> th.Tensor:
        assert isinstance(self.model, SAC)
        action: th.Tensor = self.model.actor(observations)
        return action

    def _learn(self, stored: int, failing: NDArray[np.int64]) -> None:
        """One step of the critic, by temporal differences: the failure of the next step, or else what the target says of what comes."""
        rows = self.generator.integers(stored, size=BATCH)
        some = int(FAILING * BATCH)
        rows[:some] = failing[self.generator.integers(len(failing), size=some)]
        observations, actions, following, costs, ended = self._batch(rows)
        with th.no_grad():
            later = self.target.failure(following, self._act(following))
            wanted = th.where(costs > 0.0, 1.0, (1.0 - ended) * later)
        logits = self.critic(observations, actions)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        self.optimizer.step()
        with th.no_grad():
            for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                old.lerp_(new, TAU)

    def _look(self) -> None:
        """Score all tasks, and weigh them by the forecast loss."""
        with th.no_grad():
            failure = self.critic.failure(self.firsts, self._act(self.firsts)).double().clamp(1e-12, 1.0 - 1e-12)
        scores = -th.log(-th.log(failure))
        self.weights = np.zeros(len(scores))
        try:
            partitions = self.loss.draw(scores, self.generator)
        except sf.NoForecastError:
            return
        terms = self.loss.evaluate(scores[partitions.touched], partitions, len(scores))
        # dpsi/dp: the score's derivative by the failure probability
        slope = 1.0 / (failure * -th.log(failure))
        self.weights[partitions.touched.numpy()] = (terms.weights * slope[partitions.touched]).numpy()
        self.logger.record("forecast/loss", float(terms.loss.detach()))
        self.logger.record("forecast/critic_mean", float(failure.mean()))
        self.logger.record("forecast/critic_worst", float(failure.max()))

    def _gradient(self) -> th.Tensor:
        """What is minimised by the actor's step: the failure that the critic expects, at steps of the tasks that the forecast weighs."""
        stored = (self.buffer.buffer_size if self.buffer.full else self.buffer.pos) * self.buffer.n_envs
        tasks = self.ledger.tasks.reshape(-1)[:stored]
        nothing = th.zeros(())
        if self.count % self.every == 0:
            failed = tasks[self.ledger.costs.reshape(-1)[:stored] > 0.0]
            ever = np.zeros(len(self.firsts), dtype=np.bool_)
            ever[failed] = True
            self.failing = np.flatnonzero(ever[tasks]) if len(failed) >= self.wait else failed[:0]
            if len(self.failing):
                self._look()
                weight = self.weights[tasks]
                self.weighed = np.flatnonzero(weight > 0.0)
                self.chance = weight[self.weighed] / weight[self.weighed].sum() if len(self.weighed) else weight[:0]
        self.count += 1
        if not len(self.failing):
            return nothing
        self._learn(stored, self.failing)
        if not len(self.weighed):
            return nothing
        rows = self.weighed[self.generator.choice(len(self.weighed), size=BATCH, p=self.chance)]
        observations = self._batch(rows)[0]
        return self.critic.failure(observations, self._act(observations)).mean()
