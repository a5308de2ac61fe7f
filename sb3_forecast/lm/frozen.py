"""Skip the frozen lower layers of a decoder: their output for a prompt is computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn


class _Reached(Exception):  # control flow, not an error
    """Raised when the input of the first trained layer has been captured, to stop the forward pass."""


class FrozenLayers:
    """The layers of a decoder below the first trained layer. Build it with :meth:`of`.

    :param owner: the module that holds the layers as its attribute ``layers``
    :param embeddings: the input embeddings
    :param layers: all layers of the decoder
    :param n_frozen: number of lowest layers that have no trained parameter
    """

    def __init__(self, owner: nn.Module, embeddings: nn.Module, layers: nn.ModuleList, n_frozen: int) -> None:
        self.owner, self.embeddings, self.layers, self.n_frozen = owner, embeddings, layers, n_frozen

    @property
    def version(self) -> object:
        """A value that changes when the frozen weights are replaced, moved, cast or written to."""
        return tuple(
            (id(p), p.data_ptr(), p.dtype, p.device, p._version)
            for module in (self.embeddings, *self.layers[: self.n_frozen])
            for p in module.parameters()
        )

    @classmethod
    def of(cls, model: Any) -> FrozenLayers | None:
        """The frozen layers of a Hugging Face model.

        The caller must check that skipping them gives the same result: some models change the embeddings before the first layer.

        :param model: causal language model, with or without adapters
        :return: the frozen layers; ``None`` if the decoder is not a stack of ``layers``, if the embeddings or the lowest layer are trained,
            or if no layer is trained
        """
        decoder = model.get_decoder()
        layers = dict(decoder.named_children()).get("layers")
        if not isinstance(layers, nn.ModuleList) or any(p.requires_grad for p in model.get_input_embeddings().parameters()):
            return None
        frozen = 0
        for layer in layers:
            if any(parameter.requires_grad for parameter in layer.parameters()):
                break
            frozen += 1
        return cls(decoder, model.get_input_embeddings(), layers, frozen) if 0 < frozen < len(layers) else None

    def hidden(self, model: Any, inputs: dict[str, th.Tensor]) -> th.Tensor:
        """The input of the first trained layer, without a graph.

        :param model: the causal language model
        :param inputs: its inputs: ``input_ids``, ``attention_mask`` and ``position_ids``
        :return: hidden states, shape (rows, length, width), the model's dtype
        """
        captured: list[th.Tensor] = []

        def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        handle = self.layers[self.n_frozen].register_forward_pre_hook(capture, with_kwargs=True)
        try:
            with th.no_grad():
                model(**inputs, use_cache=False)
        except _Reached:
            pass
        finally:
            handle.remove()
        return captured[0]

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Within the block, the decoder runs without its frozen layers; pass hidden states as ``inputs_embeds``."""
        self.owner.layers = nn.ModuleList(list(self.layers)[self.n_frozen :])
        try:
            yield
        finally:
            self.owner.layers = self.layers
