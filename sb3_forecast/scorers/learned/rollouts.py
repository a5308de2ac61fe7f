"""Failure scores from the training's own episodes: without one further step, unless probes are wanted.

A failure critic c(s, a) learns from whole episodes: the probability that the episode fails, now or later, after action a on observation s. A
task's failure probability is the mean of sum_a pi(a|s) c(s, a) over the latest episode that the training played on it. Its gradient is the
policy gradient with the critic in place of sampled returns, with all actions at each observation:
dp = sum_t sum_a dpi(a|s_t) c(s_t, a). So the decision that began the failure is credited, however long before the cost it was.

Where every action's cost comes at once and failures are very rare, :class:`~sb3_forecast.EpisodeScorer` sees further: it plays episodes that
avoid what the cost model foresees (``docs/model_free.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sb3_forecast.checks import check_seed, inside_unit, task_indices, whole
from sb3_forecast.scorers.learned.choices import choices_of, flat
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.preferences import Preferences
from sb3_forecast.scorers.learned.probes import Probes
from sb3_forecast.scorers.learned.running import RunningEpisodes, Steps
from sb3_forecast.scorers.learned.scorer import CERTAIN
from sb3_forecast.scorers.learned.trust import Trust
from sb3_forecast.scorers.playing import normalisation_of
from sb3_forecast.scorers.protocols import Rollout, Scorer, SupportsEpisodes, Tasks
from sb3_forecast.scorers.situations import Situations
from sb3_forecast.statistics.scores import failure_score

#: a situation is kept if c of an action is above this share of tau when its episode ends: the critic may change its mind
_KEPT = 0.1
#: optimizer steps of the critic after each rollout
_FIT_STEPS = 30


@dataclass(frozen=True)
class Visits:
    """What is kept of the latest episodes.

    :param steps: situations in which the critic expected a failure of some action, or in which one happened
    :param episodes: number of each kept episode, ascending, shape (episodes,), int64
    :param tasks: its task, shape (episodes,), int64
    :param lengths: its number of steps, shape (episodes,), int64
    """

    steps: Steps
    episodes: NDArray[np.int64]
    tasks: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def latest(self, count: int) -> Visits:
        """The latest episodes of each task.

        :param count: number of episodes per task
        """
        order = np.lexsort((-self.episodes, self.tasks))
        tasks = self.tasks[order]
        begin = np.searchsorted(tasks, tasks)
        stay = order[np.arange(len(order)) - begin < count]
        stay = stay[np.argsort(self.episodes[stay])]
        kept = self.episodes[stay]
        steps = self.steps.take(np.flatnonzero(np.isin(self.steps.episode, kept)))
        return Visits(steps, kept, self.tasks[stay], self.lengths[stay])

    def joined(self, later: Visits) -> Visits:
        """These visits, then later ones."""
        return Visits(
            self.steps.joined(later.steps),
            *(np.concatenate([getattr(self, name), getattr(later, name)]) for name in ("episodes", "tasks", "lengths")),
        )


class RolloutScorer(Scorer):
    """Failure scores from the training's own episodes; it plays none of its own, but for probes if they are wanted.

    Tasks that the training has not played yet have no score (minus infinity). It is a scorer for training: to measure, use another one.

    :param pool: the tasks that the training plays
    :param episodes: number of latest episodes of a task that its score is the mean of
    :param seed: seed of all random numbers
    :param tau: c below this counts as 0, because false alarms at safe situations would swamp the tail; ``None`` for 0.1 where actions are
        Discrete, and for 0.01 elsewhere
    :param warm_up_failures: number of failed episodes before scores are used
    :param probe_share: share of all environment steps that probes may take: further episodes that try other actions, half of them on the worst
        tasks, so that the critic learns of failures which a good agent hardly shows. Use them only in simulators, where failures do no harm;
        0 for none
    :param env: environments for the probes, with the same wrappers as the model's own, but without ``VecNormalize``; they are not saved with
        the model; ``None`` for environments made by the pool
    :param n_envs: number of parallel environments that the pool makes for the probes; not used if ``env`` is given
    :param cost_model: a failure critic to continue with; ``None`` for a new one
    :raises ValueError: if an argument is out of range, or there are to be probes of tasks that cannot be played
    """

    samples = learns = True
    supports_partial = False
    #: Adam makes large steps of gradients that are new to it: single updates have ruined agents
    gentle = True

    def __init__(
        self,
        pool: SupportsEpisodes,
        episodes: int = 1,
        seed: int = 0,
        tau: float | None = None,
        warm_up_failures: int = 10,
        probe_share: float = 0.0,
        env: VecEnv | None = None,
        n_envs: int = 32,
        cost_model: CostModel | None = None,
    ) -> None:
        self.pool, self.n_tasks = pool, len(pool)
        self.episodes = whole("episodes", episodes, low=1, use="1, or more where luck decides")
        self.warm_up_failures = whole("warm_up_failures", warm_up_failures, low=0, use="10")
        self.tau = None if tau is None else inside_unit("tau", tau, "a probability such as 0.1, or None")
        self._seed = check_seed(seed)
        self.generator = np.random.default_rng([seed, 41])
        self.cost_model = cost_model
        self.probes = Probes(pool, probe_share, seed, env, n_envs)
        self.trust, self.preferences = Trust(), Preferences()
        self.failures, self.rounds = 0, 0
        self._running = RunningEpisodes()
        self._visits: Visits | None = None
        self._c: NDArray[np.float64] = np.zeros((0, 1))
        #: scores of all tasks, of the latest full scoring; the probes choose the worst tasks by it
        self._last: NDArray[np.float64] | None = None
        #: choices, made with the spaces of the first model
        self._choices: Any = None

    @property
    def key(self) -> str:
        """Key of the pool whose tasks are scored."""
        return self.pool.key

    @property
    def steps_played(self) -> int:
        """Number of environment steps that probes have taken so far."""
        return self.probes.steps_played

    @property
    def ready(self) -> bool:
        """Whether enough episodes have failed for the scores to be used."""
        return not self.waits_for

    @property
    def waits_for(self) -> str:
        """See :attr:`Scorer.waits_for`."""
        needed = max(self.warm_up_failures, 1)
        return "" if self.failures >= needed else f"{needed} failed episodes, of which it has seen {self.failures}"

    @property
    def trusted(self) -> bool:
        """See :meth:`Trust.holds`."""
        return self.trust.holds

    @property
    def may_move(self) -> bool:
        """See :attr:`Scorer.may_move` and :class:`Preferences`."""
        return self.trusted and self.preferences.hold

    def choices(self, model: Any) -> Any:
        """What the critic can choose from at an observation; made for the spaces of the first model.

        :param model: on-policy model
        """
        if self._choices is None:
            self._choices = choices_of(model.observation_space, model.action_space)
            if self.tau is None:
                self.tau = self._choices.tau
            if self.cost_model is None:
                self.cost_model = self._choices.new_cost_model(self._seed)
        return self._choices

    def after_rollout(self, rollout: Rollout) -> dict[str, float]:
        """Learn from the episodes that ended in a rollout, and keep where they were in danger.

        :param rollout: the rollout
        :return: names and values to log
        :raises ValueError: if the environments do not tell their tasks
        """
        if rollout.tasks is None:
            raise ValueError("info of every step must have `task`, got steps without; use the environments of a pool")
        model, choices = rollout.model, self.choices(rollout.model)
        steps, ended = self._steps_of(rollout)
        over = self._running.add(steps, ended)
        if len(over):
            actor = choices.actor(model)
            with actor.evaluating():
                considered = choices.considered(actor, over.situations, normalisation_of(model), self.generator)
            over = replace(over, situations=considered)
            self._learn_from(model, choices, over, probing=False)
        self._probe(model, choices, len(steps), over)
        assert self.cost_model is not None
        loss = self.cost_model.fit(_FIT_STEPS)
        self.rounds += 1
        if len(over):
            self._keep(choices, over)
        return {
            "forecast/cost_loss": loss,
            "forecast/failures_seen": float(self.failures),
            "forecast/ready": float(self.ready),
            "forecast/steps_played": float(self.steps_played),
            "forecast/tasks_known": float(0 if self._visits is None else len(np.unique(self._visits.tasks))),
            **self.trust.metrics(),
            **self.preferences.metrics(),
        }

    def _steps_of(self, rollout: Rollout) -> tuple[Steps, NDArray[np.int64]]:
        """The steps of a rollout, and the episodes that ended in it."""
        model = rollout.model
        seen, features, inputs, outputs = self.choices(model).of_rollout(model, rollout.observations)
        situations = Situations(seen, self._masks(model), self._memory(model))
        numbers = self._running.numbers(rollout.dones, model.rollout_buffer.episode_starts[0].astype(np.bool_))
        assert rollout.tasks is not None
        steps = Steps(
            numbers.reshape(-1),
            rollout.tasks.reshape(-1),
            rollout.costs.reshape(-1) > 0.0,
            situations,
            features,
            inputs,
            outputs,
        )
        return steps, numbers[rollout.dones]

    def _masks(self, model: Any) -> NDArray[np.bool_] | None:
        if not self.choices(model).actor(model).masked:
            return None
        masks: NDArray[np.bool_] = flat(model.rollout_buffer.action_masks).astype(np.bool_)
        return masks

    def _memory(self, model: Any) -> NDArray[np.float32] | None:
        if not self.choices(model).actor(model).remembers:
            return None
        buffer = model.rollout_buffer
        # the buffer holds (steps, layers, environments, width)
        parts = [part.transpose(0, 2, 1, 3) for part in (buffer.hidden_states_pi, buffer.cell_states_pi)]
        memory: NDArray[np.float32] = np.stack([flat(part) for part in parts], axis=1).astype(np.float32)
        memory[flat(buffer.episode_starts) > 0.0] = 0.0
        return memory

    def _probe(self, model: Any, choices: Any, rollout_steps: int, over: Steps) -> None:
        """Play the probes that are due, if any, and give their steps to the critic."""
        assert self.cost_model is not None
        count = self.probes.due(rollout_steps, np.unique(over.episode, return_counts=True)[1])
        if not count or (self._visits is None and not len(over)):
            return

        def risks(features: NDArray[np.float32], seen: Situations) -> NDArray[np.float64]:
            assert self.cost_model is not None
            return self._of_use(choices.risks(self.cost_model, features, seen))

        played = np.unique(over.task if self._visits is None else np.append(self._visits.tasks, over.task))
        told = self.probes.play(model, choices, self.cost_model, risks, self.probes.tasks(count, played, self._last))
        if len(told.seen):
            self._learn_from(model, choices, told.seen, probing=True)
        # what is drawn from the critic's own expectations says nothing of whether it is right
        drawn = told.drawn
        self.cost_model.transitions.add(drawn.inputs, drawn.outputs, drawn.cost)

    def _learn_from(self, model: Any, choices: Any, over: Steps, probing: bool) -> None:
        """Give the critic the steps of ended episodes. What it expected of them before is recorded."""
        assert self.cost_model is not None
        assert self.tau is not None
        last = np.append(np.diff(over.episode) != 0, True)
        begin = np.append(0, np.flatnonzero(last)[:-1] + 1)
        ends_badly = over.cost[last]
        failed = np.repeat(ends_badly, np.diff(np.append(begin, len(over))))
        if self.rounds:
            c = self.cost_model.probabilities(over.inputs)[np.arange(len(over)), over.outputs]
            self.trust.add(c, failed, self.tau, probing, warned=np.maximum.reduceat(c, begin)[ends_badly])
            actor = choices.actor(model)
            with actor.evaluating(), th.no_grad():
                log_pi, _ = actor.consider(over.situations, normalisation_of(model))
            risks = self._of_use(choices.risks(self.cost_model, over.features, over.situations))
            expected = (log_pi.exp().numpy() * risks).sum(axis=1)
            self.preferences.add(self._of_use(c) - expected, failed - expected, begin)
        self.failures += int(ends_badly.sum())
        self.cost_model.transitions.add(over.inputs, over.outputs, failed)

    def _of_use(self, c: NDArray[np.float64]) -> NDArray[np.float64]:
        """Risks without what is below tau, and without certainty."""
        assert self.tau is not None
        return np.minimum(np.where(c < self.tau, 0.0, c), CERTAIN)

    def _keep(self, choices: Any, over: Steps) -> None:
        """Keep the risky situations of ended episodes, and forget earlier episodes of the same tasks."""
        assert self.cost_model is not None
        assert self.tau is not None
        c = choices.risks(self.cost_model, over.features, over.situations)
        episodes, begin, lengths = np.unique(over.episode, return_index=True, return_counts=True)
        kept = np.flatnonzero((c.max(axis=1) >= _KEPT * self.tau) | over.cost)
        new = Visits(over.take(kept), episodes, over.task[begin], lengths)
        self._visits = (new if self._visits is None else self._visits.joined(new)).latest(self.episodes)

    def score(self, model: Any, tasks: Tasks | None = None) -> th.Tensor:
        """Scores without a graph.

        :param model: on-policy model
        :param tasks: indices of the tasks; ``None`` for all
        :return: scores, shape (tasks,), float64, CPU; minus infinity for a task that was not played, or whose episodes met no risk
        """
        choices = self.choices(model)
        chosen = task_indices(tasks, self.n_tasks)
        if self._visits is not None:
            assert self.cost_model is not None
            self._c = self._of_use(choices.risks(self.cost_model, self._visits.steps.features, self._visits.steps.situations))
        with th.no_grad():
            scores = self.rescore(model, chosen)
        if tasks is None:
            self._last = scores.numpy().copy()
        return scores

    def rescore(self, model: Any, tasks: Tasks) -> th.Tensor:
        """Scores with a graph: the current policy at the situations of the latest episodes, with the critic as it was at the last scoring.

        :param model: on-policy model
        :param tasks: indices of the tasks
        :return: scores, shape (tasks,), float64, CPU
        :raises RuntimeError: if nothing was scored since the last rollout
        """
        chosen = task_indices(tasks, self.n_tasks)
        none = th.full((len(chosen),), -th.inf, dtype=th.float64)
        visits = self._visits
        if visits is None:
            return none
        if len(self._c) != len(visits.steps):
            raise RuntimeError("rescore() needs a scoring after the last rollout, got none; call score(model) first")
        place = np.full(self.n_tasks, -1)
        place[chosen] = np.arange(len(chosen))
        steps = visits.steps
        rows = np.flatnonzero((place[steps.task] >= 0) & ((self._c > 0.0).any(axis=1) | steps.cost))
        if not len(rows):
            return none
        risk = self._risk(model, rows)
        slot = th.from_numpy(place[steps.task[rows]])
        # the mean over the steps of an episode, then over the episodes of the task
        share = 1.0 / np.bincount(visits.tasks, minlength=self.n_tasks)[steps.task[rows]]
        length = visits.lengths[np.searchsorted(visits.episodes, steps.episode[rows])]
        zeros = th.zeros(len(chosen), dtype=th.float64)
        # what failed has failed, whatever the critic expected
        happened = th.where(th.from_numpy(steps.cost[rows]), CERTAIN, risk.detach())
        p = zeros.index_add(0, slot, happened * th.from_numpy(share / length))
        # the policy gradient is a sum over steps, not a mean
        total = zeros.index_add(0, slot, risk * th.from_numpy(share))
        p = p + (total - total.detach())
        known = p > 0.0
        scores: th.Tensor = failure_score(th.where(known, p, 0.5).log())
        return th.where(known, scores, none)

    def _risk(self, model: Any, rows: NDArray[np.int64]) -> th.Tensor:
        """sum_a pi(a|s) c(s, a) of some visits, shape (rows,), float64."""
        assert self._visits is not None
        actor = self.choices(model).actor(model)
        with actor.evaluating():
            log_pi, _ = actor.consider(self._visits.steps.situations.take(rows), normalisation_of(model))
        risk: th.Tensor = (log_pi.exp() * th.from_numpy(self._c[rows])).sum(dim=1)
        return risk

    def measure(self, model: Any, k: int = 10, seed: int = 0) -> Any:
        """Refused: tasks are scored by the episodes of a training, and a report needs all tasks under one policy.

        :raises ValueError: always
        """
        raise ValueError(
            "scorer must be able to score tasks that a training has not played, got a RolloutScorer; use scorer='auto', 'frequency' or "
            "'splitting' to measure"
        )

    def warnings(self, scores: NDArray[np.float64], k: int) -> tuple[str, ...]:
        """Reasons not to trust the critic; empty if there are none.

        :param scores: scores of some tasks, shape (tasks,), float64; not used, because tasks that were not played yet have none
        :param k: number of top scores that the forecast uses; not used
        """
        return tuple(self.trust.warnings_of_episodes())

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {
            "generator": self.generator.bit_generator.state, "trust": self.trust.state_dict(),
            "preferences": self.preferences.state_dict(), "failures": self.failures, "rounds": self.rounds,
            "cost_model": None if self.cost_model is None else self.cost_model.state_dict(), "running": self._running.state_dict(),
            "visits": self._visits, "c": self._c.copy(), "choices": self._choices, "tau": self.tau, "probes": self.probes.state_dict(),
            "last": None if self._last is None else self._last.copy(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self.generator.bit_generator.state = state["generator"]
        self.trust.load_state_dict(state["trust"])
        self.preferences.load_state_dict(state["preferences"])
        self.failures, self.rounds = state["failures"], state["rounds"]
        self._choices, self.tau = state["choices"], state["tau"]
        if state["cost_model"] is not None:
            if self.cost_model is None:
                self.cost_model = self._choices.new_cost_model(self._seed)
            self.cost_model.load_state_dict(state["cost_model"])
        self._running.load_state_dict(state["running"])
        self._visits, self._c = state["visits"], state["c"].copy()
        self.probes.load_state_dict(state["probes"])
        self._last = None if state["last"] is None else state["last"].copy()

    def __getstate__(self) -> dict[str, Any]:
        # what a model is saved with; state_dict() has the rest
        return {
            **vars(self),
            "cost_model": None if self.cost_model is None else self.cost_model.small(),
            "_visits": None,
            "_c": np.zeros((0, 1)),
            "_running": RunningEpisodes(),
        }
