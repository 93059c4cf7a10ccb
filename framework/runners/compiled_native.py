"""From the text of a function to its address: LLVM by llvmlite, and what it made kept on disk.

A file is named by a hash of the text, of the version of LLVM and of the processor; it begins with a hash of
what follows, so that a torn or foreign one is noticed and made again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from framework.errors import ConfigError
from framework.runners.compiled_text import Vectors

OPTIONS = """
attributes #0 = {{ nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" }}
attributes #1 = {{ nounwind noinline }}
"""
_lock = Lock()
if hasattr(os, "register_at_fork"):  # a child would wait for a thread that it does not have
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
# Functions that somebody still holds, by the key of their file: a process may make any number of loops.
_functions: WeakValueDictionary[str, Callable[..., None]] = WeakValueDictionary()


@cache
def _llvm() -> Any:
    """The binding, ready to make code for this machine."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@cache
def _host() -> tuple[str, str]:
    """(processor, what it can) as LLVM writes them."""
    llvm = _llvm()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def vectors(real: str, narrow: str = "") -> Vectors:
    """What vectors of float or double are best here. narrow: see `Vectors`. Raises ConfigError where the
    processor cannot convert it.
    """
    llvm = _llvm()
    can = llvm.get_host_cpu_features()
    x86 = llvm.get_process_triple().startswith(("x86", "i386", "i686", "amd64"))
    if x86 and narrow == "half" and not can.get("f16c"):
        raise ConfigError("runner", "this processor does not convert float16", "Take runner=torch.")
    if can.get("avx512f"):
        size, registers = 64, 32
    elif can.get("avx"):
        size, registers = 32, 16
    else:
        size, registers = 16, 16 if x86 else 32
    pairs = narrow == "bfloat" and size == 64 and bool(can.get("avx512bf16"))
    return Vectors(real, size // (4 if real == "float" else 8), registers, x86, narrow, pairs)


def folder() -> Path:
    """Where compiled loops are kept: in the user's folder for such (XDG base directory specification). Raises
    RuntimeError for a user without a home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intrastream" / "loops"


def function(text: str) -> Callable[..., None]:
    """The function `run` of a module; see `compiled_function.SIGNATURE`. It runs without Python's lock; what
    is loaded for it goes when it goes.
    """
    llvm = _llvm()
    content = "\n".join([text, OPTIONS, *map(str, llvm.llvm_version_info), *_host()])
    key = hashlib.sha256(content.encode()).hexdigest()
    with _lock:
        run = _functions.get(key)
        if run is None:
            made = _read(key)
            if made is None:
                made = _compile(text)
                _write(key, made)
            run = _functions[key] = _link(made)
        return run


def _target() -> Any:
    llvm = _llvm()
    name, features = _host()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(cpu=name, features=features, opt=3, reloc="pic", jit=True)


def _compile(text: str) -> bytes:
    """The object file of a module."""
    llvm, machine = _llvm(), _target()
    module = llvm.parse_assembly(text + OPTIONS.format())
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def _link(made: bytes) -> Callable[..., None]:
    """The function `run` of an object file; it holds what is loaded of it."""
    llvm = _llvm()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(made))
    engine.finalize_object()
    numbers = [ctypes.c_int64] * 8
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *numbers, ctypes.c_void_p)
    run = kind(engine.get_function_address("run"))
    run.engine = engine  # type: ignore[attr-defined]  # its code: neither may go before the other
    return run


# Files ------------------------------------------------------------------------------------------------

NOWHERE = (OSError, RuntimeError)  # no such file, no place for it; no home


def _read(key: str) -> bytes | None:
    """What is kept under a key; None where there is nothing whole."""
    try:
        found = (folder() / key).read_bytes()
    except NOWHERE:
        return None
    digest, made = found[:32], found[32:]
    return made if hashlib.sha256(made).digest() == digest else None


def _write(key: str, made: bytes) -> None:
    """Keep it: written aside, then renamed, so that nobody reads half a file. A folder that cannot be written
    to costs time only.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder())
    except NOWHERE:
        return
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(hashlib.sha256(made).digest() + made)
        os.replace(name, folder() / key)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
