"""The same work in PyTorch, on the same numbers, as its users would write it.

Fused attention, fused AdamW, automatic gradients; bf16 by autocast where a model learns, and by
weights in bf16 where it only writes. Labels are shifted, not logits, which would be copied. A step
never waits for the device: whoever wants the loss may fetch it. Weights come from our trees by
their names. That a twin computes the same is checked before it is timed.
"""

from functools import partial

import torch
import torch.nn.functional as F

from scratch_vlm.bench.contenders import CLIP, DECAY, RATE, cotangent
from scratch_vlm.ops.losses import IGNORE
from scratch_vlm.training.optimizer import decays
from scratch_vlm.tree import leaves

EPS = 1e-5


def pair(subject, inputs, p, device, *, bf16=False):
    """Return the forward and the backward of an op or a layer.

    Parameters
    ----------
    subject : Subject
        What is timed.
    inputs : tuple of array
        On the host.
    p : dict or None
        Parameters.
    device : {"cpu", "cuda"}
        Where to compute.
    bf16 : bool, default False
        Whether products of the forward, and so of the backward, are cast to it.

    Returns
    -------
    callable
        Gives the output and the gradients, those of inputs first.
    """
    inputs, t = _tensors(inputs, p or {}, device)
    learned = [x.requires_grad_() for x in (*inputs, *t.values()) if x.is_floating_point()]
    config = {k: v for k, v in subject.options.items() if k == "config"}
    forward, dy = partial(PAIRS[subject.family], t, *inputs, **config), None

    def run():
        nonlocal dy
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            y = forward()
        if dy is None:
            dy = torch.from_numpy(cotangent(y.shape)).to(y)
        return y, torch.autograd.grad(y, learned, dy)

    return run


def update(subject, inputs, p, device, *, bf16=False):
    """Return a step of AdamW.

    Parameters
    ----------
    subject, inputs, p, device, bf16
        As in `pair`; there is nothing to cast.

    Returns
    -------
    callable
        Gives the parameters.
    """
    (gradient,), t = _tensors(inputs, p, device)
    t["w"].grad = gradient
    optimizer = torch.optim.AdamW(t.values(), RATE, weight_decay=DECAY, fused=True)

    def run():
        optimizer.step()
        return t["w"]

    return run


