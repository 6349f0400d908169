"""The same work in PyTorch, on the same numbers: what the benchmark compares with.

Written as its users would: fused attention, fused optimizer, automatic gradients. Weights come from
our trees by their names. Whether a twin computes the same is checked before it is timed.
"""

import torch
import torch.nn.functional as F

from scratch_vlm.tree import leaves


def pair(subject, inputs, p, device):
    """Return the forward and backward of an op or a layer in PyTorch.

    Parameters
    ----------
    subject : Subject
        What is timed.
    inputs : tuple of array
        On the host.
    p : dict or None
        Parameters.
    device : str
        Where to compute.

    Returns
    -------
    callable
        Gives the output and the gradients, of inputs first.
    """
    inputs = [torch.tensor(x, device=device) for x in inputs]
    t = {name: torch.tensor(x, device=device) for name, x in leaves(p or {})}
    learned = [x.requires_grad_() for x in (*inputs, *t.values()) if x.is_floating_point()]
    forward, options = PAIRS[subject.family], subject.options
    dy = None

    def run():
        nonlocal dy
        y = forward(t, *inputs, **options)
        dy = torch.ones_like(y) if dy is None else dy
        return y, torch.autograd.grad(y, learned, dy)

    return run


def step(subject, inputs, p, device, rate, compiled=False):
    """Return a training step of a model in PyTorch.

    Parameters
    ----------
    subject, inputs, p, device
        As in `pair`.
    rate : float
        Learning rate.
    compiled : bool, default False
        Whether to compile the forward, and record it in a CUDA graph.

    Returns
    -------
    callable
        Gives the loss and the length of the gradient, as numbers.
    """
    inputs = [torch.tensor(x, device=device) for x in inputs]
    t = {name: torch.tensor(x, device=device, requires_grad=True) for name, x in leaves(p)}
    fused = {"fused": True} if device != "cpu" else {}
    optimizer = torch.optim.AdamW(t.values(), rate, weight_decay=0.01, **fused)
    loss_of, options = STEPS[type(subject.options["config"]).__name__], subject.options
    if compiled:
        loss_of = torch.compile(loss_of, mode="reduce-overhead" if device != "cpu" else None)

    def run():
        optimizer.zero_grad()
        loss = loss_of(t, *inputs, **options)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(t.values(), 1.0)
        optimizer.step()
        return loss.item(), norm.item()

    return run


@torch.no_grad()
def generation(subject, inputs, p, device):
    """Return greedy generation with a KV cache in PyTorch.

    Parameters
    ----------
    subject, inputs, p, device
        As in `pair`.

    Returns
    -------
    callable
        Gives the new tokens, a list for each text.
    """
    (prompts,) = (torch.tensor(x, device=device) for x in inputs)
    t = {name: torch.tensor(x, device=device) for name, x in leaves(p)}
    config, new = subject.options["config"], subject.options["new"]

    @torch.no_grad()
    def run():
        cache = [{} for _ in range(config.depth)]
        ids, written = prompts, []
        for _ in range(new):
            past = cache[0]["k"].shape[2] if cache[0] else 0
            x = _words(t, ids, "", past)
            x = _blocks(t, x, config.block, config.depth, "", causal=not past, cache=cache)
            ids = _head(t, x[:, -1:], "").argmax(-1)  # (B, 1)
            written.append(ids)
        return torch.cat(written, 1).tolist()

    return run


def _norm(t, x, name, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], t[name + "/gamma"], t[name + "/beta"], eps)


def _linear(t, x, name):
    return F.linear(x, t[name + "/w"].T, t.get(name + "/b"))


def _heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _mlp(t, x, name):
    return _linear(t, F.gelu(_linear(t, x, name + "/fc"), approximate="tanh"), name + "/proj")


def _block(t, x, config, at, *, causal=False, cache=None):
    qkv = _linear(t, _norm(t, x, at + "ln1", config.eps), at + "attn/qkv")
    q, k, v = (_heads(part, config.heads) for part in qkv.chunk(3, -1))
    if cache is not None:
        if cache:
            k, v = torch.cat([cache["k"], k], 2), torch.cat([cache["v"], v], 2)
        cache.update(k=k, v=v)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    x = x + _linear(t, y.transpose(1, 2).flatten(2), at + "attn/out")
    return x + _mlp(t, _norm(t, x, at + "ln2", config.eps), at + "mlp")


