"""Forecast the failures of a deployment, from a file of scores (`forecast`) or from a saved model (`evaluate`)."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from sb3_forecast.cli.commands import Evaluate, Forecast, Version
from sb3_forecast.version import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run a command of the command line.

    :param arguments: the words of the command line; ``None`` for those of this process (``sys.argv``)
    :return: exit status: 0, or 2 if the input cannot be used; then standard error says why
    """
    command = tyro.cli(
        Annotated[Forecast, tyro.conf.subcommand("forecast")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Version, tyro.conf.subcommand("version")],
        args=arguments,
        prog="python -m sb3_forecast",
        description=__doc__,
    )
    if isinstance(command, Version):
        Console().print(__version__)
        return 0
    try:
        if isinstance(command, Evaluate):
            from sb3_forecast.cli import evaluate

            evaluate.run(command, Console())
        else:
            from sb3_forecast.cli import forecast

            forecast.run(command, Console())
    except KeyboardInterrupt:
        Console(stderr=True).print("[red]stopped[/red]", highlight=False)
        return 130
    except Exception as error:
        if command.traceback:
            raise
        # the messages of these say what to do; anything else is a mistake of ours or of the user's own code
        expected = isinstance(error, (ValueError, TypeError, OSError, ImportError))
        said = str(error) if expected else f"unexpected {type(error).__name__}: {error}; --traceback shows where it came from"
        Console(stderr=True).print(f"[red]error:[/red] {escape(said)}", highlight=False, soft_wrap=True)
        return 2 if expected else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
