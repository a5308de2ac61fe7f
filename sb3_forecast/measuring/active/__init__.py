"""Choosing which tasks to evaluate: what a random evaluation set would miss is looked for."""
