"""The scheduler and the race detector by themselves, without Triton."""

from __future__ import annotations

import numpy as np
import pytest

from tests.interpreter.races import RaceDetector, RaceError
from tests.interpreter.scheduler import DeadlockError, Scheduler

A = np.array([4096, 4100])
FLAG = np.array([8192])


def test_every_program_runs_once_and_seeds_differ():
    orders = set()
    for seed in range(10):
        scheduler, order = Scheduler(3, seed), []

        def body(program: int, scheduler: Scheduler = scheduler, order: list[int] = order) -> None:
            for _ in range(3):
                scheduler.step()
                order.append(program)
                scheduler.acted()

        scheduler.run(body)
        assert sorted(order) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        orders.add(tuple(order))
    assert len(orders) > 5


def test_no_programs_end_at_once():
    Scheduler(0).run(lambda program: None)


def test_unknown_policy():
    with pytest.raises(ValueError, match="policy: 'fair'"):
        Scheduler(1, policy="fair")  # type: ignore[arg-type]


def test_an_error_ends_all_programs_and_names_its_own():
    scheduler = Scheduler(3)

    def body(program: int) -> None:
        scheduler.step()
        if program == 1:
            raise KeyError("broken")
        while True:
            scheduler.step()
            scheduler.acted()

    with pytest.raises(KeyError, match="broken") as caught:
        scheduler.run(body)
    assert caught.value.__notes__ == ["in program 1 of 3"]


@pytest.mark.parametrize("policy", ["random", "priority"])
def test_a_spin_ends_when_its_address_is_written(policy):
    for seed in range(10):
        scheduler, memory = Scheduler(2, seed, policy), {7: 0}

        def body(program: int, scheduler: Scheduler = scheduler, memory: dict[int, int] = memory) -> None:
            for _ in range(5):
                scheduler.step()
                scheduler.acted()
            if program == 0:
                memory[7] = 1
                scheduler.wrote([7])
            while memory[7] == 0:
                scheduler.step()
                scheduler.looked(("look", memory[7]), [7])

        scheduler.run(body)
        assert scheduler.steps < 100


def test_waiting_for_each_other_is_a_deadlock():
    scheduler = Scheduler(2)

    def body(program: int) -> None:
        while True:
            scheduler.step()
            scheduler.looked(("look", program), [program])

    with pytest.raises(DeadlockError, match=r"programs \[0, 1\] of 2"):
        scheduler.run(body)


def test_waiting_for_a_program_that_has_ended_is_a_deadlock():
    scheduler = Scheduler(2)

    def body(program: int) -> None:
        while program == 1:
            scheduler.step()
            scheduler.looked("look", [0])

    with pytest.raises(DeadlockError, match=r"programs \[1\] of 2"):
        scheduler.run(body)


def test_endless_work_is_stopped():
    scheduler = Scheduler(1, max_steps=50)

    def body(program: int) -> None:
        while True:
            scheduler.step()
            scheduler.acted()

    with pytest.raises(DeadlockError, match="after 50 memory operations"):
        scheduler.run(body)


@pytest.mark.parametrize(
    ("first", "second", "races"),
    [
        ("write", "write", True),
        ("write", "read", True),
        ("read", "write", True),
        ("write", "atomic", True),
        ("atomic", "write", True),
        ("atomic", "read", True),
        ("read", "atomic", True),
        ("read", "read", False),
        ("atomic", "atomic", False),
    ],
)
def test_which_pairs_race(first, second, races):
    detector = RaceDetector(2)
    detector.access(0, A, 4, first, "a")
    detector.access(1, A[1:], 4, second, "b")
    assert detector.count == (1 if races else 0)
    if races:
        with pytest.raises(RaceError, match=f"{first}-{second} race: program 0, then program 1 at b"):
            detector.raise_if_any()
    else:
        detector.raise_if_any()


def test_release_and_acquire_order_accesses():
    detector = RaceDetector(3)
    detector.access(0, A, 4, "write", "a")
    detector.release(0, FLAG)
    detector.acquire(1, FLAG)
    detector.access(1, A, 4, "read", "b")
    detector.access(1, A, 4, "write", "b")
    assert detector.count == 0
    detector.access(2, A[:1], 4, "read", "c")  # has acquired nothing
    assert detector.count == 1


def test_order_is_transitive_and_does_not_cover_later_writes():
    detector = RaceDetector(3)
    detector.access(0, A, 4, "write", "a")
    detector.release(0, FLAG)
    detector.acquire(1, FLAG)
    detector.release(1, FLAG + 4)
    detector.acquire(2, FLAG + 4)
    detector.access(2, A, 4, "write", "c")
    assert detector.count == 0
    detector.access(0, A + 64, 4, "write", "after the release")
    detector.access(2, A + 64, 4, "read", "c")
    assert detector.count == 2


def test_two_element_sizes_in_one_line_are_refused():
    detector = RaceDetector(2)
    detector.access(0, A, 4, "read", "a")
    with pytest.raises(NotImplementedError, match="elements of 2 bytes"):
        detector.access(0, A, 2, "read", "b")
