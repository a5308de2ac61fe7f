"""ForecastTrainer: plain Trainer without the forecast, exact resume, the two-pass gradient, logs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
import transformers
from transformers import Trainer, TrainingArguments

import sb3_forecast as sf
from sb3_forecast.files import write_whole
from sb3_forecast.lm import (
    ForecastPenalty,
    ForecastTrainer,
    LMFailureScorer,
    PadOnTheRight,
    RefusalPenalty,
    ShardedScorer,
    WorstScoresLoss,
    last_whole_checkpoint,
    primary_examples,
    training_rows,
    with_adapter,
)

from .conftest import random_llama

V4 = transformers.__version__.startswith("4.")

SMALL = {"eval_size": 10, "k": 4, "n_partitions": 8, "subpool": 40}


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 3,
    }  # fmt: skip
    return TrainingArguments(**(settings | changes))


@pytest.fixture(scope="session")
def rows(tokenizer):
    return training_rows(tokenizer, primary_examples(64, 0))


def scorer_of(model, tokenizer, game):
    return LMFailureScorer(model, tokenizer, game.prompts, game.targets)


def weights_of(model):
    return th.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def test_without_forecast_it_is_trainer(tmp_path, tokenizer, rows):
    ours, theirs = random_llama(len(tokenizer)), random_llama(len(tokenizer))
    ForecastTrainer(ours, arguments(tmp_path / "a"), rows, PadOnTheRight(0), forecast_coef=0.0).train()
    Trainer(theirs, arguments(tmp_path / "b"), PadOnTheRight(0), rows).train()
    assert th.equal(weights_of(ours), weights_of(theirs))


def test_same_seed_same_result(tmp_path, tokenizer, game, rows):
    found = []
    for name in ("a", "b"):
        model = random_llama(len(tokenizer))
        ForecastTrainer(
            model, arguments(tmp_path / name), rows, PadOnTheRight(0), scorer=scorer_of(model, tokenizer, game), **SMALL
        ).train()
        found.append(weights_of(model))
    assert th.equal(*found)
    assert not th.equal(found[0], weights_of(random_llama(len(tokenizer))))


def test_resume_is_exact(tmp_path, tokenizer, game, rows):
    def trainer(folder, steps):
        model = random_llama(len(tokenizer))
        settings = arguments(folder, max_steps=steps, save_strategy="steps", save_steps=3, lr_scheduler_type="constant")
        scorer, wanted = scorer_of(model, tokenizer, game), training_rows(tokenizer, game.refusals(0))
        return ForecastTrainer(model, settings, rows, PadOnTheRight(0), scorer=scorer, wanted=wanted, drawn_rows=4, **SMALL)

    whole = trainer(tmp_path / "whole", 6)
    whole.train()
    first = trainer(tmp_path / "parts", 3)
    first.train()
    second = trainer(tmp_path / "parts", 6)
    second.train(resume_from_checkpoint=last_whole_checkpoint(tmp_path / "parts"))
    assert th.equal(weights_of(whole.model), weights_of(second.model))
    # a checkpoint that was not written to its end is passed over, and refused when named
    newest = tmp_path / "parts" / "checkpoint-6"
    os.remove(newest / "forecast_state.pt")
    assert last_whole_checkpoint(tmp_path / "parts") == str(tmp_path / "parts" / "checkpoint-3")
    with pytest.raises(ValueError, match=r"must be a whole checkpoint of ForecastTrainer, got .* without forecast_state.pt"):
        trainer(tmp_path / "parts", 7).train(resume_from_checkpoint=str(newest))
    assert last_whole_checkpoint(tmp_path / "nothing") is None


def test_the_gradient_is_that_of_the_objective(tokenizer, game):
    """Two passes and micro-batches give the gradient of the whole graph."""
    model = random_llama(len(tokenizer))
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets, max_tokens=300)
    objective = sf.ForecastObjective(ShardedScorer(scorer), sf.ForecastLoss(10, 4, 8, "squared"), seed=1, subpool=40)
    metrics = ForecastPenalty(objective).accumulate(model)
    in_parts = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    loss = objective.loss(model)
    loss.backward()
    assert loss.item() == pytest.approx(metrics["forecast/loss"], rel=1e-5)
    for parameter, gradient in zip(model.parameters(), in_parts, strict=True):
        assert th.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_guarded_leaves_nothing_to_raise(tokenizer, game):
    model = random_llama(len(tokenizer))
    objective = sf.ForecastObjective(ShardedScorer(scorer_of(model, tokenizer, game)), sf.ForecastLoss(10, 4, 8), seed=1)
    objective.refresh(model)
    tasks, weights = objective.active
    assert len(tasks) > 0
    assert bool((weights > 0).all())
    assert set(tasks) <= set(objective.touched)


def test_it_lowers_the_worst_leak(tmp_path, tokenizer, game, rows):
    model = random_llama(len(tokenizer))
    scorer = scorer_of(model, tokenizer, game)
    before = scorer.score(model).max()
    trainer = ForecastTrainer(
        model,
        arguments(tmp_path, max_steps=12),
        rows,
        PadOnTheRight(0),
        scorer=scorer,
        forecast_loss=WorstScoresLoss(count=1),
        forecast_coef=3.0,
    )
    trainer.train()
    assert scorer.score(model).max() < before - 0.3
    assert all("forecast/worst_failure" in entry for entry in trainer.state.log_history if "loss" in entry)


def test_adapters_accumulation_and_divergence(tmp_path, tokenizer, game, rows):
    """LoRA: only the adapter moves; with a large KL weight it moves less."""
    moved = []
    for kl_coef in (0.0, 100.0):
        model = with_adapter(random_llama(len(tokenizer)), n_layers=1, rank=2)
        frozen = model.get_decoder().layers[0].mlp.up_proj.weight.clone()
        scorer = scorer_of(model, tokenizer, game)
        assert scorer.cache_frozen
        with th.no_grad():
            start = model(**PadOnTheRight(0)(rows[:8])).logits
        trainer = ForecastTrainer(
            model, arguments(tmp_path / str(kl_coef), gradient_accumulation_steps=2, learning_rate=1e-2), rows, PadOnTheRight(0),
            scorer=scorer, kl_coef=kl_coef, **SMALL,
        )  # fmt: skip
        trainer.train()
        assert trainer._forecast_steps == 6
        assert th.equal(model.get_decoder().layers[0].mlp.up_proj.weight, frozen)
        with th.no_grad():
            moved.append(float((model(**PadOnTheRight(0)(rows[:8])).logits - start).abs().mean()))
    assert 0 < moved[1] < 0.7 * moved[0]


def test_divergence_from_a_copy(tmp_path, tokenizer, rows):
    model = random_llama(len(tokenizer))
    trainer = ForecastTrainer(model, arguments(tmp_path), rows, PadOnTheRight(0), forecast_coef=0.0, kl_coef=1.0)
    inputs = PadOnTheRight(0)(rows[:4])

    def divergence():
        with th.no_grad():
            return float(trainer._divergence(model, inputs, model(input_ids=inputs["input_ids"]).logits))

    assert divergence() == pytest.approx(0.0, abs=1e-6)
    trainer.train()
    assert divergence() > 1e-4


@pytest.mark.parametrize(
    "smoothing",
    [
        0.0,
        pytest.param(
            0.1, marks=pytest.mark.skipif(V4, reason="transformers 4 averages smoothed losses over the parts of a step")
        ),
    ],
)
def test_divergence_does_not_depend_on_accumulation(tmp_path, tokenizer, rows, smoothing):
    """One batch of eight, or four of two: the same step."""
    found = []
    for parts in (1, 4):
        model = random_llama(len(tokenizer))
        settings = arguments(
            tmp_path / str(parts), per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts, max_steps=2,
            optim="sgd", learning_rate=0.02, max_grad_norm=0.0, lr_scheduler_type="constant", label_smoothing_factor=smoothing,
        )  # fmt: skip
        ForecastTrainer(model, settings, rows, PadOnTheRight(0), forecast_coef=0.0, kl_coef=10.0).train()
        found.append(weights_of(model))
    assert th.allclose(found[0], found[1], atol=1e-5)
    assert (found[0] - weights_of(random_llama(len(tokenizer)))).abs().max() > 1e-3


def test_old_checkpoints_go_only_when_the_new_one_is_whole(tmp_path, tokenizer, game, rows, monkeypatch):
    model = random_llama(len(tokenizer))
    settings = arguments(tmp_path, save_strategy="steps", save_steps=2, save_total_limit=1)
    trainer = ForecastTrainer(model, settings, rows, PadOnTheRight(0), scorer=scorer_of(model, tokenizer, game), **SMALL)
    states = []

    def full_disk(path, write):
        states.append(sorted(folder.name for folder in tmp_path.glob("checkpoint-*")))
        if len(states) == 3:
            raise OSError("no space left on device")
        write_whole(path, write)

    monkeypatch.setattr("sb3_forecast.lm.trainer.write_whole", full_disk)
    with pytest.raises(OSError, match="no space left"):
        trainer.train()
    assert states == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"], ["checkpoint-4", "checkpoint-6"]]
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-best-7").mkdir()
    (tmp_path / "checkpoint-best-7" / "forecast_state.pt").touch()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_a_plain_checkpoint_is_enough_without_forecast(tmp_path, tokenizer, rows):
    settings = arguments(tmp_path, save_strategy="steps", save_steps=3)
    Trainer(random_llama(len(tokenizer)), settings, PadOnTheRight(0), rows).train()
    trainer = ForecastTrainer(random_llama(len(tokenizer)), settings, rows, PadOnTheRight(0), forecast_coef=0.0)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 6


def test_sharded_gradients_are_refused(tmp_path, tokenizer, game, rows):
    model = random_llama(len(tokenizer))
    settings = arguments(tmp_path)
    settings.fp16 = True
    with pytest.raises(ValueError, match="fp16 must be off when forecast_coef > 0, got True"):
        ForecastTrainer(model, settings, rows, PadOnTheRight(0), scorer=scorer_of(model, tokenizer, game), **SMALL)


def test_tensorboard_keys(tmp_path, tokenizer, game, rows):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = random_llama(len(tokenizer))
    settings = arguments(tmp_path, report_to="tensorboard", max_steps=2)
    ForecastTrainer(model, settings, rows, PadOnTheRight(0), scorer=scorer_of(model, tokenizer, game), **SMALL).train()
    (events,) = (tmp_path / "forecast").glob("events*")
    found = EventAccumulator(str(events)).Reload()
    assert {"forecast/error", "forecast/loss", "forecast/worst_failure"} <= set(found.Tags()["scalars"])


def test_refusal_penalty_teaches_refusal(tmp_path, tokenizer, game, rows):
    model = random_llama(len(tokenizer))
    scorer = scorer_of(model, tokenizer, game)
    before = scorer.score(model).mean()
    penalty = RefusalPenalty(training_rows(tokenizer, game.refusals(0)), n_rows=30, seed=0)
    settings = arguments(tmp_path, max_steps=15, learning_rate=1e-2)
    ForecastTrainer(model, settings, rows, PadOnTheRight(0), penalty=penalty, forecast_coef=1.0).train()
    assert penalty.tokens_trained > 0
    assert scorer.score(model).mean() < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forecast_coef": -1.0}, "forecast_coef must be at least 0, got -1.0"),
        ({"kl_coef": -1.0}, "kl_coef must be at least 0, got -1.0"),
        ({"gradient_every": 0}, "gradient_every must be at least 1, got 0"),
        ({"eval_size": 100}, "eval_size must be below the pool size 40, got 100"),
        ({"subpool": 1000}, r"subpool must be in \[1, 60\] for this pool, got 1000"),
        ({"scorer": None}, "exactly one of scorer and penalty must be given, got neither"),
    ],
)
def test_bad_arguments(tmp_path, tokenizer, game, rows, changes, message):
    model = random_llama(len(tokenizer))
    settings = {"scorer": scorer_of(model, tokenizer, game), **SMALL} | changes
    with pytest.raises(ValueError, match=message):
        ForecastTrainer(model, arguments(tmp_path), rows, PadOnTheRight(0), **settings)


def test_fewer_finite_scores_than_k(tokenizer, game):
    model = random_llama(len(tokenizer))
    scorer = scorer_of(model, tokenizer, game)

    class Hopeless(ShardedScorer):
        def score(self, model, tasks=None):
            scores = super().score(model, tasks)
            scores[3:] = -th.inf
            return scores

    objective = sf.ForecastObjective(Hopeless(scorer), sf.ForecastLoss(10, 4, 8, "squared"))
    with pytest.raises(ValueError, match="must be finite, got 3 finite ones of 60"):
        ForecastPenalty(objective).accumulate(model)
    # the guarded loss counts the others as its floor, and lowers the three
    guarded = sf.ForecastObjective(Hopeless(scorer), sf.ForecastLoss(10, 4, 8, p_floor=1e-300))
    ForecastPenalty(guarded).accumulate(model)
    gradients = [part.grad for part in model.parameters() if part.grad is not None]
    assert all(bool(th.isfinite(gradient).all()) for gradient in gradients)
    assert any(bool((gradient != 0.0).any()) for gradient in gradients)


def test_baselines_weigh_as_said():
    scores = th.tensor([0.0, -1.0, 2.0, -3.0, 1.0], dtype=th.float64)
    generator = np.random.default_rng(0)

    def weights(loss):
        partitions = loss.draw(scores, generator)
        terms = loss.evaluate(scores[partitions.touched], partitions, 5)
        return partitions.touched.tolist(), terms.weights.tolist(), terms.loss.item()

    assert weights(WorstScoresLoss(count=1)) == ([2], [1.0], 2.0)
    assert weights(WorstScoresLoss(share=0.4)) == ([2, 4], [0.5, 0.5], 1.5)
    assert weights(WorstScoresLoss(share=0.4, per_task=True)) == ([2, 4], [1.0, 1.0], 3.0)
    touched, log_weights, value = weights(WorstScoresLoss(share=1.0, measure="log_p"))
    assert touched == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(log_weights, np.exp(-scores.numpy()) / 5)  # docs/method.md eq. 3: dl/dpsi = e^-psi
    assert value == pytest.approx(-np.exp(-scores.numpy()).mean())
    for wrong in ({"share": 0.0}, {"count": 0}, {"measure": "p"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            WorstScoresLoss(**wrong)


SCRIPT = """
import sys, torch as th
from accelerate import PartialState
sys.path.insert(0, {root!r})
from tests.lm.conftest import random_llama
from tests.lm.test_trainer import SMALL, arguments, weights_of
from sb3_forecast.lm import *
from sb3_forecast.lm.password_game.tiny import build_tokenizer
th.set_num_threads(1)
tokenizer = build_tokenizer(); model = random_llama(len(tokenizer)); game = PasswordGame(60, seed=0, rare_fraction=0.2)
rows = training_rows(tokenizer, primary_examples(64, 0))
scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
settings = arguments({folder!r}, per_device_train_batch_size={batch}, max_steps=3, optim="sgd", learning_rate=0.1, ddp_backend="gloo")
ForecastTrainer(model, settings, rows, PadOnTheRight(0), scorer=scorer, **SMALL).train()
if PartialState().is_main_process:
    th.save(weights_of(model), {out!r})
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    """The same sub-pools, scores and gradients, up to the order of sums."""
    found = []
    for processes in (1, 2):
        out, script = str(tmp_path / f"{processes}.pt"), tmp_path / f"{processes}.py"
        root = str(Path(__file__).parent.parent.parent)
        script.write_text(SCRIPT.format(root=root, folder=str(tmp_path / "run"), batch=4 // processes, out=out))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", str(script)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=root)
        assert result.returncode == 0, result.stderr[-2000:]
        found.append(th.load(out))
    assert th.allclose(found[0], found[1], atol=1e-5)


def test_report_of_a_game(tokenizer, game):
    model = random_llama(len(tokenizer))
    scorer = scorer_of(model, tokenizer, game)
    report = sf.evaluate_forecast(model, game, eval_size=10, n_splits=20, k=4, scorer=scorer)
    assert report.n_rare == int(game.rare.sum())
    again = sf.ForecastReport.from_dict(json.loads(report.to_json()), report.scores, report.rare, report.splits)
    assert again.to_dict() == report.to_dict()


def test_drawn_replies_follow_the_weights(tmp_path, tokenizer, game, rows):
    """Wanted replies are drawn where the loss has its weight, and make them likelier there."""
    from sb3_forecast.lm.drawn import DrawnReplies

    model = random_llama(len(tokenizer))
    wanted = training_rows(tokenizer, game.refusals(0))
    objective = sf.ForecastObjective(ShardedScorer(scorer_of(model, tokenizer, game)), sf.ForecastLoss(10, 4, 8), seed=1)
    drawn = DrawnReplies(wanted, objective, n_rows=6, seed=0)
    assert drawn.accumulate(model) == {}  # nothing has any weight yet
    objective.task_weights[:] = 0.0
    objective.task_weights[7] = 1.0
    before = drawn.accumulate(model)["forecast/drawn_loss"]
    inputs = PadOnTheRight(0)([wanted[7]])
    assert before == pytest.approx(model(**inputs).loss.item(), rel=1e-4)
    with th.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
    assert model(**inputs).loss.item() < before
    trainer = ForecastTrainer(
        model, arguments(tmp_path), rows, PadOnTheRight(0), scorer=scorer_of(model, tokenizer, game), wanted=wanted, **SMALL
    )
    trainer.train()
    assert "forecast/drawn_loss" in trainer.state.log_history[1]
    with pytest.raises(
        ValueError, match="wanted must hold one row per prompt of the scorer's pool, got 3 rows for 60 prompts"
    ):
        ForecastTrainer(
            model,
            arguments(tmp_path),
            rows,
            PadOnTheRight(0),
            scorer=scorer_of(model, tokenizer, game),
            wanted=wanted[:3],
            **SMALL,
        )


def test_an_optimizer_of_ones_own(tmp_path, tokenizer, game, rows):
    """The forecast gradient joins the steps of an optimizer that the user passes."""
    model = random_llama(len(tokenizer))
    optimizer = th.optim.SGD(model.parameters(), lr=0.01)
    scheduler = th.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = ForecastTrainer(
        model, arguments(tmp_path), rows, PadOnTheRight(0), scorer=scorer_of(model, tokenizer, game), optimizers=(optimizer, scheduler), **SMALL
    )  # fmt: skip
    trainer.train()
    assert trainer._forecast_steps == 6
    assert "forecast/error" in trainer.state.log_history[0]
