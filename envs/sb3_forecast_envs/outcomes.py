"""What a step can come to."""

from __future__ import annotations

#: nothing yet, success, failure, the time limit, an end that is neither success nor failure
RUNNING, SUCCESS, FAILURE, TRUNCATED, ENDED = range(5)
