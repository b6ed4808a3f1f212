"""What a job could not do: each problem is logged, and the first ones are kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

PROBLEMS_KEPT = 20


@dataclass
class Problems:
    """A report of what a job could not do.

    :param problems: the first problems, in words.
    """

    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Log a problem, and keep it if it is among the first."""
        logger.warning("%s", problem)
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)
