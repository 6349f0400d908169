"""The page about gradient checks runs from top to bottom, and prints what it says."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gradient_checks.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def printed():
    """What each block of code prints, run one after another as a reader would."""
    names, outputs = {}, []
    for number, block in enumerate(BLOCKS):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(block, f"block {number} of the page", "exec"), names)
        outputs.append(output.getvalue())
    return outputs


def output_of(text, printed):
    (number,) = [number for number, block in enumerate(BLOCKS) if text in block]
    return printed[number]


def test_five_lines_judge_a_layer(printed):
    assert "gamma" in printed[0] and "wrong" not in printed[0]


def test_the_mistake_is_printed_as_the_page_shows_it(printed):
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
    pattern = re.sub(r"(\\ )+", r"\\s+", pattern)
    assert re.fullmatch(pattern, output_of("dy.mean(0)", printed).strip())


def test_the_complex_step_sees_what_differences_do_not(printed):
    assert output_of("3.00000000003", printed) == "wrong\n"


def test_a_softmax_is_zero_for_a_dy_of_ones(printed):
    assert float(output_of("ones_like", printed)) < 1e-15


def test_a_key_bias_passes(printed):
    assert "qkv/b" in output_of("self_attention_init(rng", printed)


def test_float32_shows_its_rounding(printed):
    assert "rounding" in output_of("float32", printed)


def test_the_table_of_peers_is_the_committed_one():
    found = json.loads((RESULTS / "gradcheck_peers.json").read_text(encoding="utf-8"))
    for tool, row in found["total"].items():
        levels = " | ".join(f"{e:.0e}" for e in row["smallest_e"].values())
        subtle = f"{row['subtle_noticed']} of {row['subtle']}"
        assert f"| {tool} | {levels} | {subtle} | {row['us_per_number']:.0f} µs |" in PAGE
    assert found["total"]["central"]["false_alarms"] == 1
    assert found["pairs"]["layers.block.pre_block"]["tools"]["central"]["false_alarm"]


def test_the_committed_check_of_every_pair_is_exact_and_fast():
    found = json.loads((RESULTS / "gradcheck.json").read_text(encoding="utf-8"))
    assert all(pair["passed"] and pair["worst"] <= 1e-12 for pair in found["pairs"])
    assert sum(pair["seconds"] for pair in found["pairs"]) < 60


def test_files_and_commands_it_names_exist():
    for path in re.findall(r"(?:python |`)(benchmarks/[\w./]+)", PAGE):
        assert (ROOT / path).exists(), path
