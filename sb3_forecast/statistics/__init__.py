"""Statistics of failure scores: fits, forecasts, intervals and checks. They need scores only, no agent."""
