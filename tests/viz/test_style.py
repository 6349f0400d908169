import matplotlib
import pytest

from scratch_vlm.viz.style import SERIES, THEMES, ink_on, styled, text_width, wrap


def luminance(colour):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in matplotlib.colors.to_rgb(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_settings_of_matplotlib_are_as_before_outside_the_block(theme):
    before = dict(matplotlib.rcParams)
    with styled(theme) as look:
        assert matplotlib.rcParams["text.color"] == look.ink
    assert dict(matplotlib.rcParams) == before


def test_unknown_theme_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'sepia'.*light, dark"), styled("sepia"):
        pass


@pytest.mark.parametrize("look", THEMES.values(), ids=THEMES)
def test_text_stands_out_from_the_paper(look):
    """WCAG 2.1 asks 4.5 of text and 3 of what is drawn or large."""
    assert contrast(look.ink, look.paper) >= 7
    assert contrast(look.muted, look.paper) >= 4.5
    assert min(contrast(c, look.paper) for c in (look.main, look.right, look.wrong)) >= 3


@pytest.mark.parametrize("theme", THEMES)
def test_series_begin_with_the_main_colour_and_stand_out_from_the_paper(theme):
    assert SERIES[theme][0] == THEMES[theme].main
    assert min(contrast(colour, THEMES[theme].paper) for colour in SERIES[theme]) >= 3


@pytest.mark.parametrize("look", THEMES.values(), ids=THEMES)
def test_letters_in_cells_are_readable_along_every_ramp(look):
    for colour in (look.main, look.wrong):
        ramp = look.ramp(colour)
        assert min(contrast(ink_on(ramp(x / 20)), ramp(x / 20)) for x in range(21)) >= 3.5


def test_lines_fit_and_keep_every_word():
    text = "yellow seven above green three beside the rest of a long caption"
    lines = wrap(text, 2.0)
    assert len(lines) > 1 and " ".join(lines) == text
    assert max(map(text_width, lines)) <= 2.0


def test_short_text_is_one_line_and_an_endless_word_is_cut():
    assert wrap("red one", 2.0) == ["red one"]
    lines = wrap("x" * 80, 1.0)
    assert "".join(lines) == "x" * 80 and max(map(text_width, lines)) <= 1.0


def test_widest_line_counts_and_no_text_has_no_width():
    assert text_width("wide line\nw") == text_width("wide line") > text_width("w")
    assert text_width("") == text_width("\n") == 0.0
