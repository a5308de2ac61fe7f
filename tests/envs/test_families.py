"""Every family, three ways: MiniGrid's own rules are the reference for the batched environment and for the finite model."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from minigrid.core.world_object import Ball, Door, Floor
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.actor import log_probabilities
from sb3_forecast_envs.gridworld import env as gridworld
from sb3_forecast_envs.seeded.exploration import MiniGridState

FAMILIES = [sfe.ThinIce, sfe.Bridge, sfe.Decoy, sfe.Vault, sfe.Wind]


def play_both(family, steps, n_envs=8, seed=11):
    """Random steps in both environments: observation, reward, termination, truncation, info, and the tasks drawn."""
    pool = sfe.TaskPool(family, 500, seed=0)
    vec = sfe.GridVecEnv(pool, n_envs, seed=seed)
    singles = [sfe.GridWorldEnv(family, pool) for _ in range(n_envs)]
    observations = vec.reset()
    assert vec.observation_space == singles[0].observation_space
    np.testing.assert_array_equal(observations, [env.reset(seed=seed + i)[0] for i, env in enumerate(singles)])
    weights = np.array([0.2, 0.2, 0.6] if family.n_actions == 3 else [0.15, 0.15, 0.4, 0.15, 0.15])
    actions = np.random.default_rng(0).choice(family.n_actions, (steps, n_envs), p=weights)
    seen = {"success": 0, "failure": 0, "truncated": 0, "carrying": 0, "slipped": 0}
    for row in actions:
        before = [(env.front_pos, env.agent_pos) for env in singles]
        observations, rewards, dones, infos = vec.step(row)
        for i, env in enumerate(singles):
            observation, reward, terminated, truncated, info = env.step(int(row[i]))
            assert np.float32(reward) == rewards[i]
            assert (terminated or truncated) == dones[i]
            assert (info["task"], info["cost"]) == (infos[i]["task"], infos[i]["cost"])
            assert truncated == infos[i]["TimeLimit.truncated"]
            seen["carrying"] += env.carrying is not None
            moved = tuple(env.agent_pos) != tuple(before[i][1])
            seen["slipped"] += moved and tuple(env.agent_pos) != tuple(before[i][0])
            if dones[i]:
                assert info["is_success"] == infos[i]["is_success"]
                np.testing.assert_array_equal(infos[i]["terminal_observation"], observation)
                seen["success"] += info["is_success"]
                seen["failure"] += info["cost"] == 1.0
                seen["truncated"] += truncated
                observation, info = env.reset()
                assert info["task"] == vec.reset_infos[i]["task"]
            np.testing.assert_array_equal(observations[i], observation)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [2_500, pytest.param(12_500, marks=pytest.mark.slow)])
def test_vec_env_equals_minigrid(family, steps):
    """20,000 random steps in eight environments; 100,000 in the slow tests."""
    seen = play_both(family(8, rare_fraction=0.3), steps)
    assert seen["failure"] > 20, seen
    assert seen["success"] > (0 if family is sfe.Vault else 20), seen
    assert seen["truncated"] > 20, seen
    assert (seen["carrying"] > 20) == (family is sfe.Vault), seen
    assert (seen["slipped"] > 20) == (family is sfe.Wind), seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"view_size": 3, "observation": "image"},
        {"view_size": 9, "see_through_walls": False},
        {"view_size": 7, "see_through_walls": False, "observation": "image"},
        {"size": 12, "see_through_walls": True, "horizon": 30},
    ],
    ids=str,
)
def test_views_encodings_and_occlusion(family, options):
    seen = play_both(family(**{"rare_fraction": 0.5, **options}), 150)
    assert seen["failure"] + seen["truncated"] > 0


def real_transitions(env, turns):
    """The finite model of the present episode by real MiniGrid steps, every turn of the wind forced in its turn."""
    env.gen_obs()
    start = MiniGridState.of(env)
    number, situations, successors, observations = {start.key: 0}, [start], [], [env._observe(env.gen_obs())]
    for here in situations:
        row = []
        for action in range(env.family.n_actions):
            for turn in turns:
                here.restore(env)
                env._forced = turn
                observation, _, terminated, _, info = env.step(action)
                if terminated:
                    row.append(-2 if info["cost"] else -1)
                    continue
                after = MiniGridState.of(env)
                if after.key not in number:
                    number[after.key] = len(situations)
                    situations.append(after)
                    observations.append(observation)
                row.append(number[after.key])
        successors.append(row)
    return np.array(successors), np.array(observations)


@pytest.mark.parametrize("family", FAMILIES)
def test_finite_model_is_what_real_steps_do(family, monkeypatch):
    """The vectorised enumeration against exploring the MiniGrid environment: same states, successors and observations."""
    pool = sfe.TaskPool(family(7, rare_fraction=0.5), 12, seed=3)
    model = pool.finite_model()
    first, successors, views, chances = model.tables(np.arange(12))
    env = sfe.GridWorldEnv(pool.family, pool)
    slippery = pool.family.slippery
    turns = (0, 3, 1) if slippery else (0,)
    monkeypatch.setattr(gridworld, "turn_of", lambda u, slip: env._forced if slip > 0.0 else 0)
    for task in range(12):
        env.reset(options={"task": task})
        found, observations = real_transitions(env, turns)
        states = slice(first[task], first[task + 1])
        # both number states breadth first; a column that never happens is not followed by the enumeration
        possible = chances[states] > 0.0 if slippery else np.ones(found.shape, dtype=bool)
        assert len(found) == first[task + 1] - first[task]
        np.testing.assert_array_equal(successors[states][possible], found[possible])
        np.testing.assert_array_equal(model.observations(views[states]), observations)
    if slippery:
        np.testing.assert_allclose(chances.reshape(len(chances), -1, 3).sum(axis=2), 1.0)
        assert set(np.unique(chances).round(12)) == {0.0, 0.1, 0.8, 1.0}
    else:
        assert chances.shape == (0, pool.family.n_actions)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def trained(request):
    """A beginner on each family: neither perfect nor hopeless."""
    pool = sfe.TaskPool(request.param(7, rare_fraction=0.5), 200, seed=1)
    model = PPO("MlpPolicy", sfe.GridVecEnv(pool, 64, seed=0), n_steps=32, batch_size=256, seed=0, device="cpu")
    return pool, model.learn(10_240)


def test_exact_scores_agree_with_played_episodes(trained):
    pool, model = trained
    outcomes = sf.ExactScorer(pool).outcomes(model)
    task = int(np.argmin(np.abs(outcomes.failure - 0.5)))
    env = sfe.GridVecEnv(pool.subset([task]), 2000, seed=0)
    set_random_seed(0)
    observations, over = env.reset(), np.zeros(2000, dtype=bool)
    failed, succeeded = np.zeros(2000), np.zeros(2000)
    for _ in range(pool.family.horizon):
        actions, _ = model.predict(observations, deterministic=False)
        observations, _, dones, infos = env.step(actions)
        for i in np.flatnonzero(dones & ~over):
            failed[i], succeeded[i] = infos[i]["cost"], infos[i]["is_success"]
        over |= dones
    assert over.all()
    for played, exact in ((failed, outcomes.failure[task]), (succeeded, outcomes.success[task])):
        assert abs(played.mean() - exact) < 4 * np.sqrt(max(exact * (1 - exact), 1e-3) / 2000)
    assert 0.01 < outcomes.failure[task] < 0.99


def test_survival_scores_are_unbiased(trained):
    """200 episodes a task, all tasks pooled within 4 standard errors of exact."""
    pool, model = trained
    exact = sf.ExactScorer(pool).outcomes(model).failure
    sampled = 1 - np.exp(sf.SurvivalScorer(pool, episodes=200, seed=0).log_survival(model).numpy())
    error = np.sqrt((sampled.var(axis=1, ddof=1) / 200).sum()) / len(pool)
    assert abs(sampled.mean() - exact.mean()) < 4 * error
    assert error < 0.01


def test_forecast_training_runs(trained):
    pool, model = trained
    tuned = sf.ForecastPPO.from_ppo(model, sfe.GridVecEnv(pool, 64, seed=0), eval_size=40, k=5)
    tuned.learn(64 * 32 * 2)
    report = sf.evaluate_forecast(tuned, pool, eval_size=40, n_splits=20, k=5)
    assert np.isfinite(report.error.mean_abs)
    picture = sfe.failure_map(pool, 0, lambda o: np.exp(log_probabilities(tuned.policy, o).detach().numpy()))
    assert picture.sum() == pytest.approx(sf.ExactScorer(pool).outcomes(tuned, np.array([0])).failure[0], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rendering_frames_what_fails(family):
    pool = sfe.TaskPool(family(8, rare_fraction=1.0), 5, seed=0)
    env = gym.make(f"SB3Forecast/{family.name}-8x8-v0", pool=pool, render_mode="rgb_array")
    env.reset(options={"task": 3})
    tile = env.unwrapped.tile_size
    image = env.render()
    framed = {tuple(corner // tile) for corner in np.argwhere((image == (220, 20, 60)).all(-1))}
    failing = {tuple(cell) for cell in np.argwhere(pool.family.outcomes[pool.layouts[3]] == sfe.FAILS)}
    assert framed == failing
    assert failing
    batched = sfe.GridVecEnv(pool, 1, render_mode="rgb_array")
    batched.set_options({"task": 3})
    batched.reset()
    assert ((batched.render() == (220, 20, 60)).all(-1)).sum() == ((image == (220, 20, 60)).all(-1)).sum()


def test_rare_modes_differ_as_described():
    def code(pool, cell):
        return pool.layouts == pool.family.cells.index(cell)

    rare, common = (sfe.TaskPool("Decoy-8x8", 200, 0, rare_fraction=share) for share in (1.0, 0.0))
    assert (code(rare, sfe.DECOY).sum(axis=(1, 2)) == 2).all()
    assert not code(common, sfe.DECOY).any()
    rare, common = (sfe.TaskPool("Bridge-8x8", 200, 0, rare_fraction=share) for share in (1.0, 0.0))
    assert code(rare, sfe.LAVA).sum(axis=(1, 2)).min() > code(common, sfe.LAVA).sum(axis=(1, 2)).max()
    rare, common = (sfe.TaskPool("Vault-8x8", 200, 0, rare_fraction=share) for share in (1.0, 0.0))
    for pool, trapped in ((rare, True), (common, False)):
        task, y, x = np.nonzero(code(pool, sfe.LOCKED_DOOR))
        assert (code(pool, sfe.LAVA)[task, y, x + 2] == trapped).all()
    rare, common = (sfe.TaskPool("Wind-8x8", 200, 0, rare_fraction=share) for share in (1.0, 0.0))
    for pool, dangerous in ((rare, True), (common, False)):
        gusts = pool.layouts == 4
        lava = np.pad(code(pool, sfe.LAVA), ((0, 0), (1, 1), (1, 1)))
        near = lava[:, :-2, 1:-1] | lava[:, 2:, 1:-1] | lava[:, 1:-1, :-2] | lava[:, 1:-1, 2:]
        assert gusts.any()
        assert (near[gusts] == dangerous).all()


class Cave(sfe.TaskFamily):
    """Doors without number: more states than anyone wants to enumerate."""

    name = "Cave"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.CLOSED_DOOR, sfe.OPEN_DOOR)
    actions = ("left", "right", "forward", "toggle")

    def draw_layout(self, rng, rare):
        layout = np.ones((self.size, self.size), dtype=np.uint8)
        layout[1:-1, 1:-1] = 0
        layout[3:, 2:-2] = 3
        layout[1, 4] = 2
        return sfe.Task(layout, (1, 1, 0), rare)


def test_state_space_too_large():
    # the pool of the smaller one can be drawn, but views and padding make its finite model larger
    small = sfe.TaskPool(Cave(7), 2, seed=0)
    with pytest.raises(
        ValueError, match=r"state space too large: a task of Cave-7x7 must have at most 1.7e\+07 states, got up to 5e\+07"
    ):
        sfe.TaskPool(Cave(7, view_size=25), 2, seed=0).finite_model()
    assert small.finite_model().tables(np.array([0]))[0][1] > 10_000
    with pytest.raises(ValueError, match="state space too large: a task of Cave-12x12 must have at most"):
        sfe.TaskPool(Cave(12), 2, seed=0)


class Boxed(Cave):
    """A door that opens into nothing the family knows."""

    name = "Boxed"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.CLOSED_DOOR)


class Dropper(Cave):
    """Wants to drop things."""

    name = "Dropper"
    actions = ("left", "right", "forward", "drop")


class Lever(Ball):
    """A lever that removes a wall elsewhere."""

    def toggle(self, env, pos):
        env.grid.set(2, 2, None)
        return True


class Levered(Cave):
    """Has a lever with an effect at a distance."""

    name = "Levered"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.Cell("lever", lambda: Lever("green")))
    actions = ("left", "right", "forward", "toggle")


class Thief(Door):
    """A door that takes the key."""

    def toggle(self, env, pos):
        env.carrying = None
        return super().toggle(env, pos)


class Robbed(sfe.Vault):
    """Its closed door changes what the agent carries."""

    name = "Robbed"
    cells = tuple(replace(c, make=lambda: Thief("yellow")) if c.name == "closed door" else c for c in sfe.Vault.cells)


class Crumbling(Floor):
    """A floor that carries nobody once it has been asked: its behaviour depends on more than its cell."""

    asked = 0

    def can_overlap(self):
        self.asked += 1
        return self.asked == 1


class Worn(sfe.ThinIce):
    """Its floor remembers."""

    name = "Worn"
    cells = (*sfe.ThinIce.cells, sfe.Cell("worn floor", lambda: Crumbling("purple")))

    def draw_layout(self, rng, rare):
        task = super().draw_layout(rng, rare)
        return sfe.Task(np.where(task.layout == 0, len(self.cells) - 1, task.layout).astype(np.uint8), task.start, rare)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            Levered,
            "toggling 'lever' must read and change only its own cell .*, got another cell; play your environment through Seeded",
        ),
        (Robbed, r"toggling 'closed door' must not change what the agent carries, got \(1, 0, 0\) in place of"),
        (Worn, r"must play the same game, got a difference in the .* step \d+ \((left|right|forward)\) of task \d+"),
        (Boxed, "toggling 'closed door' must give a cell of the family, got an object with encoding"),
        (Dropper, r"actions must be among .*, got \['drop'\]; .*a dropped object could lie anywhere"),
    ],
)
def test_rules_that_cannot_be(family, message):
    with pytest.raises(ValueError, match=message):
        sfe.register_family(family(8))


class Malformed(sfe.ThinIce):
    """Returns what a test asks for."""

    name = "Malformed"
    change = staticmethod(lambda task: task)

    def draw_layout(self, rng, rare):
        return self.change(super().draw_layout(rng, rare))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: sfe.Task(t.layout[:-1], t.start, t.rare),
            r"a layout of shape \(8, 8\) and dtype uint8, got shape \(7, 8\) and dtype uint8",
        ),
        (lambda t: sfe.Task(t.layout.astype(int), t.start, t.rare), r"dtype uint8, got shape \(8, 8\) and dtype int64"),
        (
            lambda t: sfe.Task(t.layout + np.uint8(9), t.start, t.rare),
            r"cell codes from draw_layout must be in \[0, 4\], got 1[0-9]",
        ),
        (
            lambda t: sfe.Task(t.layout, (8, 1, 0), t.rare),
            r"start from draw_layout must be inside the layout, got \(8, 1, 0\)",
        ),
        (
            lambda t: sfe.Task(t.layout, (1, 1, 4), t.rare),
            r"start from draw_layout must be inside the layout, got \(1, 1, 4\)",
        ),
    ],
)
def test_malformed_tasks(change, message, monkeypatch):
    monkeypatch.setattr(Malformed, "change", staticmethod(change))
    with pytest.raises(ValueError, match=message):
        sfe.TaskPool(Malformed(8), 1, seed=0)


class Open(sfe.TaskFamily):
    """A room without outer walls: what is outside is wall all the same."""

    name = "Open"
    cells = (sfe.EMPTY, sfe.WALL, sfe.GOAL, sfe.LAVA)

    def draw_layout(self, rng, rare):
        layout = np.zeros((self.size, self.size), dtype=np.uint8)
        layout[2, 1:] = 3
        layout[-1, -1] = 2
        return sfe.Task(layout, (0, 0, 3), rare)


def test_rooms_without_outer_walls():
    pool = sfe.TaskPool(Open(5), 2, seed=0)
    assert pool.finite_model().tables(np.array([0]))[0][1] == (25 - 5) * 4
