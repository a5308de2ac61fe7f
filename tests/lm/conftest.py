"""A tiny language model with random weights, and a small pool: enough for everything that does not depend on what the model has learnt."""

from __future__ import annotations

import pytest
import torch as th
from transformers import LlamaConfig, LlamaForCausalLM

from sb3_forecast.lm import PasswordGame
from sb3_forecast.lm.password_game.tiny import build_tokenizer


def random_llama(vocabulary: int, seed: int = 0, **changes: int) -> LlamaForCausalLM:
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4} | changes
    with th.random.fork_rng():
        th.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            max_position_embeddings=128,
            initializer_range=0.3,
            pad_token_id=0,
            eos_token_id=5,
            **settings,
        )
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def model(tokenizer):
    return random_llama(len(tokenizer))


@pytest.fixture(scope="session")
def game():
    return PasswordGame(60, seed=0, rare_fraction=0.2)
