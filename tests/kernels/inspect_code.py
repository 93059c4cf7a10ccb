"""Reads what the compiler made: registers, spills, loops and their instructions, where an argument is loaded.

Pure functions from text; only `disassemble` and `resources` call the programs that come with Triton.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Prefixes of opcodes that are counted, by what they do. UTC?MMA: tcgen05.mma of sm_100; v_smfmac: sparse.
TENSOR_CORE = (
    "HMMA", "HGMMA", "QGMMA", "IMMA", "IGMMA", "DMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA",
    "v_mfma", "v_smfmac",
)  # fmt: skip
SPILL = ("LDL", "STL", "scratch_load", "scratch_store")
# Not LDGDEPBAR (it waits), REDUX (a sum over a warp) and ATOMS (shared memory).
GLOBAL_LOAD = ("LDG.", "LDGSTS", "UTMALDG", "UBLKCP", "global_load", "buffer_load", "flat_load")
GLOBAL_STORE = ("STG.", "UTMASTG", "global_store", "buffer_store", "flat_store")
ATOMIC = ("ATOM.", "ATOMG", "RED.", "REDG", "UTMAREDG", "global_atomic", "buffer_atomic", "flat_atomic")

_SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
_SASS_LABEL = re.compile(r"^(\.L\w+):")
_AMD = re.compile(r"^\s+([a-z]\w+)(.*)$")
_AMD_LABEL = re.compile(r"^(\.L\w+):")
# Operations of TTGIR that read global memory; AMD's dialect was renamed between Triton 3.6 and 3.9.
_LOADS = re.compile(
    r"tt\.load|tt\.descriptor_load|ttg\.async_copy_global_to_local|ttng\.async_tma_copy_global_to_local"
    r"|amdg(pu)?\.buffer_load\w*"
)


@dataclass(frozen=True)
class Instruction:
    """An opcode, and the label it jumps to, if any."""

    opcode: str
    jump: str | None = None


@dataclass(frozen=True)
class Loop:
    """Instructions from a label to the jump back to it: how many there are of each opcode, inner loops
    included.
    """

    first: int
    last: int
    counts: dict[str, int]

    def count(self, *prefixes: str) -> int:
        """Number of instructions whose opcode starts with one of the prefixes."""
        return sum(n for opcode, n in self.counts.items() if opcode.startswith(prefixes))

    @property
    def size(self) -> int:
        """Number of instructions."""
        return sum(self.counts.values())

    def kinds(self, *prefixes: str) -> dict[str, int]:
        """Number of instructions by name, without what stands behind a dot, of those `count` counts."""
        found: Counter[str] = Counter()
        for opcode, n in self.counts.items():
            if opcode.startswith(prefixes):
                found[opcode.partition(".")[0]] += n
        return dict(sorted(found.items()))


def disassemble(cubin: Path) -> str:
    """SASS of a cubin."""
    return _tool("nvdisasm", "-c", str(cubin))


def resources(cubin: Path) -> dict[str, int]:
    """REG and STACK (bytes a thread spills) of the one kernel in a cubin, and what else cuobjdump reports."""
    text = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL|BARRIER):(\d+)", text)}


def amd_resources(assembly: str) -> dict[str, int]:
    """REG (vector registers), STACK (bytes of scratch) and SPILL (registers) from AMD's kernel metadata."""
    keys = {"REG": "vgpr_count", "STACK": "private_segment_fixed_size", "SPILL": "vgpr_spill_count"}
    return {key: int(re.findall(rf"\.{name}:\s*(\d+)", assembly)[0]) for key, name in keys.items()}


def sass_loops(text: str) -> list[Loop]:
    """The loops in SASS, longest first."""
    return _loops(_instructions(text, _SASS, _SASS_LABEL, re.compile(r"`\((\.L\w+)\)"), ("BRA", "BRX")))


def amd_loops(assembly: str) -> list[Loop]:
    """The loops in AMD assembly, longest first."""
    jumps = ("s_cbranch", "s_branch")
    return _loops(_instructions(assembly, _AMD, _AMD_LABEL, re.compile(r"(\.L\w+)"), jumps))


