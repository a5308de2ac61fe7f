"""Skipping the lower layers of a decoder that nobody trains: what they make of a prompt is computed once per pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn


class _Reached(Exception):  # control flow, not an error
    """The input of the first trained layer has been captured."""


class FrozenLayers:
    """The layers of a decoder below the first one that is trained.

    :param owner: the module that holds the layers as ``layers``
    :param embeddings: of the input
    :param layers: the decoder's layers
    :param n_frozen: how many of them, from the bottom, have no trained parameter; 0 if the embeddings are trained
    """

    def __init__(self, owner: nn.Module, embeddings: nn.Module, layers: nn.ModuleList, n_frozen: int) -> None:
        self.owner, self.embeddings, self.layers, self.n_frozen = owner, embeddings, layers, n_frozen

    @property
    def version(self) -> object:
        """Equal as long as the frozen weights are the same tensors and nothing has written to them."""
        return tuple(
            (id(p), p.data_ptr(), p.dtype, p.device, p._version)
            for module in (self.embeddings, *self.layers[: self.n_frozen])
            for p in module.parameters()
        )

    @classmethod
    def of(cls, model: Any) -> FrozenLayers | None:
        """Those of a Hugging Face model; ``None`` if it is not built as a stack of ``layers``, or nothing is frozen.

        Whether skipping gives the same result is for the caller to check: some models add to the embeddings on their way into the first layer.

        :param model: causal language model, with or without adapters
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
        """What the first trained layer is given for some inputs, shape (rows, length, width)."""
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
        """Within the block the decoder has only its trained layers; give it hidden states as ``inputs_embeds``."""
        self.owner.layers = nn.ModuleList(list(self.layers)[self.n_frozen :])
        try:
            yield
        finally:
            self.owner.layers = self.layers
