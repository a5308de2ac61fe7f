"""Episodes that try other actions, so that a failure critic learns of failures which a good agent hardly shows.

A probe follows the policy up to a random step, then takes one to three exploratory actions, then follows the policy again. Whether it fails
says of the last exploratory action what the critic is to know: does the episode fail after this action, if the policy goes on? Of the
exploratory actions before it, it says only whether they fail at once; what would have come then is drawn from what the critic expects of the
policy there. Which action is the last is decided before the episode begins: if it were the one after which the episode ends, actions that fail
would be told more often than the same actions when they do not fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_forecast.checks import real, whole
from sb3_forecast.scorers.learned.choices import Choices
from sb3_forecast.scorers.learned.cost_model import CostModel
from sb3_forecast.scorers.learned.features import features_of
from sb3_forecast.scorers.learned.probing import draw, likeliest_to_teach
from sb3_forecast.scorers.learned.running import Steps, up_to_first_costs
from sb3_forecast.scorers.playing import TaskQueue, own_normalisation, stationary
from sb3_forecast.scorers.protocols import SupportsEpisodes, Tasks
from sb3_forecast.scorers.situations import Situations

Risks = Callable[[NDArray[np.float32], Situations], NDArray[np.float64]]

#: largest number of exploratory actions of a probe, one after the other
_LONGEST = 3
#: every second probe plays one of so many of the worst tasks
_WORST = 100
#: weight of the latest episodes in the mean length of episodes
_LATEST = 0.1


@dataclass(frozen=True)
class Told:
    """What probes tell of actions.

    :param seen: the steps from each probe's last exploratory action on, up to its first cost; sorted by episode, then in the order of time.
        Nothing of a probe that ended before
    :param drawn: earlier exploratory actions, an episode of one step each; its cost is whether it failed at once, or else is drawn from what
        the critic expects of the policy afterwards
    """

    seen: Steps
    drawn: Steps


class Probes:
    """Plays probes within a share of all environment steps.

    :param pool: tasks that can be played
    :param share: share of all environment steps that they take; 0 for none
    :param seed: seed of tasks, actions and environments
    :param env: environments to play in, with the same wrappers as the model's own, but without ``VecNormalize``; ``None`` for environments
        made by the pool
    :param n_envs: number of environments that the pool makes
    :raises ValueError: if an argument is out of range, or the tasks cannot be played
    """

    def __init__(self, pool: SupportsEpisodes, share: float, seed: int, env: VecEnv | None, n_envs: int) -> None:
        self.share = real("probe_share", share, low=0.0, use="0.2, or 0 for no probes")
        if self.share >= 1.0:
            raise ValueError(f"probe_share must be below 1, got {share}; use 0.2, or 0 for no probes")
        self.n_envs = whole("n_envs", n_envs, low=1, use="for example 32")
        self.pool, self._own_env = pool, env is None
        self.env = self._made() if env is None else env
        normalize = None if self.env is None else unwrap_vec_normalize(self.env)
        if normalize is not None and normalize.norm_obs:
            raise ValueError(
                "env must not normalise observations, because the critic needs the original ones, got an env with VecNormalize; pass env "
                "without it: the scorer uses the statistics of the model's own environment"
            )
        self.generator = np.random.default_rng([seed, 43])
        self.steps_played, self._steps_seen = 0, 0
        #: mean length of the training's episodes, in steps; 0 before the first has ended
        self._length = 0.0

    def _made(self) -> VecEnv | None:
        if not self.share:
            return None
        if "episodes" not in self.pool.scorers:
            raise ValueError(f"pool must serve 'episodes' for probes, got {tuple(self.pool.scorers)}; use probe_share=0")
        return self.pool.make_vec_env(self.n_envs)

    def due(self, rollout_steps: int, lengths: NDArray[np.int64]) -> int:
        """How many probes may be played after a rollout: as many as the share leaves room for, if they keep all environments busy.

        :param rollout_steps: steps of the rollout
        :param lengths: lengths of the episodes that ended in it, shape (episodes,), int64
        """
        self._steps_seen += rollout_steps
        if not self.share:
            return 0
        if len(lengths):
            mean = float(lengths.mean())
            self._length = mean if not self._length else (1.0 - _LATEST) * self._length + _LATEST * mean
        if not self._length:
            return 0
        room = self.share / (1.0 - self.share) * self._steps_seen - self.steps_played
        count = int(room / self._length)
        if self.env is None:
            raise ValueError(
                "scorer.probes.env must be set, got None: environments are not saved with the scorer; set it, made as before"
            )
        return count if count >= self.env.num_envs else 0

    def tasks(self, count: int, played: Tasks, scores: NDArray[np.float64] | None) -> Tasks:
        """The tasks to play: half of them at random, half of those with the largest scores.

        :param count: number of probes
        :param played: tasks that the training has played, so none that is kept back from it; shape (tasks,), at least one
        :param scores: latest known scores, shape (N,); ``None`` if there are none
        :return: indices, shape (count,), int64
        """
        uniform: Tasks = played[self.generator.integers(len(played), size=count)]
        if scores is None:
            return uniform
        worst = np.argsort(-scores, kind="stable")[:_WORST]
        worst = worst[np.isfinite(scores[worst])]
        if not len(worst):
            return uniform
        chosen = worst[self.generator.integers(len(worst), size=count)]
        return np.where(np.arange(count) % 2 == 0, uniform, chosen)

    def play(self, model: Any, choices: Choices, critic: CostModel, risks: Risks, tasks: Tasks) -> Told:
        """Play one probe of each given task.

        :param model: on-policy model
        :param choices: what it can choose from
        :param critic: the failure critic; half of the exploratory actions are those that its members disagree about
        :param risks: what it expects of each column, from features and situations, shape (batch, columns)
        :param tasks: the tasks, shape (probes,)
        """
        assert self.env is not None
        actor, normalize = choices.actor(model), own_normalisation(model, self.env)
        begin = self.generator.integers(max(int(self._length), 1), size=len(tasks))
        last = begin + self.generator.integers(_LONGEST, size=len(tasks))
        told, drawn, failed = [], [], np.zeros(len(tasks), dtype=np.bool_)
        #: exploratory steps whose future is to be drawn, and the environments that took them
        waiting: Steps | None = None
        places = np.zeros(0, dtype=np.int64)
        with stationary(self.env), actor.evaluating(), th.no_grad():
            self.env.seed(int(self.generator.integers(2**31)))
            queue = TaskQueue(self.env, tasks)
            memory = actor.first_memory(self.env.num_envs)
            time = np.zeros(self.env.num_envs, dtype=np.int64)
            while queue.running:
                features = features_of(queue.observations, self.env.observation_space)
                masks = np.stack(self.env.env_method("action_masks")) if actor.masked else None
                seen = choices.considered(actor, Situations(queue.observations, masks, memory), normalize, self.generator)
                log_pi, memory = actor.consider(seen, normalize)
                pi = log_pi.exp().numpy()
                if waiting is not None and len(waiting):
                    expected = (pi[places] * risks(features[places], seen.take(places))).sum(axis=1)
                    drawn.append(replace(waiting, cost=self.generator.random(len(places)) < expected))
                probe = np.maximum(queue.episodes, 0)
                # nothing more is told of a probe that has failed
                running = (queue.episodes >= 0) & ~failed[probe]
                explores = running & (time >= begin[probe]) & (time <= last[probe])
                own = draw(pi, self.generator.random(len(time)))
                other = likeliest_to_teach(log_pi.numpy(), choices.logits(critic, features, seen), self.generator)
                columns = np.where(explores, other, own)
                actions, inputs = choices.taken(features, seen, columns)
                before_last = explores & (time < last[probe])
                step = queue.step(actions)
                self.steps_played += len(columns)
                steps = Steps(probe, tasks[probe], step.costs > 0.0, seen, features, inputs, choices.outputs(columns))
                told.append(steps.take(np.flatnonzero(running & (time >= last[probe]))))
                over = step.dones | (step.costs > 0.0)
                drawn.append(steps.take(np.flatnonzero(before_last & over)))
                places = np.flatnonzero(before_last & ~over)
                waiting = steps.take(places)
                failed[probe[running & (step.costs > 0.0)]] = True
                time = np.where(step.dones, 0, time + 1)
                if memory is not None:
                    memory[step.dones] = 0.0
        alone = Steps.all_of(drawn)
        return Told(up_to_first_costs(Steps.all_of(told)), replace(alone, episode=np.arange(len(alone))))

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {
            "generator": self.generator.bit_generator.state, "steps_played": self.steps_played, "steps_seen": self._steps_seen,
            "length": self._length,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        :param state: as returned by :meth:`state_dict`
        """
        self.generator.bit_generator.state = state["generator"]
        self.steps_played, self._steps_seen, self._length = state["steps_played"], state["steps_seen"], state["length"]

    def __getstate__(self) -> dict[str, Any]:
        # environments cannot be saved
        return {**vars(self), "env": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._own_env:
            self.env = self._made()
