"""LMFailureScorer: failure scores of prompts, from the probabilities of the replies that count as failures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

from sb3_forecast.checks import task_indices
from sb3_forecast.lm.frozen import FrozenLayers
from sb3_forecast.lm.prompts import encode_prompt
from sb3_forecast.lm.rows import Batch, PromptRow, packed_batch, plain_batch
from sb3_forecast.lm.trie_scores import log_probabilities, scores, step_log_probabilities
from sb3_forecast.lm.tries import build_trie
from sb3_forecast.scorers.protocols import Scorer

Auto = Literal["auto"]

#: two ways of computing log p or log(1 - p) count as equal up to this difference; by the model's precision
_TOLERANCE = {th.float64: 1e-6, th.float32: 1e-3, th.float16: 0.05, th.bfloat16: 0.25}


class LMFailureScorer(Scorer):
    """Failure scores of prompts under a language model.

    The failure probability p of a prompt is the probability that the reply begins with one of the prompt's stems. Its score is psi.

    Two things make scoring faster:

    - ``packed``: the stems of a prompt share one row of the batch. No stem sees another one.
    - ``cache_frozen``: the layers below the first trained one are computed once per prompt.

    Both are compared with the plain computation when the scorer is built, on three prompts: the longest, the shortest, and the
    one with the largest tree of stems.

    The score is a lower bound on the risk: a model can say the same thing in other words (see :class:`SampledLeak`).

    :param model: Hugging Face causal language model, with or without adapters. It is used for the checks only; every method
        takes the model as an argument
    :param tokenizer: the model's tokenizer
    :param prompts: N prompts: chat messages, which are put into the chat template, or plain texts
    :param targets: stems of each prompt: a list of texts, or one text. A reply that begins with one of them has failed
    :param max_tokens: tokens in a micro-batch, with padding; this limits the memory
    :param packed: put all stems of a prompt into one row; ``"auto"`` does so if the result is the same
    :param cache_frozen: keep the output of the frozen lower layers for each prompt. This takes (width x bytes per number) for
        each token of the pool. ``"auto"`` does so if the result is the same
    :raises ValueError: for a prompt that is empty or too long; for a stem that has no tokens or is the beginning of another one; if
        ``packed=True`` or ``cache_frozen=True`` changes the result; if the model's output is not finite
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[Any],
        targets: Sequence[Any],
        *,
        max_tokens: int = 8192,
        packed: bool | Auto = "auto",
        cache_frozen: bool | Auto = "auto",
    ) -> None:
        if not len(prompts):
            raise ValueError("prompts must hold at least one prompt, got an empty list; pass the prompts to score")
        if len(prompts) != len(targets):
            raise ValueError(
                f"targets must hold one entry per prompt, got {len(targets)} entries for {len(prompts)} prompts; "
                "pass the stems of each prompt"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.rows = _encode(tokenizer, prompts, targets)
        self.n_tasks = len(self.rows)
        self._check_length(model, prompts)
        self.tokens_scored = self.tokens_trained = 0
        self._hidden: dict[tuple[int, int], th.Tensor] = {}
        self._hidden_of: object = None
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.packed = self.cache_frozen = False
        # the shortest prompt is among them so that there is padding
        lengths = [row.length(packed=True) for row in self.rows]
        probes = np.unique([np.argmax(lengths), np.argmin(lengths), np.argmax([len(row.trie.inner) for row in self.rows])])
        plain = self._steps(model, probes)
        self._adopt("packed", packed, model, probes, plain)
        if cache_frozen is True and FrozenLayers.of(model) is None:
            raise ValueError(
                "cache_frozen must be False or 'auto' for a model without frozen layers below a trained one, got True; use 'auto'"
            )
        self._adopt("cache_frozen", cache_frozen, model, probes, plain)
        # the model may be moved or cast before it is used, so forget what the checks cached
        self._hidden.clear()
        #: tokens fed to the model since the checks above: without a graph (scored), and with a graph (trained)
        self.tokens_scored = self.tokens_trained = 0

    @property
    def key(self) -> None:
        """Always ``None``: pools of prompts are not compared."""

    def _check_length(self, model: Any, prompts: Sequence[Any]) -> None:
        longest = max(range(self.n_tasks), key=lambda i: self.rows[i].length(packed=False))
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and self.rows[longest].length(packed=False) > limit:
            raise ValueError(
                f"prompts[{longest}] with its longest stem must fit the model's {limit} positions, got "
                f"{self.rows[longest].length(packed=False)} tokens; shorten the prompt {str(prompts[longest])[:80]!r}"
            )

    def _adopt(self, name: str, wanted: bool | Auto, model: Any, tasks: NDArray[np.int64], plain: th.Tensor) -> None:
        """Switch on a faster computation if it is wanted and gives the plain result; otherwise warn, or raise if it was required.

        :param name: ``"packed"`` or ``"cache_frozen"``
        :param wanted: ``True`` requires it, ``"auto"`` tries it, ``False`` leaves it off
        :param model: the language model
        :param tasks: indices of the prompts to compare on
        :param plain: log-probabilities of these prompts by the plain computation, shape (steps,), float64
        :raises ValueError: if ``wanted`` is ``True`` and the model raises an error or gives another result
        """
        if wanted is False:
            return
        setattr(self, name, True)
        try:
            # the second time reads the cache, if there is one
            found = [self._steps(model, tasks) for _ in range(2)]
        except Exception as error:
            # a model may raise anything at a mask or at embeddings that it does not support; with "auto" that is no error
            setattr(self, name, False)
            message = f"{name}={wanted!r} does not work for {type(model).__name__}: the model raised an error ({error})"
            if wanted is True:
                raise ValueError(f"{message}; use {name}=False") from error
            warnings.warn(f"{message}; scoring goes on with {name}=False, which is slower", stacklevel=3)
            return
        difference = max(float((values - plain).abs().max()) for values in found)
        if difference <= _TOLERANCE[model.dtype]:
            return
        setattr(self, name, False)
        message = (
            f"{name}={wanted!r} does not work for {type(model).__name__}: it changes log-probabilities by {difference:.2g}"
        )
        if wanted is True:
            raise ValueError(f"{message}; use {name}=False")
        warnings.warn(f"{message}; scoring goes on with {name}=False, which is slower", stacklevel=3)

    def score(self, model: Any, tasks: NDArray[np.int64] | None = None) -> th.Tensor:
        """Scores without a graph.

        :param model: the language model
        :param tasks: indices of the prompts; ``None`` for all
        :return: psi, shape (tasks,), float64, CPU
        :raises ValueError: if the model returns NaN
        """
        chosen = task_indices(tasks, self.n_tasks)
        out = th.empty(len(chosen), dtype=th.float64)
        with th.no_grad(), _evaluating(model):
            for places in self._micro_batches(chosen):
                psi = self._psi(model, chosen[places]).cpu()
                out[th.from_numpy(places)] = psi
        return out

    def rescore(self, model: Any, tasks: NDArray[np.int64]) -> th.Tensor:
        """Scores with one graph to the model's parameters. This is for a few prompts; use :meth:`backward` for many.

        :param model: the language model
        :param tasks: indices of the prompts
        :return: psi, shape (tasks,), float64, CPU
        :raises ValueError: if the model returns NaN
        """
        chosen = task_indices(tasks, self.n_tasks)
        places = self._micro_batches(chosen)
        with _evaluating(model):
            psi = th.cat([self._psi(model, chosen[part]).cpu() for part in places])
        back = np.empty(len(chosen), dtype=np.int64)
        back[np.concatenate(places)] = np.arange(len(chosen))
        return psi[th.from_numpy(back)]

    def backward(self, model: Any, tasks: NDArray[np.int64], weights: th.Tensor) -> None:
        """Add the gradient of sum_i w_i psi_i to the parameters' ``grad``. Only one micro-batch at a time is in memory.

        :param model: the language model
        :param tasks: indices of the prompts
        :param weights: the weight w_i of each prompt, shape (tasks,)
        :raises ValueError: if the model returns NaN
        """
        chosen = task_indices(tasks, self.n_tasks)
        with th.enable_grad(), _evaluating(model):
            for places in self._micro_batches(chosen):
                psi = self._psi(model, chosen[places])
                (weights[th.from_numpy(places)].to(psi.device) * psi).sum().backward()

    def _micro_batches(self, tasks: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Positions in ``tasks``, in micro-batches of prompts of similar length: up to ``max_tokens`` tokens, but at least one prompt."""
        lengths = np.array([self.rows[task].length(self.packed) for task in tasks])
        rows = np.array([self.rows[task].n_rows(self.packed) for task in tasks])
        batches: list[NDArray[np.int64]] = []
        current: list[int] = []
        count = 0
        for place in np.argsort(lengths, kind="stable"):
            if current and (count + rows[place]) * lengths[place] > self.max_tokens:
                batches.append(np.array(current))
                current, count = [], 0
            current.append(int(place))
            count += int(rows[place])
        return [*batches, np.array(current)] if current else batches

    def _steps(self, model: Any, tasks: NDArray[np.int64]) -> th.Tensor:
        """Log-probabilities of all steps along the stems of some prompts, to compare two computations; shape (steps,), float64."""
        with th.no_grad(), _evaluating(model):
            batch, logits = self._forward(model, tasks)
            steps = th.cat(step_log_probabilities(logits, batch)).cpu()
        if not bool(th.isfinite(steps).all()):
            raise ValueError(
                f"the model's log-probabilities must be finite, got NaN or infinity for one of prompts {tasks.tolist()}; "
                "check the model's weights for NaN"
            )
        return steps

    def _psi(self, model: Any, tasks: NDArray[np.int64]) -> th.Tensor:
        batch, logits = self._forward(model, tasks)
        log_p, log_survival = log_probabilities(logits, batch, len(tasks))
        if bool(th.isnan(log_p).any()):
            bad = int(tasks[int(th.isnan(log_p).nonzero()[0, 0])])
            raise ValueError(
                f"the model's log-probabilities must not be NaN, got NaN for prompts[{bad}]; lower the learning rate, "
                "use float32 or bfloat16 instead of float16, and resume from the last checkpoint"
            )
        return scores(log_p, log_survival)

    def _forward(self, model: Any, tasks: NDArray[np.int64]) -> tuple[Batch, th.Tensor]:
        """The batch of some prompts, and the model's logits at the scored positions, shape (S, vocabulary)."""
        rows = [self.rows[task] for task in tasks]
        batch = packed_batch(rows, self._pad, model.dtype) if self.packed else plain_batch(rows, self._pad)
        batch = _to(batch, model.device)
        if th.is_grad_enabled():
            self.tokens_trained += batch.n_tokens
        else:
            self.tokens_scored += batch.n_tokens
        common = {"attention_mask": batch.attention, "position_ids": batch.position_ids}
        frozen = FrozenLayers.of(model) if self.cache_frozen else None
        if frozen is None:
            with _reading(model, batch.scored):
                return batch, _logits(model(input_ids=batch.input_ids, **common, use_cache=False))
        hidden = self._cached(frozen, model, tasks, {"input_ids": batch.input_ids, **common})
        with frozen.skipped(), _reading(model, batch.scored):
            return batch, _logits(model(inputs_embeds=hidden, **common, use_cache=False))

    def _cached(self, frozen: FrozenLayers, model: Any, tasks: NDArray[np.int64], inputs: dict[str, th.Tensor]) -> th.Tensor:
        """The input of the first trained layer for each row, shape (rows, length, width).

        If one row is missing in the cache, all rows are computed.
        """
        if self._hidden_of != frozen.version:
            # the cached values belong to other weights or to another model
            self._hidden.clear()
            self._hidden_of = frozen.version
        keys = [(int(task), line) for task in tasks for line in range(self.rows[task].n_rows(self.packed))]
        if any(key not in self._hidden for key in keys):
            hidden = frozen.hidden(model, inputs)
            for i, (task, line) in enumerate(keys):
                self._hidden[task, line] = hidden[i, : self.rows[task].length(self.packed)].clone()
            return hidden
        first = self._hidden[keys[0]]
        hidden = first.new_zeros(len(keys), inputs["input_ids"].shape[1], first.shape[1])
        for i, key in enumerate(keys):
            kept = self._hidden[key]
            hidden[i, : len(kept)] = kept
        return hidden


def _encode(tokenizer: Any, prompts: Sequence[Any], targets: Sequence[Any]) -> list[PromptRow]:
    """Prompts and stems as tokens. Prompts with the same stems share one tree."""
    tries: dict[tuple[str, ...], Any] = {}
    rows = []
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        stems = (target,) if isinstance(target, str) else tuple(target)
        if stems not in tries:
            tokens = [tokenizer(stem, add_special_tokens=False)["input_ids"] if stem else [] for stem in stems]
            tries[stems] = build_trie(tokens, stems)
        try:
            rows.append(PromptRow(encode_prompt(tokenizer, prompt), tries[stems]))
        except ValueError as error:
            raise ValueError(f"prompts[{i}]: {error}") from error
    return rows


def _to(batch: Batch, device: th.device) -> Batch:
    if device.type == "cpu":
        return batch
    tensors: dict[str, Any] = {name: value.to(device) for name, value in vars(batch).items() if isinstance(value, th.Tensor)}
    return replace(batch, **tensors)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode (no dropout) within the block, then restore the mode of every module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # not model.train(): a user may keep some modules in evaluation mode
        for module in training:
            module.training = True


@contextmanager
def _reading(model: Any, scored: th.Tensor) -> Iterator[None]:
    """Within the block, the model computes logits at the scored positions only; no other logits are needed.

    :param model: the language model
    :param scored: flat positions (row x length), shape (S,)
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[th.Tensor, ...]:
        hidden = args[0]
        return (hidden.reshape(-1, hidden.shape[-1])[scored][None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _logits(output: Any) -> th.Tensor:
    logits: th.Tensor = output.logits[0]
    return logits
