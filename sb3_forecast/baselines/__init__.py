"""What do I compare with? Other methods that make failures rarer, built on the same hooks."""
