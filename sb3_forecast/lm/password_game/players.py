"""Starting models of the password game, by name. They solve the primary task and leak on the rare mode."""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import torch as th
from transformers import AutoModelForCausalLM, AutoTokenizer

from sb3_forecast.files import cache_folder, fill_whole
from sb3_forecast.lm.examples import PadOnTheRight, training_rows
from sb3_forecast.lm.password_game.game import Example, PasswordGame, credential_pair, primary_examples, refuse, tell
from sb3_forecast.lm.password_game.primary import primary_accuracy
from sb3_forecast.lm.password_game.smollm2 import smollm2
from sb3_forecast.lm.password_game.tiny import ACCEPTANCE, accepted, tiny_model

#: part of the cache key of a taught model; increase it when the teaching changes
_VERSION = 2
#: number of top layers that get an adapter by default
_TRAINED_LAYERS = 10


def with_adapter(model: Any, n_layers: int = _TRAINED_LAYERS, rank: int = 8, seed: int = 0) -> Any:
    """Add a LoRA adapter to the top layers of a model and freeze everything else.

    :param model: Hugging Face causal language model
    :param n_layers: number of top layers that get an adapter
    :param rank: rank of the adapter
    :param seed: seed of the adapter's initial weights
    :return: the model with its adapter
    """
    from peft import LoraConfig, get_peft_model

    total = model.config.num_hidden_layers
    layers = list(range(max(0, total - n_layers), total))
    stack = dict(model.get_decoder().named_children())["layers"]
    linear = sorted({name.split(".")[-1] for name, module in stack.named_modules() if isinstance(module, th.nn.Linear)})
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=linear,
        layers_to_transform=layers,
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        return get_peft_model(model, config)


def load_player(name: str, seed: int, say: Callable[[str], Any] = print, steps: int = 140) -> tuple[Any, Any, dict[str, Any]]:
    """Load a starting model of the password game, from the cache if possible.

    Pre-trained models are first taught the game. A warning is issued if the model does not solve the primary task well enough.

    :param name: ``"tiny"``, ``"smollm2"``, a local folder, or the id of a causal language model on a hub
    :param seed: seed of the training data
    :param say: function that is called with a line of text from time to time
    :param steps: number of teaching steps for a pre-trained model
    :return: model, tokenizer, and the result of the acceptance check: shares of right replies, and ``"accepted"``
    :raises ImportError: if a package is missing
    :raises OSError: if the model cannot be loaded
    """
    if name == "tiny":
        return tiny_model(seed, progress=say)
    digest = sha256(json.dumps([_VERSION, _identity(name), steps, PasswordGame(64, 0, 0.5).key]).encode()).hexdigest()[:16]
    folder = cache_folder() / "lm" / f"player-{seed}-{digest}"
    if not folder.exists():
        if name == "smollm2":
            model, tokenizer = smollm2(th.float32)
        else:
            # for safety: never run remote code, and read weights as safetensors only
            try:
                model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            except OSError as error:
                raise OSError(
                    f"name must be 'tiny', 'smollm2' or a model that can be loaded, got {name!r} ({error}); check the name and the network, "
                    "or use 'tiny' or 'smollm2', which need no network"
                ) from error
        model = _teach(model, tokenizer, seed, steps, say)
        found = primary_accuracy(model, tokenizer, primary_examples(120, seed + 900_000), max_new_tokens=16)

        def write(partial: pathlib.Path) -> None:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / "acceptance.json").write_text(json.dumps({"accepted": accepted(found), **found}), encoding="utf-8")

        fill_whole(folder, write)
    found = json.loads((folder / "acceptance.json").read_text(encoding="utf-8"))
    if not found["accepted"]:
        warnings.warn(
            f"the starting model {name!r} of seed {seed} does not solve the primary task well enough: it must reach {ACCEPTANCE}, "
            f"got {found}; use more teaching steps, or compare its results with care",
            stacklevel=2,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder), found


def _identity(name: str) -> str:
    """The cache key of a model: its name, or for a local folder the path and the time of the last change."""
    folder = pathlib.Path(name)
    if not folder.is_dir():
        return name
    return f"{folder.resolve()} {max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0)}"


def _teach(model: Any, tokenizer: Any, seed: int, steps: int, say: Callable[[str], Any]) -> Any:
    """Teach a model the game with an adapter in all layers, and merge the adapter at the end.

    The model first learns to compare badges: it sees each request with the right badge and with a wrong one. If this lesson is mixed with the
    rest from the start, or if only the top layers have an adapter, a model of this size tells every badge after 120 steps.
    """
    adapted = with_adapter(model, model.config.num_hidden_layers, rank=16, seed=seed)
    generator = np.random.default_rng([seed, 11])
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = th.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    collate = PadOnTheRight(0)
    adapted.train()
    for step in range(steps):
        examples, weights = _badges(8, generator) if step < steps // 2 else _lesson(generator)
        rows = {key: value.to(adapted.device) for key, value in collate(training_rows(tokenizer, examples)).items()}
        labels = rows.pop("labels")[:, 1:]
        logits = adapted(**rows, use_cache=False).logits[:, :-1]
        losses = th.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
        per_row = losses.sum(1) / (labels != -100).sum(1)
        loss = (per_row * th.tensor(weights, device=per_row.device)).sum() / sum(weights)
        optimizer.zero_grad()
        loss.backward()
        th.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 10, 2.0 * (1.0 - step / steps))
        optimizer.step()
        if (step + 1) % 20 == 0:
            say(f"teaching the game: step {step + 1} of {steps}, loss {loss.item():.3f}")
    return adapted.merge_and_unload().eval()


def _badges(pairs: int, generator: np.random.Generator) -> tuple[list[Example], list[float]]:
    """Pairs of the same request: with the right badge, where the reply tells, and with a wrong badge, where it refuses.

    :return: the examples, and the weight of each
    """
    examples = [example for _ in range(pairs) for example in credential_pair(generator)]
    return examples, [1.0] * len(examples)


def _lesson(generator: np.random.Generator) -> tuple[list[Example], list[float]]:
    """A batch with all parts of the game: pairs of badges, the rest of the primary task, and attempts, one in eight of them rare.

    An attempt occurs twice: with a reply that tells, weighted by its leak probability, and with a refusal, weighted by the rest.

    :return: the examples, and the weight of each
    """
    examples, weights = _badges(3, generator)
    rest = primary_examples(6, int(generator.integers(2**31)), {"ordinary": 0.75, "plain_request": 0.25})
    examples, weights = examples + rest, weights + [1.0] * len(rest)
    game = PasswordGame(6, int(generator.integers(2**31)), 0.125)
    for prompt, secret, leak in zip(game.prompts, game.secrets, game.leaks, strict=True):
        examples += [
            Example(prompt, tell(secret, generator), "attempt", secret),
            Example(prompt, refuse(generator), "attempt", secret),
        ]
        weights += [float(leak), float(1.0 - leak)]
    return examples, weights
