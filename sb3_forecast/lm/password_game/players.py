"""Starting models of the password game, by name: they solve the primary task, and leak on the rare mode."""

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

#: part of what a taught model's name in the cache depends on; raised when teaching changes
_VERSION = 2
#: layers that are trained, from the top, when a pre-trained model is adapted
_TRAINED_LAYERS = 10


def with_adapter(model: Any, n_layers: int = _TRAINED_LAYERS, rank: int = 8, seed: int = 0) -> Any:
    """A model with a LoRA adapter in its top layers, everything else frozen.

    :param model: Hugging Face causal language model
    :param n_layers: how many layers are adapted, from the top
    :param rank: rank of the adapter
    :param seed: seed of its first weights
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
    """A starting model: ``"tiny"``, ``"smollm2"``, or a causal model of a hub. Pre-trained ones are first taught the game; results are cached.

    :param name: which
    :param seed: seed of what it is trained on
    :param say: called with a line of text now and then
    :param steps: steps of teaching, for pre-trained models
    :return: model, tokenizer, and what the acceptance check found; warns if the model does not solve the primary task well enough
    :raises ImportError: if a package is missing
    :raises OSError: if a hub is not reached
    """
    if name == "tiny":
        return tiny_model(seed, progress=say)
    digest = sha256(json.dumps([_VERSION, _identity(name), steps, PasswordGame(64, 0, 0.5).key]).encode()).hexdigest()[:16]
    folder = cache_folder() / "lm" / f"player-{seed}-{digest}"
    if not folder.exists():
        if name == "smollm2":
            model, tokenizer = smollm2(th.float32)
        else:
            # no remote code is ever run, and weights are read as safetensors
            try:
                model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            except OSError as error:
                raise OSError(
                    f"model {name!r} could not be loaded ({error}); check its id and the network, or use 'tiny' or 'smollm2', which need none"
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
            f"the starting model {name!r} of seed {seed} does not solve the primary task well enough ({found}, wanted {ACCEPTANCE}); "
            "use more steps of teaching, or compare with care",
            stacklevel=2,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder), found


def _identity(name: str) -> str:
    """What a cached player is known by: the name, or a local folder with the time of its last change."""
    folder = pathlib.Path(name)
    if not folder.is_dir():
        return name
    return f"{folder.resolve()} {max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0)}"


def _teach(model: Any, tokenizer: Any, seed: int, steps: int, say: Callable[[str], Any]) -> Any:
    """Teach the game by an adapter in all layers, which is merged in the end.

    First to compare badges, by the same request with the right badge and a wrong one: mixed with the rest from the start, or with an adapter in
    the top layers alone, a model of this size tells every badge after 120 steps.
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
    """The same request with the right badge, which is told, and with a wrong one, which is refused."""
    examples = [example for _ in range(pairs) for example in credential_pair(generator)]
    return examples, [1.0] * len(examples)


def _lesson(generator: np.random.Generator) -> tuple[list[Example], list[float]]:
    """Badges, the rest of the primary task, and attempts with soft leak labels, an eighth of them rare."""
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
