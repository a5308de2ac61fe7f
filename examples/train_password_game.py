"""The password game study: python examples/train_password_game.py --seeds 5 --output runs/password_game (`--help` lists the options)."""

import sys
from pathlib import Path

import tyro

# the folder above holds the package `studies`
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.password_game import STUDY, Settings
from studies.runner import run_study

if __name__ == "__main__":
    run_study(STUDY, tyro.cli(Settings))
