"""Runs a whole grid of Triton programs on a CPU at once, under a seeded schedule; finds races and
deadlocks.
"""

from tests.interpreter.concurrent import Run, concurrent
from tests.interpreter.patches import install
from tests.interpreter.races import Race, RaceError
from tests.interpreter.scheduler import DeadlockError

__all__ = ["DeadlockError", "Race", "RaceError", "Run", "concurrent", "install"]
