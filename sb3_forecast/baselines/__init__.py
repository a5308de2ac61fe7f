"""What do I compare with? Other ways to fewer failures, on the same hooks."""
