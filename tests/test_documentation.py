"""The page about gradient checks runs from top to bottom, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "gradient_checks.md").read_text(encoding="utf-8")
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


def test_files_and_commands_it_names_exist():
    root = Path(__file__).parents[1]
    for path in re.findall(r"(?:python |`)((?:benchmarks)/[\w./]+)", PAGE):
        assert (root / path).exists(), path
