"""The open implementations of lucidrains: Perceiver, and the parts of Flamingo.

They are plain modules, whose config.json holds the arguments of their constructors.
"""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.layers.gated import GatedConfig, gated_block_init
from scratch_vlm.layers.resampler import ResamplerConfig, resampler_init
from scratch_vlm.models.perceiver import PerceiverConfig, perceiver_init
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    columns,
    fused,
    leading,
    linear,
    norm,
    repeated,
    under,
)

DROPOUT = ("attn_dropout", "ff_dropout")


class Perceiver:
    """`perceiver_pytorch.Perceiver`."""

    @staticmethod
    def configure(options):
        """Turn the arguments of the constructor into a config."""
        given = options.inner("kwargs")
        options.done()
        depth, width = given.get("depth", like=1), given.get("latent_dim", 512)
        tied = given.get("weight_tie_layers", False)
        axes = given.get("input_axis", 2)
        different = min(2, depth) if tied else depth
        head = given.get("final_classifier_head", True)
        classes = given.get("num_classes", 1000)
        given.only("inverted_cross_attn", False)
        given.only("attn_residual", False)
        fourier = given.get("fourier_encode_data", True)
        bands, highest = given.get("num_freq_bands", like=1), given.get("max_freq", like=1.0) / 2
        config = PerceiverConfig(
            (1,) * axes,  # of any lengths: frequencies do not depend on them
            given.get("input_channels", 3),
            classes if head else 0,
            BlockConfig(
                width,
                given.get("latent_heads", 8),
                4 * width,
                mlp="geglu",
                bias=("out", "fc", "proj"),
                head_width=given.get("latent_dim_head", 64),
                blind="mean",
            ),
            latents=given.get("num_latents", 512),
            depth=given.get("self_per_cross_attn", 1),
            repeats=depth,
            crosses=different,
            towers=different,
            bands=bands if fourier else None,
            highest=highest,
            order="axes",
            cross_heads=given.get("cross_heads", 1),
            cross_head_width=given.get("cross_dim_head", 64),
            decoder="mean_first",
        )
        given.done(*DROPOUT)
        return config

    @staticmethod
    def layout(config):
        """Lay out the checkpoint, which holds what several layers share once."""
        inside = config.block.heads * config.block.per_head
        cross = [
            *norm("cross_attn.norm", "ln1"),
            *norm("cross_attn.norm_context", "ln_z"),
            *linear("cross_attn.fn.to_q", "attn/q"),
            *linear("cross_attn.fn.to_kv", "attn/kv"),
            *linear("cross_attn.fn.to_out", "attn/out"),
            *norm("cross_ff.norm", "ln2"),
            *_geglu("cross_ff.fn.net.0", "mlp/fc", config.cross.hidden),
            *linear("cross_ff.fn.net.2", "mlp/proj"),
        ]
        block = [
            *norm("0.norm", "ln1"),
            *fused(("0.fn.to_q", "0.fn.to_kv"), "attn/qkv", (inside, 2 * inside)),
            *linear("0.fn.to_out", "attn/out"),
            *norm("1.norm", "ln2"),
            *_geglu("1.fn.net.0", "mlp/fc", config.block.hidden),
            *linear("1.fn.net.2", "mlp/proj"),
        ]
        rules = [
            Rule("latents", "latents"),
            *repeated("layers.{}.", "crosses/{}/", config.crosses, cross),
            *(
                rule
                for i in range(config.towers)
                for rule in repeated(
                    f"layers.{i}.self_attns.{{}}.", f"towers/{i}/{{}}/", config.depth, block
                )
            ),
        ]
        shapes = blank(perceiver_init, config)
        if config.outputs:
            rules += [*norm("to_logits.1", "ln"), *linear("to_logits.2", "head")]
        else:  # it ends in the latents
            del shapes["ln"]
        return Layout(shapes, tuple(rules))


def _geglu(published, ours, hidden):
    # the gate comes second there, and first here
    up, gate = (0, hidden), (hidden, 2 * hidden)
    return [
        Rule(f"{published}.{there}", f"{ours}/{here}", columns(*own), rows=rows)
        for there, here in (("weight", "w"), ("bias", "b"))
        for rows, own in ((up, gate), (gate, up))
    ]


class Resampler:
    """`flamingo_pytorch.PerceiverResampler`, which resamples every medium of a text for itself."""

    @staticmethod
    def configure(options):
        """Turn the arguments of the constructor into a config."""
        given = options.inner("kwargs")
        options.done()
        block = _flamingo_block(given)
        config = ResamplerConfig(
            block,
            latents=given.get("num_latents", 64),
            depth=given.get("depth", like=1),
            frames=given.get("num_media_embeds", 4),
            stretch="never",
        )
        given.done()
        return config

    @staticmethod
    def layout(config):
        """Lay out the checkpoint."""
        block = [
            *norm("0.norm_media", "ln_z"),
            *norm("0.norm_latents", "ln1"),
            *linear("0.to_q", "attn/q"),
            *linear("0.to_kv", "attn/kv"),
            *linear("0.to_out", "attn/out"),
            *norm("1.0", "ln2"),
            *linear("1.1", "mlp/fc"),
            *linear("1.3", "mlp/proj"),
        ]
        rules = [
            Rule("latents", "latents"),
            Rule("media_pos_emb", "time/w", lambda x: x[:, None]),
            *repeated("layers.{}.", "blocks/{}/", config.depth, block),
            *norm("norm", "ln"),
        ]
        return Layout(blank(resampler_init, config), tuple(rules))


class GatedBlock:
    """`flamingo_pytorch.GatedCrossAttentionBlock`."""

    @staticmethod
    def configure(options):
        """Turn the arguments of the constructor into a config."""
        given = options.inner("kwargs")
        options.done()
        block = _flamingo_block(given)
        immediate = given.get("only_attend_immediate_media", True)
        config = GatedConfig(
            block,
            block.width,
            head_width=block.head_width,
            # text before the first medium: all scores alike if it might see several media
            blind="zero" if immediate else "mean",
        )
        given.done()
        return config

    @staticmethod
    def layout(config):
        """Lay out the checkpoint."""
        rules = [
            *under("attn.", "", _attention_rules("ln1")),
            Rule("attn_gate", "attn_gate", leading(1)),
            *norm("ff.0", "ln2"),
            *linear("ff.1", "mlp/fc"),
            *linear("ff.3", "mlp/proj"),
            Rule("ff_gate", "mlp_gate", leading(1)),
        ]
        return Layout(blank(gated_block_init, config), tuple(rules))


class CrossAttention:
    """`flamingo_pytorch.MaskedCrossAttention`: a norm of the text, and attention to media."""

    configure = staticmethod(GatedBlock.configure)

    @staticmethod
    def layout(config):
        """Lay out the checkpoint: the first half of a gated block without its gate."""
        shapes = blank(gated_block_init, config)
        shapes = {name: shapes[name] for name in ("ln1", "attn")}
        return Layout(shapes, tuple(_attention_rules("ln1")))


def _flamingo_block(given):
    width = given.get("dim", like=1)
    return BlockConfig(
        width,
        given.get("heads", 8),
        int(min(width * given.get("ff_mult", 4.0), 2**31)),
        bias=False,
        head_width=given.get("dim_head", 64),
    )


def _attention_rules(name):
    return [
        *norm("norm", name),
        *linear("to_q", "attn/q"),
        *linear("to_kv", "attn/kv"),
        *linear("to_out", "attn/out"),
    ]
