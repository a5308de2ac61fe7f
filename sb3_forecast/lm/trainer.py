"""ForecastTrainer: the Trainer of transformers, which also trains the model's failures to be predictable."""

from __future__ import annotations

import copy
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.logger import Logger, configure
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from sb3_forecast.files import write_whole
from sb3_forecast.lm.drawn import DrawnReplies
from sb3_forecast.lm.penalty import ForecastPenalty, Penalty, ShardedScorer
from sb3_forecast.lm.scorer import LMFailureScorer
from sb3_forecast.statistics.names import Method
from sb3_forecast.statistics.partitions import check_partition
from sb3_forecast.training.injection import add_clipped
from sb3_forecast.training.losses import ForecastLoss, Kind
from sb3_forecast.training.objective import ForecastObjective, PoolLoss

#: file in every checkpoint; a checkpoint without it is not whole
STATE_FILE = "forecast_state.pt"


class ForecastTrainer(Trainer):
    """The ``Trainer`` of transformers with the forecastability loss of Schwarzer & Niekum 2026 in its optimizer steps.

    Every ``gradient_every``-th optimizer step does this:

    1. It scores a random sub-pool of the prompts and draws partitions of it into an evaluation set and a deployment set.
    2. It computes the gradient of the forecast error and clips it by itself to ``max_grad_norm``.
    3. It multiplies this gradient by ``forecast_coef`` and adds it to the gradient of the primary loss.

    Everything else is as in ``Trainer``: adapters, gradient accumulation, mixed precision, several devices, checkpoints,
    progress bar. With ``forecast_coef=0`` it is the plain ``Trainer``.

    :param model: causal language model, with or without adapters
    :param args: as in ``Trainer``
    :param train_dataset: rows of the primary task, see :func:`sb3_forecast.lm.examples.training_rows`
    :param data_collator: as in ``Trainer``
    :param processing_class: the tokenizer, as in ``Trainer``
    :param scorer: scorer of the pool of prompts
    :param forecast_coef: the forecast gradient is clipped to ``max_grad_norm``, then multiplied by this; 0 switches it off
    :param eval_size: evaluation set size m of a partition
    :param k: number of top evaluation scores that the forecast uses
    :param n_partitions: partitions drawn per step
    :param subpool: prompts scored per step, drawn at random; ``None`` for the whole pool
    :param forecast_kind: ``"guarded"``, ``"squared"`` or ``"hinge"``, see :class:`sb3_forecast.ForecastLoss`
    :param forecast_method: ``"jones"``, ``"blue"`` or ``"direct"``
    :param p_floor: prompts with a failure probability below this get no gradient (kinds ``"guarded"`` and ``"hinge"``)
    :param gradient_every: add the gradient in every n-th optimizer step
    :param wanted: the prompts of the pool, each with the reply that you want; rows in the order of the pool. They teach the model
        what to say to the prompts on which the loss has weight. Without them the model may learn to leak in words that no stem covers
    :param drawn_rows: rows of ``wanted`` per step, drawn in proportion to a slowly decaying sum of the loss's weights
    :param kl_coef: weight of KL(start || model), for the next-token distributions at the labelled tokens of the primary rows. For
        a model with LoRA adapters, the start is the model with its adapters off, even if the adapters were trained before
    :param forecast_loss: for baselines: a loss on scores that replaces ``eval_size``, ``k``, ``n_partitions``, ``forecast_kind``,
        ``forecast_method`` and ``p_floor``
    :param penalty: for baselines: an object with a gradient that replaces ``scorer`` and the loss
    :param callbacks: as in ``Trainer``
    :param optimizers: as in ``Trainer``
    :raises ValueError: before any work: for arguments out of range, and for float16, FSDP or DeepSpeed together with a forecast
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
                raise ValueError(f"{name} must be at least 0, got {value}; use 0 to switch it off")
        if gradient_every < 1:
            raise ValueError(
                f"gradient_every must be at least 1, got {gradient_every}; use forecast_coef=0 to switch the forecast off"
            )
        if forecast_coef > 0.0 and (scorer is None) == (penalty is None):
            raise ValueError(
                f"exactly one of scorer and penalty must be given, got {'neither' if scorer is None else 'both'}; pass scorer for a "
                "forecast, penalty for a baseline, or forecast_coef=0 for neither"
            )
        if wanted is not None and (scorer is None or len(wanted) != scorer.n_tasks):
            expected = "and no scorer" if scorer is None else f"for {scorer.n_tasks} prompts"
            raise ValueError(
                f"wanted must hold one row per prompt of the scorer's pool, got {len(wanted)} rows {expected}; "
                "pass a reply for every prompt, in the order of the pool"
            )
        if drawn_rows < 1:
            raise ValueError(f"drawn_rows must be at least 1, got {drawn_rows}; use wanted=None to draw no replies")
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
        #: what the last step with a forecast logged, by logger key; the keys are those of ForecastPPO
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
        """The model at the start, for the KL divergence: a copy, or ``None`` if it is the model with its adapters off."""
        from peft import PeftModel

        if isinstance(self.model, PeftModel) and all(
            "lora_" in name for name, parameter in self.model.named_parameters() if parameter.requires_grad
        ):
            return None
        return copy.deepcopy(self.accelerator.unwrap_model(self.model)).eval().requires_grad_(False)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> th.optim.Optimizer:
        """As in ``Trainer``, but the penalty's gradient is added before each step of the optimizer."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if created:
            self._attach(optimizer)
        return optimizer

    def _attach(self, optimizer: th.optim.Optimizer) -> None:
        """Add the penalty's gradient before each step of an optimizer."""
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
        """As in ``Trainer``, plus ``kl_coef`` times the KL divergence from the starting model."""
        labels = inputs.get("labels")  # read before super(): label smoothing removes them
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.kl_coef > 0.0 and model.training:
            divergence = self._divergence(model, {**inputs, "labels": labels}, outputs.logits)
            # where Trainer divides the loss by the tokens of all micro-batches, the divergence must be a mean over the same tokens
            if num_items_in_batch is not None and (self.model_accepts_loss_kwargs or self.compute_loss_func is not None):
                share = (labels[:, 1:] != -100).sum() / num_items_in_batch
                divergence = (
                    divergence * share * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
                )
            loss = loss + self.kl_coef * divergence
        return (loss, outputs) if return_outputs else loss

    def _divergence(self, model: Any, inputs: Any, logits: th.Tensor) -> th.Tensor:
        """KL(start || model), mean over the labelled positions; scalar."""
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
        """As in ``Trainer``, plus what the last penalty logged. TensorBoard gets it under the keys of ``ForecastPPO``."""
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
        """As in ``Trainer``, but also save the state of the penalty. Trainer calls this before it deletes older checkpoints."""
        super()._save_rng_state(output_dir)
        folder = pathlib.Path(output_dir)
        parts: dict[str, Any] = {"penalty": self.penalty, "drawn": self.drawn}
        state = {"steps": self._forecast_steps, **{name: part and part.state_dict() for name, part in parts.items()}}
        if self.is_world_process_zero():
            write_whole(folder / STATE_FILE, lambda file: th.save(state, file))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = pathlib.Path(resume_from_checkpoint) / STATE_FILE
        if not path.exists():
            if self.forecast_coef == 0.0:
                return
            raise ValueError(
                f"resume_from_checkpoint must be a whole checkpoint of ForecastTrainer, got {resume_from_checkpoint!r} without "
                f"{STATE_FILE}: saving was interrupted, or another trainer wrote it; use last_whole_checkpoint(output_dir)"
            )
        state = th.load(path, weights_only=True)
        self._forecast_steps = state["steps"]
        for name, part in (("penalty", self.penalty), ("drawn", self.drawn)):
            if part is not None and state[name] is not None:
                part.load_state_dict(state[name])


