"""What a published model that sees is told: a question, written as it was trained to read one.

If the folder of a model has a chat template and Jinja is installed, the template is followed, in
Jinja's sandbox. Else the family's own prompt is written, as its documentation gives it.
"""

import importlib.util

from scratch_vlm.data.tokens import refuse_specials
from scratch_vlm.pretrained.tensors import FileError

AROUND = "<fake_token_around_image>"
IDEFICS_IMAGE = "<image>"
TURN_END = "<end_of_utterance>"
HEADER = "<|start_header_id|>"


def write_prompt(reader, family, question, *, images=1, image=None, span=1):
    """Turn a question about images into token ids.

    Parameters
    ----------
    reader : TextReader
        Tokenizer of the model.
    family : {"llava", "idefics", "mllama"}
        Type of the model.
    question : str
        What to ask.
    images : int, default 1
        How many images are shown before it.
    image : int
        Id of the token that keeps the place of an image.
    span : int, default 1
        Tokens that keep the place of each.

    Returns
    -------
    ids : list of int
    source : str
        What the prompt was made of: ``"chat template"`` or the family's name.

    Raises
    ------
    FileError
        If the tokenizer has no token for images, or the chat template is damaged.
    ValueError
        If the question holds a special token of the model.
    """
    text, source, mark = _text(reader, family, question, images, image)
    return _ids(reader, text, mark, image, images, span), source


def write_example(reader, family, question, answer, *, images=1, image=None, span=1):
    """Turn a question about images and its answer into token ids, to learn from.

    Parameters
    ----------
    reader, family, question, images, image, span
        As for `write_prompt`.
    answer : str
        What the model should say.

    Returns
    -------
    ids : list of int
    start : int
        Where the answer begins.

    Raises
    ------
    FileError, ValueError
        As `write_prompt` does; also if the answer holds a special token of the model.
    """
    text, _, mark = _text(reader, family, question, images, image)
    refuse_specials(answer, (*reader.markers, mark), "answer")
    asked = _ids(reader, text, mark, image, images, span)
    told = text + ("" if text[-1:].isspace() else " ") + answer.strip()
    ids = _ids(reader, told, mark, image, images, span)
    # The last token of the question may be another one with a word behind it.
    start = next((i for i, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b), None)
    return ids, len(asked) if start is None else start


def _text(reader, family, question, images, image):
    # The prompt as a text with one mark for each image, what it was made of, and the mark.
    mark = reader.text_of(image)
    if mark is None:
        raise FileError(
            f"the tokenizer has no token {image}, which config.json says stands for an image"
        )
    refuse_specials(question, (*reader.markers, mark), "question")
    text, source = _from_template(reader, question, images), "chat template"
    if text is None or text.count(mark) != images:
        text, source = FAMILIES[family](reader, question, images, mark), family
    return text, source, mark


def _ids(reader, text, mark, image, images, span):
    begin = reader.specials.get("bos_token")
    has_begin = begin is not None and begin in text
    ids = reader.tokens(text.replace(mark, mark * span), specials=not has_begin)
    if ids.count(image) != images * span:
        raise FileError(f"the tokenizer does not keep {mark!r} in one piece")
    return ids


def _llava(reader, question, images, mark):
    return f"USER: {(mark + chr(10)) * images}{question} ASSISTANT:"


def _idefics(reader, question, images, mark):
    shown = AROUND + (mark + AROUND) * images
    begin = reader.specials.get("bos_token", "")
    end = TURN_END if reader.id(TURN_END) is not None else ""
    return f"{begin}User:{shown}{question}{end}\nAssistant:"


def _mllama(reader, question, images, mark):
    begin = reader.specials.get("bos_token", "")
    if reader.id(HEADER) is None:  # not trained on conversations: it writes on
        return f"{mark * images}{begin}{question}"
    user, assistant = (f"{HEADER}{name}<|end_header_id|>\n\n" for name in ("user", "assistant"))
    return f"{begin}{user}{mark * images}{question}<|eot_id|>{assistant}"


FAMILIES = {"llava": _llava, "idefics": _idefics, "mllama": _mllama}


def has_jinja():
    """Say whether chat templates can be followed.

    Returns
    -------
    bool
    """
    return importlib.util.find_spec("jinja2") is not None


def _from_template(reader, question, images):
    if reader.template is None or not has_jinja():
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message):
        raise TemplateError(message)

    told = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    sandbox.globals |= {"raise_exception": refuse, "strftime_now": lambda form: ""}
    try:
        return sandbox.from_string(reader.template).render(
            messages=[{"role": "user", "content": told}],
            add_generation_prompt=True,
            **reader.specials,
        )
    except Exception as error:  # a template can fail in any way that a program can
        raise FileError(f"the chat template of the model is damaged: {error}") from error
