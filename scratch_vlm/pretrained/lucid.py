"""The open implementations of lucidrains: Perceiver, and the parts of Flamingo.

They are plain modules, whose config.json holds the arguments of their constructors.
"""

from scratch_vlm.layers.block import BlockConfig
from scratch_vlm.models.perceiver import PerceiverConfig, perceiver_init
from scratch_vlm.pretrained.layout import (
    Layout,
    Rule,
    blank,
    columns,
    fused,
    linear,
    norm,
    repeated,
)

DROPOUT = ("attn_dropout", "ff_dropout")


class Perceiver:
    """`perceiver_pytorch.Perceiver`."""

    @staticmethod
    def configure(options):
        """Turn the arguments of the constructor into a config."""
        given = options.inner("kwargs")
        options.done()
        depth, width = given.get("depth"), given.get("latent_dim", 512)
        tied = given.get("weight_tie_layers", False)
        axes = given.get("input_axis", 2)
        different = min(2, depth) if tied else depth
        given.only("final_classifier_head", True)
        given.only("inverted_cross_attn", False)
        given.only("attn_residual", False)
        fourier = given.get("fourier_encode_data", True)
        bands, highest = given.get("num_freq_bands"), given.get("max_freq") / 2
        config = PerceiverConfig(
            (1,) * axes,  # of any lengths: frequencies do not depend on them
            given.get("input_channels", 3),
            given.get("num_classes", 1000),
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
            *norm("to_logits.1", "ln"),
            *linear("to_logits.2", "head"),
        ]
        return Layout(blank(perceiver_init, config), tuple(rules))


def _geglu(published, ours, hidden):
    # the gate comes second there, and first here
    up, gate = (0, hidden), (hidden, 2 * hidden)
    return [
        Rule(f"{published}.{there}", f"{ours}/{here}", columns(*own), rows=rows)
        for there, here in (("weight", "w"), ("bias", "b"))
        for rows, own in ((up, gate), (gate, up))
    ]
