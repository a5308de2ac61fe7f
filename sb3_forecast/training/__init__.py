"""How do I train? The loss, the objective, and what brings it into an algorithm's updates."""
