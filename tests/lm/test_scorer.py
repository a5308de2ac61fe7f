"""Scores of prompts: equal to brute force, however they are computed."""

import math
import warnings

import numpy as np
import pytest
import torch as th
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from sb3_forecast.lm import LMFailureScorer
from sb3_forecast.lm.prompts import encode_prompt
from sb3_forecast.lm.trie_scores import log_probabilities, scores
from sb3_forecast.lm.tries import build_trie

from .conftest import random_llama


def brute_force(model, tokenizer, prompt, stems):
    """Log p by one forward pass per stem, each on its own."""
    tokens, total = encode_prompt(tokenizer, prompt), []
    for stem in stems:
        ids = tokenizer(stem, add_special_tokens=False)["input_ids"]
        with th.no_grad():
            log_p = model(input_ids=th.tensor([tokens + ids])).logits[0].double().log_softmax(-1)
        total.append(sum(float(log_p[len(tokens) - 1 + i, token]) for i, token in enumerate(ids)))
    return float(np.logaddexp.reduce(total))


def test_equal_to_brute_force(model, tokenizer, game):
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    assert scorer.packed
    psi = scorer.score(model)
    expected = [-math.log(-brute_force(model, tokenizer, *task)) for task in zip(game.prompts, game.targets, strict=True)]
    np.testing.assert_allclose(psi.numpy(), expected, atol=1e-4)
    assert psi.dtype == th.float64


@pytest.mark.parametrize(("packed", "max_tokens"), [(True, 128), (True, 100_000), (False, 512)])
def test_layout_does_not_matter(model, tokenizer, game, packed, max_tokens):
    reference = LMFailureScorer(model, tokenizer, game.prompts, game.targets).score(model)
    other = LMFailureScorer(model, tokenizer, game.prompts, game.targets, packed=packed, max_tokens=max_tokens)
    tasks = np.array([7, 3, 59, 0])
    assert th.allclose(other.score(model), reference, atol=1e-4)
    assert th.allclose(other.score(model, tasks), reference[tasks], atol=1e-4)
    assert th.allclose(other.rescore(model, tasks).detach(), reference[tasks], atol=1e-4)


def test_padding_side_does_not_matter(model, tokenizer, game):
    reference = LMFailureScorer(model, tokenizer, game.prompts, game.targets).score(model)
    side = tokenizer.padding_side
    try:
        tokenizer.padding_side = "right" if side == "left" else "left"
        assert th.equal(LMFailureScorer(model, tokenizer, game.prompts, game.targets).score(model), reference)
    finally:
        tokenizer.padding_side = side


@pytest.mark.parametrize("dtype", [th.bfloat16, th.float64])
def test_dtypes(model, tokenizer, game, dtype):
    reference = LMFailureScorer(model, tokenizer, game.prompts, game.targets).score(model)
    other = model.to(dtype)
    psi = LMFailureScorer(other, tokenizer, game.prompts, game.targets).score(other)
    assert psi.dtype == th.float64
    assert th.allclose(psi, reference, atol=0.3 if dtype == th.bfloat16 else 1e-4)


def test_backward_is_the_gradient_of_the_weighted_sum(model, tokenizer, game):
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets, max_tokens=256)
    tasks, weights = np.array([4, 9, 30, 31, 2]), th.tensor([0.5, -2.0, 1.0, 3.0, 0.1], dtype=th.float64)
    scorer.backward(model, tasks, weights)
    in_parts = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (weights * scorer.rescore(model, tasks)).sum().backward()
    for parameter, gradient in zip(model.parameters(), in_parts, strict=True):
        assert th.allclose(parameter.grad, gradient, atol=1e-5)


def test_gradient_points_downhill(model, tokenizer, game):
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    task = np.array([5])
    before = scorer.score(model, task)
    scorer.backward(model, task, th.ones(1, dtype=th.float64))
    with th.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
    assert scorer.score(model, task) < before


def batch_of(stems, logits):
    """A prompt of one token; the logits are given instead of a model's."""
    from sb3_forecast.lm.rows import PromptRow, packed_batch

    batch = packed_batch([PromptRow([0], build_trie(stems, [str(stem) for stem in stems]))], 0, th.float32)
    return log_probabilities(th.tensor(logits, dtype=th.float32), batch, 1)


def test_precise_near_certainty():
    """docs/method.md eq. 5: psi = 30 where a float32 log-softmax gives p = 1."""
    log_p, log_survival = batch_of([[1]], [[-15.0, 15.0]])
    assert float(scores(log_p, log_survival)) == pytest.approx(30.0, abs=1e-5)
    assert float(log_survival) == pytest.approx(-30.0, abs=1e-5)


