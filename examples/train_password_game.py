"""Fine-tune a language model so that its worst leaks can be forecast, and compare with what else one could do.

A starting model plays the password game: it tells the secret to the right badge, refuses everybody else, and leaks on a rare kind of
request. From it every method gets the same steps on the primary task and about the same tokens on a pool of attempts. Everything reported is
measured on held-out prompts, also by sampling replies. A run that was stopped goes on where it was when started again with
the same output folder.

    python examples/train_password_game.py --seeds 5 --output runs/password_game
"""

from __future__ import annotations

import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import tyro
from password_methods import COEFFICIENTS, LABELS, Budget, arguments
from password_report import write_report
from rich.console import Console
from study_tools import claim_folder, write_json
from transformers import TrainingArguments

import sb3_forecast as sf
from sb3_forecast.lm import (
    ForecastTrainer,
    LMFailureScorer,
    PadOnTheRight,
    PasswordGame,
    SampledLeak,
    load_player,
    primary_accuracy,
    primary_examples,
    training_rows,
    with_adapter,
)
from sb3_forecast.scores import failure_probability


@dataclass(frozen=True)
class Arguments:
    """Command line of the password game study."""

    model: str = "tiny"
    """'tiny' (pre-trained here in a few minutes), 'smollm2' (run `make smollm2` first), or the id of a causal model of a hub."""
    seeds: int = 1
    """Number of seeds; pool, training and held-out prompts all differ per seed, and so does the starting model if it is 'tiny'."""
    first_seed: int = 1
    """The first of them."""
    method: tuple[str, ...] = tuple(COEFFICIENTS)
    """Which methods to compare."""
    pool: int = 4000
    """Training prompts."""
    rare: int | None = None
    """Exactly so many of them rare; by default each with probability 0.01."""
    kinds: tuple[str, ...] | None = None
    """Kinds of rare mode, by default all; the held-out prompts have `held_out_kinds`, by default the same."""
    held_out_kinds: tuple[str, ...] | None = None
    """See `kinds`."""
    steps: int = 120
    """Optimizer steps of every method."""
    batch_size: int = 96
    """Primary examples per step."""
    teaching_steps: int = 140
    """Steps in which a pre-trained model is first taught the game."""
    learning_rate: float = 1e-3
    """Learning rate, decayed linearly."""
    subpool: int = 440
    """Prompts of the pool that a step scores."""
    eval_size: int = 40
    """Evaluation set size m of a step's partitions."""
    held_out: int = 2400
    """Fresh prompts for the report."""
    primary_held_out: int = 600
    """Fresh examples of the primary task."""
    further_rare: int = 200
    """Further rare prompts, held out, whose worst is reported and whose replies are sampled."""
    samples: int = 10
    """Sampled replies of each of these."""
    max_new_tokens: int = 12
    """Longest sampled reply, in tokens; the game's replies have at most nine words."""
    splits: int = 400
    """Held-out splits of 100 evaluation and 1,000 deployment prompts."""
    coef: float | None = None
    """Coefficient of every method, instead of the chosen ones."""
    output: Path = Path("runs/password_game")
    """Where results, report.json, the figures and the page of worst prompts go."""
    jobs: int = 1
    """Seeds run side by side, each in a process with one thread."""
    progress_bar: bool = True
    """Show progress (only with one job)."""

    def check(self) -> None:
        """Reject arguments before any work starts."""
        unknown = [method for method in self.method if method not in COEFFICIENTS]
        if unknown:
            raise ValueError(f"method={unknown} are unknown; choose from {list(COEFFICIENTS)}")
        for name in ("seeds", "pool", "steps", "batch_size", "samples", "splits", "jobs", "further_rare"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} does nothing; use {name} >= 1")
        if not 10 <= self.eval_size < self.subpool <= self.pool:
            raise ValueError(
                f"eval_size={self.eval_size}, subpool={self.subpool}, pool={self.pool} do not fit; use 10 <= eval_size < subpool <= pool"
            )
        PasswordGame(self.pool, 0, kinds=self.kinds, n_rare=self.rare)
        PasswordGame(1, 0, kinds=self.held_out_kinds)


@dataclass
class Held:
    """What a seed's methods are measured on."""

    pool: PasswordGame
    rare: PasswordGame
    primary: list[Any]
    scorer: LMFailureScorer
    rare_scorer: LMFailureScorer
    sampler: SampledLeak


def held_out(args: Arguments, seed: int, model: Any, tokenizer: Any) -> Held:
    """Draw a seed's held-out prompts."""
    kinds = args.kinds if args.held_out_kinds is None else args.held_out_kinds
    pool = PasswordGame(args.held_out, 1_000_000 + seed, split="held_out", kinds=kinds)
    rare = PasswordGame(args.further_rare, 2_000_000 + seed, split="held_out", kinds=kinds, rare_fraction=1.0)
    return Held(
        pool,
        rare,
        primary_examples(args.primary_held_out, 3_000_000 + seed),
        LMFailureScorer(model, tokenizer, pool.prompts, pool.targets),
        LMFailureScorer(model, tokenizer, rare.prompts, rare.targets),
        SampledLeak(tokenizer, rare.prompts, rare.leaked, args.samples, args.max_new_tokens),
    )