def last_whole_checkpoint(output_dir: str | pathlib.Path) -> str | None:
    """The newest complete checkpoint of a run.

    :param output_dir: the run's folder
    :return: path of the checkpoint; ``None`` if the run has no complete one
    """
    folder = pathlib.Path(output_dir)
    if not folder.is_dir() or get_last_checkpoint(str(folder)) is None:
        return None
    steps = {path.parent: re.fullmatch(r"checkpoint-(\d+)", path.parent.name) for path in folder.glob(f"*/{STATE_FILE}")}
    whole = {path: int(step[1]) for path, step in steps.items() if step and (path / TRAINER_STATE_NAME).exists()}
    return str(max(whole, key=lambda path: whole[path])) if whole else None


def _check_precision_and_sharding(args: TrainingArguments) -> None:
    """Refuse settings that scale or shard gradients, which the optimizer hook cannot see.

    :raises ValueError: for float16, FSDP or DeepSpeed
    """
    for name, value, remedy in (
        ("fp16", args.fp16, "use bf16=True or full precision"),
        ("fsdp", args.fsdp, "use torchrun with plain data parallelism"),
        ("deepspeed", args.deepspeed, "use torchrun with plain data parallelism"),
    ):
        if value:
            raise ValueError(f"{name} must be off when forecast_coef > 0, got {value!r}; {remedy}")
