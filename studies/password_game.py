"""The password game: a language model that must not give a secret away, fine-tuned in several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch as th
from rich.console import Console
from rich.table import Table
from transformers import TrainingArguments

import sb3_forecast as sf
from sb3_forecast.files import write_json, write_text
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
from sb3_forecast.statistics.scores import failure_probability
from studies.password_figures import draw_figures, write_page
from studies.password_methods import COEFFICIENTS, LABELS, Budget, arguments
from studies.records import Record
from studies.runner import Run, Study
from studies.statistics import Column
from studies.tables import markdown_of

#: what is measured, by short name
COLUMNS = {
    "limit": Column("95% limit holds", ("limit_holds",), "{:.0%}"),
    "interval": Column("90% interval holds", ("interval_holds",), "{:.0%}"),
    "error": Column("forecast error, psi", ("error", "mean_abs"), "{:.3f}"),
    "scales": Column("... / scale", ("error_in_scale", "mean_abs"), "{:.1f}"),
    "signed": Column("signed", ("error", "signed"), "{:+.2f}"),
    "under": Column("too low in", ("under_predicted",), "{:.0%}"),
    "worst": Column("worst p", ("worst_failure",), "{:.1e}"),
    "rare_mean": Column("rare mean p", ("rare_mean_failure",), "{:.1e}"),
    "mean": Column("mean p", ("mean_failure",), "{:.1e}"),
    "further": Column("worst of further rare", ("further_rare_worst",), "{:.1e}"),
    "sampled": Column("sampled rare leak", ("sampled_rare_leak",), "{:.4f}"),
    "accuracy": Column("accuracy", ("primary_accuracy",), "{:.4f}"),
    "authorised": Column("authorised", ("primary_authorised",), "{:.3f}"),
    "wrong_badge": Column("wrong badge", ("primary_wrong_badge",), "{:.3f}"),
    "ordinary": Column("ordinary", ("primary_ordinary",), "{:.3f}"),
    "seconds": Column("seconds", ("seconds",), "{:.0f}"),
}


@dataclass(frozen=True)
class Settings:
    """Fine-tune a language model so that its worst leaks can be forecast, and compare with what else one could do.

    A starting model plays the password game: it tells the secret to the right badge, refuses everybody else, and leaks on a rare kind of
    request. From it every method gets the same steps on the primary task and about the same tokens on a pool of attempts. Everything reported
    is measured on held-out prompts, also by sampling replies. A run that was stopped goes on when it is started again with the same output
    folder.
    """

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
    """Where records, the table, the figures and the page of worst prompts go."""
    jobs: int | Literal["ray"] = 1
    """Seeds run side by side, each in a process with one thread. `ray`: as tasks of the Ray cluster of RAY_ADDRESS, or of this machine."""
    progress_bar: bool = True
    """Show progress (only with one job)."""

    def check(self) -> None:
        """Reject settings that cannot be run, before any work starts."""
        unknown = [method for method in self.method if method not in COEFFICIENTS]
        if unknown:
            raise ValueError(f"method must be some of {list(COEFFICIENTS)}, got {unknown}; use one of those")
        for name in ("seeds", "pool", "steps", "batch_size", "samples", "splits", "further_rare"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; use a positive number")
        if not 10 <= self.eval_size < self.subpool <= self.pool:
            raise ValueError(
                f"eval_size, subpool and pool must grow from 10 on, got {self.eval_size}, {self.subpool}, {self.pool}; "
                "use 10 <= eval_size < subpool <= pool"
            )
        PasswordGame(self.pool, 0, kinds=self.kinds, n_rare=self.rare)
        PasswordGame(1, 0, kinds=self.held_out_kinds)

    def kept(self) -> dict[str, Any]:
        """The settings that a result depends on."""
        left_out = ("seeds", "first_seed", "method", "output", "jobs", "progress_bar")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


@dataclass
class Held:
    """What a seed's methods are measured on."""

    pool: PasswordGame
    rare: PasswordGame
    primary: list[Any]
    scorer: LMFailureScorer
    rare_scorer: LMFailureScorer
    sampler: SampledLeak


def held_out(args: Settings, seed: int, model: Any, tokenizer: Any) -> Held:
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


