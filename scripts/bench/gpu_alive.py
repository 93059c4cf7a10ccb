"""Is the machine fit for the rest of gpu_check.sh: versions, a product by torch, a kernel, a loop; seconds.

python -m scripts.bench.gpu_alive [--tiny]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from importlib.util import find_spec

# Import name -> name of the package.
NEEDED = {"torch": "torch", "triton": "triton", "yaml": "pyyaml", "numpy": "numpy", "pytest": "pytest"}


def missing() -> list[str]:
    """Packages that the checks need and that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def driver() -> str:
    """What nvidia-smi says of GPU, driver and clocks; "" where there is none."""
    fields = "name,driver_version,clocks.sm,clocks.max.sm,power.limit,memory.total"
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


def main() -> int:
    """Print what is there. Returns 1 where something does not work, 3 where nothing else can."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU; needs TRITON_INTERPRET=1")
    tiny = parser.parse_args().tiny
    if absent := missing():
        packages = " ".join(NEEDED[name] for name in absent)
        print(f"not installed: {', '.join(absent)}. Run: python -m pip install {packages}")
        return 3
    import torch
    import triton

    print(f"python {platform.python_version()}, torch {torch.__version__}, triton {triton.__version__}")
    if tiny:
        from tests.interpreter import install

        install()
    elif not torch.cuda.is_available():
        print("torch sees no GPU. Is it a CPU build, or is the driver missing? nvidia-smi tells.")
        return 3
    else:
        print(f"{torch.cuda.get_device_name()}, compute capability {torch.cuda.get_device_capability()}")
        print(driver() or "nvidia-smi is not there")
    device = "cpu" if tiny else "cuda"
    start = time.perf_counter()
    a = torch.randn(64, 48, device=device)
    b = torch.randn(48, 32, device=device)
    exact = (a.double() @ b.double()).cpu()
    print(f"product by torch: error {(a @ b).cpu().double().sub(exact).abs().max():.1e}")

    from framework import lstm
    from kernels import matmul

    error = matmul(a, b).cpu().double().sub(exact).abs().max().item()
    print(
        f"product by a Triton kernel: error {error:.1e}, {time.perf_counter() - start:.1f} s with compiling"
    )
    net = lstm(8, 16, cell="sru", runner="elementwise").to(device)
    x = torch.randn(5, 2, 8, device=device, requires_grad=True)
    y, _ = net(x)
    assert isinstance(y, torch.Tensor)
    y.sum().backward()
    assert x.grad is not None
    finite = bool(y.isfinite().all()) and bool(x.grad.isfinite().all())
    print(f"a loop, forward and backward: {'finite' if finite else 'NOT FINITE'}")
    return 0 if finite and error < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
