"""Generation: a language model writes on, one token at a time, reading every token only once."""

from typing import NamedTuple

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.layers.counts import check_counts
from scratch_vlm.layers.embedding import check_ids, embedding_forward
from scratch_vlm.models.lm import (
    check_model,
    lm_cache,
    lm_forward,
    lm_head_forward,
    lm_trunk_forward,
    reading_order,
)
from scratch_vlm.ops.masks import causal_mask


class Generated(NamedTuple):
    """What a model wrote.

    Attributes
    ----------
    ids : list of integer array of shape (T,)
        The new tokens of each prompt; where one stopped, the stop token is the last.
    logprobs : list of array of shape (T,)
        Logarithm of the probability that the model gave to each of them, in nats and before
        temperature and limits: near 0 where it was sure.
    """

    ids: list
    logprobs: list


def generate(prompts, p, config, *, new, chunk=256, **options):
    """Write on after prompts of any lengths, in one batch.

    Parameters
    ----------
    prompts : sequence of sequence of int
        Token ids of each prompt.
    p : dict
        Parameters of the language model.
    config : LMConfig
        The model.
    new : int
        Most tokens to write after each prompt.
    chunk : int, default 256
        Tokens of the prompts that are read at once, see `generate_from`.
    **options
        How to choose and when to stop: see `decode`.

    Returns
    -------
    Generated

    Raises
    ------
    TypeError
        If ids are not integers.
    ValueError
        If there is no prompt or an empty one, an id is outside the vocabulary, or prompt and new
        tokens together are longer than the context.

    See Also
    --------
    generate_from : The same behind embeddings, such as those of an image.
    log_probabilities : Judge texts that are there already.
    """
    check_model(p, config)
    ids, real = pad_left(prompts)
    check_ids(ids, config.vocabulary)
    x, _ = embedding_forward(ids, p["tokens"])  # (B, T, D)
    return generate_from(x, p, config, real=real, new=new, chunk=chunk, **options)


def generate_from(
    x,
    p,
    config,
    *,
    new,
    real=None,
    chunk=256,
    trunk=lm_trunk_forward,
    cache=None,
    together=None,
    **options,
):
    """Write on after prompts that are embeddings, in one batch.

    Parameters
    ----------
    x : array of shape (B, T, D)
        Tokens of the prompts, of text or of anything else that the model was trained to read.
    p : dict
        Parameters of the language model.
    config : LMConfig
        The model.
    new : int
        Most tokens to write after each prompt.
    real : boolean array of shape (B, T), optional
        False where a token is padding, which stands on the left. Default all are real.
    chunk : int, default 256
        Tokens of the prompts that are read at once: memory holds the activations of one chunk
        beside the cache. The result is the same for any.
    trunk : callable, default lm_trunk_forward
        What reads tokens, called like the default; for a model that looks at something beside
        its texts.
    cache : dict of str to KVCache, optional
        Empty, for prompts and new tokens; for a model not all of whose blocks have one. Default
        one for each block.
    together : boolean array of shape (B, T, T), optional
        True where a token of a prompt may read another one that stands behind it, as within an
        image; all prompts are then read at once, whatever `chunk` says.
    **options
        How to choose and when to stop: see `decode`.

    Returns
    -------
    Generated

    Raises
    ------
    ValueError
        If there are no prompts, one ends with padding, or prompt and new tokens together are
        longer than the context.

    Notes
    -----
    Keys and values of what was read stay in a cache that is reserved once. A new token then
    costs one pass of a single token whose attention reads the cache: work that grows with the
    length, never with its square.
    """
    xp = namespace(x)
    if x.ndim != 3 or not len(x) or not x.shape[1]:
        raise ValueError(f"prompts must be (B, T, D) with at least one token, got {x.shape}")
    check_counts(new=new, chunk=chunk)
    b, t, _ = x.shape
    if t + new > config.context:
        raise ValueError(
            f"a prompt of {t} tokens and {new} new ones do not fit the context of "
            f"{config.context}; " + _what_fits(config.context - t)
        )
    real = np.ones((b, t), bool) if real is None else to_host(real)
    if real.shape != (b, t) or not real[:, -1].all():
        raise ValueError(
            f"real must be {(b, t)} and True at the end of every row: padding stands on the left"
        )
    padded = not real.all()
    real = xp.asarray(np.concatenate([real, np.ones((b, new), bool)], 1))
    if together is not None:
        chunk = t
    cache = lm_cache(p, config, b, t + new) if cache is None else cache
    first = next(iter(cache.values()))

    def read(x):  # (B, T, D) -> the logits after the last token, (B, V)
        past = first.length
        until = past + x.shape[1]
        mask = positions = None
        if padded:
            mask, positions = reading_order(real[:, :until], past=past)
        if together is not None and not past:
            mask = together[:, None] | (causal_mask(t, xp) if mask is None else mask)
        h, _ = trunk(x, p, config=config, mask=mask, positions=positions, cache=cache)
        return lm_head_forward(h[:, -1:], p)[0][:, 0]

    for start in range(0, t, chunk):
        logits = read(x[:, start : start + chunk])

    def step(ids):
        return read(embedding_forward(to_device(ids[:, None], xp), p["tokens"])[0])

    return decode(logits, step, new=new, **options)