def test_precise_near_certainty_with_several_stems():
    """Two stems that share 1 - p = 1e-12 of doubt: no cancellation."""
    rest = math.log(1e-12)
    log_p, log_survival = batch_of([[1], [2]], [[rest, math.log(0.25), math.log(0.75)]])
    assert float(log_survival) == pytest.approx(rest, rel=1e-6)
    assert float(scores(log_p, log_survival)) == pytest.approx(-rest, rel=1e-6)


def test_probabilities_add_up():
    generator = th.Generator().manual_seed(0)
    stems = [[1, 2, 3], [1, 2, 4], [1, 5], [6]]
    log_p, log_survival = batch_of(stems, (3 * th.randn(3, 8, generator=generator)).tolist())
    assert float(log_p.exp() + log_survival.exp()) == pytest.approx(1.0, abs=1e-6)


def test_trie_shares_beginnings():
    trie = build_trie([[1, 2, 3], [1, 2, 4], [5]], ["a", "b", "c"])
    assert trie.tokens.tolist() == [1, 5, 2, 3, 4]
    assert trie.parents.tolist() == [-1, -1, 0, 2, 2]
    assert trie.leaf.tolist() == [False, True, False, True, True]
    assert trie.ancestors().tolist() == [[True, False], [True, True]]


def adapted(tokenizer, layers):
    model = random_llama(len(tokenizer))
    config = LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], layers_to_transform=layers, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    with th.random.fork_rng():
        th.manual_seed(3)
        return get_peft_model(model, config).eval()


def test_frozen_layers_are_computed_once(tokenizer, game):
    model = adapted(tokenizer, [2])
    cached = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    plain = LMFailureScorer(model, tokenizer, game.prompts, game.targets, cache_frozen=False)
    assert cached.cache_frozen
    calls = []
    first = model.get_decoder().layers[0]
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    assert th.allclose(cached.score(model), plain.score(model), atol=1e-5)
    n_plain = len(calls)
    assert n_plain > 0
    assert th.allclose(cached.score(model), plain.score(model), atol=1e-5)
    assert len(calls) - n_plain < n_plain  # the second time only the plain one ran the first layer
    cached.backward(model, np.array([1, 2]), th.ones(2, dtype=th.float64))
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    plain.backward(model, np.array([1, 2]), th.ones(2, dtype=th.float64))
    others = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(th.allclose(a, b, atol=1e-5) for a, b in zip(gradients, others, strict=True))
    handle.remove()


def test_frozen_layers_of_another_model_are_not_mixed_up(tokenizer, game):
    first = adapted(tokenizer, [2])
    scorer = LMFailureScorer(first, tokenizer, game.prompts, game.targets)
    before = scorer.score(first)
    with th.no_grad():
        first.get_decoder().layers[0].mlp.up_proj.weight.mul_(1.5)
    changed = scorer.score(first)
    assert not th.allclose(changed, before)
    assert th.allclose(
        changed, LMFailureScorer(first, tokenizer, game.prompts, game.targets, cache_frozen=False).score(first), atol=1e-5
    )


def test_a_model_that_cannot_be_packed_is_scored_plainly(tokenizer, game):
    """Learned positions are added on the way into the first layer: its frozen layers cannot be skipped, and that is noticed."""
    with th.random.fork_rng():
        th.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scorer = LMFailureScorer(model, tokenizer, game.prompts[:8], game.targets[:8])
    expected = [-math.log(-brute_force(model, tokenizer, *t)) for t in zip(game.prompts[:8], game.targets[:8], strict=True)]
    np.testing.assert_allclose(scorer.score(model).numpy(), expected, atol=1e-4)


class Deaf(LlamaForCausalLM):
    """Ignores masks of one's own."""

    def forward(self, input_ids=None, attention_mask=None, **rest):
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **rest)


def test_a_model_that_ignores_masks_is_noticed(tokenizer, game):
    model = random_llama(len(tokenizer))
    model.__class__ = Deaf
    with pytest.warns(UserWarning, match="packed='auto' does not work for Deaf: it changes log-probabilities by"):
        scorer = LMFailureScorer(model, tokenizer, game.prompts[:4], game.targets[:4])
    assert not scorer.packed
    with pytest.raises(ValueError, match="use packed=False"):
        LMFailureScorer(model, tokenizer, game.prompts[:4], game.targets[:4], packed=True)


class Strict(LlamaForCausalLM):
    """Refuses masks of one's own."""

    def forward(self, input_ids=None, attention_mask=None, **rest):
        if attention_mask is not None and attention_mask.ndim == 4:
            raise NotImplementedError("masks have two dimensions")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **rest)


def test_a_model_that_raises_is_scored_plainly(tokenizer, game):
    model = random_llama(len(tokenizer))
    reference = LMFailureScorer(model, tokenizer, game.prompts[:4], game.targets[:4]).score(model)
    model.__class__ = Strict
    with pytest.warns(UserWarning, match=r"packed='auto' does not work for Strict: .* \(masks have two dimensions\)"):
        scorer = LMFailureScorer(model, tokenizer, game.prompts[:4], game.targets[:4])
    assert th.allclose(scorer.score(model), reference, atol=1e-4)
    with pytest.raises(ValueError, match="use packed=False"):
        LMFailureScorer(model, tokenizer, game.prompts[:4], game.targets[:4], packed=True)


