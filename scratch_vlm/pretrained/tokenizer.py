"""Tokenizers of published models, from ``tokenizer.json`` or from older files.

The library tokenizers reads and runs them; here is what stands around it: which tokens are special,
how a text becomes a row for a text tower, and the way back.
"""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from scratch_vlm.data.tokens import refuse_specials, token_rows
from scratch_vlm.pretrained.tensors import FileError, read_json

NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "image_token")
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class TextReader:
    """A published tokenizer; `read_tokenizer` opens one.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        What cuts texts into tokens.
    specials : dict of str to str, optional
        Special tokens by their role: ``"bos_token"``, ``"eos_token"``, ``"pad_token"``...
    template : str, optional
        How conversations are written, in the language of Jinja.

    Attributes
    ----------
    specials : dict of str to str
        As given.
    template : str or None
        As given.
    """

    def __init__(self, tokenizer, specials=None, template=None):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self.template = tokenizer, template
        self.specials = dict(specials or {})

    def __len__(self):
        return self._tokenizer.get_vocab_size()

    def id(self, token):
        """Find the id of a token.

        Parameters
        ----------
        token : str
            As the file spells it, or the role of a special one, such as ``"eos_token"``.

        Returns
        -------
        int or None
            None if there is no such token.
        """
        return self._tokenizer.token_to_id(self.specials.get(token, token))

    def text_of(self, id):
        """Spell a token as the file does.

        Parameters
        ----------
        id : int
            Its id.

        Returns
        -------
        str or None
            None if there is no such token.
        """
        return self._tokenizer.id_to_token(id)

    @property
    def markers(self):
        """All tokens that stand for something else than text, as a list of str."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special]

    def tokens(self, text, *, specials=True):
        """Turn a text into token ids.

        Parameters
        ----------
        text : str
            Any text; special tokens that are written out in it become those tokens.
        specials : bool, default True
            Whether to put the tokens that begin and end a text around it, as the file says.

        Returns
        -------
        list of int
        """
        return self._tokenizer.encode(text, add_special_tokens=specials).ids

    def text(self, ids):
        """Turn token ids back into a text, without special tokens.

        Parameters
        ----------
        ids : sequence of int
            Token ids.

        Returns
        -------
        str
        """
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def rows(self, texts, length, *, pad):
        """Turn texts into rows of token ids for a text tower.

        Parameters
        ----------
        texts : sequence of str
            Any texts.
        length : int
            T, tokens in a row.
        pad : int
            Id that shorter texts are padded with, behind.

        Returns
        -------
        ids : integer array of shape (B, T)

        Raises
        ------
        TypeError
            If `texts` is a single string.
        ValueError
            If a text does not fit, or a special token is written out in it.
        """
        markers = self.markers

        def tokens(text):
            refuse_specials(text, markers)
            return self.tokens(text)

        return token_rows(texts, tokens, length, pad=pad)


def read_tokenizer(folder, family):
    """Open the tokenizer of a published model.

    Parameters
    ----------
    folder : str or path
        Of the model, with ``tokenizer.json``; or, of a CLIP or a GPT-2, with ``vocab.json`` and
        ``merges.txt``. What is special is read in ``tokenizer_config.json`` or
        ``special_tokens_map.json``.
    family : str
        Type of the model.

    Returns
    -------
    TextReader

    Raises
    ------
    FileError
        If files are missing or damaged.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        tokenizer = _parsed(folder / "tokenizer.json")
    elif family in ("clip", "gpt2") and (folder / "vocab.json").is_file():
        tokenizer = _from_merges(folder, family)
    else:
        found = sorted(p.name for p in folder.glob("*") if p.suffix in (".model", ".txt"))
        raise FileError(
            f"{folder} has no tokenizer.json"
            + (f", only {', '.join(found)}" if found else "")
            + "; the Transformers library writes one: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    config, specials = {}, {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            for role in NAMES:
                token = config.get(role)
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    specials[role] = token
    if family == "clip":
        specials = {"eos_token": "<|endoftext|>", **specials}
    return TextReader(tokenizer, specials, _template(folder, config))


def _parsed(path):
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the library raises nothing more specific
        raise FileError(f"{path} is no tokenizer: {error}") from error


def _from_merges(folder, family):
    vocabulary = read_json(folder / "vocab.json")
    path = folder / "merges.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    clip = {"unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>"} if family == "clip" else {}
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, **clip))
    except Exception as error:
        raise FileError(f"{folder}: vocab.json and merges.txt do not fit: {error}") from error
    tokenizer.decoder = decoders.ByteLevel()
    if family == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    begin, end = "<|startoftext|>", "<|endoftext|>"
    if not {begin, end} <= vocabulary.keys():
        raise FileError(f"{folder / 'vocab.json'} lacks {begin} or {end}")
    tokenizer.add_special_tokens([begin, end])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]),
        (begin, vocabulary[begin]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return tokenizer


def _template(folder, config):
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name).get("chat_template")
            if isinstance(found, str):
                return found
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = found.get("default")
    return found if isinstance(found, str) else None
