"""The rollout callback: it refreshes the forecast objective after each rollout and adds its gradient to the optimizer steps."""

from __future__ import annotations

import time
import warnings
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forecast.checks import real, whole
from sb3_forecast.scorers.playing import check_finite, normalisation_of
from sb3_forecast.scorers.protocols import Rollout
from sb3_forecast.statistics.names import NoForecastError
from sb3_forecast.statistics.scores import failure_probability
from sb3_forecast.training.guard import ForecastGuard, TrainingWarning
from sb3_forecast.training.injection import GradientInjector, attach, detach
from sb3_forecast.training.losses import LossTerms, TooFewScoresError
from sb3_forecast.training.objective import WATCHED_TASKS, ForecastObjective
from sb3_forecast.training.validation import Validation


def after_users(users: BaseCallback, ours: BaseCallback, model: BaseAlgorithm) -> BaseCallback:
    """Put an algorithm's own callback after the callbacks of the user; for ``_init_callback``.

    It does not initialise the combined list, because that would initialise the user's callbacks a second time.

    :param users: the callbacks of the user, already initialised
    :param ours: the callback of the algorithm, initialised here
    :param model: the algorithm
    :return: both, in this order
    """
    ours.init_callback(model)
    combined = CallbackList([users, ours])
    combined.model = model
    return combined


def check_injection(forecast_coef: float | Schedule, gradient_every: int, drawn_share: float) -> None:
    """Check how a forecast gradient is to be added.

    :raises TypeError: if an argument is no number
    :raises ValueError: if an argument is out of range
    """
    if not callable(forecast_coef):
        real("forecast_coef", forecast_coef, low=0.0, use="0 to switch the forecast off")
    whole("gradient_every", gradient_every, low=1, use="forecast_coef=0 to add no gradient")
    real("drawn_share", drawn_share, low=0.0, high=1.0, use="the share of episodes that start on drawn tasks")


def forecast_metrics(objective: ForecastObjective, terms: LossTerms, seconds: float) -> dict[str, float]:
    """The values to log after a refresh; the same for agents and language models.

    :param objective: the objective, just refreshed
    :param terms: what the refresh returned
    :param seconds: duration of the refresh
    :return: value by logger key
    """
    assert objective.scores is not None
    found = {
        "forecast/loss": terms.loss.item(),
        "forecast/worst_failure": float(failure_probability(objective.scores.max())),
        "forecast/tasks_touched": len(objective.touched),
        "forecast/seconds": seconds,
    }
    if not np.isnan(objective.missed_top):
        found["forecast/missed_top"] = objective.missed_top
    if len(terms.forecast):
        found["forecast/error"] = (terms.forecast - terms.realised).abs().mean().item()
        found["forecast/forecast"] = terms.forecast.mean().item()
        found["forecast/realised_max"] = terms.realised.mean().item()
        found["forecast/scale"] = terms.scale.mean().item()
    return found


#: a scoring that takes a larger share of the training's steps than this is warned of
_LONG_SCORING = 0.1
#: a look at the validation of so few steps is never warned of
_SHORT_LOOK = 100_000
_UNTRUSTED = "the forecast is not active: the scorer's checks failed, so its gradient is not applied"
#: after this number of rollouts without a ready scorer the user is told
IDLE_ROLLOUTS = 20


