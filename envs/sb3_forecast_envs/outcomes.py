"""Results of a step."""

from __future__ import annotations

#: the episode goes on, has succeeded, has failed, has reached its time limit, has ended with neither success nor failure
RUNNING, SUCCESS, FAILURE, TRUNCATED, ENDED = range(5)
