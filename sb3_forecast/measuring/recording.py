"""Recordings of the tasks that a model fails most, as a GIF or a film."""

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

from sb3_forecast.files import write_by_name, write_whole
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.playing import Episodes, play
from sb3_forecast.scorers.protocols import FailureScorer, NamesTasks, Scorer, TellsTasksApart
from sb3_forecast.statistics.scores import failure_probability


@dataclass(frozen=True)
class Recording:
    """What :func:`record_worst` recorded.

    :param path: the file
    :param tasks: indices of the shown tasks, worst first
    :param failure: failure probability of each task
    :param failed: whether the shown episode of each task failed
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
    max_frames: int = 100,
) -> Recording:
    """Record one failed episode of each of the tasks that a model fails most.

    Equal tasks are shown once. A task that does not fail in ``tries`` episodes is left out; if that is true of all, the worst one is shown.

    :param model: any SB3 or sb3-contrib model
    :param pool: the tasks; their environments must draw pictures (``render_mode="rgb_array"``)
    :param n: number of tasks
    :param path: the file to write: ``.gif``, or ``.mp4`` with the extra ``video``
    :param scorer: finds the worst tasks, as in :func:`evaluate_forecast`
    :param seed: seed of the episodes
    :param tries: number of episodes played per task; the first failed one is shown
    :param fps: pictures per second
    :param max_frames: of a longer episode only the last pictures are shown, up to this number
    :return: what the recording shows
    :raises ValueError: if an argument is out of range, or the environments draw no pictures
    :raises ImportError: for ``.mp4`` without the extra ``video``
    """
    target = pathlib.Path(path)
    if target.suffix.lower() not in (".gif", ".mp4"):
        raise ValueError(f"path must end in .gif or .mp4, got {str(path)!r}; use worst.gif")
    if target.suffix.lower() == ".mp4":
        _video_writer()
    for name, value, most in (
        ("n", n, len(pool)),
        ("tries", tries, 10_000),
        ("fps", fps, 60),
        ("max_frames", max_frames, 10_000),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be in [1, {most}], got {value}; use a number in this range")
    scores = make_measuring_scorer(scorer, pool, model, seed).score(model).numpy()
    clips = [clip_of(model, pool, task, seed, tries) for task in worst_distinct(scores, pool, n)]
    shown = [clip for clip in clips if clip.failed] or clips[:1]
    frames: list[NDArray[np.uint8]] = []
    for rank, clip in enumerate(shown):
        rare = ", rare" if pool.rare[clip.task] else ""
        name = pool.label(clip.task) if isinstance(pool, NamesTasks) else f"task {clip.task}"
        p = float(failure_probability(scores[clip.task]))
        end = "failed" if clip.failed else f"did not fail in {tries} tries"
        cut = f", last {max_frames} steps" if len(clip.frames) > max_frames else ""
        named = [
            captioned(frame, f"{rank + 1}. {name}{rare}: p(failure) = {p:.2g}, {end}{cut}")
            for frame in clip.frames[-max_frames:]
        ]
        # hold the last picture for a second: the end shows the failure
        frames += [*named, *[named[-1]] * fps]
    write_frames(frames, target, fps)
    tasks = [clip.task for clip in shown]
    return Recording(
        target, tasks, [float(failure_probability(scores[task])) for task in tasks], [clip.failed for clip in shown]
    )


def write_frames(frames: list[NDArray[np.uint8]], target: pathlib.Path, fps: int) -> None:
    """Write pictures as a film.

    :param frames: RGB pictures; smaller ones are padded with white
    :param target: the file, ``.gif`` or ``.mp4``
    :param fps: pictures per second
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    padded = _same_size(frames)
    if target.suffix.lower() == ".mp4":
        write_by_name(target, lambda name: _film(padded, name, fps))
        return
    first, *others = [Image.fromarray(frame) for frame in padded]
    more: dict[str, Any] = {"save_all": True, "append_images": others, "duration": round(1000 / fps), "loop": 0}
    write_whole(target, lambda file: first.save(file, format="GIF", **more))


@dataclass(frozen=True)
class Clip:
    """Pictures of one episode.

    :param task: index of the task
    :param frames: RGB pictures
    :param failed: whether the episode failed
    """

    task: int
    frames: list[NDArray[np.uint8]]
    failed: bool


