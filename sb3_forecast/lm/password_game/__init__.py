"""The password game: for language models, what the gridworlds are for reinforcement learning."""
