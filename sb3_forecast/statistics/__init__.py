"""What does a tail say? Scores, fits, forecasts, intervals and checks; needs no agent."""