def decode(
    logits,
    step,
    *,
    new,
    temperature=0.0,
    top_k=None,
    top_p=None,
    rng=None,
    stop=(),
    on_token=None,
):
    """Choose a token, let a model read it, and so on: generation, whatever the model.

    Parameters
    ----------
    logits : array of shape (B, V)
        Scores of the first new token.
    step : callable
        ``step(ids)`` reads one token for each row, integers of shape (B,), and returns the
        logits of the next, (B, V).
    new : int
        Most tokens to write.
    temperature : float, default 0.0
        0 takes the most probable token; else logits are divided by it before one is drawn.
    top_k : int, optional
        Draw only from that many most probable tokens.
    top_p : float, optional
        Draw only from the fewest most probable tokens that together reach this probability.
    rng : numpy.random.Generator, optional
        Draws the tokens; needed if the temperature is not 0.
    stop : iterable of int, optional
        Tokens that end a text.
    on_token : callable, optional
        ``on_token(row, token, logprob)`` is called as soon as a token is chosen, row after row;
        for streaming.

    Returns
    -------
    Generated

    Raises
    ------
    ValueError
        If an option is out of range, a stop token is outside the vocabulary, there is no rng to
        draw with, or a score is not a number.
    """
    check_counts(new=new)
    _check_choice(temperature, top_k, top_p)
    if temperature and rng is None:
        raise ValueError(f"temperature {temperature} draws tokens: pass rng, or temperature=0")
    b, vocabulary = logits.shape
    stop = np.array(sorted(stop), int)
    check_ids(stop, vocabulary, "stop token")
    ids, logprobs = [[] for _ in range(b)], [[] for _ in range(b)]
    running = np.ones(b, bool)
    for count in range(1, new + 1):
        scores = to_host(logits).astype(float)
        if np.isnan(scores).any():
            raise ValueError("the model's scores are not numbers (NaN): its weights are damaged")
        if temperature:
            probabilities = choice_probabilities(
                scores, temperature=temperature, top_k=top_k, top_p=top_p
            )
            chosen = _draw(rng, probabilities)
        else:
            chosen = scores.argmax(1)
        known = np.take_along_axis(_log_softmax(scores), chosen[:, None], 1)[:, 0]
        for row in np.flatnonzero(running):
            token, logprob = int(chosen[row]), float(known[row])
            ids[row].append(token)
            logprobs[row].append(logprob)
            if on_token:
                on_token(int(row), token, logprob)
        running &= ~np.isin(chosen, stop)
        if count == new or not running.any():
            break
        logits = step(chosen)
    return Generated([np.array(row) for row in ids], [np.array(row) for row in logprobs])