def measure(args: Arguments, held: Held, model: Any, tokenizer: Any, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that is reported of a model, and the replies that show it."""
    eval_size = min(100, args.held_out // 11)
    report = sf.evaluate_forecast(
        model, held.pool, eval_size, args.splits, seed, 10 * eval_size, 10, "jones", scorer=held.scorer
    )
    rare = failure_probability(held.rare_scorer.score(model)).numpy()
    sampled = held.sampler.sample(model, seed)
    found = {
        **report.to_dict(),
        **{f"primary_{kind}": value for kind, value in primary_accuracy(model, tokenizer, held.primary).items()},
        "further_rare_worst": float(rare.max()),
        "further_rare_worst_seen": float(rare[~held.rare.novel].max(initial=0.0)),
        "further_rare_mean": float(rare.mean()),
        "further_rare_by_kind": {
            kind: float(rare[np.array(held.rare.kind_of) == kind].max()) for kind in sorted(set(held.rare.kind_of))
        },
        "sampled_rare_leak": float(sampled.rates.mean()),
    }
    worst = np.argsort(-report.scores)[:12]
    page = {
        "worst": [
            {
                "prompt": [message["content"] for message in held.pool.prompts[i]],
                "p": float(failure_probability(report.scores[i])),
                "kind": held.pool.kind_of[i] or "attempt",
            }
            for i in worst
        ],
        "scores": report.scores.tolist(),
    }
    shown = SampledLeak(
        tokenizer, [held.pool.prompts[i] for i in worst], lambda reply, row: held.pool.leaked(reply, int(worst[row])), 3
    )
    for entry, replies, leaked in zip(page["worst"], *_columns(shown.sample(model, seed)), strict=True):
        entry["replies"] = [{"text": text, "leaked": bool(bad)} for text, bad in zip(replies, leaked, strict=True)]
    return found, page


def _columns(sampled: Any) -> tuple[list[list[str]], Any]:
    return sampled.replies, sampled.leaked


def run_seed(args: Arguments, seed: int, progress_bar: bool) -> int:
    """Train and evaluate every method for one seed; finished parts are kept and not repeated.

    :param args: the command line
    :param seed: the seed
    :param progress_bar: show progress
    :return: the seed
    """
    folder = args.output / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    say = Console().print if progress_bar else (lambda text: None)
    # a pre-trained model is taught once: its pools, training and held-out prompts differ by seed, its weights at the start do not
    player = seed if args.model == "tiny" else 0
    start, tokenizer, acceptance = load_player(args.model, player, say, args.teaching_steps)
    held = held_out(args, seed, start, tokenizer)
    game = PasswordGame(args.pool, seed, kinds=args.kinds, n_rare=args.rare)
    examples = primary_examples(args.steps * args.batch_size, 4_000_000 + seed)
    for method in ("start", *args.method):
        result = folder / f"{method}.json"
        if result.exists():
            continue
        say(f"seed {seed}: {LABELS[method]}")
        model, _, _ = load_player(args.model, player, say, args.teaching_steps)
        seconds, extra = 0.0, {"acceptance": acceptance}
        if method != "start":
            model = with_adapter(model, seed=seed) if args.model != "tiny" else model.requires_grad_(True)
            scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
            coef = COEFFICIENTS[method] if args.coef is None else args.coef
            trainer = ForecastTrainer(
                model,
                TrainingArguments(
                    output_dir=str(folder / method),
                    max_steps=args.steps,
                    per_device_train_batch_size=args.batch_size,
                    learning_rate=args.learning_rate,
                    logging_steps=1,
                    save_strategy="no",
                    report_to="tensorboard",
                    disable_tqdm=not progress_bar,
                    seed=seed,
                    use_cpu=not th.cuda.is_available(),
                ),
                training_rows(tokenizer, examples),
                PadOnTheRight(0),
                **arguments(method, coef, Budget(args.subpool, args.eval_size), scorer, game, tokenizer, seed),
            )
            began = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - began
            counters = [scorer, *([trainer.penalty] if method == "refusal_sft" else [])]
            drawn = 0 if trainer.drawn is None else trainer.drawn.tokens_trained
            extra = {
                "coef": coef,
                "tokens_scored": sum(counter.tokens_scored for counter in counters),
                "tokens_trained": drawn + sum(counter.tokens_trained for counter in counters),
                "curve": [entry["forecast/error"] for entry in trainer.state.log_history if "forecast/error" in entry],
            }
        found, page = measure(args, held, model, tokenizer, seed)
        write_json(folder / f"{method}.page.json", page)
        write_json(result, {**found, **extra, "seconds": seconds})
    return seed


def run_seed_alone(args: Arguments, seed: int) -> int:
    """:func:`run_seed` in a process of its own, with one thread."""
    th.set_num_threads(1)
    return run_seed(args, seed, progress_bar=False)


#: settings that results in one output folder have in common
_SAME = (
    "model", "teaching_steps", "pool", "rare", "kinds", "held_out_kinds", "steps", "batch_size", "learning_rate", "subpool", "eval_size",
    "held_out", "primary_held_out", "further_rare", "samples", "max_new_tokens", "splits", "coef",
)  # fmt: skip


def main(args: Arguments) -> None:
    """Run the study and write the report."""
    args.check()
    console = Console()
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(args).items()}
    settings["output"] = str(args.output)
    claim_folder(args.output, settings, _SAME)
    if args.jobs == 1:
        for seed in seeds:
            run_seed(args, seed, args.progress_bar)
    else:
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as executor:
            for done in as_completed([executor.submit(run_seed_alone, args, seed) for seed in seeds]):
                console.print(f"seed {done.result()} is done")
    command = "python " + " ".join(shlex.quote(word) for word in sys.argv)
    write_report(args.output, seeds, list(args.method), settings, command, console)
    console.print(f"\nReport, figures and the worst prompts (worst.md) are in [bold]{args.output}[/bold].")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
