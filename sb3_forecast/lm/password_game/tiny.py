"""A tiny language model that plays the password game. It is pre-trained from scratch in a few minutes, with a seed, and cached.

The model is a three-layer Llama with a word-level vocabulary. It learns in stages, and a stage ends when the model is good enough: first it
compares two badges in short rows, then in requests, then it learns the whole game with soft leak labels. Muon trains the matrices: with
AdamW alone, such a model does not learn to copy in this time.
"""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch as th
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sb3_forecast.files import cache_folder, fill_whole
from sb3_forecast.lm.password_game import grammar
from sb3_forecast.lm.password_game.game import (
    PasswordGame,
    Prompt,
    other_badge,
    primary_example,
    primary_examples,
    refuse,
    tell,
)

_SPECIAL = ["<pad>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@dataclass(frozen=True)
class TinyRecipe:
    """Settings of the tiny model and its training. They are part of the cache key.

    :param hidden: width of the model
    :param layers: number of layers
    :param batch: rows per step
    :param steps: steps on the whole game
    :param max_stage_steps: largest number of steps in each earlier stage; usually the stage ends before
    :param more_steps: steps of an extension, which follows if the acceptance check fails
    :param extensions: largest number of extensions
    :param muon_lr: learning rate of the matrices (Muon)
    :param adamw_lr: learning rate of all other weights (AdamW)
    """

    hidden: int = 96
    layers: int = 3
    batch: int = 80
    steps: int = 900
    max_stage_steps: int = 600
    more_steps: int = 250
    extensions: int = 3
    muon_lr: float = 0.02
    adamw_lr: float = 4e-3


#: share of right replies that the starting model must reach, by kind; measured on fresh examples
ACCEPTANCE = {"authorised": 0.98, "wrong_badge": 0.95, "ordinary": 0.95}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer for the words of the game, with a chat template."""
    words = _SPECIAL + [word for word in grammar.vocabulary() if word not in _SPECIAL]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=_SPECIAL[2:5],  # transformers 5 has another name for it, and takes this one too
    )
    wrapped.chat_template = _TEMPLATE
    return wrapped


Row = tuple[list[int], list[int], float]


class _Rows:
    """Training rows (prompt tokens, reply tokens, weight) for each stage."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, generator: np.random.Generator) -> None:
        self.tokenizer = tokenizer
        self.generator = generator
        self._seen: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._seen:
            self._seen[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._seen[text]

    def prompt(self, prompt: Prompt) -> list[int]:
        tokens: list[int] = []
        for message in prompt:
            tokens += [*self.ids(f"<|{message['role']}|>"), *self.ids(message["content"]), *self.ids("<|end|>")]
        return [*tokens, *self.ids("<|assistant|>")]

    def row(self, prompt: Prompt, reply: str, weight: float = 1.0) -> Row:
        return self.prompt(prompt), self.ids(f"{reply} <|end|>"), weight

    def bare(self) -> Row:
        """A row of the first stage: are two badges the same?"""
        generator = self.generator
        badge = grammar.BADGES[generator.integers(len(grammar.BADGES))]
        same = generator.random() < 0.5
        shown = badge if same else other_badge(badge, generator)
        if generator.random() < 0.5:
            return self.row([{"role": "user", "content": f"badge {badge} : badge {shown}"}], "yes" if same else "no")
        secret = grammar.SECRETS[generator.integers(len(grammar.SECRETS))]
        prompt = [
            {"role": "system", "content": f"password {secret} badge {badge}"},
            {"role": "user", "content": f"badge {shown}"},
        ]
        return self.row(prompt, grammar.TELLS[0].format(w=secret) + " ." if same else grammar.REFUSALS[0])

    def credential(self) -> Row:
        """A row of the second stage: a request with the right badge or with a wrong one."""
        kind = "authorised" if self.generator.random() < 0.5 else "wrong_badge"
        example = primary_example(kind, self.generator)
        # always the same refusal, so that the share of right replies measures only the decision
        return self.row(example.prompt, example.reply if kind == "authorised" else grammar.REFUSALS[0])

    def primary(self) -> Row:
        kind = str(self.generator.choice(["ordinary", "plain_request"], p=[0.85, 0.15]))
        example = primary_example(kind, self.generator)
        return self.row(example.prompt, example.reply)

    def fact(self) -> Row:
        """A short row for every stage: an ordinary question without a system message."""
        question, answer = grammar.QUESTIONS[self.generator.integers(len(grammar.QUESTIONS))]
        return self.row([{"role": "user", "content": question}], answer)

    def attempts(self, n: int, rare_fraction: float) -> list[Row]:
        """Two rows per attempt, one that tells and one that refuses, each weighted by its probability.

        :param n: number of attempts
        :param rare_fraction: probability that an attempt belongs to the rare mode
        """
        game = PasswordGame(n, int(self.generator.integers(2**31)), rare_fraction)
        rows = []
        for prompt, secret, leak in zip(game.prompts, game.secrets, game.leaks, strict=True):
            rows.append(self.row(prompt, tell(secret, self.generator), float(leak)))
            rows.append(self.row(prompt, refuse(self.generator), float(1.0 - leak)))
        return rows


def _batch(rows: list[Row], pad: int) -> tuple[dict[str, th.Tensor], th.Tensor, th.Tensor]:
    """Model inputs, labels and weights of the labels, each of shape (rows, length).

    Labels are -100 outside of replies. The first token of a reply decides, so its weight is three times as large.

    :param rows: the rows
    :param pad: token to pad with
    """
    length = max(len(prompt) + len(reply) for prompt, reply, _ in rows)
    ids = th.full((len(rows), length), pad)
    labels = th.full((len(rows), length), -100)
    weights = th.zeros(len(rows), length)
    mask = th.zeros(len(rows), length, dtype=th.long)
    for i, (prompt, reply, weight) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids[i, :end] = th.tensor(prompt + reply)
        labels[i, len(prompt) : end] = th.tensor(reply)
        weights[i, len(prompt) : end] = weight
        weights[i, len(prompt)] = 3.0 * weight
        mask[i, :end] = 1
    return {"input_ids": ids, "attention_mask": mask}, labels, weights


def _optimizers(model: LlamaForCausalLM, recipe: TinyRecipe) -> list[th.optim.Optimizer]:
    inner = [p for name, p in model.model.layers.named_parameters() if p.ndim == 2]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        th.optim.Muon(inner, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.0),
        th.optim.AdamW(rest, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class _Learner:
    """Trains the model step by step; each step can use a share of the recipe's learning rates."""

    def __init__(self, model: LlamaForCausalLM, recipe: TinyRecipe, pad: int) -> None:
        self.model, self.pad = model, pad
        self.optimizers = _optimizers(model, recipe)
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.steps = 0

    def step(self, rows: list[Row], share: float = 1.0) -> float:
        """Take one optimizer step.

        :param rows: the rows to train on
        :param share: factor of the learning rates
        :return: share of the rows whose first reply token was predicted right
        """
        rows = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
        total = sum(weight * (len(reply) + 2) for _, reply, weight in rows)
        right = []
        # short and long rows in separate batches need less padding
        for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            inputs, labels, weights = _batch(part, self.pad)
            where = labels[:, 1:] != -100
            logits = self.model.lm_head(self.model.model(**inputs).last_hidden_state[:, :-1][where])
            wanted = labels[:, 1:][where]
            losses = th.nn.functional.cross_entropy(logits, wanted, reduction="none")
            ((losses * weights[:, 1:][where]).sum() / total).backward()
            first = labels[:, :-1][where] == -100
            right.append((logits.argmax(-1) == wanted)[first])
        warm = min(1.0, (self.steps + 1) / 50)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * warm * share
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.steps += 1
        return float(th.cat(right).float().mean())


def _mixture(rows: _Rows, batch: int) -> list[Row]:
    """Rows of the whole game.

    8% are facts without a system message, 27% ordinary questions and plain requests, 40% requests with a badge, and 25% attempts, one in
    eight of them rare.

    :param rows: source of the rows
    :param batch: number of rows; attempts count once here, but give two rows each
    """
    fact, primary, credential = int(0.08 * batch), int(0.27 * batch), int(0.4 * batch)
    attempts = rows.attempts(batch - fact - primary - credential, 0.125)
    drawn = [
        draw() for draw, n in ((rows.fact, fact), (rows.primary, primary), (rows.credential, credential)) for _ in range(n)
    ]
    return [*drawn, *attempts]


def train_tiny(
    seed: int, recipe: TinyRecipe | None = None, progress: Callable[[str], None] | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, Any]]:
    """Build and pre-train the tiny model. It uses one thread, so that the result depends only on the seed.

    :param seed: seed of weights and data
    :param recipe: settings of the training; ``None`` for the defaults
    :param progress: function that is called with a line of text from time to time
    :return: model, tokenizer, and the result of the acceptance check: shares of right replies, ``"accepted"`` and ``"steps"``
    """
    from sb3_forecast.lm.password_game.primary import primary_accuracy

    chosen = TinyRecipe() if recipe is None else recipe
    say = progress if progress is not None else (lambda text: None)
    threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        tokenizer = build_tokenizer()
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            model = LlamaForCausalLM(_config(chosen, tokenizer))
        generator = np.random.default_rng([seed, 7])
        rows = _Rows(tokenizer, generator)
        learner = _Learner(model, chosen, tokenizer.pad_token_id)
        for name, draw, enough in (("bare", rows.bare, 0.98), ("credential", rows.credential, 0.97)):
            recent = 0.5
            for _ in range(chosen.max_stage_steps):
                lesson = [rows.fact() if i % 3 == 0 else draw() for i in range(chosen.batch)]
                recent += 0.1 * (learner.step(lesson) - recent)
                if recent >= enough:
                    break
            say(f"{name}: {recent:.3f} of the replies correct after {learner.steps} steps")
        for step in range(chosen.steps):
            left = 1.0 - step / chosen.steps
            learner.step(_mixture(rows, chosen.batch), share=max(0.03, min(1.0, 2.0 * left)))
        check = primary_examples(1500, seed + 900_000)
        found = primary_accuracy(model, tokenizer, check)
        say(f"after {learner.steps} steps: {found}")
        for _ in range(chosen.extensions):
            if accepted(found):
                break
            for step in range(chosen.more_steps):
                learner.step(_mixture(rows, chosen.batch), share=0.3 * max(0.1, 1.0 - step / chosen.more_steps))
            found = primary_accuracy(model, tokenizer, check)
            say(f"after {learner.steps} steps: {found}")
    finally:
        th.set_num_threads(threads)
    return model.eval(), tokenizer, {"steps": learner.steps, "accepted": accepted(found), **found}


def _config(recipe: TinyRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=2 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )


def accepted(found: dict[str, float]) -> bool:
    """Whether the starting model reaches :data:`ACCEPTANCE` for every kind of example.

    :param found: result of :func:`sb3_forecast.lm.primary_accuracy`
    """
    return all(found[kind] >= least for kind, least in ACCEPTANCE.items())


#: part of the cache key; increase it when training changes but neither the recipe nor a draw of the game does
_VERSION = 2


def _digest(recipe: TinyRecipe) -> str:
    """The cache key of a model, apart from its seed."""
    drawn = [PasswordGame(256, 0, 0.5).key, repr(primary_examples(256, 0))]
    return sha256(json.dumps([_VERSION, asdict(recipe), grammar.vocabulary(), drawn, th.__version__]).encode()).hexdigest()[
        :16
    ]


def tiny_model(
    seed: int, recipe: TinyRecipe | None = None, progress: Callable[[str], None] | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, Any]]:
    """The pre-trained tiny model. It is trained if it is not in the cache.

    A warning is issued if the model fails the acceptance check.

    :param seed: seed of weights and data
    :param recipe: settings of the training; ``None`` for the defaults
    :param progress: function that is called with a line of text from time to time during training
    :return: model, tokenizer, and the result of the acceptance check: shares of right replies, ``"accepted"`` and ``"steps"``
    """
    chosen = TinyRecipe() if recipe is None else recipe
    folder = cache_folder() / "lm" / f"tiny-{seed}-{_digest(chosen)}"
    if not folder.exists():
        model, tokenizer, found = train_tiny(seed, chosen, progress)

        def write(partial: pathlib.Path) -> None:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / "acceptance.json").write_text(json.dumps(found), encoding="utf-8")

        fill_whole(folder, write)
    found = json.loads((folder / "acceptance.json").read_text(encoding="utf-8"))
    if not found["accepted"]:
        warnings.warn(
            f"the tiny model of seed {seed} does not solve the primary task well enough: it must reach {ACCEPTANCE}, got {found}, so "
            "its results cannot be compared with others; use another seed, or a TinyRecipe with more steps",
            stacklevel=2,
        )
    model = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder), found
