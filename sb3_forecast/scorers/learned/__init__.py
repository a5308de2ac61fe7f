"""Scores from a cost model that is learnt on the way, for environments that tell nothing but a cost."""
