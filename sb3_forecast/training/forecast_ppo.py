"""ForecastPPO: SB3's PPO whose policy updates also make the agent's failures predictable."""

from __future__ import annotations

import copy
import io
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_forecast.checks import inside_unit, one_of, real, whole
from sb3_forecast.files import write_whole
from sb3_forecast.scorers.make import make_scorer
from sb3_forecast.scorers.protocols import FailureScorer, Pool
from sb3_forecast.scorers.tasks_of import tasks_of
from sb3_forecast.scorers.workers import watched
from sb3_forecast.statistics.names import METHODS, Method
from sb3_forecast.statistics.partitions import check_partition
from sb3_forecast.training.callback import ForecastCallback, after_users, check_injection
from sb3_forecast.training.injection import detach
from sb3_forecast.training.losses import KINDS, ForecastLoss, Kind
from sb3_forecast.training.objective import ForecastObjective, PoolLoss
from sb3_forecast.training.tail_line import TailLineLoss
from sb3_forecast.training.validation import Validation, kept_back

SelfForecastPPO = TypeVar("SelfForecastPPO", bound="ForecastPPO")


class ForecastPPO(PPO):
    """PPO whose updates also make the agent's failures predictable (the idea of Schwarzer & Niekum 2026).

    After each rollout the tasks of the environment's pool are scored and split at random into evaluation and deployment sets (partitions).
    The gradient of the forecast error is then added inside PPO's own optimizer steps. With ``forecast_coef=0`` the training is bit-identical
    to ``PPO``. All arguments of ``PPO`` come first and mean the same. The defaults are the settings of the published table
    (docs/gridworld.md).

    :param forecast_coef: the forecast gradient is clipped to ``max_grad_norm``, then multiplied by this; a number, or a schedule of the
        remaining progress as for ``learning_rate``; 0 switches the forecast off
    :param eval_size: size m of the evaluation sets whose forecasts are to hold; ``None`` for 200, or a twentieth of a small pool (for the other
        kinds always a twentieth)
    :param k: number of top evaluation scores that the forecast uses
    :param n_partitions: partitions drawn per rollout, or ``"exact"`` for the expectation over all of them (needs a linear ``forecast_method``)
    :param scorer: ``"auto"`` (the strongest that the tasks offer), ``"exact"``, ``"survival"`` or a scorer object
    :param forecast_kind: ``"line"`` (see :class:`TailLineLoss`), or ``"guarded"``, ``"squared"`` (our reading of the paper) or ``"hinge"``; see
        :class:`ForecastLoss`. ``"auto"``: the line, or ``"guarded"`` where the scorer learns what is dangerous, since its errors let the line
        hold tasks that should fall (docs/model_free.md)
    :param forecast_method: ``"jones"``, ``"blue"`` or ``"direct"``. Reports and the command line use ``"blue"``, which is unbiased on an
        exponential tail. ``"line"`` does not use it
    :param p_floor: the worst tasks are not pushed below this failure probability
    :param drawn_share: share of the episodes that start on the tasks that dominate the loss, so that the agent learns to finish them rather
        than to stand still
    :param gradient_every: add the gradient in every n-th optimizer step
    :param full_every: score the whole pool after every n-th rollout, and only the worst ``n_candidates`` in between; ``None`` for 5 with a
        scorer that can score parts of a pool, else 1
    :param n_candidates: see ``full_every``; ``None`` for a tenth of the pool, or as many tasks as the loss may use if that is more;
        ``"risky"`` for those of them only that are above ``p_floor`` (at least 100), where scoring takes steps and few tasks can fail
    :param forecast_loss: a loss object instead of ``eval_size`` ... ``p_floor``, for baselines
    :param pool: the tasks, not saved with the model; ``None`` for those that ``env`` plays
    :param validation_share: share of the distinct tasks that no gradient sees. If the training does harm on them, the policy goes back and the
        coefficient is halved, and after three times the forecast is switched off; see :class:`Validation`. 0 for no validation
    :param validate_every: rollouts between two looks at them
    :param min_success: smallest success on them that you accept; ``None`` for that of the start, less 0.005
    :param restore_best: whether ``learn`` leaves behind the best policy that was looked at, if the last one is clearly worse
    :raises ValueError: for arguments out of range, or an environment whose tasks cannot be scored
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        forecast_coef: float | Schedule = 1.0,
        eval_size: int | None = None,
        k: int = 10,
        n_partitions: int | Literal["exact"] = 128,
        scorer: str | FailureScorer = "auto",
        forecast_kind: Kind | Literal["auto", "line"] = "auto",
        forecast_method: Method = "jones",
        p_floor: float = 1e-9,
        drawn_share: float = 0.25,
        gradient_every: int = 8,
        full_every: int | None = None,
        n_candidates: int | Literal["risky"] | None = None,
        forecast_loss: PoolLoss | None = None,
        pool: Pool | None = None,
        validation_share: float = 0.2,
        validate_every: int = 10,
        min_success: float | None = None,
        restore_best: bool = True,
    ) -> None:
        check_injection(forecast_coef, gradient_every, drawn_share)
        one_of("forecast_kind", forecast_kind, ("auto", "line", *KINDS))
        one_of("forecast_method", forecast_method, METHODS)
        if eval_size is not None:
            whole("eval_size", eval_size, low=2, use="None for 200")
        whole("k", k, low=2, use="10, a fit needs two scores or more")
        inside_unit("p_floor", p_floor, "the failure probability that you tolerate, such as 1e-9")
        self.forecast_coef = forecast_coef
        self.eval_size = eval_size
        self.k = k
        self.n_partitions = n_partitions
        self.scorer = scorer
        self.forecast_kind = forecast_kind
        self.forecast_method = forecast_method
        self.p_floor = p_floor
        self.drawn_share = drawn_share
        self.gradient_every = gradient_every
        self.full_every = full_every
        self.n_candidates = n_candidates
        self.forecast_loss = forecast_loss
        self.pool = pool
        self.validation_share = real(
            "validation_share", validation_share, 0.0, 0.9, "a share such as 0.2, or 0 for no validation"
        )
        self.validate_every = whole("validate_every", validate_every, low=1, use="a number of rollouts such as 10")
        self.min_success = (
            None if min_success is None else real("min_success", min_success, 0.0, 1.0, "the least success that you accept")
        )
        self.restore_best = restore_best
        self.validation: Validation | None = None
        self.forecast_state: dict[str, Any] | None = None
        self.objective: ForecastObjective | None = None
        self._objective_key = ""
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        if _init_setup_model:
            self._setup_model()
            if self.env is not None:
                self._build_objective()

    @property
    def _forecasting(self) -> bool:
        return callable(self.forecast_coef) or self.forecast_coef > 0.0

    def _build_objective(self) -> None:
        """Make the objective for the pool of the current environment. It is kept as long as the pool stays the same."""
        if not self._forecasting:
            return
        played = tasks_of(self.env)
        pool = played if self.pool is None else self.pool
        if pool.key != played.key:
            raise ValueError(
                f"pool must hold the tasks that env plays ({played.key}), got {pool.key}; use pool=None, or another env"
            )
        if self.drawn_share > 0.0 and not self.env.has_attr("set_task_weights"):  # type: ignore[union-attr]  # tasks_of has seen it
            raise ValueError("env must have `set_task_weights` to start episodes on drawn tasks, got none; use drawn_share=0")
        if self.objective is not None and self._objective_key == pool.key:
            return
        seed = 0 if self.seed is None else self.seed
        aside = kept_back(pool, self.validation_share, seed)
        scorer = make_scorer(self.scorer, pool, seed)
        self.validation = self._make_validation(pool, aside, seed, counts=scorer.learns)
        if self.validation is None:
            aside = aside[:0]
        loss = self._loss(len(pool) - len(aside), scorer.learns) if self.forecast_loss is None else self.forecast_loss
        full_every = self.full_every
        if full_every is None:
            full_every = 5 if scorer.supports_partial else 1
        objective = ForecastObjective(
            scorer, loss, seed, full_every, self.n_candidates, validation=aside, p_floor=self.p_floor
        )
        # score one task before any training, so that a model that cannot be scored fails at once
        scorer.score(self, np.array([0]))
        # saved scores and weights belong to the pool of the saved run; another pool starts afresh
        if self.forecast_state is not None and self.forecast_state["pool"] == pool.key:
            objective.load_state_dict(self.forecast_state["objective"])
            if self.validation is not None and self.forecast_state.get("validation") is not None:  # models of 0.2.0 have none
                self.validation.load_state_dict(self.forecast_state["validation"])
        self.forecast_state = None
        self.objective, self._objective_key = objective, pool.key

    def _make_validation(self, pool: Pool, aside: NDArray[np.int64], seed: int, counts: bool) -> Validation | None:
        """The validation on some tasks; ``None`` if there are none, or they cannot be played as the model sees them."""
        if not len(aside):
            return None
        eval_size = self.eval_size or _usual_eval_size(len(aside), self.k)
        validation = Validation(pool.subset(aside), eval_size, self.k, self.min_success, seed, counts)
        try:
            validation.scorer(self).score(self, np.array([0]))
        except ValueError as error:
            # environments with wrappers that the pool does not know
            warnings.warn(
                f"there is no validation, so nothing stops a training that does harm: the pool cannot play its tasks ({error}); "
                "measure it with ForecastEvalCallback(scorer=FrequencyScorer(pool, env=...)), or use validation_share=0",
                stacklevel=2,
            )
            return None
        return validation

    def _loss(self, n_learning: int, scorer_learns: bool) -> PoolLoss:
        """The loss that the arguments describe, for a number of tasks."""
        kind = self.forecast_kind
        if kind == "auto":
            kind = "guarded" if scorer_learns else "line"
        if kind == "line":
            eval_size = _usual_eval_size(n_learning, self.k) if self.eval_size is None else self.eval_size
            check_partition(n_learning, eval_size, self.k)
            deploy_size = min(19 * eval_size, n_learning - eval_size)
            n_partitions = 64 if self.n_partitions == "exact" else self.n_partitions
            return TailLineLoss(eval_size, deploy_size, self.k, self.p_floor, n_partitions=n_partitions)
        # in a small pool, a twentieth of the tasks is too few for k top scores
        eval_size = max(n_learning // 20, 2 * self.k) if self.eval_size is None else self.eval_size
        check_partition(n_learning, eval_size, self.k)
        return ForecastLoss(eval_size, self.k, self.n_partitions, kind, self.forecast_method, self.p_floor)

    def learn(
        self: SelfForecastPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ForecastPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfForecastPPO:
        """Train, as ``PPO.learn`` does.

        :raises ValueError: before training starts, if the environment's tasks cannot be scored
        :raises ConnectionError: if a process of a ``SubprocVecEnv`` has died
        """
        with watched(self.env, "resume_training to go on from the last checkpoint of TrainingCheckpoints, if there is one"):
            self._build_objective()
            if self._forecasting and self.objective is not None and len(self.objective.validation):
                # before SB3 resets the environments, or their first episodes would be played on tasks of the validation, too
                self.env.env_method("set_task_weights", *self.objective.starts(self.drawn_share))  # type: ignore[union-attr]  # _build_objective needs it
            try:
                return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
            finally:
                detach(self.policy.optimizer)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        users = super()._init_callback(callback, progress_bar)
        objective = self.objective if self._forecasting else None
        ours = ForecastCallback(
            objective,
            self.drawn_share,
            self.verbose,
            self.forecast_coef,
            self.gradient_every,
            self.validation if self._forecasting else None,
            self.validate_every,
            self.restore_best,
        )
        return after_users(users, ours, self)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "objective", "_objective_key", "pool", "validation"]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the model, as ``PPO.save`` does, with the random state, the cached scores and the task weights of the forecast."""
        if self.objective is not None:
            self.forecast_state = {
                "pool": self._objective_key,
                "objective": self.objective.state_dict(),
                "validation": None if self.validation is None else self.validation.state_dict(),
            }
        try:
            if isinstance(path, (str, pathlib.Path)):
                # the name and the folders are as SB3 makes them; a save that fails leaves an earlier file as it was
                target = pathlib.Path(path)
                target = target if target.suffix else target.with_name(target.name + ".zip")
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, lambda file: super(ForecastPPO, self).save(file, exclude, include))
            else:
                super().save(path, exclude, include)
        finally:
            if self.objective is not None:
                self.forecast_state = None

    @classmethod
    def from_ppo(
        cls: type[SelfForecastPPO],
        model_or_path: PPO | str | pathlib.Path,
        env: GymEnv,
        device: th.device | str = "auto",
        **forecast_arguments: Any,
    ) -> SelfForecastPPO:
        """Make a ForecastPPO from a trained PPO: same hyperparameters, parameters and optimizer state, plus the forecast.

        :param model_or_path: a PPO, or the path of a saved one
        :param env: environment with a pool of tasks; its observation and action spaces must be those of the PPO
        :param device: as in SB3
        :param forecast_arguments: arguments of :class:`ForecastPPO`; they replace the PPO's own
        :return: the model, ready to ``learn``
        :raises ValueError: if the spaces of the environment differ from those of the PPO
        """
        if isinstance(model_or_path, BaseAlgorithm) and not isinstance(model_or_path, PPO):
            raise TypeError(
                f"model_or_path must be a PPO or a file of one, got {type(model_or_path).__name__}; use ForecastCallback for other on-policy "
                "algorithms, and evaluate_forecast to measure any model"
            )
        source = model_or_path if isinstance(model_or_path, PPO) else _load_ppo(model_or_path, device)
        target_env = BaseAlgorithm._wrap_env(env, verbose=0)
        for space, mine, theirs in (
            ("observation_space", source.observation_space, target_env.observation_space),
            ("action_space", source.action_space, target_env.action_space),
        ):
            if mine != theirs:
                raise ValueError(
                    f"{space} of env must be that of the PPO ({mine}), got {theirs}; use an environment like the one it was trained on"
                )
        arguments: dict[str, Any] = {name: getattr(source, name) for name in _PPO_ARGUMENTS}
        arguments["stats_window_size"] = source._stats_window_size
        arguments.update(device=device, **forecast_arguments)
        model = cls(source.policy_class, target_env, **arguments)  # type: ignore[arg-type]  # PPO's policies are actor-critic
        # torch's optimizers keep the moment tensors that they load and change them in place: copy, so that the source is not changed
        model.set_parameters(copy.deepcopy(source.get_parameters()), exact_match=True, device=device)  # type: ignore[arg-type]  # as SB3 documents
        return model


def _load_ppo(path: str | pathlib.Path, device: th.device | str) -> PPO:
    """A saved PPO. Other algorithms save other entries, which PPO.load would take without a word."""
    with open_path(path, "r", suffix="zip") as file:
        data, _, _ = load_from_zip_file(file, load_data=True, device="cpu")
    if not data or "clip_range" not in data or "n_epochs" not in data:
        raise ValueError(
            f"model_or_path must be a file of a PPO, got {path}, which another algorithm saved; use a model that PPO.save() wrote"
        )
    return PPO.load(path, device=device)


def _usual_eval_size(n_tasks: int, k: int) -> int:
    """200 tasks, or fewer in a small pool: a twentieth, but enough for k top scores."""
    return min(200, max(n_tasks // 20, 2 * k))


#: the constructor arguments that PPO stores as attributes of the same name
_PPO_ARGUMENTS = (
    "learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "clip_range_vf", "normalize_advantage",
    "ent_coef", "vf_coef", "max_grad_norm", "use_sde", "sde_sample_freq", "rollout_buffer_class", "rollout_buffer_kwargs", "target_kl",
    "tensorboard_log", "policy_kwargs", "verbose", "seed",
)  # fmt: skip
