"""Reading compiled code, on small texts whose answer is plain."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.kernels.inspect_code import (
    ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    TENSOR_CORE,
    Loop,
    amd_loops,
    amd_resources,
    loads_by_depth,
    offset_types,
    ptx_events,
    sass_loops,
)

KERNELS = Path(__file__).parents[2] / "kernels"

SASS = """
.text.k:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_0:
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/                   STL [R1], R4 ;
        /*0040*/              @!P0 BRA `(.L_x_0) ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   BRA `(.L_x_2);
"""

AMD = """
k:
\ts_load_dwordx2 s[0:1], s[4:5], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
\tbuffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen
\tv_mfma_f32_16x16x16_bf16 v[8:11], v[0:1], v[2:3], v[8:11]
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
    .vgpr_count:     40
    .vgpr_spill_count: 3
    .private_segment_fixed_size: 12
"""

TTGIR = """
#blocked = #ttg.blocked<{sizePerThread = [1]}>
tt.func public @k(%w: !tt.ptr<bf16>, %x: !tt.ptr<f32>, %n: i32) {
  %0 = tt.splat %w : !tt.ptr<bf16> -> tensor<64x!tt.ptr<bf16>, #blocked>
  %1 = tt.addptr %0, %o : tensor<64x!tt.ptr<bf16>, #blocked>, tensor<64xi32, #blocked>
  %2 = tt.load %1 : tensor<64x!tt.ptr<bf16>, #blocked>
  %3 = tt.splat %x : !tt.ptr<f32> -> tensor<64x!tt.ptr<f32>, #blocked>
  %4:2 = scf.for %i = %c0 to %n step %c1 iter_args(%p = %3, %s = %2) -> (tensor<64xf32>) : i32 {
    %5 = tt.load %p : tensor<64x!tt.ptr<f32>, #blocked>
    %6 = tt.addptr %p, %o64 : tensor<64x!tt.ptr<f32>, #blocked>, tensor<64xi64, #blocked>
    scf.for %j = %c0 to %n step %c1  : i32 {
      %7 = ttg.async_copy_global_to_local %6, %m : tensor<64x!tt.ptr<f32>, #blocked> -> <64xf32, #shared>
      ttng.async_tma_copy_global_to_local %w[%j, %j] %m, %b, %t : !tt.tensordesc<tensor<1xbf16>>
    }
    scf.yield %6, %s : tensor<64x!tt.ptr<f32>>, tensor<64xbf16>
  }
  %8 = tt.load %1 : tensor<64x!tt.ptr<bf16>, #blocked>
  tt.return
}
"""

PTX = """
\t@%p2 st.global.b32 [ %rd6 + 0 ], { %r30 };
\tbar.sync \t0;
\t@%p2 red.global.gpu.release.add.u32 [ %rd7 + 0 ], %r15;
$L__BB0_3:
\t@%p2 ld.global.gpu.acquire.b32 %r18, [ %rd7 + 0 ];
\tld.shared.b32 \t%r20, [global_smem];
\t@%p3 bra \t$L__BB0_3;
\t@%p4 atom.global.gpu.acq_rel.add.u32 %r1, [ %rd7 + 0 ], %r15;
\t@%p4 ld.global.cg.b32 { %r21 }, [ %rd8 + 0 ];
"""


def test_sass_loops():
    outer, inner = sass_loops(SASS)
    assert (outer.first, outer.last) == (1, 5) and (inner.first, inner.last) == (2, 4)
    assert outer.count("LDG") == 1 and inner.count("LDG") == 0
    assert inner.count("HMMA", "STL") == 2 and inner.count("MMA") == 0


def test_what_instructions_do():
    """Names that begin alike do other things: waiting, a sum over a warp, shared memory."""
    counts = {
        "LDG.E.128": 1, "LDGSTS.E.BYPASS.128": 2, "LDGDEPBAR": 4, "UTMALDG.2D": 8, "buffer_load_ushort": 16,
        "STG.E": 1, "UTMASTG.2D": 2, "global_store_dword": 4, "STL": 8, "ds_write_b64": 16,
        "RED.E.ADD": 1, "REDUX.SUM": 2, "ATOMG.E.ADD": 4, "ATOMS.ADD": 8, "global_atomic_add": 16,
        "HGMMA.64x64x16": 1, "HGMMA.64": 2, "UTCHMMA": 4, "v_mfma_f32_32x32x8_bf16": 8, "HADD2": 16,
    }  # fmt: skip
    loop = Loop(0, 9, counts)
    assert loop.count(*GLOBAL_LOAD) == 1 + 2 + 8 + 16
    assert loop.count(*GLOBAL_STORE) == 1 + 2 + 4
    assert loop.count(*ATOMIC) == 1 + 4 + 16
    assert loop.kinds(*TENSOR_CORE) == {"HGMMA": 3, "UTCHMMA": 4, "v_mfma_f32_32x32x8_bf16": 8}
    assert loop.size == sum(counts.values())


def test_amd():
    (loop,) = amd_loops(AMD)
    assert loop.counts == {"buffer_load_dwordx4": 1, "v_mfma_f32_16x16x16_bf16": 1, "s_cbranch_scc1": 1}
    assert amd_resources(AMD) == {"REG": 40, "STACK": 12, "SPILL": 3}


def test_loads_by_depth_follow_pointers():
    assert loads_by_depth(TTGIR, "w") == {0: 2, 2: 1}
    assert loads_by_depth(TTGIR, "x") == {1: 1, 2: 1}
    assert loads_by_depth(TTGIR, "n") == {}


def test_offset_types():
    assert offset_types(TTGIR) == ["i32", "i64"]


def test_ptx_events():
    assert ptx_events(PTX) == [
        "store",
        "barrier",
        "release",
        "$L__BB0_3:",
        "acquire",
        "-> $L__BB0_3",
        "atomic",
        "load",
    ]


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.name)
def test_kernels_import_torch_and_triton_only(path):
    allowed = {"kernels", "torch", "triton", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        roots = {name.partition(".")[0] for name in names}
        assert roots <= allowed, f"line {getattr(node, 'lineno', 0)} imports {roots - allowed}"