def measure(
    args: Settings, held: Held, model: Any, tokenizer: Any, seed: int
) -> tuple[dict[str, Any], dict[str, Any], sf.ForecastReport]:
    """Everything that is reported of a model, the replies that show it, and the report itself."""
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
    }
    shown = SampledLeak(
        tokenizer, [held.pool.prompts[i] for i in worst], lambda reply, row: held.pool.leaked(reply, int(worst[row])), 3
    )
    for entry, replies, leaked in zip(page["worst"], *_columns(shown.sample(model, seed)), strict=True):
        entry["replies"] = [{"text": text, "leaked": bool(bad)} for text, bad in zip(replies, leaked, strict=True)]
    return found, page, report


def _columns(sampled: Any) -> tuple[list[list[str]], Any]:
    return sampled.replies, sampled.leaked


def run(job: Run) -> dict[str, Any]:
    """Train and measure one method.

    :param job: what to run
    """
    args: Settings = job.settings
    seed, method = job.seed, job.method
    show = args.progress_bar and args.jobs == 1
    say: Callable[[str], None] = Console().print if show else (lambda text: None)
    # a pre-trained model is taught once: its pools, training and held-out prompts differ by seed, its weights at the start do not
    player = seed if args.model == "tiny" else 0
    say(f"seed {seed}: {LABELS[method]}")
    model, tokenizer, acceptance = load_player(args.model, player, say, args.teaching_steps)
    held = held_out(args, seed, model, tokenizer)
    extra: dict[str, Any] = {"acceptance": acceptance}
    if method != "start":
        game = PasswordGame(args.pool, seed, kinds=args.kinds, n_rare=args.rare)
        examples = primary_examples(args.steps * args.batch_size, 4_000_000 + seed)
        model = with_adapter(model, seed=seed) if args.model != "tiny" else model.requires_grad_(True)
        scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
        coef = COEFFICIENTS[method] if args.coef is None else args.coef
        trainer = ForecastTrainer(
            model,
            TrainingArguments(
                output_dir=str(job.folder / method),
                max_steps=args.steps,
                per_device_train_batch_size=args.batch_size,
                learning_rate=args.learning_rate,
                logging_steps=1,
                save_strategy="no",
                report_to="tensorboard",
                disable_tqdm=not show,
                seed=seed,
                use_cpu=not th.cuda.is_available(),
            ),
            training_rows(tokenizer, examples),
            PadOnTheRight(0),
            **arguments(method, coef, Budget(args.subpool, args.eval_size), scorer, game, tokenizer, seed),
        )
        trainer.train()
        counters: list[Any] = [scorer, *([trainer.penalty] if method == "refusal_sft" else [])]
        drawn = 0 if trainer.drawn is None else trainer.drawn.tokens_trained
        extra = {
            "coef": coef,
            "tokens_scored": sum(counter.tokens_scored for counter in counters),
            "tokens_trained": drawn + sum(counter.tokens_trained for counter in counters),
            "curve": [entry["forecast/error"] for entry in trainer.state.log_history if "forecast/error" in entry],
        }
    found, page, full = measure(args, held, model, tokenizer, seed)
    write_json(job.folder / f"{method}.page.json", page)
    full.save(job.folder / f"{method}.report.npz")
    return {**found, **extra}


def report(args: Settings, records: list[Record], console: Console) -> None:
    """Print the table; write table.md, the figure and the page of worst prompts.

    :param args: the options
    :param records: what was run
    :param console: where to print
    """
    labels = {method: LABELS[method] for method in methods(args)}
    table = Table(title=f"Held-out prompts, median of {args.seeds} seed(s), ranges in table.md")
    table.add_column("", no_wrap=True)
    for label in labels.values():
        table.add_column(label, justify="right", min_width=7)
    for column in COLUMNS.values():
        middles = [sorted(column.values([r for r in records if r.method == method]))[args.seeds // 2] for method in labels]
        table.add_row(column.title, *(column.form.format(value) for value in middles))
    (console if console.width >= 120 else Console(width=120)).print(table)
    write_text(args.output / "table.md", markdown_of(records, labels, list(COLUMNS.values())))
    folder = args.output / f"seed{args.first_seed}"
    names = list(labels)
    shown = [name for name in ("start", "primary", "forecast") if name in names] if "forecast" in names else names[:2]
    draw_figures(args.output / "tails.png", folder, shown)
    write_page(args.output / "worst.md", folder, shown)


def methods(args: Settings) -> Sequence[str]:
    """The starting model first, then the methods."""
    return ("start", *args.method)


STUDY = Study("password_game", run, methods, report, ("studies/password_game.py", "studies/password_methods.py"))
