"""Pictures of failure: the tasks that a model fails most, as a GIF or a film."""

from __future__ import annotations

import pathlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.playing import Episodes, play
from sb3_forecast.scorers.protocols import FailureScorer, Scorer
from sb3_forecast.statistics.scores import failure_probability


@dataclass(frozen=True)
class Recording:
    """What :func:`record_worst` recorded.

    :param path: the file
    :param tasks: the tasks, worst first
    :param failure: their failure probabilities
    :param failed: whether the episode shown is one that failed
    """

    path: pathlib.Path
    tasks: list[int]
    failure: list[float]
    failed: list[bool]


def record_worst(
    model: Any,
    pool: Any,
    n: int = 6,
    path: str | pathlib.Path = "worst.gif",
    scorer: str | FailureScorer | Scorer = "auto",
    seed: int = 0,
    tries: int = 20,
    fps: int = 8,
) -> Recording:
    """Record an episode of each of the tasks that a model fails most, a failed one if it occurs.

    :param model: any SB3 or sb3-contrib model
    :param pool: the tasks; their environments must draw (``render_mode="rgb_array"``)
    :param n: how many tasks
    :param path: where to; ``.gif``, or ``.mp4`` with the extra ``video``
    :param scorer: what tells which tasks are worst, as in :func:`evaluate_forecast`
    :param seed: seed of the episodes
    :param tries: episodes of a task to wait for a failure
    :param fps: pictures per second
    :return: what is shown
    :raises ValueError: if an argument is out of range or nothing can be drawn
    :raises ImportError: for ``.mp4`` without the extra ``video``
    """
    target = pathlib.Path(path)
    if target.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path={str(path)!r} is neither a .gif nor an .mp4; choose one of them")
    if target.suffix == ".mp4":
        _video_writer()
    for name, value, most in (("n", n, len(pool)), ("tries", tries, 10_000), ("fps", fps, 60)):
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value} is out of range; use 1 to {most}")
    scores = make_measuring_scorer(scorer, pool, model, seed).score(model).numpy()
    worst = np.argsort(-scores, kind="stable")[:n]
    frames: list[NDArray[np.uint8]] = []
    failed = []
    for rank, task in enumerate(worst):
        p = float(failure_probability(scores[task]))
        episode, fell = _episode(model, pool, int(task), seed, tries)
        rare = ", rare" if pool.rare[task] else ""
        caption = f"{rank + 1}. task {task}{rare}: p(failure) = {p:.2g}, {'failed' if fell else 'did not fail'}"
        captioned = [_captioned(frame, caption) for frame in episode]
        # the end is what one wants to see
        frames += [*captioned, *[captioned[-1]] * fps]
        failed.append(fell)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".mp4":
        _video_writer().mimwrite(target, _same_size(frames), fps=fps, macro_block_size=2)
    else:
        first, *others = [Image.fromarray(frame) for frame in _same_size(frames)]
        first.save(target, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return Recording(target, worst.tolist(), [float(failure_probability(scores[task])) for task in worst], failed)


def _video_writer() -> Any:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  # what imageio writes films with
    except ImportError as error:
        raise ImportError("films need imageio and ffmpeg: pip install 'sb3-forecast[video]', or record a .gif") from error
    return imageio


class _Filmed(Exception):  # control flow, not an error
    """The episode has been seen to its end."""


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose n-th episode is drawn, from its start to its last state; the episode after it does not start.

    :param env: draws with ``render``
    :param episode: which episode; ``None`` for none
    """

    def __init__(self, env: gym.Env[Any, Any], episode: int | None) -> None:
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"the tasks' environment draws nothing (render_mode={env.render_mode!r}); make it with render_mode='rgb_array', "
                "as SeededTasks does where it is given an id"
            )
        self.episode, self.playing = episode, -1
        self.frames: list[NDArray[np.uint8]] = []

    def _draw(self) -> None:
        if self.playing == self.episode:
            self.frames.append(np.asarray(self.env.render(), dtype=np.uint8))

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment; draws."""
        if self.playing == self.episode and self.frames:
            raise _Filmed
        result = self.env.reset(**arguments)
        self.playing += 1
        self._draw()
        return result

    def step(self, action: Any) -> Any:
        """As the environment; draws."""
        result = self.env.step(action)
        self._draw()
        return result


def _episode(model: Any, pool: Any, task: int, seed: int, tries: int) -> tuple[list[NDArray[np.uint8]], bool]:
    """Pictures of the first failed episode of a task, or of the last one tried."""

    def play_it(camera: _Camera) -> Episodes:
        return play(model, DummyVecEnv([lambda: camera]), np.full(tries, task), seed)

    blind = _Camera(pool.make_env("rgb_array"), None)
    outcome = play_it(blind)
    shown = int(np.argmax(outcome.failed)) if outcome.failed.any() else tries - 1
    # played again with the same seed, so that only what is shown is drawn
    camera = _Camera(pool.make_env("rgb_array"), shown)
    with suppress(_Filmed):
        play_it(camera)
    return camera.frames, bool(outcome.failed[shown])


def _captioned(frame: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """A picture with a line of text below it."""
    height, width = frame.shape[:2]
    image = Image.new("RGB", (max(width, 6 * len(caption) + 12), height + 20), "white")
    image.paste(Image.fromarray(frame), ((image.width - width) // 2, 0))
    ImageDraw.Draw(image).text((6, height + 4), caption, fill="black")
    return np.asarray(image)


def _same_size(frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Pictures padded to the largest, of even sides as films want them."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    height, width = height + height % 2, width + width % 2
    out = []
    for frame in frames:
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        canvas[: frame.shape[0], : frame.shape[1]] = frame
        out.append(canvas)
    return out
