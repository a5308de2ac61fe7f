"""The command line: ``python -m sb3_forecast``."""