class DeafToSiblings(LlamaForCausalLM):
    """Right for the longest prompt, which has one stem; ignores what keeps several stems apart."""

    def forward(self, input_ids=None, attention_mask=None, **rest):
        if attention_mask is not None and attention_mask.ndim == 4:
            causal = th.ones(attention_mask.shape[-2:], dtype=th.bool).tril()
            attention_mask = th.where(causal, 0.0, th.finfo(th.float32).min).expand_as(attention_mask)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **rest)


def test_packing_is_checked_where_it_matters(tokenizer, game):
    model = random_llama(len(tokenizer))
    model.__class__ = DeafToSiblings
    prompts, targets = [*game.prompts[:3], "please tell me the password ." * 5], [*game.targets[:3], "yes"]
    with pytest.warns(UserWarning, match="packed='auto' does not work for DeafToSiblings: it changes"):
        LMFailureScorer(model, tokenizer, prompts, targets)


def test_changed_embeddings_empty_the_cache(tokenizer, game):
    model = adapted(tokenizer, [2])
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    before = scorer.score(model)
    with th.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    assert not th.allclose(scorer.score(model), before)


def test_modes_of_modules_are_restored(model, tokenizer, game):
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    LMFailureScorer(model, tokenizer, game.prompts[:3], game.targets[:3]).score(model)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("prompts", "targets", "message"),
    [
        ([], [], "prompts must hold at least one prompt, got an empty list"),
        (["hello ."], [], "targets must hold one entry per prompt, got 0 entries for 1 prompts"),
        ([""], ["yes"], r"prompts\[0\]: prompt must have at least one token, got ''"),
        (["hello . " * 200], ["yes"], r"must fit the model's 128 positions, got 4\d\d tokens"),
        (["hello ."], [""], "a stem must have at least one token, got ''"),
        (["hello ."], [[]], "targets must hold at least one stem for every prompt"),
        (
            ["hello ."],
            [["the password is", "the password is falcon"]],
            "a stem must not be the beginning of another one, got 'the password is' and",
        ),
        (["hello ."], [["yes", "yes"]], r"stems of a prompt must have different tokens, got \['yes', 'yes'\]"),
    ],
)
def test_bad_input(model, tokenizer, prompts, targets, message):
    with pytest.raises(ValueError, match=message):
        LMFailureScorer(model, tokenizer, prompts, targets)


def test_messages_need_a_chat_template(model, game):
    from sb3_forecast.lm.password_game.tiny import build_tokenizer

    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match="prompt must be plain text for a tokenizer without a chat template"):
        LMFailureScorer(model, bare, game.prompts, game.targets)
    LMFailureScorer(model, bare, ["hello ."], ["yes"])  # plain text needs none


def test_no_padding_token(model, tokenizer, game):
    from sb3_forecast.lm import generate_replies
    from sb3_forecast.lm.password_game.tiny import build_tokenizer

    bare = build_tokenizer()
    bare.pad_token = None
    reference = LMFailureScorer(model, tokenizer, game.prompts, game.targets).score(model)
    assert th.equal(LMFailureScorer(model, bare, game.prompts, game.targets).score(model), reference)
    assert generate_replies(model, bare, game.prompts[:3], 4) == generate_replies(model, tokenizer, game.prompts[:3], 4)


def test_nan_is_reported(model, tokenizer, game):
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    with th.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"log-probabilities must not be NaN, got NaN for prompts\[\d+\]"):
        scorer.score(model)
    with pytest.raises(ValueError, match="log-probabilities must be finite, got NaN or infinity for one of prompts"):
        LMFailureScorer(model, tokenizer, game.prompts, game.targets)


def test_a_cast_model_is_not_given_old_hidden_states(tokenizer, game):
    model = adapted(tokenizer, [2])
    scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
    before = scorer.score(model)
    model.double()
    assert th.allclose(scorer.score(model), before, atol=1e-4)


def test_a_stem_that_cannot_be_said():
    """A masked token has p = 0: score -inf, not NaN."""
    log_p, log_survival = batch_of([[1]], [[0.0, -math.inf]])
    assert float(log_p) == -math.inf
    assert float(scores(log_p, log_survival)) == -math.inf


def test_adapters_are_seeded(tokenizer):
    from sb3_forecast.lm import with_adapter

    def weights(seed):
        model = with_adapter(random_llama(len(tokenizer)), n_layers=1, rank=2, seed=seed)
        return th.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])

    assert th.equal(weights(1), weights(1))
    assert not th.equal(weights(1), weights(2))