class ForecastCallback(BaseCallback):
    """Brings the forecast to any on-policy algorithm of SB3 or sb3-contrib.

    After every rollout it scores the tasks and draws partitions. It adds the gradient to the optimizer steps that follow, draws tasks for the
    next rollout, and logs.

    Logger keys: ``forecast/loss``, ``forecast/error`` (mean absolute), ``forecast/forecast``, ``forecast/realised_max``,
    ``forecast/scale``, ``forecast/worst_failure``, ``forecast/tasks_touched``, ``forecast/seconds``, ``rollout/ep_cost_mean``.

    :param objective: the objective; ``None`` logs the cost of the episodes only
    :param drawn_share: share of the training episodes that start on tasks drawn in proportion to the loss's weights
    :param verbose: as in SB3
    :param forecast_coef: the forecast gradient is clipped to ``max_grad_norm``, then multiplied by this; a number, or a schedule of the
        remaining progress; 0 logs without training
    :param gradient_every: add the gradient in every n-th optimizer step, beginning with the first after a rollout
    :param validation: tasks that no gradient sees. Where they show harm, the policy goes back and the coefficient is halved; see
        :class:`Validation`. ``None`` for none
    :param validate_every: rollouts between two looks at them
    :param restore_best: whether the training leaves behind the best policy that was looked at, if the last one is clearly worse
    :raises ValueError: if an argument is out of range
    """

    def __init__(
        self,
        objective: ForecastObjective | None,
        drawn_share: float = 0.0,
        verbose: int = 0,
        forecast_coef: float | Schedule = 0.0,
        gradient_every: int = 8,
        validation: Validation | None = None,
        validate_every: int = 10,
        restore_best: bool = True,
    ) -> None:
        super().__init__(verbose)
        check_injection(forecast_coef, gradient_every, drawn_share)
        self.objective = objective
        self.drawn_share = drawn_share
        self.forecast_coef = forecast_coef
        self.gradient_every = gradient_every
        self._schedule: Schedule = FloatSchedule(forecast_coef)
        self._injector: GradientInjector | None = None
        self._cost: NDArray[np.float64] = np.zeros(0)
        self._episode_costs: deque[float] = deque()
        self._costs: list[NDArray[np.float64]] = []
        self._dones: list[NDArray[np.bool_]] = []
        self._tasks: list[NDArray[np.int64]] = []
        self._normalize: VecNormalize | None = None
        self._seen: list[Any] = []
        self._current: Any = None
        self.validation = validation
        self.validate_every = whole("validate_every", validate_every, low=1, use="a number of rollouts such as 10")
        self.restore_best = restore_best
        self._warned: set[str] = set()
        #: rollouts without a forecast, because the scorer was not ready
        self._idle = 0
        self._guard = ForecastGuard()

    def _init_callback(self) -> None:
        self._cost = np.zeros(self.training_env.num_envs)
        self._episode_costs = deque(maxlen=self.model._stats_window_size)
        if self.objective is None or (not callable(self.forecast_coef) and self.forecast_coef == 0.0):
            return
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ValueError(
                f"model must be an on-policy algorithm (PPO, A2C, TRPO, MaskablePPO), got {type(self.model).__name__}; "
                "use forecast_coef=0 to log only"
            )
        objective = self.objective
        # TRPO has max_grad_norm 0 because it does not clip; use the default of PPO
        norm = self.model.max_grad_norm or 0.5
        self._injector = GradientInjector(
            lambda: objective.loss(self.model), self._coef, norm, self.gradient_every, objective.scorer.gentle
        )

    def _coef(self) -> float:
        if self.objective is None or not self.objective.has_partitions or not self.objective.scorer.may_move:
            # a cost model that has not learnt enough yet, or sees no risk, gives no scores; one that is often wrong must not move the policy
            return 0.0
        coef = self._schedule(self.model._current_progress_remaining)
        if not coef >= 0.0:
            raise ValueError(f"forecast_coef must be at least 0, got {coef} from the schedule; use a schedule that stays >= 0")
        return coef if self.validation is None else coef * self.validation.factor

    def _on_training_start(self) -> None:
        if self._injector is not None:
            attach(self._injector, self.model.policy.optimizer)

    def _set_starts(self) -> None:
        assert self.objective is not None
        # scores that cannot be trusted draw no tasks
        share = self.drawn_share if self.objective.scorer.trusted else 0.0
        self.training_env.env_method("set_task_weights", *self.objective.starts(share))

    def _validate(self) -> None:
        """Look at the tasks that no gradient sees, and take back what did harm."""
        assert self.validation is not None
        before = self.validation.steps_played
        try:
            report, reasons = self.validation.look(self.model)
        except NoForecastError as error:
            # an agent that fails in fewer than k tasks has no forecast to look at
            self.logger.record("validation/no_forecast", str(error), exclude=("tensorboard",))
            return
        finally:
            self._warn_of_a_long_look(self.validation.steps_played - before)
        values = {name: getattr(report, name) for name in ("limit_holds", "worst_failure", "mean_failure", "success")}
        for name, value in values.items():
            if not np.isnan(value):
                self.logger.record(f"validation/{name}", value)
        if reasons:
            unharmed = self.validation.restrain()
            self.model.set_parameters(unharmed.parameters, exact_match=True, device=self.model.device)
            factor = self.validation.factor
            action = "switched off" if factor == 0.0 else f"multiplied by {factor:g}"
            warnings.warn(
                f"the training did harm on tasks that no gradient sees: {'; '.join(reasons)}. The policy goes back to that of step "
                f"{unharmed.timesteps}, and the forecast is {action}",
                TrainingWarning,
                stacklevel=2,
            )
        self.logger.record("validation/factor", self.validation.factor)

    def _on_step(self) -> bool:
        costs = np.array([info.get("cost", 0.0) for info in self.locals["infos"]])
        self._cost += costs
        if self.validation is not None:
            self.validation.steps_watched += len(costs)
        if self.objective is not None:
            check_finite(self.locals["new_obs"], self.locals["rewards"], self.locals["infos"])
            self._costs.append(costs)
            self._dones.append(np.array(self.locals["dones"]))
            if self.objective.scorer.learns:
                self._tasks.append(np.array([info.get("task", -1) for info in self.locals["infos"]]))
            if self._normalize is not None:
                self._seen.append(self._current)
                self._current = self._normalize.get_original_obs()
        for env in np.flatnonzero(self.locals["dones"]):
            self._episode_costs.append(self._cost[env])
            self._cost[env] = 0.0
        return True

    def _on_rollout_end(self) -> None:
        if self._episode_costs:
            self.logger.record("rollout/ep_cost_mean", float(np.mean(self._episode_costs)))
        if self.objective is None:
            return
        start = time.perf_counter()
        scorer = self.objective.scorer
        if scorer.learns:
            seen = None if self._normalize is None else self._seen
            tasks = np.stack(self._tasks)
            rollout = Rollout(
                self.model, np.stack(self._costs), np.stack(self._dones), seen, None if (tasks < 0).any() else tasks
            )
            for key, value in scorer.after_rollout(rollout).items():
                self.logger.record(key, value)
        if not scorer.ready:
            self._idle += 1
            if self._idle == IDLE_ROLLOUTS:
                self._warn_of_idleness()
            return
        self._idle = 0
        if not scorer.may_play and (self.objective.has_partitions or not scorer.trusted):
            # the last forecast stays; its gradient is that of the policy as it is now, at situations that an older one met
            self._go_on_with_the_last_forecast()
            return
        if scorer.plays and self.objective.scores is None:
            self._warn_of_a_long_scoring()
        try:
            terms = self.objective.refresh(self.model)
        except TooFewScoresError as error:
            if not scorer.learns:
                raise
            # sampled episodes can show no risk at all; the next rollout may show some
            self._warn(f"this rollout has no forecast: {error}")
            return
        assert self.objective.scores is not None
        for warning in scorer.warnings(self.objective.scores.numpy(), WATCHED_TASKS):
            self._warn(warning)
        successes = self.model.ep_success_buffer
        # the mean of a few episodes is mostly noise
        enough = successes is not None and len(successes) == successes.maxlen
        for warning in self._guard.look(terms, float(np.mean(successes)) if enough and successes else None):
            self._warn(warning)
        if self.drawn_share > 0.0:
            self._set_starts()
        for key, value in forecast_metrics(self.objective, terms, time.perf_counter() - start).items():
            self.logger.record(key, value)
        if self._injector is not None:
            self._injector.restart()
            self.logger.record("forecast/coef", self._coef())
            if not scorer.trusted:
                self._warn(_UNTRUSTED)

    def _go_on_with_the_last_forecast(self) -> None:
        """The scorer may not play now. A scorer that is not trusted seldom may: its scores change nothing."""
        assert self.objective is not None
        if self._injector is not None:
            self._injector.restart()
        if not self.objective.scorer.trusted:
            if self.drawn_share > 0.0:
                self._set_starts()
            self._warn(_UNTRUSTED)

    def _warn(self, text: str) -> None:
        """Warn once of each kind: texts that differ only in digits are one kind."""
        kind = "".join(letter for letter in text if not letter.isdigit())
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, TrainingWarning, stacklevel=2)

    def _warn_of_a_long_scoring(self) -> None:
        """A scoring by episodes plays every task: with long episodes and many tasks it takes more steps than the training."""
        assert self.objective is not None
        episodes = self.model.ep_info_buffer
        if not episodes:
            return
        length = float(np.mean([episode["l"] for episode in episodes]))
        tasks, total = self.objective.scorer.n_tasks, self.model._total_timesteps
        steps = tasks * length
        if steps > _LONG_SCORING * total:
            self._warn(
                f"one scoring of the pool takes about {steps:,.0f} environment steps ({tasks:,} tasks of {length:.0f} steps), "
                f"and the training has {total:,}; use fewer tasks, or EpisodeScorer(max_share=0.5)"
            )

    def _warn_of_a_long_look(self, steps: int) -> None:
        """A look that counts failures plays every task of the validation: a share of many tasks is many."""
        assert self.validation is not None
        if steps <= _SHORT_LOOK:
            return
        total = self.model._total_timesteps
        if steps > _LONG_SCORING * total:
            self._warn(
                f"one look at the validation takes {steps:,} environment steps ({len(self.validation.pool):,} tasks), and the training has "
                f"{total:,}; use a smaller validation_share"
            )

    def _warn_of_idleness(self) -> None:
        assert self.objective is not None
        scorer = self.objective.scorer
        self._warn(
            f"the forecast is not active: {type(scorer).__name__} needs {scorer.waits_for}. Until then this is the plain algorithm; check that "
            "`failed` can become true, train longer, or use forecast_coef=0"
        )

    def _leave_the_best(self) -> None:
        assert self.validation is not None
        try:
            chosen = self.validation.to_leave_behind(self.model)
        except NoForecastError as error:
            self._warn(f"the last policy is kept, because it has no validation: {error}")
            return
        if chosen is not None:
            self.model.set_parameters(chosen.parameters, exact_match=True, device=self.model.device)
            if self.verbose:
                print(f"left behind: the policy of step {chosen.timesteps}, the best on the validation")  # noqa: T201  # as SB3's callbacks do

    def _on_rollout_start(self) -> None:
        for per_step in (self._costs, self._dones, self._tasks, self._seen):
            per_step.clear()
        if self.validation is not None:
            scored = 0 if self.objective is None else self.objective.scorer.steps_played
            if self.validation.rollouts % self.validate_every == 0 and self.validation.may_look(scored):
                self._validate()
            self.validation.rollouts += 1
        if self.objective is not None and self.objective.scorer.learns:
            # the normalisation changes with every step, so keep the observations as they were before it
            self._normalize = normalisation_of(self.model)
            self._current = None if self._normalize is None else self._normalize.get_original_obs()

    def _on_training_end(self) -> None:
        if self._idle:
            self._warn_of_idleness()
        if self._injector is not None:
            detach(self.model.policy.optimizer)
        if self.validation is not None and self.restore_best and self.validation.start is not None:
            self._leave_the_best()
        if self.objective is not None and (self.drawn_share > 0.0 or len(self.objective.validation)):
            # whoever uses the environment next expects its own distribution of tasks
            self.training_env.env_method("set_task_weights", None)
