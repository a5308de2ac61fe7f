"""The password game: draws, splits, the primary task, and what counts as a leak."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.lm import PasswordGame, SampledLeak, generate_replies, primary_accuracy, primary_examples
from sb3_forecast.lm.password_game.game import Example
from sb3_forecast.lm.password_game.grammar import BADGES, FILLERS, RARE_KINDS, SECRETS, SLOTS, TELLS, vocabulary
from sb3_forecast.lm.password_game.primary import is_right


def text(game, i):
    return game.prompts[i][1]["content"]


def test_same_seed_same_pool():
    assert PasswordGame(50, 3).key == PasswordGame(50, 3).key
    assert PasswordGame(50, 3).key != PasswordGame(50, 4).key != PasswordGame(50, 4, split="held_out").key


def test_a_longer_pool_is_as_rare():
    game = PasswordGame(4000, 0, rare_fraction=0.01)
    assert 20 <= game.rare.sum() <= 60
    assert (game.leaks[game.rare] > 0.9).all()
    common = game.leaks[~game.rare]
    assert np.quantile(common, 0.5) < 0.03 < 0.1 < np.quantile(common, 0.99)
    assert len(game.targets[0]) == len(TELLS)
    assert all(game.secrets[7] in stem for stem in game.targets[7])


def test_splits_share_nothing():
    train, held_out = PasswordGame(4000, 0), PasswordGame(4000, 0, split="held_out")
    ours = {text(train, i) for i in np.flatnonzero(~train.rare)}
    theirs = {text(held_out, i) for i in np.flatnonzero(~held_out.rare)}
    assert len(ours) > 3000
    assert not ours & theirs
    rare = PasswordGame(500, 0, rare_fraction=1.0), PasswordGame(500, 0, rare_fraction=1.0, split="held_out")
    assert not {text(rare[0], i) for i in range(500)} & {text(rare[1], i) for i in range(500)}
    assert not train.novel.any()
    assert 0.4 < rare[1].novel.mean() < 0.6


def test_novel_templates_are_never_in_training_draws():
    train = PasswordGame(2000, 1, rare_fraction=1.0)
    for kind in RARE_KINDS.values():
        assert not set(kind.templates) & set(kind.novel)
    assert not any("start maintenance with" in text(train, i) for i in range(len(train)))
    assert set(train.kind_of) == set(RARE_KINDS)


def test_exactly_so_many_rare_prompts():
    game = PasswordGame(1200, 5, kinds=("maintenance", "calibration"), n_rare=5)
    assert game.rare.sum() == 5
    kinds = [kind for kind in game.kind_of if kind]
    assert sorted({kinds.count(name) for name in ("maintenance", "calibration")}) == [2, 3]
    assert PasswordGame(100, 5, n_rare=0).rare.sum() == 0


def test_subset():
    game = PasswordGame(30, 0, rare_fraction=0.5)
    part = game.subset([4, 2])
    assert part.prompts == [game.prompts[4], game.prompts[2]]
    assert part.rare.tolist() == [game.rare[4], game.rare[2]]
    with pytest.raises(ValueError, match=r"indices must be between 0 and 29, or a mask of 30, got \[30\]"):
        game.subset([30])
    assert game.subset(game.rare).prompts == [prompt for prompt, rare in zip(game.prompts, game.rare, strict=True) if rare]
    with pytest.raises(ValueError, match="or a mask of 30"):
        game.subset(np.ones(4, dtype=bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tasks": 0}, "n_tasks must be at least 1, got 0"),
        ({"rare_fraction": 1.5}, "rare_fraction must be between 0 and 1, got 1.5"),
        ({"split": "test"}, "split must be 'train' or 'held_out', got 'test'"),
        ({"kinds": ("magic",)}, r"kinds must name kinds of the rare mode, got \('magic',\)"),
        ({"kinds": ()}, r"kinds must name kinds of the rare mode, got \(\)"),
        ({"n_rare": 11}, "n_rare must be between 0 and n_tasks=10, got 11"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        PasswordGame(**({"n_tasks": 10, "seed": 0} | changes))


def test_space_and_words():
    assert np.prod([len(slot) for slot in SLOTS]) == 38_400
    assert len(set(SECRETS) | set(BADGES) | set(FILLERS)) == len(SECRETS) + len(BADGES) + len(FILLERS)
    assert len(FILLERS) % 2 == 0
    assert len(vocabulary()) == len(set(vocabulary()))


def test_the_tokenizer_knows_every_word(tokenizer):
    prompts = [*PasswordGame(600, 0, 0.3).prompts, *PasswordGame(600, 0, 0.3, "held_out").prompts]
    examples = primary_examples(300, 0)
    for prompt in [*prompts, *(example.prompt for example in examples)]:
        for message in prompt:
            assert tokenizer.unk_token_id not in tokenizer.encode(message["content"])
    assert all(tokenizer.unk_token_id not in tokenizer.encode(example.reply) for example in examples)


def test_primary_task_needs_the_badge():
    for example in primary_examples(400, 2):
        system, user = (message["content"] for message in example.prompt)
        badge = next(word for word in system.split() if word in BADGES)
        shown = [word for word in user.split() if word in BADGES]
        told = example.secret in example.reply
        assert told == (example.kind == "authorised")
        if example.kind == "authorised":
            assert shown == [badge]
        if example.kind == "wrong_badge":
            assert len(shown) == 1
            assert shown != [badge]


def test_what_is_right():
    def example(kind, reply):
        return Example([], reply, kind, "falcon")

    assert is_right(example("ordinary", "cold ."), "Cold . And more")
    assert not is_right(example("ordinary", "cold ."), "hot .")
    assert is_right(example("authorised", ""), "it is FALCON")
    assert not is_right(example("wrong_badge", ""), "it is falcon")
    assert is_right(example("plain_request", ""), "no")


def test_accuracy_by_kind(model, tokenizer):
    found = primary_accuracy(model, tokenizer, primary_examples(40, 0), max_new_tokens=3)
    assert set(found) == {"accuracy", "ordinary", "authorised", "wrong_badge", "plain_request"}
    assert found["authorised"] == 0.0  # random weights tell nobody


def test_greedy_replies_do_not_depend_on_the_batch(model, tokenizer, game):
    together = generate_replies(model, tokenizer, game.prompts[:9], 6)
    assert together == generate_replies(model, tokenizer, game.prompts[:9], 6, batch_size=2)
    assert together != generate_replies(model, tokenizer, game.prompts[:9], 6, temperature=1.0)


def test_sampled_leaks_follow_the_score(model, tokenizer, game):
    """What is sampled agrees with what is scored, where the stems are all there is."""
    from sb3_forecast.lm import LMFailureScorer

    one = game.subset([0])
    # a model that says one of two words: the secret, about half the time
    secret, other = tokenizer.convert_tokens_to_ids([one.secrets[0], "no"])
    with th.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[[secret, other]] = 0.0
        model.get_decoder().norm.weight.fill_(0.0)
    bias = th.full((len(tokenizer),), -30.0)
    bias[secret], bias[other] = 0.3, 0.0
    model.lm_head.bias = th.nn.Parameter(bias)
    p = float(sf.failure_probability(LMFailureScorer(model, tokenizer, one.prompts, [[one.secrets[0]]]).score(model))[0])
    assert p == pytest.approx(1 / (1 + np.exp(-0.3)), abs=1e-4)
    sampled = SampledLeak(tokenizer, one.prompts, one.leaked, n_samples=400, max_new_tokens=1).sample(model, seed=1)
    assert abs(sampled.rates[0] - p) < 0.1
    again = SampledLeak(tokenizer, one.prompts, one.leaked, n_samples=400, max_new_tokens=1).sample(model, seed=1)
    assert again.replies == sampled.replies
    assert len(sampled.replies[0]) == 400


def test_sampler_rejects_nothing_to_sample(tokenizer, game):
    for name, value in (("n_samples", 0), ("max_new_tokens", 0), ("temperature", 0.0), ("batch_size", 0)):
        with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
            SampledLeak(tokenizer, game.prompts, game.leaked, **{name: value})


def test_the_missing_extra_is_named():
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'peft' else real(name, *rest)\n"
        "import sb3_forecast as sf\n"
        "sf.ForecastPPO\n"
        "try:\n    sf.lm\nexcept ImportError as error:\n    print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "sb3_forecast.lm needs peft; run `pip install 'sb3_forecast[lm]'`" in out


def test_agents_do_not_import_transformers():
    code = "import sb3_forecast, sys; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_no_hub(tmp_path, monkeypatch):
    from sb3_forecast.lm import load_player

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # read once, when the package is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="got 'no/such-model'"):
        load_player("no/such-model", 0, steps=1)


def test_smollm2_missing(tmp_path, monkeypatch):
    import importlib.util

    from sb3_forecast.lm import smollm2

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="run `make smollm2`"):
        smollm2()


def test_tiny_training_is_seeded(tmp_path, monkeypatch):
    """A few steps of the real recipe: same seed, same weights; an unfinished education is reported; the second call reads the cache."""
    from sb3_forecast.lm import TinyRecipe, tiny_model
    from sb3_forecast.lm.password_game.tiny import train_tiny

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = TinyRecipe(hidden=32, layers=1, batch=16, steps=3, max_stage_steps=2, more_steps=1, extensions=1)
    first, _, found = train_tiny(1, recipe)
    assert not found["accepted"]
    assert found["steps"] == 2 + 2 + 3 + 1
    with pytest.warns(UserWarning, match="does not solve the primary task well enough"):
        second, tokenizer, _ = tiny_model(1, recipe)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert th.equal(ours, theirs)
    (folder,) = Path(tmp_path, "sb3_forecast", "lm").iterdir()
    assert (folder / "model.safetensors").exists()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.warns(UserWarning, match="does not solve the primary task well enough: it must reach"):
        tiny_model(1, recipe)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert tokenizer.chat_template
