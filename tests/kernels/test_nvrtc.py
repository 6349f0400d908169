"""NVIDIA's own compiler takes every kernel, and finds registers enough for it."""

import nvrtc
import pytest

from scratch_vlm.backend.launch import FOLDER, NUMBERS, signatures, source
from scratch_vlm.kernels.attention import WIDTHS

BUILDS = [
    *(
        ("norm.cu", number, {"WIDTH": width, "VECTOR": vector, "LANES": lanes})
        for number in NUMBERS
        for width, vector, lanes in ((128, 4, 32), (768, 4, 32), (1023, 1, 32), (4096, 4, 256))
    ),
    *(
        ("norm.cu", "float32", {"WIDTH": 768, "VECTOR": 4, "LANES": 32, "OUTPUT": NUMBERS[output]})
        for output in ("bfloat16", "float16")
    ),
    *((file, number, {}) for file in ("cross_entropy.cu", "column_sums.cu") for number in NUMBERS),
    *(("activation.cu", number, {"ACTIVATION": kind}) for number in NUMBERS for kind in range(3)),
    *(("lowered.cu", "float32", {"OUTPUT": output}) for output in NUMBERS.values()),
    ("activation.cu", "float32", {"OUTPUT": NUMBERS["bfloat16"]}),
    ("activation.cu", "float32", {"AT_A_TIME": 1}),
    ("activation.cu", "bfloat16", {"AT_A_TIME": 8}),
    ("adamw.cu", "float32", {}),
    *(("embedding.cu", number, {}) for number in NUMBERS),
    *(("contrastive.cu", "float32", {"SLICES": slices}) for slices in (1, 4)),
    *(
        (f"attention_{way}.cu", number, {"WIDTH": width})
        for way in ("forward", "backward")
        for number in ("bfloat16", "float16")
        for width in WIDTHS
    ),
]
# Of a multiprocessor's 65,536 registers; what is here leaves room for the blocks that hide the
# time that memory takes: eight of 256 threads at 32, four of 128 threads at 128, three at 168.
CEILING = {
    "norm_forward": 96,
    "norm_backward": 168,  # three blocks of 128 threads
    "norm_gather": 64,  # of 1024 threads
    "cross_entropy_rows": 40,
    "cross_entropy_gradient": 40,
    "activation_forward": 40,
    "activation_backward": 40,
    "lowered": 40,
    "column_parts": 40,
    "add_parts": 40,
    "adamw": 48,
    "order_tokens": 40,
    "add_rows": 40,
    "contrastive_rows": 64,
    "contrastive_gradient": 168,
    "attention_kinds": 40,
    "attention_forward": 128,
    "attention_delta": 40,
    "attention_dkdv": 168,
    "attention_dq": 168,
}
# Of heads of 128 channels there are twice as many sums: two blocks of 128 threads at 255.
WIDE = dict.fromkeys(("attention_forward", "attention_dkdv", "attention_dq"), 255)


@pytest.fixture(scope="module")
def compiler():
    if problem := nvrtc.missing():
        pytest.skip(problem)
    return nvrtc.Nvrtc()


def test_every_file_is_compiled_and_every_kernel_has_a_ceiling():
    files = {path.name for path in FOLDER.glob("*.cu")}
    assert {file for file, _, _ in BUILDS} == files
    assert set(CEILING) == {name for file in files for name in signatures(source(file))}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("file", "number", "constants"), BUILDS, ids=lambda x: str(x).replace("'", "")
)
def test_no_spills_and_few_registers(compiler, file, number, constants, architecture):
    options = ["--std=c++17", f"-DNUMBER={NUMBERS[number]}", "-ftz=true"]  # CuPy adds the last
    options += [f"-D{name}={value}" for name, value in constants.items()]
    report = compiler.compile(source(file), options, architecture)
    assert set(report) == set(signatures(source(file)))
    ceiling = CEILING | (WIDE if constants.get("WIDTH") == WIDTHS[-1] else {})
    for kernel, used in report.items():
        assert used["spills"] == 0, f"{kernel}: {used}"
        assert used["registers"] <= ceiling[kernel], f"{kernel}: {used}"


def test_only_bytes_are_written_byte_by_byte(compiler):
    """memcpy to an address that might be odd writes single bytes; only kinds of tiles are bytes."""
    for file in ("attention_forward.cu", "attention_backward.cu"):
        report = compiler.compile(source(file), ["-DNUMBER=__nv_bfloat16"], "sm_90")
        wrong = {name for name, used in report.items() if used["byte_stores"]}
        assert wrong <= {"attention_kinds"}
        assert ("attention_kinds" in report) == bool(wrong)


def test_the_page_says_how_many_registers_attention_takes(compiler):
    options = ["--std=c++17", "-DNUMBER=__nv_bfloat16", "-DWIDTH=64", "-ftz=true"]
    report = compiler.compile(source("attention_backward.cu"), options, "sm_90")
    page = (FOLDER.parents[1] / "docs" / "kernels.md").read_text(encoding="utf-8")
    assert f"takes {report['attention_dkdv']['registers']} registers" in page


@pytest.mark.parametrize(("number", "name"), [("bfloat16", "bf16"), ("float16", "f16")])
def test_attention_rounds_and_multiplies_in_its_type(compiler, number, name):
    report, options = {}, [f"-DNUMBER={NUMBERS[number]}"]
    for way in ("forward", "backward"):
        report |= compiler.compile(source(f"attention_{way}.cu"), options, "sm_90")
    assert not report.pop("attention_kinds")["halves"]
    assert report.pop("attention_delta")["halves"] <= {f"cvt.f32.{name}"}
    product = f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32"
    for used in report.values():
        assert used["halves"] == {product, f"cvt.rn.{name}x2.f32"}  # to infinity, not the largest


def test_a_spill_is_noticed(compiler):
    sums = "".join(f"s{i} += x[t * {i + 3}]; " for i in range(300))
    names = ", ".join(f"s{i} = x[{i}]" for i in range(300))
    writes = "".join(f"y[{i} * t] = s{i};" for i in range(300))
    text = (
        'extern "C" __global__ void hungry(const float* x, float* y, int n) {'
        f"float {names}; for (int t = threadIdx.x; t < n; t++) {{ {sums} __syncthreads(); }}"
        f"int t = n; {writes} }}"
    )
    assert compiler.compile(text, [], "sm_90")["hungry"]["spills"] > 0


def test_an_error_names_the_file_and_the_line(compiler, tmp_path):
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text("int fine;\nnonsense\n")
    with pytest.raises(SyntaxError, match=r"b\.cuh\(2\)"):
        compiler.compile(source("a.cu", tmp_path), [], "sm_90")