def worst_distinct(scores: NDArray[np.float64], pool: Any, n: int) -> list[int]:
    """The n tasks with the largest scores, without those that equal a worse one.

    :param scores: score of every task
    :param pool: the tasks
    :param n: how many
    """
    keys = pool.task_keys() if isinstance(pool, TellsTasksApart) else range(len(scores))
    found: dict[Any, int] = {}
    for task in np.argsort(-scores, kind="stable").tolist():
        found.setdefault(keys[task], task)
        if len(found) == n:
            break
    return list(found.values())


def _film(frames: list[NDArray[np.uint8]], path: pathlib.Path, fps: int) -> None:
    """Write a film. ffmpeg is a process of its own, whose failed writes are not always reported: count what is there."""
    _video_writer().mimwrite(path, frames, fps=fps, macro_block_size=2)
    import imageio_ffmpeg

    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError as error:
        raise OSError("ffmpeg left no whole film, as on a full disk") from error
    if written != len(frames):
        raise OSError(f"ffmpeg wrote {written} of {len(frames)} pictures, as on a full disk")


def _video_writer() -> Any:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  # imageio needs it to write films
    except ImportError as error:
        raise ImportError(
            "films need imageio and ffmpeg; run `pip install 'sb3-forecast[video]'`, or use a path that ends in .gif"
        ) from error
    return imageio


class _Filmed(Exception):  # control flow, not an error
    """The episode has been drawn to its end."""


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Draws one episode of an environment, from its start to its last state. The reset after it raises :class:`_Filmed`.

    :param env: an environment that draws with ``render``
    :param episode: number of the episode to draw, from 0; ``None`` for none
    """

    def __init__(self, env: gym.Env[Any, Any], episode: int | None) -> None:
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"render_mode of the tasks' environment must be 'rgb_array', got {env.render_mode!r}; make it with "
                "render_mode='rgb_array', as SeededTasks does when you give it an id"
            )
        self.episode, self.playing = episode, -1
        self.frames: list[NDArray[np.uint8]] = []

    def _draw(self) -> None:
        if self.playing == self.episode:
            self.frames.append(np.asarray(self.env.render(), dtype=np.uint8))

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and draw its first state."""
        if self.playing == self.episode and self.frames:
            raise _Filmed
        result = self.env.reset(**arguments)
        self.playing += 1
        self._draw()
        return result

    def step(self, action: Any) -> Any:
        """Step the environment, and draw the new state."""
        result = self.env.step(action)
        self._draw()
        return result


def clip_of(model: Any, pool: Any, task: int, seed: int, tries: int) -> Clip:
    """Pictures of the first failed episode of a task, or of its last episode if none failed.

    :param model: any SB3 or sb3-contrib model
    :param pool: the tasks
    :param task: index into the pool
    :param seed: seed of the episodes
    :param tries: number of episodes
    """

    def play_it(camera: _Camera) -> Episodes:
        return play(model, DummyVecEnv([lambda: camera]), np.full(tries, task), seed)

    blind = _Camera(pool.make_env("rgb_array"), None)
    outcome = play_it(blind)
    shown = int(np.argmax(outcome.failed)) if outcome.failed.any() else tries - 1
    # drawing is slow: play again with the same seed, and draw only the episode that is shown
    camera = _Camera(pool.make_env("rgb_array"), shown)
    with suppress(_Filmed):
        play_it(camera)
    return Clip(task, camera.frames, bool(outcome.failed[shown]))


def captioned(frame: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """A picture with a line of text below it, shape (height, width, 3), uint8.

    :param frame: RGB picture
    :param caption: the text
    """
    height, width = frame.shape[:2]
    image = Image.new("RGB", (max(width, 6 * len(caption) + 12), height + 20), "white")
    image.paste(Image.fromarray(frame), ((image.width - width) // 2, 0))
    ImageDraw.Draw(image).text((6, height + 4), caption, fill="black")
    return np.asarray(image)


def _same_size(frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Pad pictures with white to the size of the largest one. Both sides become even, because films need that."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    height, width = height + height % 2, width + width % 2
    out = []
    for frame in frames:
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        canvas[: frame.shape[0], : frame.shape[1]] = frame
        out.append(canvas)
    return out