def loads_by_depth(ttgir: str, argument: str) -> dict[int, int]:
    """Number of loads through a pointer argument at each depth of loops (0: outside all)."""
    from_argument = {f"%{argument}"}
    found: Counter[int] = Counter()
    for depth, line in _with_depth(ttgir):
        carried = re.findall(r"(%[\w#]+) = (%[\w#]+)", line.partition("iter_args(")[2])
        from_argument |= {name for name, start in carried if start.split("#")[0] in from_argument}
        match = re.match(r"(?:(%\w+)(?::\d+)? = )?\"?([\w.]+)\"?(.*)", line)
        if not match:
            continue
        result, operation, rest = match.groups()
        operands = [name.split("#")[0] for name in re.findall(r"%[\w#]+", rest)]
        if _LOADS.fullmatch(operation):
            found[depth] += operands[0] in from_argument
        elif result and "!tt.ptr" in rest.rpartition(":")[2] and from_argument.intersection(operands):
            from_argument.add(result)
    return {depth: n for depth, n in sorted(found.items()) if n}


def offset_types(ttgir: str) -> list[str]:
    """The integer types that are added to blocks of pointers, e.g. ["i64"]."""
    types = re.findall(r"tt\.addptr .*: tensor<[^!]*!tt\.ptr<.*>, tensor<(?:\d+x)+(i\d+)", ttgir)
    return sorted(set(types))


def ptx_events(ptx: str) -> list[str]:
    """Barriers, atomics, global loads and stores, labels and branches of PTX in order, each as a short
    name.
    """
    names = [
        (r"^bar\.sync|^barrier\.sync", "barrier"),
        (r"^(atom|red|st)\.\S*release", "release"),
        (r"^(atom|ld)\.\S*acquire", "acquire"),
        (r"^(atom|red)\.", "atomic"),
        (r"^ld\.global", "load"),
        (r"^st\.global", "store"),
    ]
    events = []
    for line in ptx.splitlines():
        code = re.sub(r"^\s*(@!?%p\d+\s+)?", "", line)
        label = re.match(r"^(\$L__BB\d+_\d+):", code)
        if label:
            events.append(f"{label[1]}:")
        jump = re.match(r"^bra(?:\.uni)?\s+(\$L__BB\d+_\d+)", code)
        if jump:
            events.append(f"-> {jump[1]}")
        name = next((name for pattern, name in names if re.match(pattern, code)), None)
        if name:
            events.append(name)
    return events


def _tool(*command: str) -> str:
    triton = importlib.util.find_spec("triton")  # finding is not importing: see conftest.py
    assert triton is not None and triton.origin is not None
    tools = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
    command = (str(tools / command[0]), *command[1:])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _instructions(
    text: str, code: re.Pattern[str], label: re.Pattern[str], target: re.Pattern[str], jumps: tuple[str, ...]
) -> Iterator[Instruction | str]:
    """Instructions, and labels as plain strings, in order."""
    for line in text.splitlines():
        if match := label.match(line.strip()):
            yield match[1]
        elif match := code.match(line):
            opcode, rest = match.groups()
            goal = target.search(rest) if opcode.startswith(jumps) else None
            yield Instruction(opcode, goal[1] if goal else None)


def _loops(code: Iterator[Instruction | str]) -> list[Loop]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for item in code:
        if isinstance(item, str):
            labels[item] = len(instructions)
        else:
            instructions.append(item)
    loops = []
    for last, instruction in enumerate(instructions):
        first = labels.get(instruction.jump or "", last + 1)
        if first < last:  # a jump to itself ends a kernel and is no loop
            counts = Counter(i.opcode for i in instructions[first : last + 1])
            loops.append(Loop(first, last, dict(counts)))
    return sorted(loops, key=lambda loop: loop.first - loop.last)


def _with_depth(ttgir: str) -> Iterator[tuple[int, str]]:
    """Lines of the first function with the number of loops around each."""
    level, starts = 0, []
    for raw in ttgir.splitlines():
        line = raw.strip()
        if line.startswith("#"):
            continue
        yield len(starts), line
        if "scf.for" in line or "scf.while" in line:
            starts.append(level)
        level += line.count("{") - line.count("}")
        while starts and level <= starts[-1]:
            starts.pop()
