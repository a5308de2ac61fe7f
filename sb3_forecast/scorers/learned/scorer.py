"""Learned survival: model-free failure scores, for environments that report only ``info["cost"]``.

``survival.py`` must know which actions fail. Here a one-step cost model c(s, a) is learnt from all transitions instead.
An episode follows pi(a|s) (1 - c(s, a)), and its survival is the product of 1 - sum_a pi(a|s) c(s, a). The gradient goes
through the policy at the visited states; c is held fixed. This works if the observation shows which action is fatal, and
if the cost comes at once or within a few steps; ``trust.py`` checks whether it does (``docs/model_free.md``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_forecast.checks import real, task_indices
from sb3_forecast.scorers.actor import Actor
from sb3_forecast.scorers.learned.choices import choices_of
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.features import features_of
from sb3_forecast.scorers.learned.probing import draw, probing_actions
from sb3_forecast.scorers.learned.transitions import EpisodeLog, label_costs
from sb3_forecast.scorers.learned.trust import Trust
from sb3_forecast.scorers.learned.visits import RiskyVisits
from sb3_forecast.scorers.playing import TaskQueue, count_success, own_normalisation, stationary
from sb3_forecast.scorers.protocols import Measurement, Rollout, Scorer, SupportsEpisodes, Tasks
from sb3_forecast.scorers.situations import Situations
from sb3_forecast.scorers.survival import episode_scores, log_survival_of_step

#: largest c that is used: c = 1 would give an infinite score
CERTAIN = 1.0 - 1e-9


class EpisodeScorer(Scorer):
    """Failure scores from episodes and a cost model that is learnt during the training.

    :param pool: tasks that can be played
    :param episodes: number of scoring episodes per task
    :param seed: seed of all random numbers
    :param env: environments to play in, with the same wrappers as the model's own, but without ``VecNormalize``; they are
        not saved with the model; ``None`` for environments made by the pool
    :param n_envs: number of parallel environments that the pool makes; not used if ``env`` is given
    :param tau: c below this counts as 0, because false alarms on safe moves would swamp the tail; ``None`` for 0.1 where actions are
        Discrete, and for 0.01 elsewhere
    :param delay: a cost that comes up to so many steps after an action counts as caused by that action, too
    :param probes: number of episodes per round that look for failures on purpose: half on random tasks, half on the worst
        tasks, with a fifth of their actions exploratory. Use them only in simulators, where failures do no harm. With the
        default 0, the cost model learns only from the episodes of training and scoring, which see few failures
    :param warm_up_rounds: number of rounds of learning before scores are used
    :param warm_up_failures: number of failing transitions before scores are used
    :param max_share: largest share of all environment steps that scoring and probing take in a training; a tenth while the cost model's checks
        fail. While it is used up, training goes on with the last scoring's forecast; 1 for no limit. See docs/model_free.md
    :param cost_model: a model to continue with, for example of another pool; ``None`` for a new one
    :raises ValueError: if an argument is out of range or the tasks cannot be played
    """

    samples = learns = plays = True

    def __init__(
        self,
        pool: SupportsEpisodes,
        episodes: int = 1,
        seed: int = 0,
        env: VecEnv | None = None,
        n_envs: int = 64,
        tau: float | None = None,
        delay: int = 0,
        probes: int = 0,
        warm_up_rounds: int = 3,
        warm_up_failures: int = 30,
        cost_model: CostModel | None = None,
        max_share: float = 1.0,
    ) -> None:
        if "episodes" not in pool.scorers:
            raise ValueError(f"pool must serve 'episodes', got {tuple(pool.scorers)}; use scorer={pool.scorers[0]!r}")
        for name, value, least in (
            ("episodes", episodes, 1), ("n_envs", n_envs, 1), ("delay", delay, 0), ("probes", probes, 0), ("warm_up_rounds", warm_up_rounds, 0),
            ("warm_up_failures", warm_up_failures, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}; use a larger number")
        if tau is not None and not 0.0 < tau < 1.0:
            raise ValueError(f"tau must be above 0 and below 1, got {tau}; use for example 0.1")
        self.max_share = real("max_share", max_share, low=0.0, high=1.0, use="0.5, or 1 for no limit")
        self.pool = pool
        self.n_tasks = len(pool)
        self.episodes = episodes
        self._own_env = env is None
        self.env = pool.make_vec_env(n_envs) if env is None else env
        # it is known when the environments have not travelled with the scorer
        self._n_envs = self.env.num_envs
        normalize = unwrap_vec_normalize(self.env)
        if normalize is not None and normalize.norm_obs:
            raise ValueError(
                "env must not normalise observations, because the cost model needs the original ones, got an env with VecNormalize; pass env "
                "without it: the scorer uses the statistics of the model's own environment"
            )
        self.choices = choices_of(self.env.observation_space, self.env.action_space)
        self.tau = self.choices.tau if tau is None else tau
        self.delay, self.probes = delay, probes
        self.warm_up_rounds, self.warm_up_failures = warm_up_rounds, warm_up_failures
        self.generator = np.random.default_rng([seed, 37])
        self.cost_model = self.choices.new_cost_model(seed) if cost_model is None else cost_model
        self.trust = Trust()
        self.rounds = 0
        self._steps_played, self._steps_observed = 0, 0
        #: latest known score of each task; the probes choose the worst tasks by it
        self._last: NDArray[np.float64] | None = None
        #: risky visits of the last full scoring, and of the last partial scoring after it
        self._visits: list[RiskyVisits] = []

    @property
    def key(self) -> str:
        """Key of the pool whose tasks are scored."""
        return self.pool.key

    @property
    def steps_played(self) -> int:
        """Number of environment steps that scoring and probing have taken so far."""
        return self._steps_played

    @property
    def may_play(self) -> bool:  # type: ignore[override]  # follows the steps
        """Whether scoring and probing are within their share of the steps."""
        return self._steps_played <= self.trust.share(self.max_share) * (self._steps_played + self._steps_observed)

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Measurement:
        """Scores, and successes counted in one episode per task; see :meth:`Scorer.measure`."""
        found = super().measure(model, k, seed)
        if "frequency" not in self.pool.scorers:
            return found
        return replace(found, success=count_success(model, self.env, self.n_tasks, seed))

    def after_rollout(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the training's own transitions, and from probes if there are any.

        :param rollout: the rollout
        :return: names and values to log
        """
        self.observe(rollout.model, rollout.costs, rollout.dones, rollout.observations)
        return self.learn(rollout.model)

    @property
    def ready(self) -> bool:
        """Whether the cost model has learnt enough for the scores to be used."""
        return not self.waits_for

    @property
    def waits_for(self) -> str:
        """See :attr:`Scorer.waits_for`."""
        failures, needed = len(self.cost_model.transitions.failing[1]), max(self.warm_up_failures, 1)
        wants = ((self.rounds, self.warm_up_rounds, "rollouts"), (failures, needed, "failures"))
        return " and ".join(f"{least} {what}, of which it has seen {seen}" for seen, least, what in wants if seen < least)

    @property
    def trusted(self) -> bool:
        """See :meth:`Trust.holds`."""
        return self.trust.holds

    def on(
        self, pool: SupportsEpisodes, seed: int = 0, env: VecEnv | None = None, episodes: int | None = None
    ) -> EpisodeScorer:
        """A scorer of other tasks with the same cost model, for held-out tasks. It does not train the cost model.

        :param pool: the other tasks
        :param seed: seed of their episodes
        :param env: as in the constructor
        :param episodes: number of scoring episodes per task; ``None`` for the number of this scorer
        """
        count = self.episodes if episodes is None else episodes
        other = EpisodeScorer(pool, count, seed, env, self._n_envs, self.tau, self.delay, 0, 0, 0, cost_model=self.cost_model)
        # it is the same cost model, so the same checks apply
        other.trust = self.trust
        return other

    def observe(
        self, model: Any, costs: NDArray[np.float64], dones: NDArray[np.bool_], observations: list[Any] | None = None
    ) -> None:
        """Learn from the transitions of a rollout of the training.

        :param model: on-policy model whose rollout buffer is full
        :param costs: cost of each step, shape (steps, environments), float64
        :param dones: whether the episode ended with the step, shape (steps, environments), bool
        :param observations: original observations of each step, if the buffer holds normalised ones; ``None`` to use the
            buffer's
        """
        self._steps_observed += costs.size
        _, _, features, actions = self.choices.of_rollout(model, observations)
        failed, known = label_costs(costs > 0.0, dones, self.delay)
        chosen = known.reshape(-1)
        self._add(features[chosen], actions[chosen], failed.reshape(-1)[chosen], probing=False)

    def learn(self, model: Any) -> dict[str, float]:
        """Play the probes, if there are any, and train the cost model.

        :param model: on-policy model with discrete actions
        :return: names and values to log
        """
        if self.probes and self.may_play:
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
        """Keep transitions. Before the cost model learns from them, its predictions for them are recorded in ``trust``."""
        if not len(actions):
            return
        if self.rounds:
            c = self.cost_model.probabilities(features)[np.arange(len(actions)), actions]
            self.trust.add(c, failed, self.tau, probing)
        self.cost_model.transitions.add(features, actions, failed)

    def _probe(self, model: Any) -> None:
        """Play episodes that look for failures."""
        uniform = self.generator.integers(self.n_tasks, size=self.probes)
        tasks = uniform
        if self._last is not None:
            worst = np.argsort(-self._last, kind="stable")[:100]
            tasks = np.where(
                np.arange(self.probes) % 2 == 0, uniform, worst[self.generator.integers(len(worst), size=self.probes)]
            )
        actor = self.choices.actor(model)
        log = EpisodeLog()
        with stationary(self.env), actor.evaluating(), th.no_grad():
            queue = self._queue(tasks)
            memory = actor.first_memory(queue.env.num_envs)
            while queue.running:
                seen, features, log_pi, memory = self._look(queue, actor, memory, model)
                logits = self.choices.logits(self.cost_model, features, seen)
                columns = probing_actions(log_pi, logits, self.generator)
                self._step(queue, columns, features, seen, memory, log)
        self._keep(log, probing=True)

    def _keep(self, log: EpisodeLog, probing: bool) -> None:
        """Label the transitions of some episodes, and give them to the cost model."""
        episodes, costs = np.concatenate(log.episodes), np.concatenate(log.costs)
        features, actions = np.concatenate(log.features), np.concatenate(log.actions)
        # sort by episode; within an episode, the steps stay in order
        order = np.argsort(episodes, kind="stable")
        episodes, bad = episodes[order], costs[order] > 0.0
        last = np.append(episodes[1:] != episodes[:-1], True)
        failed, known = label_costs(bad[:, None], last[:, None], self.delay)
        rows, failed = order[known[:, 0]], failed[known[:, 0], 0]
        self._add(features[rows], actions[rows], failed, probing)

    def _queue(self, tasks: Tasks) -> TaskQueue:
        if self.env is None:
            raise ValueError(
                "scorer.env must be set, got None: environments are not saved with the scorer; set model.scorer.env = ..., made as before"
            )
        self.env.seed(int(self.generator.integers(2**31)))
        return TaskQueue(self.env, tasks)

    def _look(
        self, queue: TaskQueue, actor: Actor, memory: NDArray[np.float32] | None, model: Any
    ) -> tuple[Situations, NDArray[np.float32], NDArray[np.float64], NDArray[np.float32] | None]:
        """Current situations, their features, the policy's log-probabilities there, and the policy's memory afterwards."""
        features = features_of(queue.observations, self.env.observation_space)
        masks = np.stack(self.env.env_method("action_masks")) if actor.masked else None
        normalize = own_normalisation(model, self.env)
        seen = self.choices.considered(actor, Situations(queue.observations, masks, memory), normalize, self.generator)
        log_pi, memory = actor.consider(seen, normalize)
        return seen, features, log_pi.numpy(), memory

    def _step(
        self,
        queue: TaskQueue,
        columns: NDArray[np.int64],
        features: NDArray[np.float32],
        seen: Situations,
        memory: NDArray[np.float32] | None,
        log: EpisodeLog,
    ) -> NDArray[np.bool_]:
        """Take a step, log it, and clear the memory where an episode ended. Returns whether each step had a cost."""
        actions, inputs = self.choices.taken(features, seen, columns)
        step = queue.step(actions)
        self._steps_played += len(columns)
        log.add(inputs, self.choices.outputs(columns), step)
        if memory is not None:
            memory[step.dones] = 0.0
        failed: NDArray[np.bool_] = step.costs > 0.0
        return failed

    def log_survival(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Sampled log survival probability of each episode.

        If an episode fails where the cost model saw no danger, it counts only up to there, and the failing action counts
        as certain to fail. The cost model learns from this failure, too.

        :param model: on-policy model with discrete actions
        :param tasks: indices of the tasks; ``None`` for all
        :return: shape (tasks, episodes), float64
        """
        chosen = task_indices(tasks, self.n_tasks)
        repeated = np.repeat(chosen, self.episodes)
        actor = self.choices.actor(model)
        log = EpisodeLog()
        total, fallen = np.zeros(len(repeated)), np.zeros(len(repeated), dtype=np.bool_)
        episodes, failures, situations = [], [], []
        with stationary(self.env), actor.evaluating(), th.no_grad():
            queue = self._queue(repeated)
            memory = actor.first_memory(queue.env.num_envs)
            while queue.running:
                current = queue.episodes
                seen, features, log_pi, memory = self._look(queue, actor, memory, model)
                c = self.choices.risks(self.cost_model, features, seen)
                c[c < self.tau] = 0.0
                c = np.minimum(c, CERTAIN)
                uniforms = self.generator.random(len(c))
                actions = draw(np.exp(log_pi) * (1.0 - c), uniforms)
                failed = self._step(queue, actions, features, seen, memory, log)
                # c already holds the failures that the model foresaw
                unforeseen = np.flatnonzero(failed & (c[np.arange(len(c)), actions] == 0.0))
                c[unforeseen, actions[unforeseen]] = CERTAIN
                # after its first cost an episode has failed, so its later steps do not count
                alive = (current >= 0) & ~fallen[current]
                risky = np.flatnonzero(alive & (c > 0.0).any(axis=1))
                fallen[current[alive & failed]] = True
                if len(risky):
                    steps = log_survival_of_step(th.from_numpy(log_pi[risky]), th.from_numpy(c[risky]))
                    np.add.at(total, current[risky], steps.numpy() / self.choices.repeats(self.delay))
                    episodes.append(current[risky])
                    failures.append(c[risky])
                    situations.append(seen.take(risky))
        if self.rounds:
            self._keep(log, probing=False)
        visits = RiskyVisits(
            chosen,
            np.concatenate(episodes) if episodes else np.zeros(0, dtype=np.int64),
            situations,
            np.concatenate(failures) if failures else np.zeros((0, 1)),
        )
        self._visits = [visits] if tasks is None else [*self._visits[:1], visits]
        return th.from_numpy(total.reshape(len(chosen), self.episodes))

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph. The risky states are kept for :meth:`rescore`.

        If the episodes of a task met no risk, its p is 0 and its score is minus infinity.

        :param model: on-policy model with discrete actions
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU
        """
        scores = episode_scores(self.log_survival(model, tasks))
        if tasks is None:
            self._last = scores.numpy().copy()
        elif self._last is not None:
            self._last[tasks] = scores.numpy()
        return scores

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph: the current policy at the risky states that :meth:`score` visited.

        :param model: on-policy model
        :param tasks: indices of the tasks
        :return: scores, shape (tasks,), float64, CPU
        :raises RuntimeError: if neither the last full scoring nor the last partial scoring after it holds one of the tasks
        """
        tasks = task_indices(tasks, self.n_tasks)
        total = th.zeros(len(tasks) * self.episodes, dtype=th.float64)
        missing = np.ones(len(tasks), dtype=np.bool_)
        actor = self.choices.actor(model)
        for visits in reversed(self._visits):
            # position in `tasks`; -1 if it is not wanted, or a later scoring already has it
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
            total = total.index_add(0, th.from_numpy(slot), steps / self.choices.repeats(self.delay))
        if missing.any():
            raise RuntimeError(
                f"rescore() needs tasks that were scored before, got task {int(np.asarray(tasks)[missing][0])}; call score(model) first"
            )
        return episode_scores(total.reshape(len(tasks), self.episodes))

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust some scores; empty if there are none.

        :param scores: scores of some tasks, shape (tasks,), float64
        :param k: number of top scores that the forecast uses
        """
        return tuple(self.trust.warnings(len(self.cost_model.transitions.failing[1]), scores, k))

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {
            "generator": self.generator.bit_generator.state, "cost_model": self.cost_model.state_dict(), "trust": self.trust.state_dict(),
            "rounds": self.rounds, "steps_played": self._steps_played, "steps_observed": self._steps_observed,
            "last": None if self._last is None else self._last.copy(), "visits": list(self._visits),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self.generator.bit_generator.state = state["generator"]
        self.cost_model.load_state_dict(state["cost_model"])
        self.trust.load_state_dict(state["trust"])
        self.rounds, self._steps_played = state["rounds"], state["steps_played"]
        self._steps_observed = state.get("steps_observed", 0)  # models of 0.2.0 have none
        self._last = None if state["last"] is None else state["last"].copy()
        self._visits = list(state["visits"])

    def __getstate__(self) -> dict[str, Any]:
        # environments cannot be saved; of the transitions only the failing ones are kept, for `ready` (state_dict() has all)
        return {**vars(self), "env": None, "cost_model": self.cost_model.small(), "_visits": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._own_env:
            self.env = self.pool.make_vec_env(self._n_envs)
