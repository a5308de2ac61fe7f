"""Cart-poles that must be brought to a goal. Each task has its own physics, and in the rare mode there is a strong wind.

The equations and the time step are those of Gymnasium's CartPole. Gravity, pole, cart, motor, wind, goal and start are drawn for each
task. A decision lasts three time steps, the pole may lean 24 degrees, and the cart must be near the goal at the end of the episode. The
agent observes the physics of the task, and the distance to the goal.

The pole falls a few decisions after the mistake that made it fall, so the cost comes late. This tests scorers that know nothing but the
cost. The simulator knows more: :class:`CartPoleSimulation` gives unbiased survival scores, to compare with.
"""

from __future__ import annotations

import math

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: number of decisions in an episode
HORIZON = 60
#: number of time steps in a decision, and length of a time step in seconds
REPEAT, STEP = 3, 0.02
#: an episode fails beyond this angle of the pole (radians) or this position of the cart (metres)
MAX_ANGLE, MAX_POSITION = math.radians(24.0), 2.4
#: an episode succeeds if the cart ends less than this distance from the goal (metres)
TOLERANCE = 0.3
#: default probability that a task belongs to the rare mode
RARE_FRACTION = 0.003
#: columns of a task's parameters: gravity (m/s^2), half the length of the pole (m), masses of pole and cart (kg), motor force (N), wind force
#: (N) and goal (m)
GRAVITY, LENGTH, POLE, CART, MOTOR, WIND, GOAL = range(7)
#: columns of the start: position (m), velocity (m/s), angle (rad) and angular velocity (rad/s)
START = slice(7, 11)
#: names of the columns
PARAMETERS = (
    "gravity", "half length of the pole", "mass of the pole", "mass of the cart", "motor force", "wind force", "goal", "start position",
    "start velocity", "start angle", "start angular velocity",
)  # fmt: skip
_LOW = np.array([9.0, 0.4, 0.08, 0.8, 9.5, -0.7, 0.2, -0.2, -0.05, -0.05, -0.05])
_HIGH = np.array([10.6, 0.7, 0.12, 1.2, 12.0, 0.7, 0.8, 0.2, 0.05, 0.05, 0.05])
#: range of the wind force in the rare mode, in newtons
_STRONG = (5.0, 6.0)

#: four numbers for the state, then distance to the goal, six for the physics, and the time
OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (12,), np.float32)


def draw_task(rng: np.random.Generator, rare_fraction: float) -> tuple[F64, bool]:
    """Draw one task.

    :param rng: generator of all random numbers
    :param rare_fraction: probability that the task belongs to the rare mode
    :return: parameters, shape (11,), float64; whether the task belongs to the rare mode
    """
    rare = bool(rng.random() < rare_fraction)
    task = rng.uniform(_LOW, _HIGH)
    wind, side, goal_side = rng.uniform(*_STRONG), rng.choice([-1.0, 1.0]), rng.choice([-1.0, 1.0])
    if rare:
        task[WIND] = side * wind
    task[GOAL] *= goal_side
    return task, rare


def observe(state: F64, tasks: F64, decision: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the agent sees.

    :param state: position, velocity, angle, angular velocity, shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param decision: number of decisions so far, shape (n,)
    :return: shape (n, 12), float32
    """
    middle, half = (_LOW + _HIGH)[:GOAL] / 2.0, (_HIGH - _LOW)[:GOAL] / 2.0
    physics = (tasks[:, :GOAL] - middle) / half
    columns = [state * [1.0, 1.0, 5.0, 1.0], tasks[:, GOAL, None] - state[:, :1], physics, decision[:, None] / HORIZON]
    return np.concatenate(columns, axis=1).astype(np.float32)


def fallen(state: F64) -> NDArray[np.bool_]:
    """Whether the pole has fallen or the cart has left the track.

    :param state: shape (n, 4)
    :return: shape (n,), bool
    """
    return np.asarray((np.abs(state[:, 0]) > MAX_POSITION) | (np.abs(state[:, 2]) > MAX_ANGLE))


def advance(state: F64, tasks: F64, actions: I64) -> F64:
    """The states one decision later. A pole that has fallen does not move any more.

    :param state: shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param actions: 0 pushes left, 1 pushes right, shape (n,)
    :return: shape (n, 4), float64
    """
    motor = tasks[:, MOTOR]
    return pushed(state, tasks, np.where(actions == 1, motor, -motor))


def pushed(state: F64, tasks: F64, force: F64) -> F64:
    """The states after a decision that pushes with any force.

    :param state: shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param force: of motor and gusts, besides the task's wind, in newtons, shape (n,), float64
    :return: shape (n, 4), float64
    """
    gravity, length, pole, cart, _, wind = tasks[:, :GOAL].T
    force = force + wind
    total, moment = pole + cart, pole * length
    state = state.copy()
    for _ in range(REPEAT):
        going = ~fallen(state)
        _, velocity, angle, spin = state.T
        cosine, sine = np.cos(angle), np.sin(angle)
        push = (force + moment * spin**2 * sine) / total
        spin_up = (gravity * sine - cosine * push) / (length * (4.0 / 3.0 - pole * cosine**2 / total))
        rates = np.stack([velocity, push - moment * spin_up * cosine / total, spin, spin_up], axis=1)
        state += STEP * rates * going[:, None]
    return state


def doomed(state: F64, tasks: F64, decisions: int) -> NDArray[np.bool_]:
    """For each action: whether the episode is lost after it, whatever the agent does in the next decisions.

    A pole that leans too far to one side is best saved by pushing to that side all the time. If it still falls to that side, it is lost. (A
    larger force gives a smaller angle at all later times. A search through all sequences of actions found no exception, see
    ``tests/envs/test_cart_pole.py``.) A cart that is about to leave the track is noticed late. This adds variance to the scores, but no bias.

    :param state: shape (n, 4)
    :param tasks: parameters, shape (n, 11)
    :param decisions: number of decisions to look ahead
    :return: shape (n, 2), bool
    """
    out = np.empty((len(state), 2), dtype=np.bool_)
    for action in (0, 1):
        after = advance(state, tasks, np.full(len(state), action))
        lost = fallen(after)
        for side in (-1.0, 1.0):
            following, running = after.copy(), np.flatnonzero(~lost)
            for _ in range(decisions):
                pushed = np.full(len(running), int(side > 0.0))
                following[running] = advance(following[running], tasks[running], pushed)
                running = running[~fallen(following[running])]
            lost |= side * following[:, 2] > MAX_ANGLE
        out[:, action] = lost
    return out


def reward_of(state: F64, goal: F64, failed: NDArray[np.bool_]) -> F64:
    """Reward of a decision: 0.1 at the goal, less with the distance, and 0 after a failure or at 2 metres or more.

    :param state: state after the decision, shape (n, 4)
    :param goal: position of the goal in metres, shape (n,)
    :param failed: whether the decision failed, shape (n,), bool
    :return: shape (n,), float64
    """
    near = 1.0 - np.minimum(np.abs(state[:, 0] - goal), 2.0) / 2.0
    return np.where(failed, 0.0, near / 10.0)
