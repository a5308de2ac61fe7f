"""navix LavaGapS7, random actions in a jitted scan that returns every observation; run by stepping.py in navix's own environment."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import jax
import navix

N_ENVS, STEPS, ROUNDS = (int(argument) for argument in sys.argv[1:4])


def rates(observation: Any) -> dict[str, float]:
    """Median steps per CPU-second and per second."""
    env = navix.make("Navix-LavaGapS7-v0", observation_fn=observation)

    def play(key: jax.Array) -> Any:
        def step(state: Any, step_key: jax.Array) -> Any:
            actions = jax.random.randint(step_key, (N_ENVS,), 0, 7)
            state = jax.vmap(env.step)(state, actions)
            return state, (state.observation, state.reward)

        start = jax.vmap(env.reset)(jax.random.split(key, N_ENVS))
        return jax.lax.scan(step, start, jax.random.split(key, STEPS))[1]

    compiled = jax.jit(play)
    jax.block_until_ready(compiled(jax.random.PRNGKey(0)))
    cpu, wall = [], []
    for round_ in range(ROUNDS):
        began, began_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(jax.random.PRNGKey(round_)))
        cpu.append(N_ENVS * STEPS / (time.process_time() - began_cpu))
        wall.append(N_ENVS * STEPS / (time.perf_counter() - began))
    return {"cpu": statistics.median(cpu), "wall": statistics.median(wall)}


print(
    json.dumps(
        {
            "whole grid, symbolic (its default)": rates(navix.observations.symbolic),
            "7x7 first person": rates(navix.observations.symbolic_first_person),
        }
    )
)
