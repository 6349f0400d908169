"""Byte-level BPE: any text as token ids, with what is frequent in the training texts as one token.

The 256 bytes are tokens, so nothing is unknown; then the pair of tokens that stands side by side
most often becomes a token of its own, again and again. Training and encoding are done by the
library tokenizers, and what it writes, ``tokenizer.json``, any program that uses it can read.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from scratch_vlm.data.tokens import BEGIN, END, PAD, SPECIALS, token_rows

BYTES = 256
SPLITS = {
    "words": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "spaces": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


class BPE:
    """A trained tokenizer; `train_bpe` and `load_bpe` make one.

    Ids are those of `Vocabulary`: 0 pads, 1 begins and 2 ends a text, further special tokens
    come next, then bytes and what was merged of them.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Whose first ids are the special tokens.

    References
    ----------
    .. [1] R. Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
       2016, arXiv:1508.07909, section 3.2; on bytes: A. Radford et al., "Language Models are
       Unsupervised Multitask Learners", 2019, section 2.2.

    Examples
    --------
    >>> bpe = train_bpe(["red seven", "red one"] * 9, vocabulary=270)
    >>> ids = bpe.tokens("red seven one")
    >>> bpe.text(ids)
    'red seven one'
    >>> len(ids)
    3
    """

    def __init__(self, tokenizer):
        found = [tokenizer.id_to_token(i) for i in range(len(SPECIALS))]
        if found != list(SPECIALS):
            raise ValueError(f"the first tokens must be {', '.join(SPECIALS)}; they are {found}")
        self._tokenizer = tokenizer

    def __len__(self):
        return self._tokenizer.get_vocab_size()

    def id(self, token):
        """Return the id of a token, such as ``"<image>"``.

        Parameters
        ----------
        token : str
            A special token, or any other as the file spells it.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If there is none.
        """
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{token!r} is none of the {len(self)} tokens")
        return found

    def tokens(self, text):
        """Turn a text into token ids, without begin and end.

        Parameters
        ----------
        text : str
            Any text; special tokens that are written out in it become those tokens.

        Returns
        -------
        list of int
        """
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids):
        """Turn token ids back into the text they were made of, special tokens written out.

        Parameters
        ----------
        ids : sequence of int
            Token ids. Bytes that make no character, as where a text was cut, become U+FFFD.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If an id is outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < len(self):
            raise ValueError(f"ids must be 0 to {len(self) - 1}, got {min(ids)} to {max(ids)}")
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def encode(self, texts, length):
        """Turn texts into rows of token ids, as `Vocabulary.encode` does.

        Parameters
        ----------
        texts : sequence of str
            Any texts.
        length : int
            T, tokens in a row, with a begin and an end token; shorter texts are padded behind.

        Returns
        -------
        ids : integer array of shape (B, T)

        Raises
        ------
        TypeError
            If `texts` is a single string.
        ValueError
            If a text does not fit.
        """
        return token_rows(texts, lambda text: [BEGIN, *self.tokens(text), END], length)

    def decode(self, rows):
        """Turn rows of token ids into texts, up to the end token of each.

        Parameters
        ----------
        rows : sequence of sequence of int
            Token ids; begin and padding are left out.

        Returns
        -------
        list of str

        Raises
        ------
        ValueError
            If an id is outside the vocabulary.
        """
        texts = []
        for row in rows:
            ids = [int(i) for i in row]
            until = ids.index(END) if END in ids else len(ids)
            texts.append(self.text([i for i in ids[:until] if i not in (PAD, BEGIN)]))
        return texts

    def save(self, path):
        """Write ``tokenizer.json``.

        Parameters
        ----------
        path : str or path
            The file.
        """
        Path(path).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")


def train_bpe(texts, *, vocabulary, specials=(), split="words"):
    """Train a tokenizer on texts.

    Parameters
    ----------
    texts : iterable of str
        What it should write short.
    vocabulary : int
        Most tokens in all: three or more special ones, 256 bytes, and the rest merges. Fewer
        if the texts have nothing left to merge.
    specials : sequence of str, optional
        Special tokens beside those that pad, begin and end, such as ``"<image>"``; they get the
        ids from 3 on and are never cut.
    split : {"words", "spaces"}
        Where texts are cut before merging, as no token goes across a cut. At spaces, or also
        between letters, digits and punctuation: ``" top-left"`` is then three tokens or more,
        which share their parts with other words.

    Returns
    -------
    BPE

    Raises
    ------
    TypeError
        If `texts` is a single string.
    ValueError
        If the vocabulary has no room for bytes and special tokens, one of those stands twice, or
        there is no such way to cut.
    """
    if isinstance(texts, str):
        raise TypeError("texts is an iterable of strings, not a single one")
    specials = [*SPECIALS, *specials]
    if len(set(specials)) < len(specials) or "" in specials:
        raise ValueError(f"special tokens must differ and not be empty, got {specials}")
    if vocabulary < len(specials) + BYTES:
        raise ValueError(
            f"{len(specials)} special tokens and {BYTES} bytes need a vocabulary of at least "
            f"{len(specials) + BYTES}, got {vocabulary}"
        )
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = SPLITS[split]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BPE(tokenizer)


def load_bpe(path):
    """Read a tokenizer that `BPE.save` wrote.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    BPE

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a tokenizer, or not one of ours.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    return BPE(tokenizer)
