"""Scores from a learnt cost model: model-free, for environments that report only ``info["cost"]``."""
