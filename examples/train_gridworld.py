"""The gridworld study: python examples/train_gridworld.py --seeds 5 --output runs/gridworld (`--help` lists the options)."""

import sys
from pathlib import Path

import tyro

# the folder above holds the package `studies`
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.gridworld import STUDY, Settings, where_users_register
from studies.runner import run_study

if __name__ == "__main__":
    where_users_register()
    run_study(STUDY, tyro.cli(Settings))
