"""ForecastTrainer: transformers' Trainer whose optimizer steps also make the model's failures predictable."""

from __future__ import annotations

import copy
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.logger import Logger, configure
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from sb3_forecast.lm.drawn import DrawnReplies
from sb3_forecast.lm.penalty import ForecastPenalty, Penalty, ShardedScorer
from sb3_forecast.lm.scorer import LMFailureScorer
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.partitions import check_partition
from sb3_forecast.training.injection import add_clipped
from sb3_forecast.training.losses import ForecastLoss, Kind
from sb3_forecast.training.objective import ForecastObjective, PoolLoss

#: in every checkpoint: one without it is not whole
STATE_FILE = "forecast_state.pt"


class ForecastTrainer(Trainer):
    """``Trainer`` with the forecastability loss of Schwarzer & Niekum 2026 added to its optimizer steps.

    In every optimizer step (every ``gradient_every``-th) a random sub-pool of the prompts is scored, evaluation/deployment
    partitions of it are drawn, and the gradient of the forecast error, clipped by itself to ``max_grad_norm`` and
    multiplied by ``forecast_coef``, joins that of the primary loss. Everything else is ``Trainer``: adapters, gradient
    accumulation, mixed precision, several devices, checkpoints, progress bar. With ``forecast_coef=0`` it is the plain ``Trainer``.

    :param model: causal language model, with or without adapters
    :param args: as in ``Trainer``
    :param train_dataset: rows of the primary task, see :func:`sb3_forecast.lm.examples.training_rows`
    :param data_collator: as in ``Trainer``
    :param processing_class: the tokenizer, as in ``Trainer``
    :param scorer: scores of the pool
    :param forecast_coef: largest share of the forecast gradient in a step, relative to ``max_grad_norm``; 0 switches it off
    :param eval_size: evaluation set size m of a partition
    :param k: top evaluation scores that the forecast uses
    :param n_partitions: partitions drawn per step
    :param subpool: prompts scored per step, drawn at random; ``None`` for the whole pool
    :param forecast_kind: ``"guarded"``, ``"squared"`` or ``"hinge"``, see :class:`sb3_forecast.ForecastLoss`
    :param forecast_method: ``"jones"``, ``"blue"`` or ``"direct"``
    :param p_floor: failure probability below which a prompt is left alone
    :param gradient_every: add the gradient in every n-th optimizer step
    :param wanted: the pool's prompts with the replies that one would want, rows in the order of the pool; teaches the model what to do
        instead where the loss has its weight, without which it may learn to leak in other words than the stems
    :param drawn_rows: so many of them per step, drawn in proportion to a slowly decaying sum of the loss's weights
    :param kl_coef: weight of KL(start || model) of the next-token distributions at the labelled tokens of the primary rows; for a model with
        LoRA adapters the start is the model with its adapters off, also where they were trained before
    :param forecast_loss: a loss on scores instead of ``eval_size`` ... ``p_floor``, for baselines
    :param penalty: anything with a gradient instead of ``scorer`` and a loss, for baselines
    :param callbacks: as in ``Trainer``
    :param optimizers: as in ``Trainer``
    :raises ValueError: for arguments out of range, and for float16, FSDP or DeepSpeed together with a forecast, before any work
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train_dataset: Any,
        data_collator: Any = None,
        processing_class: Any = None,
        *,
        scorer: LMFailureScorer | None = None,
        forecast_coef: float = 0.3,
        eval_size: int = 100,
        k: int = 10,
        n_partitions: int = 64,
        subpool: int | None = None,
        forecast_kind: Kind = "guarded",
        forecast_method: Method = "jones",
        p_floor: float = 1e-6,
        gradient_every: int = 1,
        wanted: Sequence[dict[str, list[int]]] | None = None,
        drawn_rows: int = 16,
        kl_coef: float = 0.0,
        forecast_loss: PoolLoss | None = None,
        penalty: Penalty | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        for name, value in (("forecast_coef", forecast_coef), ("kl_coef", kl_coef)):
            if not value >= 0.0:
                raise ValueError(f"{name}={value} would push the wrong way; use {name} >= 0")
        if gradient_every < 1:
            raise ValueError(
                f"gradient_every={gradient_every} never adds a gradient; use gradient_every >= 1, or forecast_coef=0"
            )
        if forecast_coef > 0.0 and (scorer is None) == (penalty is None):
            raise ValueError(
                "pass the scorer of a pool of prompts (or, for a baseline, a penalty instead), or forecast_coef=0"
            )
        if wanted is not None and (scorer is None or len(wanted) != scorer.n_tasks):
            expected = "no pool" if scorer is None else f"a pool of {scorer.n_tasks} prompts"
            raise ValueError(
                f"wanted has {len(wanted)} rows for {expected}; pass one wanted reply for each prompt of the scorer's pool"
            )
        if drawn_rows < 1:
            raise ValueError(f"drawn_rows={drawn_rows} teaches nothing; use drawn_rows >= 1, or wanted=None")
        if forecast_coef > 0.0:
            _check_precision_and_sharding(args)
        self.forecast_coef, self.gradient_every, self.kl_coef = forecast_coef, gradient_every, kl_coef
        self.penalty = penalty
        self.drawn: DrawnReplies | None = None
        if forecast_coef > 0.0 and scorer is not None:
            if forecast_loss is None:
                check_partition(scorer.n_tasks if subpool is None else subpool, eval_size, k)
                forecast_loss = ForecastLoss(eval_size, k, n_partitions, forecast_kind, forecast_method, p_floor)
            objective = ForecastObjective(ShardedScorer(scorer), forecast_loss, args.seed, subpool=subpool)
            self.penalty = ForecastPenalty(objective)
            if wanted is not None:
                self.drawn = DrawnReplies(wanted, objective, drawn_rows, args.seed)
        #: what the last steps added, by logger key; as on the side of reinforcement learning
        self.forecast_log: dict[str, float] = {}
        self._forecast_logger: Logger | None = None
        self._forecast_steps = 0
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,
            processing_class=processing_class,
            callbacks=None if callbacks is None else list(callbacks),
            optimizers=optimizers,
        )
        self._reference = self._starting_model() if kl_coef > 0.0 else None
        if self.optimizer is not None:
            self._attach(self.optimizer)

    def _starting_model(self) -> Any:
        """The model that the KL divergence is taken from: the adapted one with its adapters off, or a copy."""
        from peft import PeftModel

        if isinstance(self.model, PeftModel) and all(
            "lora_" in name for name, parameter in self.model.named_parameters() if parameter.requires_grad
        ):
            return None
        return copy.deepcopy(self.accelerator.unwrap_model(self.model)).eval().requires_grad_(False)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> th.optim.Optimizer:
        """As ``Trainer``; the optimizer's steps are preceded by the penalty's gradient."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if created:
            self._attach(optimizer)
        return optimizer

    def _attach(self, optimizer: th.optim.Optimizer) -> None:
        """Let the penalty's gradient precede the optimizer's steps."""
        if self.penalty is not None and self.forecast_coef > 0.0:
            optimizer.register_step_pre_hook(self._add_penalty)

    def _add_penalty(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._forecast_steps += 1
        if (self._forecast_steps - 1) % self.gradient_every or self.penalty is None:
            return
        model = self.accelerator.unwrap_model(self.model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        primary = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        with th.enable_grad():
            self.forecast_log = self.penalty.accumulate(model)
        added = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, primary, strict=True):
            parameter.grad = gradient
        add_clipped(parameters, added, self.forecast_coef, self.args.max_grad_norm or float("inf"))
        if self.drawn is not None:
            self.forecast_log |= self.drawn.accumulate(model)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """As ``Trainer``, with the KL divergence from the starting model added."""
        labels = inputs.get("labels")  # label smoothing takes them out
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.kl_coef > 0.0 and model.training:
            divergence = self._divergence(model, {**inputs, "labels": labels}, outputs.logits)
            # a mean over what the loss is a mean over: the tokens of all micro-batches, where Trainer divides by those
            if num_items_in_batch is not None and (self.model_accepts_loss_kwargs or self.compute_loss_func is not None):
                share = (labels[:, 1:] != -100).sum() / num_items_in_batch
                divergence = (
                    divergence * share * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
                )
            loss = loss + self.kl_coef * divergence
        return (loss, outputs) if return_outputs else loss

    def _divergence(self, model: Any, inputs: Any, logits: th.Tensor) -> th.Tensor:
        """KL(start || model), the mean over the labelled positions."""
        features = {name: value for name, value in inputs.items() if name != "labels"}
        with th.no_grad():
            if self._reference is None:
                with self.accelerator.unwrap_model(model).disable_adapter():
                    reference = model(**features).logits
            else:
                reference = self._reference(**features).logits
        here = inputs["labels"][:, 1:] != -100
        log_q = reference[:, :-1][here].float().log_softmax(-1)
        log_p = logits[:, :-1][here].float().log_softmax(-1)
        return th.nn.functional.kl_div(log_p, log_q, log_target=True, reduction="batchmean")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As ``Trainer``; adds what the last step's penalty logged, and writes it to TensorBoard under the keys of ``ForecastPPO``."""
        if self.forecast_log and "loss" in logs:
            logs = {**logs, **self.forecast_log}
            if "tensorboard" in (self.args.report_to or ()) and self.is_world_process_zero():
                if self._forecast_logger is None:
                    self._forecast_logger = configure(f"{self.args.output_dir}/forecast", ["tensorboard"])
                for key, value in self.forecast_log.items():
                    self._forecast_logger.record(key, value)
                self._forecast_logger.dump(self.state.global_step)
        super().log(logs, start_time)

    def _save_rng_state(self, output_dir: str) -> None:
        """As ``Trainer``; the state of the penalty joins it, before older checkpoints are deleted."""
        super()._save_rng_state(output_dir)
        folder = pathlib.Path(output_dir)
        parts: dict[str, Any] = {"penalty": self.penalty, "drawn": self.drawn}
        state = {"steps": self._forecast_steps, **{name: part and part.state_dict() for name, part in parts.items()}}
        if self.is_world_process_zero():
            partial = folder / f"{STATE_FILE}.partial"
            th.save(state, partial)
            os.replace(partial, folder / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = pathlib.Path(resume_from_checkpoint) / STATE_FILE
        if not path.exists():
            if self.forecast_coef == 0.0:
                return
            raise ValueError(
                f"resume_from_checkpoint={resume_from_checkpoint} has no {STATE_FILE}: it was stopped while being written, "
                f"or is another trainer's; "
                "resume from last_whole_checkpoint(output_dir)"
            )
        state = th.load(path, weights_only=True)
        self._forecast_steps = state["steps"]
        for name, part in (("penalty", self.penalty), ("drawn", self.drawn)):
            if part is not None and state[name] is not None:
                part.load_state_dict(state[name])


def last_whole_checkpoint(output_dir: str | pathlib.Path) -> str | None:
    """The newest checkpoint of a run that was written to its end; ``None`` if there is none.

    :param output_dir: the run's folder
    """
    folder = pathlib.Path(output_dir)
    if not folder.is_dir() or get_last_checkpoint(str(folder)) is None:
        return None
    steps = {path.parent: re.fullmatch(r"checkpoint-(\d+)", path.parent.name) for path in folder.glob(f"*/{STATE_FILE}")}
    whole = {path: int(step[1]) for path, step in steps.items() if step and (path / TRAINER_STATE_NAME).exists()}
    return str(max(whole, key=lambda path: whole[path])) if whole else None


def _check_precision_and_sharding(args: TrainingArguments) -> None:
    """Refuse what scales or shards gradients behind the back of the optimizer hook."""
    for name, value, remedy in (
        ("fp16", args.fp16, "use bf16=True or full precision"),
        ("fsdp", args.fsdp, "use torchrun with plain data parallelism"),
        ("deepspeed", args.deepspeed, "use torchrun with plain data parallelism"),
    ):
        if value:
            raise ValueError(f"{name}={value!r} is not supported together with forecast_coef > 0; {remedy}")
