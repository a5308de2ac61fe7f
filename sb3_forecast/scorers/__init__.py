"""How is a task scored? By the strongest method that its environment allows; the weakest one counts failures."""
