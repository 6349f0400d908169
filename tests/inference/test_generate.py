"""Generation equals the full forward, whatever the cache, the chunks and the batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratch_vlm.cases import random_parameters
from scratch_vlm.inference import generate as module
from scratch_vlm.inference.generate import (
    choice_probabilities,
    decode,
    generate,
    generate_from,
    log_probabilities,
    pad_left,
)
from scratch_vlm.layers.embedding import embedding_forward
from scratch_vlm.models.lm import LMConfig, lm_forward, lm_init, lm_trunk_forward

RNG = np.random.default_rng
STYLES = {
    "gpt": LMConfig.gpt(13, 24, width=8, heads=2, depth=2),
    "llama": LMConfig.llama(13, 24, width=8, heads=4, kv_heads=2, depth=2),
}
STYLE = pytest.mark.parametrize("style", STYLES)
PROMPTS = [[1, 5, 2, 8, 3], [4], [7, 7, 12], [0, 1, 2, 3, 4, 5, 6, 7, 8]]


def make(style):
    config = STYLES[style]
    return random_parameters(RNG(0), lm_init(RNG(0), config)), config


def write_slowly(prompt, p, config, new):
    """Generate without a cache: the whole text goes through the model for every token."""
    ids, logprobs = list(prompt), []
    for _ in range(new):
        logits = lm_forward(np.array([ids]), p, config=config)[0][0, -1]
        ids.append(int(logits.argmax()))
        logprobs.append(logits.max() - np.log(np.exp(logits).sum()))
    return ids[len(prompt) :], logprobs


def assert_equal(a, b, atol=1e-12):
    assert [row.tolist() for row in a.ids] == [row.tolist() for row in b.ids]
    for x, y in zip(a.logprobs, b.logprobs, strict=True):
        np.testing.assert_allclose(x, y, atol=atol)


@STYLE
def test_the_cache_writes_what_the_full_forward_would(style):
    p, config = make(style)
    for prompt in PROMPTS:
        written = generate([prompt], p, config, new=10)
        ids, logprobs = write_slowly(prompt, p, config, 10)
        assert written.ids[0].tolist() == ids
        np.testing.assert_allclose(written.logprobs[0], logprobs, atol=1e-12)


@STYLE
@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_a_prompt_read_in_chunks_is_one_read_at_once(style, chunk):
    p, config = make(style)
    at_once = generate(PROMPTS, p, config, new=6)
    assert_equal(generate(PROMPTS, p, config, new=6, chunk=chunk), at_once)


@STYLE
def test_a_padded_batch_is_one_by_one(style):
    p, config = make(style)
    batch = generate(PROMPTS, p, config, new=8)
    for i, prompt in enumerate(PROMPTS):
        alone = generate([prompt], p, config, new=8)
        assert batch.ids[i].tolist() == alone.ids[0].tolist()
        np.testing.assert_allclose(batch.logprobs[i], alone.logprobs[0], atol=1e-12)


@STYLE
def test_logprobs_are_those_of_the_full_forward(style):
    p, config = make(style)
    options = {"temperature": 1.5, "top_k": 5, "rng": RNG(3)}
    written = generate(PROMPTS, p, config, new=7, **options)
    for prompt, ids, logprobs in zip(PROMPTS, *written, strict=True):
        text = np.array([[*prompt, *ids]])
        judged = log_probabilities(text, p, config)[0]
        assert judged[0] == 0
        np.testing.assert_allclose(judged[len(prompt) :], logprobs, atol=1e-12)


@STYLE
def test_judging_a_padded_batch_is_one_by_one(style):
    p, config = make(style)
    ids, real = pad_left(PROMPTS)
    judged = log_probabilities(ids, p, config, real=real)
    for i, prompt in enumerate(PROMPTS):
        alone = log_probabilities(np.array([prompt]), p, config)[0]
        np.testing.assert_allclose(judged[i, real[i]], alone, atol=1e-12)
        assert not judged[i, ~real[i]].any()


@STYLE
def test_greedy_is_deterministic_and_draws_nothing(style):
    p, config = make(style)
    rng = RNG(5)
    before = rng.bit_generator.state
    first = generate(PROMPTS, p, config, new=8, rng=rng)
    assert rng.bit_generator.state == before
    assert_equal(generate(PROMPTS, p, config, new=8), first, atol=0)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}])
def test_the_tightest_limits_are_greedy(options):
    p, config = make("gpt")
    options = {"temperature": 2.0, **options}
    drawn = generate(PROMPTS, p, config, new=8, rng=RNG(1), **options)
    assert_equal(drawn, generate(PROMPTS, p, config, new=8))


def test_the_same_seed_draws_the_same_and_another_one_another():
    p, config = make("llama")
    a, b, c = (
        generate(PROMPTS, p, config, new=12, temperature=1.0, rng=RNG(seed)) for seed in (1, 1, 2)
    )
    assert_equal(a, b, atol=0)
    assert [row.tolist() for row in a.ids] != [row.tolist() for row in c.ids]


def test_tokens_are_drawn_as_often_as_they_are_probable():
    probabilities = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        logits = np.log(np.tile(probabilities, (20_000, 1)))
    written = decode(logits, None, new=1, temperature=1.0, rng=RNG(0))
    shares = np.bincount(np.concatenate(written.ids), minlength=4) / 20_000
    np.testing.assert_allclose(shares, probabilities, atol=0.012)
    assert shares[1] == 0


@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.1, 10),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0.01, 1),
)
def test_limits_keep_the_most_probable_and_their_proportions(seed, temperature, top_k, top_p):
    logits = RNG(seed).standard_normal((3, 9))
    plain = np.exp(logits / temperature)
    limited = choice_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_allclose(limited.sum(1), 1)
    for row, right in zip(limited, plain, strict=True):
        kept = row > 0
        assert 1 <= kept.sum() <= (top_k or 9)
        assert right[kept].min() >= right[~kept].max(initial=0)
        np.testing.assert_allclose(row[kept], right[kept] / right[kept].sum(), rtol=1e-9)
        if top_p is not None:
            among = np.sort(right)[::-1][: top_k or 9]
            among = among / among.sum()
            count = kept.sum()
            assert among[:count].sum() >= top_p - 1e-9
            assert count == 1 or among[: count - 1].sum() < top_p


def test_of_equal_tokens_top_k_keeps_as_many_as_it_says():
    np.testing.assert_array_equal(
        choice_probabilities(np.zeros((1, 4)), top_k=2), [[0.5, 0.5, 0, 0]]
    )


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 3)])
def test_top_p_is_reached_by_as_few_tokens_as_can(top_p, kept):
    probabilities = choice_probabilities(np.log([[0.3, 0.5, 0.2]]), top_p=top_p)
    assert (probabilities > 0).sum() == kept


@pytest.mark.parametrize("temperature", [1e-308, 5e-324])
def test_the_smallest_temperatures_take_the_most_probable(temperature):
    logits = np.array([[-3.0, 90.0, 89.9], [5.0, 5.0, -900.0]])
    probabilities = choice_probabilities(logits, temperature=temperature)
    np.testing.assert_array_equal(probabilities, [[0, 1, 0], [0.5, 0.5, 0]])


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "rng": RNG(0)}])
def test_scores_that_are_not_numbers_are_refused(options):
    p, config = make("gpt")
    p["ln"]["beta"][2] = np.nan
    with pytest.raises(ValueError, match=r"scores are not numbers \(NaN\)"):
        generate([[1, 2]], p, config, new=3, **options)


def test_each_row_stops_at_its_own_stop_token():
    p, config = make("llama")
    free = generate(PROMPTS, p, config, new=12, temperature=2.0, rng=RNG(0))
    stop = {int(free.ids[0][3]), int(free.ids[1][5])}
    stopped = generate(PROMPTS, p, config, new=12, temperature=2.0, rng=RNG(0), stop=stop)
    for row, all_of_it in zip(stopped.ids, free.ids, strict=True):
        ends = np.flatnonzero(np.isin(all_of_it, list(stop)))
        until = ends[0] + 1 if ends.size else 12
        np.testing.assert_array_equal(row, all_of_it[:until])
    assert len(stopped.ids[0]) <= 4 and len({len(row) for row in stopped.ids}) > 1


def test_when_all_rows_have_stopped_nothing_more_is_read():
    reads = []

    def step(ids):
        reads.append(ids)
        return np.array([[0.0, 1.0], [0.0, 1.0]])

    written = decode(np.array([[1.0, 0.0], [0.0, 1.0]]), step, new=9, stop=(1,))
    assert [row.tolist() for row in written.ids] == [[0, 1], [1]]
    assert len(reads) == 1


def test_the_stream_is_the_result():
    p, config = make("gpt")
    stream = []
    written = generate(
        PROMPTS,
        p,
        config,
        new=9,
        temperature=1.0,
        rng=RNG(2),
        stop=(3, 5),
        on_token=lambda *token: stream.append(token),
    )
    for row in range(len(PROMPTS)):
        assert [token for r, token, _ in stream if r == row] == written.ids[row].tolist()
        assert [known for r, _, known in stream if r == row] == written.logprobs[row].tolist()
    steps = [sum(r == row for r, _, _ in stream[:i]) for i, (row, _, _) in enumerate(stream)]
    assert steps == sorted(steps)  # no row runs ahead
    assert len({len(row) for row in written.ids}) > 1


@STYLE
def test_embeddings_are_continued_like_their_tokens(style):
    p, config = make(style)
    ids, real = pad_left(PROMPTS)
    x, _ = embedding_forward(ids, p["tokens"])
    assert_equal(generate_from(x, p, config, new=5, real=real), generate(PROMPTS, p, config, new=5))


@STYLE
def test_what_stands_in_the_padding_is_not_read(style):
    p, config = make(style)
    ids, real = pad_left(PROMPTS)
    x, _ = embedding_forward(ids, p["tokens"])
    other = np.where(real[..., None], x, 7.0)
    assert_equal(
        generate_from(x, p, config, new=5, real=real),
        generate_from(other, p, config, new=5, real=real),
    )


def test_every_token_is_read_once():
    p, config = make("llama")
    read = []

    def counting(x, *args, **options):
        read.append(x.shape[1])
        return lm_trunk_forward(x, *args, **options)

    generate([[1] * 9], p, config, new=10, chunk=4, trunk=counting)
    assert read == [4, 4, 1] + [1] * 9  # the last new token is never read


@STYLE
def test_float32_stays_float32_through_the_cache(style, monkeypatch):
    config, dtypes = STYLES[style], []

    def spying(logits, step, **options):
        dtypes.extend([logits.dtype, step(np.array([1] * len(PROMPTS))).dtype])
        return decode(logits, step, **options)

    monkeypatch.setattr(module, "decode", spying)
    generate(PROMPTS, lm_init(RNG(0), config), config, new=6)
    assert dtypes == [np.float32, np.float32]


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([], {}, ValueError, "there are no prompts"),
        ([[1], []], {}, ValueError, "prompt 1 is empty; begin it with a token"),
        ([1, 2], {}, TypeError, "prompt 0 must be a sequence of token ids, got 1"),
        ([[1.5]], {}, TypeError, "prompt 0 must hold integers, got dtype float64"),
        ([[1, 13]], {}, ValueError, "token id 13 is none of the 13"),
        ([[1, -1]], {}, ValueError, "token id -1 is none of the 13"),
        ([[1] * 20], {}, ValueError, "20 tokens and 5 new ones .* 24; at most 4 fit"),
        ([[1] * 24], {}, ValueError, "24 tokens and 5 .* 24; shorten the prompt"),
        ([[1]], {"new": 0}, ValueError, "new must be a positive whole number, got 0"),
        ([[1]], {"chunk": 0}, ValueError, "chunk must be a positive whole number, got 0"),
        ([[1]], {"temperature": 1.0}, ValueError, "pass rng, or temperature=0"),
        ([[1]], {"temperature": -1.0}, ValueError, "temperature must be at least 0"),
        ([[1]], {"temperature": np.nan}, ValueError, "temperature must be at least 0"),
        ([[1]], {"top_k": 0}, ValueError, "top_k must be a positive whole number, got 0"),
        ([[1]], {"top_p": 0.0}, ValueError, "top_p must be above 0 and at most 1, got 0.0"),
        ([[1]], {"top_p": 1.1}, ValueError, "top_p must be above 0 and at most 1, got 1.1"),
        ([[1]], {"stop": (13,)}, ValueError, "stop token 13 is none of the 13"),
    ],
)
def test_what_cannot_be_done_is_refused(prompts, options, error, message):
    p, config = make("gpt")
    with pytest.raises(error, match=message):
        generate(prompts, p, config, **{"new": 5, **options})


def test_padding_on_the_right_is_refused():
    p, config = make("gpt")
    real = np.array([[True, True, False]])
    with pytest.raises(ValueError, match="padding stands on the left"):
        generate_from(np.ones((1, 3, 8)), p, config, new=2, real=real)
    with pytest.raises(ValueError, match=r"with at least one token, got \(0, 3, 8\)"):
        generate_from(np.ones((0, 3, 8)), p, config, new=2)
    with pytest.raises(ValueError, match="temperature 0 draws nothing"):
        choice_probabilities(np.ones((1, 3)), temperature=0)
