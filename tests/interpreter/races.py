"""Finds races between the programs of one grid by vector clocks, element by element.

Two accesses of one element race when they come from different programs, at least one is a plain write (or one
is a plain access and the other atomic), and no release -> acquire chain orders them. So a race is found also
when the values came out right. A schedule may by chance order what another would not: run several seeds, and
look at the values too. The idea is FastTrack's (Flanagan and Freund, 2009), here over blocks of addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PAGE = 4096  # bytes of shadow memory allocated at once
LINE = 64  # bytes that must be accessed with one element size (torch aligns CPU tensors to 64 bytes)
MAX_KEPT = 20  # races kept in full; the rest are only counted


@dataclass(frozen=True)
class Race:
    """Two unordered accesses of one address by two programs; `where` is the line of the second."""

    kind: str
    first: int
    second: int
    address: int
    where: str

    def __str__(self) -> str:
        programs = f"program {self.first}, then program {self.second}"
        return f"{self.kind} race: {programs} at {self.where}, address {self.address:#x}"


class RaceError(RuntimeError):
    """Programs of a grid touched the same element without an order between them."""

    def __init__(self, races: list[Race], count: int):
        self.races = races
        super().__init__(f"{count} racing accesses, first: {races[0]}")


class _Page:
    """What happened to each byte address of one page: by whose clock and when (0: never)."""

    def __init__(self, programs: int):
        self.writer = np.zeros(PAGE, np.int32)
        self.written = np.zeros(PAGE, np.int64)
        self.read = np.zeros((programs, PAGE), np.int64)
        self.atomic = np.zeros((programs, PAGE), np.int64)
        self.size = np.zeros(PAGE // LINE, np.uint8)


class RaceDetector:
    """Watches the accesses of `programs` programs; `races` holds what it found, `count` how much."""

    def __init__(self, programs: int):
        self._programs = programs
        self._clock = np.eye(programs, dtype=np.int64)  # [program, what it knows of the others]
        self._released: dict[int, np.ndarray] = {}
        self._pages: dict[int, _Page] = {}
        self.races: list[Race] = []
        self.count = 0

    def access(self, program: int, addresses: np.ndarray, size: int, kind: str, where: str) -> None:
        """Record that `program` did `kind` ("read", "write" or "atomic") on elements of `size` bytes."""
        numbers = addresses // PAGE
        for number in np.unique(numbers):
            page = self._pages.get(int(number))
            if page is None:
                page = self._pages[int(number)] = _Page(self._programs)
            offsets = (addresses[numbers == number] % PAGE).astype(np.int64)
            self._check_size(page, offsets, size, where)
            base = int(number) * PAGE
            self._check_writes(page, offsets, program, kind, base, where)
            if kind != "read":
                self._check_others(page.read, "read", offsets, program, kind, base, where)
            if kind != "atomic":
                self._check_others(page.atomic, "atomic", offsets, program, kind, base, where)
            now = self._clock[program, program]
            if kind == "write":
                page.writer[offsets] = program
                page.written[offsets] = now
            elif kind == "read":
                page.read[program, offsets] = now
            else:
                page.atomic[program, offsets] = now

    def acquire(self, program: int, addresses: np.ndarray) -> None:
        """What was released at `addresses` is now known to `program`."""
        for address in addresses:
            released = self._released.get(int(address))
            if released is not None:
                np.maximum(self._clock[program], released, out=self._clock[program])

    def release(self, program: int, addresses: np.ndarray) -> None:
        """All that `program` knows and did so far can be acquired at `addresses`."""
        for address in addresses:
            before = self._released.get(int(address))
            mine = self._clock[program]
            self._released[int(address)] = mine.copy() if before is None else np.maximum(before, mine)
        self._clock[program, program] += 1

    def raise_if_any(self) -> None:
        """Raise RaceError when a race was found."""
        if self.races:
            raise RaceError(self.races, self.count)

    def _check_size(self, page: _Page, offsets: np.ndarray, size: int, where: str) -> None:
        lines = offsets // LINE
        before = page.size[lines]
        if np.any((before != 0) & (before != size)):
            raise NotImplementedError(
                f"{where}: elements of {size} bytes in a line that was accessed with another size"
            )
        page.size[lines] = size

    def _check_writes(
        self, page: _Page, offsets: np.ndarray, program: int, kind: str, base: int, where: str
    ) -> None:
        writer, written = page.writer[offsets], page.written[offsets]
        unordered = (writer != program) & (written > self._clock[program, writer])
        if unordered.any():
            i = int(np.argmax(unordered))
            self._report(
                f"write-{kind}", int(writer[i]), program, base + int(offsets[i]), where, int(unordered.sum())
            )

    def _check_others(
        self,
        times: np.ndarray,
        first: str,
        offsets: np.ndarray,
        program: int,
        kind: str,
        base: int,
        where: str,
    ) -> None:
        unordered = times[:, offsets] > self._clock[program][:, None]  # [programs, accesses]
        unordered[program] = False
        if unordered.any():
            other, i = np.unravel_index(int(np.argmax(unordered)), unordered.shape)
            self._report(
                f"{first}-{kind}", int(other), program, base + int(offsets[i]), where, int(unordered.sum())
            )

    def _report(self, kind: str, first: int, second: int, address: int, where: str, count: int) -> None:
        self.count += count
        if len(self.races) < MAX_KEPT:
            self.races.append(Race(kind, first, second, address, where))
