"""``python -m studies tables | stale | publish``: the documentation's tables, old records, and new ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sb3_forecast.files import write_text
from studies.records import PUBLISHED, checksum, read_records
from studies.runner import LIBRARY
from studies.tables import pages, with_tables
from studies.tables_in_docs import SOURCES, TABLES


@dataclass(frozen=True)
class Tables:
    """Make the tables in README and docs anew from the committed records."""

    check: bool = False
    """Change nothing; fail if a table differs from its records."""


@dataclass(frozen=True)
class Stale:
    """List records that are older than the code that they depend on."""


@dataclass(frozen=True)
class Publish:
    """Copy the records of a finished study to where the tables take them from."""

    output: Annotated[Path, tyro.conf.Positional]
    """The study's output folder."""
    name: Annotated[str, tyro.conf.Positional]
    """Folder below studies/records."""


def tables(args: Tables, console: Console) -> int:
    """Write or check the tables."""
    differing = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = with_tables(before, TABLES)
        if after != before:
            differing.append(page.name)
            if not args.check:
                write_text(page, after)
    if differing:
        console.print(f"{'differ from their records' if args.check else 'written'}: {', '.join(differing)}")
    return int(args.check and bool(differing))


def stale(console: Console) -> int:
    """Say which records are older than their code."""
    for folder in sorted(PUBLISHED.iterdir()):
        records = read_records(folder)
        if not records:
            continue
        now = checksum((*LIBRARY, "studies/runner.py", *SOURCES[records[0].study]))
        old = [record for record in records if record.code["sources"] != now]
        commits = sorted({record.code["commit"] for record in old})
        console.print(
            f"{folder.name}: {len(old)} of {len(records)} records are older than their code {commits if old else ''}"
        )
    return 0


def publish(args: Publish, console: Console) -> int:
    """Copy records."""
    source = args.output / "records"
    if not source.is_dir():
        console.print(
            f"output must be the folder of a study that has run, got {args.output} without records; run the study first"
        )
        return 2
    target = PUBLISHED / args.name
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*-seed*.json")):
        write_text(target / path.name, path.read_text(encoding="utf-8"))
    console.print(f"{len(list(target.glob('*.json')))} records are in {target}; `make tables` puts them into the pages")
    return 0


def main() -> int:
    """Run a command."""
    command = tyro.cli(
        Annotated[Tables, tyro.conf.subcommand("tables")]
        | Annotated[Stale, tyro.conf.subcommand("stale")]
        | Annotated[Publish, tyro.conf.subcommand("publish")],
        prog="python -m studies",
        description=__doc__,
    )
    console = Console()
    if isinstance(command, Tables):
        return tables(command, console)
    return stale(console) if isinstance(command, Stale) else publish(command, console)


if __name__ == "__main__":
    sys.exit(main())
