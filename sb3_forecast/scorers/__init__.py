"""How is a task scored? From the strongest knowledge that its environment offers, down to counting failures."""