def step(subject, inputs, p, device, *, bf16=False, compiled=False):
    """Return a training step of a model.

    Parameters
    ----------
    subject, inputs, p, device, bf16
        As in `pair`.
    compiled : bool, default False
        Whether to compile the loss; on a GPU it is recorded as a graph, too.

    Returns
    -------
    callable
        Gives the loss and the norm of the gradient, on the device.
    """
    inputs, t = _tensors(inputs, p, device)
    groups = [
        {"params": [x for name, x in t.items() if decays(name) == decay], "weight_decay": rate}
        for decay, rate in ((True, DECAY), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, RATE, fused=True)
    config = subject.options["config"]
    loss_of = partial(STEPS[type(config).__name__], config=config)
    if compiled:
        for x in t.values():  # a graph need not copy them into its own memory
            torch._dynamo.mark_static_address(x)
        mode = "reduce-overhead" if device == "cuda" else "default"
        loss_of = torch.compile(loss_of, mode=mode, dynamic=False, fullgraph=True)

    def run():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = loss_of(t, *inputs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(t.values(), CLIP)
        optimizer.step()
        return loss.detach(), norm

    return run


def generation(subject, inputs, p, device, *, bf16=False):
    """Return greedy generation with a KV cache.

    Parameters
    ----------
    subject, inputs, p, device, bf16
        As in `pair`.

    Returns
    -------
    callable
        Gives the new tokens, a list for each text.
    """
    (prompts,), t = _tensors(inputs, p, device)
    config, new = subject.options["config"], subject.options["new"]
    heads, width = config.block.heads, config.block.width
    room = (len(prompts), heads, prompts.shape[1] + new, width // heads)

    dtype = torch.bfloat16 if bf16 else torch.float32
    t = {name: x.detach().to(dtype) for name, x in t.items()}

    @torch.inference_mode()
    def run():
        cache = [
            tuple(torch.empty(room, device=device, dtype=dtype) for _ in range(2))
            for _ in range(config.depth)
        ]
        ids, written, past = prompts, [], 0
        for _ in range(new):
            x = _words(t, ids, "", past)
            for i in range(config.depth):
                x = _block(t, x, config.block, f"blocks/{i}/", True, cache=cache[i], past=past)
            past += ids.shape[1]
            ids = _scores(t, x[:, -1:], "").argmax(-1)  # (B, 1)
            written.append(ids)
        return torch.cat(written, 1).tolist()

    return run


def _tensors(inputs, p, device):
    inputs = [torch.tensor(x, device=device) for x in inputs]
    return inputs, {
        name: torch.tensor(x, device=device, requires_grad=True) for name, x in leaves(p)
    }


def _norm(t, x, name):
    return F.layer_norm(x, x.shape[-1:], t[name + "/gamma"], t[name + "/beta"], EPS)


def _linear(t, x, name):
    return F.linear(x, t[name + "/w"].T, t.get(name + "/b"))


def _mlp(t, x, name):
    h = F.gelu(_linear(t, x, name + "/fc"), approximate="tanh")
    return _linear(t, h, name + "/proj")


def _heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _read(t, q, k, v, name, causal=False):
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return _linear(t, y.transpose(1, 2).flatten(2), name)


def _block(t, x, config, at="", causal=False, *, cache=None, past=0):
    qkv = _linear(t, _norm(t, x, at + "ln1"), at + "attn/qkv")
    q, k, v = (_heads(part, config.heads) for part in qkv.chunk(3, -1))
    if cache is not None:
        until = past + x.shape[1]
        for kept, new in zip(cache, (k, v), strict=True):
            kept[:, :, past:until] = new
        k, v = (kept[:, :, :until] for kept in cache)
    x = x + _read(t, q, k, v, at + "attn/out", causal and not past)
    return x + _mlp(t, _norm(t, x, at + "ln2"), at + "mlp")


def _look(t, q, z, config, at):
    q = _heads(_linear(t, q, at + "attn/q"), config.heads)
    k, v = (_heads(part, config.heads) for part in _linear(t, z, at + "attn/kv").chunk(2, -1))
    return _read(t, q, k, v, at + "attn/out")


def _gated(t, x, z, config, at=""):
    y = _look(t, _norm(t, x, at + "ln1"), z, config.block, at)
    x = x + t[at + "attn_gate"].tanh() * y
    return x + t[at + "mlp_gate"].tanh() * _mlp(t, _norm(t, x, at + "ln2"), at + "mlp")


def _resampler(t, features, config):
    z = features.flatten(1, 2)
    x = t["latents"].expand(len(z), -1, -1)
    for i in range(config.depth):
        at = f"blocks/{i}/"
        q = _norm(t, x, at + "ln1")
        x = x + _look(t, q, torch.cat([_norm(t, z, at + "ln_z"), q], 1), config.block, at)
        x = x + _mlp(t, _norm(t, x, at + "ln2"), at + "mlp")
    return _norm(t, x, "ln")


def _tower(t, images, config, prefix="", depth=None):
    (h, w), (rows, columns) = config.patch, config.grid
    x = images.reshape(len(images), rows, h, columns, w, -1).permute(0, 1, 3, 2, 4, 5)
    x = _linear(t, x.reshape(len(images), rows * columns, -1), prefix + "patch")
    at = prefix + "positions/"
    if config.positions == "axial":
        grid = (t[at + "rows"][:, None] + t[at + "columns"]).flatten(0, 1)
        places = torch.cat([t[at + "extra"], grid])
    else:
        places = t[at + "w"]
    x = torch.cat([t[prefix + "cls"].expand(len(x), 1, -1), x], 1) + places
    for i in range(config.depth if depth is None else depth):
        x = _block(t, x, config.block, f"{prefix}blocks/{i}/")
    return x


def _projected(t, x, prefix=""):
    return _linear(t, _norm(t, x, prefix + "ln"), prefix + "head")


def _vit_loss(t, images, labels, *, config):
    return F.cross_entropy(_projected(t, _tower(t, images, config)[:, 0]), labels)


def _clip_loss(t, images, ids, *, config):
    text, x = config.text, _words(t, ids, "text/")
    for i in range(text.depth):
        x = _block(t, x, text.block, f"text/blocks/{i}/", text.causal)
    ends = (ids == text.end).int().argmax(1)
    x = x[torch.arange(len(x), device=x.device), ends]
    towers = {"image/": _tower(t, images, config.image, "image/")[:, 0], "text/": x}
    units = [F.normalize(_projected(t, x, name), dim=-1) for name, x in towers.items()]
    return _contrastive(t, *units, t["log_scale"])


def _sight(t, media, config):
    depth = max(config.tower.used)
    x = _tower(t, media[:, 0], config.tower.vit, "sight/tower/", depth)
    return _mlp(t, x[:, 1:], "sight/connector/mlp")


def _words(t, ids, prefix, past=0):
    places = t[prefix + "positions/w"][past : past + ids.shape[1]]
    return F.embedding(ids, t[prefix + "tokens/w"]) + places


def _scores(t, x, prefix):
    return F.linear(_norm(t, x, prefix + "ln"), t[prefix + "tokens/w"])


def _next_token(logits, labels):
    labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)


def _unified_loss(t, ids, labels, media, *, config):
    visual, lm = _sight(t, media, config.sight), config.lm
    x = torch.cat([visual, F.embedding(ids[:, visual.shape[1] :], t["lm/tokens/w"])], 1)
    x = x + t["lm/positions/w"][: ids.shape[1]]
    for i in range(lm.depth):
        x = _block(t, x, lm.block, f"lm/blocks/{i}/", True)
    return _next_token(_scores(t, x, "lm/"), labels)


def _cross_modal_loss(t, ids, labels, media, *, config):
    z, lm, x = _sight(t, media, config.sight), config.lm, _words(t, ids, "lm/")
    for i in range(lm.depth):
        if i in config.places:
            x = _gated(t, x, z, config.gated, f"gated/{i}/")
        x = _block(t, x, lm.block, f"lm/blocks/{i}/", True)
    return _next_token(_scores(t, x, "lm/"), labels)


def _contrastive(t, images, texts, log_scale):
    z, i = log_scale.exp() * images @ texts.T, torch.arange(len(images), device=images.device)
    return (F.cross_entropy(z, i) + F.cross_entropy(z.T, i)) / 2


def _attend(t, q, k, v, *, causal=False):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


PAIRS = {
    "linear": lambda t, x: F.linear(x, t["w"].T, t["b"]),
    "attention": _attend,
    "causal attention": partial(_attend, causal=True),
    "layer norm": lambda t, x: F.layer_norm(x, x.shape[-1:], t["gamma"], t["beta"], EPS),
    "RMS norm": lambda t, x: F.rms_norm(x, x.shape[-1:], t["gamma"], EPS),
    "GELU": lambda t, x: F.gelu(x, approximate="tanh"),
    "QuickGELU": lambda t, x: x * torch.sigmoid(1.702 * x),
    "embedding": lambda t, ids: F.embedding(ids, t["w"]),
    "cross-entropy": lambda t, z, labels: F.cross_entropy(z, labels),
    "contrastive loss": _contrastive,
    "MLP": lambda t, x: _linear(t, F.gelu(_linear(t, x, "fc"), approximate="tanh"), "proj"),
    "block": _block,
    "gated block": _gated,
    "Resampler": _resampler,
}
STEPS = {
    "ViTConfig": _vit_loss,
    "CLIPConfig": _clip_loss,
    "UnifiedConfig": _unified_loss,
    "CrossModalConfig": _cross_modal_loss,
}