def choice_probabilities(logits, *, temperature=1.0, top_k=None, top_p=None):
    """Turn logits into the probabilities with which tokens are drawn.

    Parameters
    ----------
    logits : numpy.ndarray of shape (B, V)
        Scores.
    temperature : float, default 1.0
        Above 0. Below 1 the probable becomes more probable, above 1 less.
    top_k : int, optional
        All but that many most probable tokens get 0.
    top_p : float, optional
        All but the fewest most probable tokens that together reach this probability, after
        temperature and `top_k`, get 0; one always stays. In (0, 1].

    Returns
    -------
    numpy.ndarray of shape (B, V)
        Rows that sum to 1.

    Raises
    ------
    ValueError
        If an option is out of range.

    References
    ----------
    .. [1] A. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019,
       arXiv:1904.09751, section 3.1, for `top_p`.

    Examples
    --------
    >>> choice_probabilities(np.log([[0.5, 0.3, 0.2]]), top_k=2).round(3)
    array([[0.625, 0.375, 0.   ]])
    >>> choice_probabilities(np.log([[0.5, 0.3, 0.2]]), top_p=0.5)
    array([[1., 0., 0.]])
    """
    _check_choice(temperature, top_k, top_p)
    if not temperature:
        raise ValueError("temperature 0 draws nothing; take the argmax instead")
    best = np.argsort(-logits, axis=1, kind="stable")  # of equal ones the first comes first
    z = np.take_along_axis(logits, best, 1)
    with np.errstate(over="ignore"):  # by a tiny temperature: -inf, and so a probability of 0
        sorted_ = np.exp((z - z[:, :1]) / temperature)
    if top_k is not None:
        sorted_[:, top_k:] = 0
    sorted_ /= sorted_.sum(1, keepdims=True)
    if top_p is not None:
        before = sorted_.cumsum(1) - sorted_
        # What rounding leaves of a sum must not let one more token in.
        sorted_[:, 1:][before[:, 1:] >= top_p - 1e-12] = 0
        sorted_ /= sorted_.sum(1, keepdims=True)
    probabilities = np.empty_like(sorted_)
    np.put_along_axis(probabilities, best, sorted_, 1)
    return probabilities


def log_probabilities(ids, p, config, *, real=None):
    """Judge texts: how probable is each token after those before it?

    Parameters
    ----------
    ids : integer array of shape (B, T)
        Token ids.
    p : dict
        Parameters of the language model.
    config : LMConfig
        The model.
    real : boolean array of shape (B, T), optional
        False where a token is padding. Default all are real.

    Returns
    -------
    numpy.ndarray of shape (B, T)
        Logarithm of each token's probability, in nats. 0 for the first token of a text, which
        nothing foretells, and for padding.
    """
    logits, _ = lm_forward(ids, p, config=config, real=real)
    scores = _log_softmax(to_host(logits).astype(float))
    ids = to_host(ids)
    y = np.zeros(ids.shape)
    y[:, 1:] = np.take_along_axis(scores[:, :-1], ids[:, 1:, None], 2)[..., 0]
    if real is not None:
        real = to_host(real)
        y[:, 1:] *= real[:, 1:] & real[:, :-1]
    return y


def pad_left(prompts):
    """Put prompts of different lengths into one array, so that all end at the same place.

    Parameters
    ----------
    prompts : sequence of sequence of int
        Token ids of each.

    Returns
    -------
    ids : integer array of shape (B, T)
        With zeros on the left.
    real : boolean array of shape (B, T)
        False where a token is padding.

    Raises
    ------
    TypeError
        If a prompt is not a sequence of integers.
    ValueError
        If there is no prompt, or one has no token.

    Examples
    --------
    >>> ids, real = pad_left([[5, 6, 7], [8]])
    >>> ids
    array([[5, 6, 7],
           [0, 0, 8]])
    """
    rows = [np.asarray(prompt) for prompt in prompts]
    if not rows:
        raise ValueError("there are no prompts; give at least one")
    for i, row in enumerate(rows):
        if row.ndim != 1:
            raise TypeError(f"prompt {i} must be a sequence of token ids, got {prompts[i]!r}")
        if not row.size:
            raise ValueError(f"prompt {i} is empty; begin it with a token, such as the begin token")
        if row.dtype.kind not in "iu":
            raise TypeError(f"prompt {i} must hold integers, got dtype {row.dtype}")
    length = max(map(len, rows))
    ids = np.zeros((len(rows), length), int)
    real = np.zeros(ids.shape, bool)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = row
        real[i, length - len(row) :] = True
    return ids, real


def _draw(rng, probabilities):
    # The place where a uniform number falls among the running sums; one number for each row.
    sums = probabilities.cumsum(1)
    return (sums > rng.random((len(sums), 1)) * sums[:, -1:]).argmax(1)


def _log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _what_fits(room):
    return f"at most {room} fit" if room > 0 else "shorten the prompt"


def _check_choice(temperature, top_k, top_p):
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature must be at least 0 and finite, got {temperature}")
    if top_k is not None:
        check_counts(top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
