"""Read failure scores from files: open and decode, find the columns, choose one, and turn its numbers into scores."""
