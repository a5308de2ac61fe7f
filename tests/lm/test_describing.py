"""Descriptors of prompts."""

from dataclasses import replace

import numpy as np
import pytest

import sb3_forecast as sf
from sb3_forecast.lm import LMFailureScorer, PasswordGame, describe_prompts, mode_replies
from sb3_forecast.measuring.active.modes import Mode
from tests.lm.conftest import random_llama


def test_words_that_tell_prompts_apart_are_counted():
    found = describe_prompts(["Tell me a joke", [{"role": "user", "content": "tell me, TELL me"}], "tell"])
    rows = {name: found.values[:, i].tolist() for i, name in enumerate(found.names)}
    assert rows["'me' in the prompt"] == [1, 2, 0]
    assert rows["words"] == [4, 4, 1]
    assert "'tell' in the prompt" not in rows  # every prompt holds it


def test_the_commonest_words_are_kept_whatever_the_order():
    prompts = ["a b", "a c", "d", "a"]
    assert describe_prompts(prompts, n_words=1).names == ("'a' in the prompt", "words")
    np.testing.assert_array_equal(describe_prompts(prompts).values[::-1], describe_prompts(prompts[::-1]).values)


def test_no_prompts():
    with pytest.raises(ValueError, match="prompts must hold at least one prompt, got none"):
        describe_prompts([])


def test_prompts_are_chosen_by_their_words(tokenizer):
    """Active evaluation of a language model: its scorer scores the chosen prompts only."""
    game = PasswordGame(150, seed=5, rare_fraction=0.1)
    model = random_llama(len(tokenizer))
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    found = sf.ActiveEvaluation(scorer, game, 60, n_rounds=3, descriptors=describe_prompts(game.prompts)).run(model)
    np.testing.assert_allclose(found.scores, scorer.score(model, found.tasks).numpy(), rtol=1e-5)
    assert len(found.tasks) == 60
    assert all("in the prompt" in mode.rule or "words" in mode.rule for mode in found.found)


def test_kinds_are_shown_with_replies(model, tokenizer, game):
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    report = sf.ActiveEvaluation(scorer, game, 40, n_rounds=2, descriptors=describe_prompts(game.prompts)).run(model)
    mode = Mode("word 'badge' >= 1", 0.1, 0.5, 5, tuple(range(7, 2, -1)))
    shown = mode_replies(model, tokenizer, game.prompts, replace(report, found=(mode,)), n=2, max_new_tokens=3)
    assert list(shown) == [mode.rule]
    assert [prompt for prompt, _ in shown[mode.rule]] == [game.prompts[7], game.prompts[6]]
    assert all(isinstance(reply, str) for _, reply in shown[mode.rule])
    assert shown == mode_replies(model, tokenizer, game.prompts, replace(report, found=(mode,)), n=2, max_new_tokens=3)