def _blocks(t, x, config, depth, prefix, *, causal, cache=None):
    for i in range(depth):
        past = None if cache is None else cache[i]
        x = _block(t, x, config, f"{prefix}blocks/{i}/", causal=causal, cache=past)
    return x


def _patches(t, images, config, prefix):
    (h, w), (rows, columns) = config.patch, config.grid
    x = images.reshape(len(images), rows, h, columns, w, -1).permute(0, 1, 3, 2, 4, 5)
    x = _linear(t, x.reshape(len(images), rows * columns, -1), prefix + "patch")
    x = torch.cat([t[prefix + "cls"].expand(len(x), 1, -1), x], 1)
    return x + t[prefix + "positions/w"]


def _words(t, ids, prefix, past=0):
    places = t[prefix + "positions/w"][past : past + ids.shape[1]]
    return t[prefix + "tokens/w"][ids] + places


def _head(t, x, prefix):
    return F.linear(_norm(t, x, prefix + "ln"), t[prefix + "tokens/w"])


def _vit_loss(t, images, labels, *, config):
    x = _blocks(t, _patches(t, images, config, ""), config.block, config.depth, "", causal=False)
    return F.cross_entropy(_linear(t, _norm(t, x[:, 0], "ln"), "head"), labels)


def _sight(t, media, config):
    vit = config.tower.vit
    x = _patches(t, media[:, 0], vit, "sight/tower/")
    depth = vit.depth + 1 + config.tower.layers[0]  # of the last but one block
    x = _blocks(t, x, vit.block, depth, "sight/tower/", causal=False)[:, 1:]
    return _mlp(t, x, "sight/connector/mlp")


def _next_token(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _unified_loss(t, ids, labels, media, *, config):
    visual, language = _sight(t, media, config.sight), config.lm
    places = visual.shape[1]
    x = t["lm/tokens/w"][ids]
    x = torch.cat([visual.to(x.dtype), x[:, places:]], 1) + t["lm/positions/w"][: ids.shape[1]]
    x = _blocks(t, x, language.block, language.depth, "lm/", causal=True)
    return _next_token(_head(t, x, "lm/"), labels)


def _gated(t, x, z, config, at):
    block = config.block
    q = _linear(t, _norm(t, x, at + "ln1", block.eps), at + "attn/q")
    k, v = _linear(t, z, at + "attn/kv").chunk(2, -1)
    y = F.scaled_dot_product_attention(*(_heads(part, block.heads) for part in (q, k, v)))
    y = _linear(t, y.transpose(1, 2).flatten(2), at + "attn/out")
    x = x + t[at + "attn_gate"].tanh() * y
    y = _mlp(t, _norm(t, x, at + "ln2", block.eps), at + "mlp")
    return x + t[at + "mlp_gate"].tanh() * y


def _cross_modal_loss(t, ids, labels, media, *, config):
    z, language, x = _sight(t, media, config.sight), config.lm, _words(t, ids, "lm/")
    for i in range(language.depth):
        if i in config.places:
            x = _gated(t, x, z, config.gated, f"gated/{i}/")
        x = _block(t, x, language.block, f"lm/blocks/{i}/", causal=True)
    return _next_token(_head(t, x, "lm/"), labels)


PAIRS = {
    "linear": lambda t, x: F.linear(x, t["w"].T, t["b"]),
    "attention": lambda t, q, k, v: F.scaled_dot_product_attention(q, k, v),
    "layer norm": lambda t, x: F.layer_norm(x, x.shape[-1:], t["gamma"], t["beta"]),
    "GELU": lambda t, x: F.gelu(x, approximate="tanh"),
    "cross-entropy": lambda t, z, labels: F.cross_entropy(z, labels),
    "block": lambda t, x, config: _block(t, x, config, ""),
}
STEPS = {
    "ViTConfig": _vit_loss,
    "UnifiedConfig": _unified_loss,
    "CrossModalConfig": _cross_modal_loss,
}
