#!/usr/bin/env bash
# On a machine with a GPU, torch and triton (no hydra, wandb or datasets needed), in under 8 minutes:
# is it alive, is it right, then timings and peak memory as JSON rows. Usage: scripts/bench/gpu_check.sh [FOLDER]
set -eu
cd "$(dirname "$0")/../.."
out="${1:-scripts/bench/results}"
python="${PYTHON:-python3}"
mkdir -p "$out"

echo "gpu_check: liveness"
"$python" - <<'EOF'
import torch, triton
assert torch.cuda.is_available(), "no GPU"
x = torch.randn(1024, 1024, device="cuda")
assert torch.isfinite(x @ x).all()
print(torch.cuda.get_device_name(), torch.__version__, triton.__version__)
EOF

echo "gpu_check: correctness"
# Its own process and folder: tests/kernels runs under Triton's interpreter. Timings follow even after a failure.
status=0
timeout 240 "$python" -m pytest tests/gpu -m gpu -p no:cacheprovider --junitxml="$out/gpu_tests.xml" || status=$?

echo "gpu_check: timings"
timeout 200 "$python" -m scripts.bench.gpu --out "$out/gpu.jsonl" || status=$?
exit "$status"
