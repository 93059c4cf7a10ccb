"""Lets many program threads run one at a time, in an order that a seed decides. Knows nothing of Triton.

Every thread hands control back before each memory operation (`step`), so a seed names one interleaving and
repeats it. Threads that only look at unchanged memory are put to sleep until somebody writes there; when all
sleep, it is a deadlock.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Hashable
from typing import Literal

Policy = Literal["random", "priority"]

# The priority policy drops the running program to the lowest priority with this chance at each step; after
# Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding bugs", 2010.
DROP_CHANCE = 1 / 32


class DeadlockError(RuntimeError):
    """The programs of a grid wait for something that none of them will do."""


class _Stop(BaseException):
    """Unwinds a program after another one failed. Not an Exception: kernels and Triton must not catch it."""


class Scheduler:
    """Runs `programs` bodies, each in its own thread, exactly one at a time.

    `policy`: "random" picks a runnable program at every step; "priority" runs the same one as long as it can
    and sometimes drops it, which finds bugs that need one program far behind. `max_steps` bounds the whole
    run. spin: who waits looks again and again, as on a GPU; no deadlock is found then, but `max_steps` is.
    """

    def __init__(
        self,
        programs: int,
        seed: int = 0,
        policy: Policy = "random",
        max_steps: int = 200_000,
        spin: bool = False,
    ):
        if policy not in ("random", "priority"):
            raise ValueError(f"policy: {policy!r} is unknown. Use 'random' or 'priority'.")
        self.programs = programs
        self.policy = policy
        self.max_steps = max_steps
        self.spin = spin
        self.steps = 0
        self.switches = 0
        self._random = random.Random(seed)
        self._turn = [threading.Semaphore(0) for _ in range(programs)]
        self._done = [False] * programs
        self._sleeping: list[frozenset[int] | None] = [None] * programs  # addresses a sleeper watches
        self._last_look: list[Hashable] = [None] * programs
        self._priority = self._random.sample(range(programs), programs)
        self._progress = 0  # counts operations that were not a repeated look at unchanged memory
        self._progress_at_wake = -1
        self._failure: BaseException | None = None
        self._finished = threading.Event()
        self._local = threading.local()

    @property
    def program(self) -> int:
        """Number of the program that the calling thread runs."""
        return self._local.program

    def run(self, body: Callable[[int], None]) -> None:
        """Run `body(program)` for every program; raise what the first failing one raised, or
        DeadlockError.
        """
        threads = [
            threading.Thread(target=self._main, args=(i, body), daemon=True) for i in range(self.programs)
        ]
        for thread in threads:
            thread.start()
        if threads:
            self._turn[self._pick()].release()
            self._finished.wait()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def step(self) -> None:
        """Called by a program before a memory operation: another program may run first."""
        self._raise_if_stopped()
        self.steps += 1
        if self.steps > self.max_steps:
            self._give_up(DeadlockError(f"no end after {self.max_steps} memory operations: {self._state()}"))
        me = self.program
        try:
            chosen = self._pick()
        except DeadlockError as error:
            self._give_up(error)
        if chosen != me:
            self.switches += 1
            self._turn[chosen].release()
            self._turn[me].acquire()
            self._raise_if_stopped()

    def looked(self, key: Hashable, addresses: Collection[int]) -> None:
        """A program polled `addresses` and saw `key`. Seeing the same twice in a row means that it spins: it
        sleeps.

        Only for reads that exist to wait (atomic or volatile): a program may well load a constant twice.
        """
        me = self.program
        if self.spin or self._last_look[me] != key:
            self._last_look[me] = key
            self._progress += 1
            return
        self._sleeping[me] = frozenset(addresses)
        self.step()

    def acted(self) -> None:
        """A program did something other than look at a few addresses again."""
        self._last_look[self.program] = None
        self._progress += 1

    def wrote(self, addresses: Collection[int]) -> None:
        """A program wrote `addresses`: whoever sleeps on one of them wakes up."""
        self.acted()
        if any(self._sleeping):
            written = frozenset(addresses)
            for program, watched in enumerate(self._sleeping):
                if watched is not None and not watched.isdisjoint(written):
                    self._sleeping[program] = None

    def _main(self, program: int, body: Callable[[int], None]) -> None:
        self._local.program = program
        self._turn[program].acquire()
        try:
            if self._failure is None:
                body(program)
        except _Stop:
            pass  # another program failed, its error is the one to report
        except BaseException as error:
            error.add_note(f"in program {program} of {self.programs}")
            self._fail(error)
        self._done[program] = True
        self._progress += 1
        if all(self._done):
            self._finished.set()
        elif self._failure is None:
            try:
                self._turn[self._pick()].release()
            except DeadlockError as error:
                self._fail(error)

    def _pick(self) -> int:
        ready = self._ready()
        if not ready:
            if self._progress == self._progress_at_wake:
                raise DeadlockError(f"deadlock, nobody will write what the others wait for: {self._state()}")
            # A sleeper may have looked twice without waiting. Wake all once; a real spin falls asleep again.
            self._progress_at_wake = self._progress
            self._sleeping = [None] * self.programs
            ready = self._ready()
        if self.policy == "random":
            return self._random.choice(ready)
        highest = max(ready, key=self._priority.__getitem__)
        if self._random.random() < DROP_CHANCE:
            self._priority[highest] = min(self._priority) - 1
            highest = max(ready, key=self._priority.__getitem__)
        return highest

    def _ready(self) -> list[int]:
        return [i for i in range(self.programs) if not self._done[i] and self._sleeping[i] is None]

    def _state(self) -> str:
        waiting = [i for i in range(self.programs) if not self._done[i]]
        return f"programs {waiting} of {self.programs} have not ended"

    def _raise_if_stopped(self) -> None:
        if self._failure is not None:
            raise _Stop

    def _give_up(self, error: BaseException) -> None:
        self._fail(error)
        raise _Stop

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        for turn in self._turn:
            turn.release()
