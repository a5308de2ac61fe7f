"""How do I measure? Held-out reports, evaluation during training, pictures and recordings."""
