"""Tasks and scorers that travel to the workers of the tests: they must be importable there, or small enough to be pickled whole."""

import os
import pathlib
import signal

import sb3_forecast as sf


class Deadly:
    """Makes exact scorers, and kills its process when it meets a task.

    :param task: first task of the pool that kills
    :param times: how often it kills
    :param folder: where it counts
    """

    def __init__(self, task, times, folder):
        self.task, self.times, self.folder = task, times, str(folder)

    def __call__(self, model, pool, seed):
        if self.task in pool.indices:
            for number in range(self.times):
                try:
                    with (pathlib.Path(self.folder) / f"death-{number}").open("x"):
                        os.kill(os.getpid(), signal.SIGKILL)
                except FileExistsError:
                    continue
        return sf.ExactScorer(pool, cache_tasks=0)


def count_draws(stream, folder):
    """A stream that leaves a file for each block that is drawn.

    :param stream: the tasks
    :param folder: where the files go
    """
    return Counting(stream, str(folder))


class Counting:
    """See :func:`count_draws`."""

    scorers = ("exact",)

    def __init__(self, stream, folder):
        self.stream, self.folder = stream, folder

    @property
    def key(self):
        return self.stream.key

    def __len__(self):
        return len(self.stream)

    def block(self, begin, end):
        (pathlib.Path(self.folder) / f"drawn-{begin}-{end}-{os.getpid()}").touch()
        return self.stream.block(begin, end)


class Poisoned(Counting):
    """A stream with a task that always raises.

    :param task: the task
    """

    def __init__(self, stream, folder, task):
        super().__init__(stream, folder)
        self.task = task

    def block(self, begin, end):
        if begin <= self.task < end:
            raise ArithmeticError(f"task {self.task} is poisoned")
        return super().block(begin, end)


def far(step):
    """Whether the pendulum's reward is low."""
    return step.reward < -12.0
