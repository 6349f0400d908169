"""Options of a published config, each of which is read, or known to change nothing here."""

import difflib
import math

from scratch_vlm.layers import mlp

NO_MATTER = {  # of training, of generation, or of bookkeeping
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout",
    "attention_probs_dropout_prob", "attn_pdrop", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dropout", "dtype", "early_stopping", "embd_pdrop",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
    "hidden_dropout_prob", "id2label", "initializer_factor", "initializer_range", "label2id",
    "length_penalty", "logit_scale_init_value", "max_length", "min_length", "model_type",
    "n_ctx", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
    "pad_token_id", "prefix", "pretraining_tp", "problem_type", "remove_invalid_values",
    "repetition_penalty", "resid_pdrop", "return_dict", "return_dict_in_generate",
    "sep_token_id", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
    "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16",
    "use_cache",
}  # fmt: skip
ACTIVATIONS = {  # published name: ours
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "squared_relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
GATED = {activation: name for name, activation in mlp.GATED.items()}
MISSING = object()
DEPTHS = {  # numbers of layers, each of which has tensors of its own
    "depth", "n_layer", "num_blocks", "num_global_layers", "num_hidden_layers",
    "num_self_attends_per_block", "resampler_depth", "self_per_cross_attn",
}  # fmt: skip
DEEPEST = 10_000
LARGEST = 2**24  # of whole numbers: more than any vocabulary, width or context


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _number(value):
    return (isinstance(value, float) and math.isfinite(value)) or _whole(value)


KINDS = {  # of a default: what it is called, and whether a value is of it
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: (f"a whole number up to {LARGEST}", _whole),
    float: ("a number", _number),
    str: ("a text", lambda value: isinstance(value, str)),
    list: (
        "a list of whole numbers",
        lambda value: isinstance(value, list) and all(map(_whole, value)),
    ),
}


class OptionError(ValueError):
    """A published config asks for what is not implemented here, or is incomplete."""


class Options:
    """A published config that remembers which of its options were read.

    Parameters
    ----------
    content : dict
        As read from config.json.
    where : str
        What to call it in errors.
    """

    def __init__(self, content, where="config.json"):
        if not isinstance(content, dict):
            raise OptionError(f"{where} should be an object, got {content!r}")
        self.content, self.where, self._read = content, where, set()

    def get(self, name, default=MISSING, *, like=None):
        """Read an option.

        Parameters
        ----------
        name : str
            The option.
        default : object, optional
            What stands for one that is absent, or null.
        like : object, optional
            Of what kind it must be. Default that of `default`: a truth value, a whole number, a
            number, a text, or a list of whole numbers.

        Returns
        -------
        object

        Raises
        ------
        OptionError
            If there is neither the option nor a default, or it is of another kind.
        """
        self._read.add(name)
        value = self.content.get(name)
        if value is None:
            if default is MISSING:
                raise OptionError(f"{self.where} lacks {name}")
            return default
        self._check(name, value, default if like is None else like)
        return value

    def _check(self, name, value, like):
        for kind, (wanted, fits) in KINDS.items():
            if isinstance(like, kind):  # bool first, which is a kind of int
                if not fits(value):
                    raise OptionError(f"{self.where}: {name} must be {wanted}, got {value!r}")
                break
        if name in DEPTHS and value > DEEPEST:
            raise OptionError(f"{self.where}: {name} is at most {DEEPEST}, got {value}")

    def size(self, name, default):
        """Read a size that is published as one number or as two.

        Parameters
        ----------
        name : str
            The option.
        default : int
            What stands for one that is absent: the side of a square.

        Returns
        -------
        tuple of int
            Height and width.

        Raises
        ------
        OptionError
            If it is neither.

        Examples
        --------
        >>> options = Options({"patch_size": [6, 8]})
        >>> options.size("patch_size", 16), options.size("image_size", 224)
        ((6, 8), (224, 224))
        """
        value = self.content.get(name)
        several = isinstance(value, list)
        sides = self.get(name, default, like=[] if several else 1)
        sides = tuple(sides) if several else (sides, sides)
        if len(sides) != 2 or min(sides) < 1:
            raise OptionError(
                f"{self.where}: {name} must be a positive number or two, got {value!r}"
            )
        return sides

    def activation(self, name, default="gelu", *, gated=False):
        """Read the name of an activation.

        Parameters
        ----------
        name : str
            The option.
        default : str, default "gelu"
            What stands for one that is absent.
        gated : bool, default False
            Whether it is that of the gate of an MLP.

        Returns
        -------
        str
            Our name of it, or of the gated MLP.

        Raises
        ------
        OptionError
            If it is not implemented.
        """
        published = self.get(name, default, like="")
        ours = ACTIVATIONS.get(published)
        ours = GATED.get(ours) if gated else ours
        if ours is None:
            known = [k for k, v in ACTIVATIONS.items() if not gated or v in GATED]
            raise OptionError(
                f"{self.where}: {name} {published!r} is not implemented; known are "
                f"{', '.join(known)}"
            )
        return ours

    def only(self, name, *values):
        """Read an option of which only some values are implemented.

        Parameters
        ----------
        name : str
            The option.
        *values : object
            Those; the first stands for an option that is absent.

        Returns
        -------
        object

        Raises
        ------
        OptionError
            If it has another one.
        """
        value = self.get(name, values[0])
        if value not in values:
            raise OptionError(
                f"{self.where}: {name} {value!r} is not implemented; known are "
                f"{', '.join(map(repr, values))}"
            )
        return value

    def inner(self, name):
        """Read a config inside this one.

        Parameters
        ----------
        name : str
            The option.

        Returns
        -------
        Options
        """
        return Options(self.get(name, {}), f"{self.where}: {name}")

    def done(self, *ignored):
        """Refuse options that nobody has read.

        Parameters
        ----------
        *ignored : str
            Those that are known to change nothing here, beside ``NO_MATTER``.

        Raises
        ------
        OptionError
            If there are others.
        """
        unread = sorted(set(self.content) - self._read - NO_MATTER - set(ignored))
        if unread:
            near = difflib.get_close_matches(unread[0], self._read, 1)
            raise OptionError(
                f"{self.where} has options that are not known here: {', '.join(unread)}"
                + (f"; is {unread[0]} meant to be {near[0]}?" if near else "")
            )
