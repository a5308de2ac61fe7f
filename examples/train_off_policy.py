"""The off-policy study: python examples/train_off_policy.py --seeds 3 --output runs/off_policy (`--help` lists the options)."""

import sys
from pathlib import Path

import tyro

# the folder above holds the package `studies`
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studies.off_policy import STUDY, Settings
from studies.runner import run_study

if __name__ == "__main__":
    run_study(STUDY, tyro.cli(Settings))
