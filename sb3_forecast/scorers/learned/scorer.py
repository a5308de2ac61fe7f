"""Learned survival: failure scores where an environment tells nothing but the cost of a step.

A one-step cost model c(s, a), learnt from all transitions, takes the place of knowing which actions fail (``survival.py``): an
episode follows pi(a|s) (1 - c(s, a)), its survival is the product of 1 - sum_a pi(a|s) c(s, a), and the gradient goes through the
policy at the visited states, c being held fixed. It works where a fatal action can be told from the observation and the cost comes at
once or within a few steps; ``trust.py`` looks for signs that it does not (``docs/model_free.md``).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_forecast.scorers.actor import Actor
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.features import features_of, n_features
from sb3_forecast.scorers.learned.transitions import EpisodeLog, label_costs
from sb3_forecast.scorers.learned.trust import Trust
from sb3_forecast.scorers.learned.visits import RiskyVisits
from sb3_forecast.scorers.playing import TaskQueue, count_success, own_normalisation, stationary
from sb3_forecast.scorers.protocols import Measurement, Rollout, Scorer, SupportsEpisodes, Tasks
from sb3_forecast.scorers.situations import Situations, joined_observations
from sb3_forecast.scorers.survival import episode_scores, log_survival_of_step

#: the most that a cost model is believed: certainty would be an infinite score
CERTAIN = 1.0 - 1e-9


class EpisodeScorer(Scorer):
    """Failure scores from episodes, by a cost model that is learnt on the way.

    :param pool: tasks that can be played
    :param episodes: scoring episodes per task
    :param seed: seed of everything random
    :param env: environments to play in, wrapped as the model's own but for ``VecNormalize``; not saved with the model; ``None`` for the pool's
    :param n_envs: how many environments of the pool run side by side, without ``env``
    :param tau: c below this counts as 0: false alarms on safe moves would swamp the tail
    :param delay: a cost that comes up to so many steps late is put down to the action, too
    :param probes: episodes per round that look for failures on purpose: half on random tasks, half on the worst, a fifth of their actions
        exploratory. For simulators only, where failing harms nobody; by default 0, and failures are learnt from training alone, which sees few
    :param warm_up_rounds: rounds of learning before scores are used
    :param warm_up_failures: failing transitions before scores are used
    :param cost_model: a model to go on with, of another pool for example; ``None`` for a new one
    :raises ValueError: if an argument is out of range or the tasks cannot be played
    """

    samples = True
    learns = True

    def __init__(
        self,
        pool: SupportsEpisodes,
        episodes: int = 1,
        seed: int = 0,
        env: VecEnv | None = None,
        n_envs: int = 64,
        tau: float = 0.1,
        delay: int = 0,
        probes: int = 0,
        warm_up_rounds: int = 3,
        warm_up_failures: int = 30,
        cost_model: CostModel | None = None,
    ) -> None:
        if "episodes" not in pool.scorers:
            raise ValueError(f"the tasks cannot be played (scorers={tuple(pool.scorers)}); use scorer={pool.scorers[0]!r}")
        for name, value, least in (
            ("episodes", episodes, 1), ("n_envs", n_envs, 1), ("delay", delay, 0), ("probes", probes, 0), ("warm_up_rounds", warm_up_rounds, 0),
            ("warm_up_failures", warm_up_failures, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}={value} is out of range; use {name} >= {least}")
        if not 0.0 < tau < 1.0:
            raise ValueError(f"tau={tau} is no probability between 0 and 1; use a value such as 0.1")
        self.pool = pool
        self.n_tasks = len(pool)
        self.episodes = episodes
        self._own_env = env is None
        self.env = pool.make_vec_env(n_envs) if env is None else env
        normalize = unwrap_vec_normalize(self.env)
        if normalize is not None and normalize.norm_obs:
            raise ValueError(
                "env normalises observations, but the cost model needs them as they are; pass it without VecNormalize: the statistics of the "
                "model's own environment are used"
            )
        if not isinstance(self.env.action_space, spaces.Discrete):
            raise ValueError(
                f"action_space={self.env.action_space} is not discrete, which learned survival needs; use scorer='frequency' to measure, or "
                "discretise the actions"
            )
        self.n_actions = int(self.env.action_space.n)
        self.tau, self.delay, self.probes = tau, delay, probes
        self.warm_up_rounds, self.warm_up_failures = warm_up_rounds, warm_up_failures
        self.generator = np.random.default_rng([seed, 37])
        width = n_features(self.env.observation_space)
        self.cost_model = CostModel(width, self.n_actions, seed) if cost_model is None else cost_model
        self.trust = Trust()
        self.rounds = 0
        self._steps_played = 0
        #: scores of the last full scoring, for choosing what to probe
        self._last: NDArray[np.float64] | None = None
        #: what the last full scoring visited, and the last partial one since then
        self._visits: list[RiskyVisits] = []

    @property
    def key(self) -> str:
        """Key of the pool."""
        return self.pool.key

    @property
    def steps_played(self) -> int:
        """Environment steps that scoring and probing have taken so far."""
        return self._steps_played

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Scores, and success counted in one episode per task; see :meth:`Scorer.measure`."""
        found = super().measure(model, k, seed)
        if "frequency" not in self.pool.scorers:
            return found
        return replace(found, success=count_success(model, self.env, self.n_tasks, seed))

    def after_rollout(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the training's own transitions, and from probes if they are allowed.

        :param rollout: the rollout
        :return: what to log
        """
        self.observe(rollout.model, rollout.costs, rollout.dones, rollout.observations)
        return self.learn(rollout.model)

    @property
    def ready(self) -> bool:
        """Whether enough has been learnt for scores to mean something."""
        failures = len(self.cost_model.transitions.failing[1])
        return self.rounds >= self.warm_up_rounds and failures >= max(self.warm_up_failures, 1)

    def on(
        self, pool: SupportsEpisodes, seed: int = 0, env: VecEnv | None = None, episodes: int | None = None
    ) -> EpisodeScorer:
        """A scorer of other tasks by the same cost model, which it does not train: for held-out evaluation.

        :param pool: the other tasks
        :param seed: seed of their episodes
        :param env: as in the constructor
        :param episodes: scoring episodes per task; ``None`` for as many as here
        """
        count = self.episodes if episodes is None else episodes
        n_envs = self.env.num_envs
        other = EpisodeScorer(pool, count, seed, env, n_envs, self.tau, self.delay, 0, 0, 0, cost_model=self.cost_model)
        # what is known of the cost model, is known of it there
        other.trust = self.trust
        return other

    def observe(
        self, model: Any, costs: NDArray[np.float64], dones: NDArray[np.bool_], observations: list[Any] | None = None
    ) -> None:
        """Learn from the transitions of a rollout of the training.

        :param model: on-policy model whose rollout buffer is full
        :param costs: shape (steps, environments)
        :param dones: whether the episode ended with the step, same shape
        :param observations: of each step, where the buffer holds normalised ones and the scorer's environments do not; ``None`` for the buffer's
        """
        buffer = model.rollout_buffer
        steps, envs = costs.shape

        def rows(batches: Any) -> Any:
            if isinstance(batches, dict):
                return {key: rows(value) for key, value in batches.items()}
            return batches.reshape(steps * envs, *batches.shape[2:])

        seen = rows(buffer.observations) if observations is None else joined_observations(observations)
        failed, known = label_costs(costs > 0.0, dones, self.delay)
        features = features_of(seen, model.observation_space)
        actions = buffer.actions.reshape(steps * envs).astype(np.int64)
        chosen = known.reshape(-1)
        self._add(features[chosen], actions[chosen], failed.reshape(-1)[chosen], probing=False)

    def learn(self, model: Any) -> dict[str, float]:
        """Probe if that is allowed, and train the cost model.

        :param model: on-policy model with discrete actions
        :return: what to log
        """
        if self.probes:
            self._probe(model)
        loss = self.cost_model.fit()
        self.rounds += 1
        return {
            "forecast/cost_loss": loss,
            "forecast/failures_seen": float(len(self.cost_model.transitions.failing[1])),
            "forecast/ready": float(self.ready),
            "forecast/steps_played": float(self.steps_played),
            **self.trust.metrics(),
        }

    def _add(
        self, features: NDArray[np.float32], actions: NDArray[np.int64], failed: NDArray[np.bool_], probing: bool
    ) -> None:
        """Keep transitions; what the model thought of them before it saw them is what its trust is built on."""
        if not len(actions):
            return
        if self.rounds:
            c = self.cost_model.probabilities(features)[np.arange(len(actions)), actions]
            self.trust.add(c, failed, self.tau, probing)
        self.cost_model.transitions.add(features, actions, failed)

    def _probe(self, model: Any) -> None:
        """Episodes that look for failures."""
        uniform = self.generator.integers(self.n_tasks, size=self.probes)
        tasks = uniform
        if self._last is not None:
            worst = np.argsort(-self._last, kind="stable")[:100]
            tasks = np.where(
                np.arange(self.probes) % 2 == 0, uniform, worst[self.generator.integers(len(worst), size=self.probes)]
            )
        actor = Actor(model, self.n_actions, may_remember=True)
        log = EpisodeLog()
        with stationary(self.env), actor.evaluating(), th.no_grad():
            queue = self._queue(tasks)
            memory = actor.first_memory(queue.env.num_envs)
            while queue.running:
                _, features, log_pi, memory = self._look(queue, actor, memory, model)
                actions = _draw(np.exp(log_pi), self.generator.random(len(log_pi)))
                explore = self.generator.random((2, len(actions)))
                # a tenth at random, a tenth where the members of the ensemble disagree most
                logits = self.cost_model.logits(features)
                # what a mask forbids has a probability of about e^-1e8
                allowed = log_pi > -1e6
                actions = np.where(explore[0] < 0.1, _draw(allowed.astype(np.float64), explore[1]), actions)
                disagreement = np.where(allowed, logits.std(axis=0), -1.0)
                actions = np.where((explore[0] >= 0.1) & (explore[0] < 0.2), disagreement.argmax(axis=1), actions)
                self._step(queue, actions, features, memory, log)
        self._keep(log, probing=True)

    def _keep(self, log: EpisodeLog, probing: bool) -> None:
        """Give the transitions of some episodes to the cost model."""
        episodes, costs = np.concatenate(log.episodes), np.concatenate(log.costs)
        features, actions = np.concatenate(log.features), np.concatenate(log.actions)
        # episode after episode, each in the order of its steps
        order = np.argsort(episodes, kind="stable")
        episodes, bad = episodes[order], costs[order] > 0.0
        last = np.append(episodes[1:] != episodes[:-1], True)
        failed, known = label_costs(bad[:, None], last[:, None], self.delay)
        rows, failed = order[known[:, 0]], failed[known[:, 0], 0]
        self._add(features[rows], actions[rows], failed, probing)

    def _queue(self, tasks: Tasks) -> TaskQueue:
        if self.env is None:
            raise ValueError(
                "the environments that were passed to this scorer are not saved with it; set model.scorer.env = ..., made as before"
            )
        self.env.seed(int(self.generator.integers(2**31)))
        return TaskQueue(self.env, tasks)

    def _look(
        self, queue: TaskQueue, actor: Actor, memory: NDArray[np.float32] | None, model: Any
    ) -> tuple[Situations, NDArray[np.float32], NDArray[np.float64], NDArray[np.float32] | None]:
        """What the environments show, its features, the policy's log-probabilities there, and what it remembers afterwards."""
        features = features_of(queue.observations, self.env.observation_space)
        masks = np.stack(self.env.env_method("action_masks")) if actor.masked else None
        seen = Situations(queue.observations, masks, memory)
        log_pi, memory = actor.consider(seen, own_normalisation(model, self.env))
        return seen, features, log_pi.numpy(), memory

    def _step(
        self,
        queue: TaskQueue,
        actions: NDArray[np.int64],
        features: NDArray[np.float32],
        memory: NDArray[np.float32] | None,
        log: EpisodeLog,
    ) -> NDArray[np.bool_]:
        """Step, note the transitions, and forget where an episode ended; whether each had a cost."""
        step = queue.step(actions)
        self._steps_played += len(actions)
        log.add(features, actions, step)
        if memory is not None:
            memory[step.dones] = 0.0
        failed: NDArray[np.bool_] = step.costs > 0.0
        return failed

    def log_survival(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Sampled log survival probability of each episode, shape (tasks, episodes), float64.

        An episode that fails although the cost model saw no danger is cut short there, the failing action counted as certain to; it is a lesson
        for the cost model, too.

        :param model: on-policy model with discrete actions
        :param tasks: which tasks; ``None`` for all
        """
        chosen = np.arange(self.n_tasks) if tasks is None else np.asarray(tasks, dtype=np.int64)
        repeated = np.repeat(chosen, self.episodes)
        actor = Actor(model, self.n_actions, may_remember=True)
        log = EpisodeLog()
        total, fallen = np.zeros(len(repeated)), np.zeros(len(repeated), dtype=np.bool_)
        episodes, failures, situations = [], [], []
        with stationary(self.env), actor.evaluating(), th.no_grad():
            queue = self._queue(repeated)
            memory = actor.first_memory(queue.env.num_envs)
            while queue.running:
                current = queue.episodes
                seen, features, log_pi, memory = self._look(queue, actor, memory, model)
                c = self.cost_model.probabilities(features)
                c[c < self.tau] = 0.0
                c = np.minimum(c, CERTAIN)
                uniforms = self.generator.random(len(c))
                actions = _draw(np.exp(log_pi) * (1.0 - c), uniforms)
                failed = self._step(queue, actions, features, memory, log)
                # a failure that the model saw coming is in c already
                unforeseen = np.flatnonzero(failed & (c[np.arange(len(c)), actions] == 0.0))
                c[unforeseen, actions[unforeseen]] = CERTAIN
                # after its first cost an episode has failed: what follows does not matter
                alive = (current >= 0) & ~fallen[current]
                risky = np.flatnonzero(alive & (c > 0.0).any(axis=1))
                fallen[current[alive & failed]] = True
                if len(risky):
                    steps = log_survival_of_step(th.from_numpy(log_pi[risky]), th.from_numpy(c[risky]))
                    np.add.at(total, current[risky], steps.numpy())
                    episodes.append(current[risky])
                    failures.append(c[risky])
                    situations.append(seen.take(risky))
        if self.rounds:
            self._keep(log, probing=False)
        visits = RiskyVisits(
            chosen,
            np.concatenate(episodes) if episodes else np.zeros(0, dtype=np.int64),
            situations,
            np.concatenate(failures) if failures else np.zeros((0, self.n_actions)),
        )
        self._visits = [visits] if tasks is None else [*self._visits[:1], visits]
        return th.from_numpy(total.reshape(len(chosen), self.episodes))

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph, shape (tasks,), float64; the risky states are kept for :meth:`rescore`.

        A task whose episodes met no risk has p = 0, a score of minus infinity.

        :param model: on-policy model with discrete actions
        :param tasks: which tasks; ``None`` for all
        """
        scores = episode_scores(self.log_survival(model, tasks))
        if tasks is None:
            self._last = scores.numpy().copy()
        elif self._last is not None:
            self._last[tasks] = scores.numpy()
        return scores

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores under the current policy at the risky states that :meth:`score` visited, with a graph.

        :param model: on-policy model with discrete actions
        :param tasks: which tasks
        :return: shape (tasks,), float64
        :raises RuntimeError: if one of them was not scored since the last full scoring, and in it
        """
        total = th.zeros(len(tasks) * self.episodes, dtype=th.float64)
        missing = np.ones(len(tasks), dtype=np.bool_)
        actor = Actor(model, self.n_actions, may_remember=True)
        for visits in reversed(self._visits):
            # where among the wanted tasks is each task that was scored here, if it is wanted and no later scoring has it
            place = np.full(self.n_tasks, -1)
            place[np.asarray(tasks)[missing]] = np.flatnonzero(missing)
            place_of_scored = place[visits.tasks]
            missing[place_of_scored[place_of_scored >= 0]] = False
            row = place_of_scored[visits.episode // self.episodes]
            chosen = np.flatnonzero(row >= 0)
            if not len(chosen):
                continue
            seen = Situations.chosen(visits.situations, chosen)
            with actor.evaluating():
                log_pi, _ = actor.consider(seen, own_normalisation(model, self.env))
            steps = log_survival_of_step(log_pi, th.from_numpy(visits.failure[chosen]))
            slot = row[chosen] * self.episodes + visits.episode[chosen] % self.episodes
            total = total.index_add(0, th.from_numpy(slot), steps)
        if missing.any():
            raise RuntimeError(
                f"task {int(np.asarray(tasks)[missing][0])} was never scored; call score(model) before rescore()"
            )
        return episode_scores(total.reshape(len(tasks), self.episodes))

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust scores; empty where none was found.

        :param scores: scores of some tasks
        :param k: top scores that a forecast uses
        """
        return tuple(self.trust.warnings(len(self.cost_model.transitions.failing[1]), scores, k))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "generator": self.generator.bit_generator.state,
            "cost_model": self.cost_model.state_dict(),
            "trust": self.trust.state_dict(),
            "rounds": self.rounds,
            "steps_played": self.steps_played,
            "last": None if self._last is None else self._last.copy(),
            "visits": list(self._visits),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        :param state: as returned there
        """
        self.generator.bit_generator.state = state["generator"]
        self.cost_model.load_state_dict(state["cost_model"])
        self.trust.load_state_dict(state["trust"])
        self.rounds, self._steps_played = state["rounds"], state["steps_played"]
        self._last = None if state["last"] is None else state["last"].copy()
        self._visits = list(state["visits"])

    def __getstate__(self) -> dict[str, Any]:
        # environments cannot be saved, and all transitions are part of state_dict(): the failing ones tell whether the scorer is ready
        kept = copy.copy(self.cost_model)
        kept.transitions = copy.copy(kept.transitions)
        kept.transitions.forget_all_but_failing()
        return {
            **vars(self),
            "env": None,
            "cost_model": kept,
            "_visits": [],
            "n_envs": self.env.num_envs if self._own_env else None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        n_envs = state.pop("n_envs")
        vars(self).update(state)
        if self._own_env:
            self.env = self.pool.make_vec_env(n_envs)


def _draw(weights: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """An action for each row in proportion to its weights; the last one where they are all 0."""
    cumulative = np.cumsum(weights, axis=1)
    drawn = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1)
    return np.asarray(np.minimum(drawn, weights.shape[1] - 1), dtype=np.int64)
