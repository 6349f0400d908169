"""Models of the reference libraries with random weights, and what they compute in float64.

`write_case` leaves a folder like those beside this file. It needs torch and transformers.
"""

import contextlib
import copy
import json
import math
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

GATES = re.compile(r"(^|[._])(gate|gate_attn|gate_ffn|\w*_gate|alpha_\w+)$")


@dataclass
class Given:
    """A model of a reference library, and how it is called.

    Attributes
    ----------
    model : torch.nn.Module
        The model.
    inputs : dict of str to array
        What it reads; those in `positional` without their names.
    flags : dict
        Literal keyword arguments.
    wrt : tuple of str
        Inputs whose gradient is asked for.
    probes : tuple of str
        Outputs whose sum, weighted at random, is the loss; none for the model's own loss.
    loss : callable, optional
        Makes the loss of the outputs, in the place of both.
    beside : dict of str to array
        What the loss reads and the model does not.
    positional : tuple of str
        Names of inputs.
    generate : dict, optional
        Inputs and ``options`` of a greedy generation.
    published : dict, optional
        What config.json says of a model that cannot save itself.
    dtype : str
        Of the file.
    rename : callable, optional
        From the tensors of the file to those of another file of the same model.
    buffers : dict of str to tensor
        What that file holds beside parameters.
    """

    model: nn.Module
    inputs: dict
    flags: dict = field(default_factory=dict)
    wrt: tuple = ()
    probes: tuple = ()
    loss: object = None
    beside: dict = field(default_factory=dict)
    positional: tuple = ()
    generate: dict | None = None
    published: dict | None = None
    dtype: str = "float32"
    rename: object = None
    buffers: dict = field(default_factory=dict)


class _Widened(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            return args[0].double()

        def widen(x):
            return torch.float64 if x is torch.float32 else x

        named = {name: widen(x) for name, x in (kwargs or {}).items()}
        return function(*map(widen, args), **named)


@contextlib.contextmanager
def exact():
    """Compute in float64 throughout, also where a library asks for float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widened():
            yield
    finally:
        torch.set_default_dtype(before)


def randomise(model, rng, dtype):
    """Draw all parameters anew: large enough that a wrong one shows in the first digits."""
    owners = {f"{path}.{name}".lstrip("."): module for path, module in model.named_modules()
              for name, _ in module.named_parameters(recurse=False)}  # fmt: skip
    for name, p in model.named_parameters():
        owner, shape = owners[name], tuple(p.shape)
        x = rng.standard_normal(shape)
        if name.endswith("logit_scale"):
            x = 1.3 + 0.2 * x
        elif GATES.search(name):
            x = rng.choice([-0.7, 0.7], shape) + 0.2 * x
        elif "Norm" in type(owner).__name__:
            x = 0.25 * x + (rng.choice([-1.0, 1.0], shape) if name.endswith("weight") else 0)
        elif name.endswith("bias"):
            x = 0.25 * x
        elif isinstance(owner, nn.Linear | nn.Conv2d | Conv1D | nn.MultiheadAttention):
            numbers = shape[0] if isinstance(owner, Conv1D) else math.prod(shape[1:])
            x = 1.2 / math.sqrt(numbers) * x
        else:
            x = 0.6 * x
        with torch.no_grad():  # what the file can hold
            p.copy_(torch.tensor(x).to(getattr(torch, dtype)).double())
        p.requires_grad_(True)


def write_case(folder, build, seed=0):
    """Draw the weights of a model, run it forward and backward, and write all of it.

    Parameters
    ----------
    folder : path
        Made anew.
    build : callable
        Makes a `Given`: the model and its call.
    seed : int, default 0
        Of the weights and the probes.
    """
    with exact():  # tables of angles are made with the model
        given = build()
    rng, model = np.random.default_rng(seed), given.model.eval()
    if isinstance(model, transformers.PreTrainedModel):
        model.set_attn_implementation("eager")
    randomise(model, rng, given.dtype)
    tensors = _save(given, model, folder, getattr(torch, given.dtype))
    if given.buffers:
        save_file(tensors | given.buffers, folder / "model.safetensors")
    if given.published:
        (folder / "config.json").write_text(json.dumps(given.published))

    with exact():
        inputs = {name: torch.tensor(x) for name, x in given.inputs.items()}
        for name in given.wrt:
            inputs[name].requires_grad_(True)
        outputs = _call(given, model, inputs)
        probes = {name: rng.standard_normal(tuple(outputs[name].shape)) for name in given.probes}
        if given.loss:
            loss = given.loss(outputs)
        elif probes:
            loss = sum((torch.tensor(x) * outputs[name]).sum() for name, x in probes.items())
        else:
            loss = outputs["loss"]
        loss.backward()
    expected = {"loss": loss, **{f"out/{name}": x for name, x in outputs.items()}}
    expected |= {f"input_grad/{name}": inputs[name].grad for name in given.wrt}

    learned = {name: torch.zeros_like(p) if p.grad is None else p.grad
               for name, p in model.named_parameters()}  # fmt: skip
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(learned[name])
    with tempfile.TemporaryDirectory() as other:  # gradients by the names of the file
        named = _save(given, twin, Path(other), torch.float64)
    expected |= {f"grad/{name}": x for name, x in named.items()}
    largest = max(float(x.abs().max()) for x in named.values())
    zero = [name for name, x in named.items() if float(x.abs().max()) < 1e-12 * largest]

    stored = given.inputs | given.beside | {f"probe/{name}": x for name, x in probes.items()}
    generation = None
    if given.generate:
        more, prompts, generation = _generate(given, model)
        expected |= more
        stored |= {f"gen/{name}": x for name, x in prompts.items()}
    numbers = {name: x.detach().numpy() for name, x in expected.items()}
    assert all(x.dtype == np.float64 for x in numbers.values() if x.dtype.kind == "f")
    np.savez(folder / "inputs.npz", **stored)
    np.savez(folder / "expected.npz", **numbers)
    flags = ", ".join(f"{name}={x!r}" for name, x in given.flags.items())
    info = {
        "case": folder.name,
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "call": f"model({flags})",
        "gradients": {"zero_by_symmetry": zero, "largest_abs": largest},
        "generation": generation,
    }
    (folder / "case.json").write_text(json.dumps(info, indent=1))


def _call(given, model, inputs):
    args = [inputs[name] for name in given.positional]
    named = {name: x for name, x in inputs.items() if name not in given.positional}
    return _flat(model(*args, **named, **given.flags))


def _flat(out, name=""):
    if torch.is_tensor(out):
        return {name or "output": out}
    parts = out.items() if hasattr(out, "items") else []
    parts = enumerate(out) if isinstance(out, tuple | list) else parts
    flat = {}
    for key, x in parts:
        flat |= _flat(x, f"{name}.{key}" if name else str(key))
    return flat


def _save(given, model, folder, dtype):
    model = copy.deepcopy(model).to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    if given.published is None:
        model.save_pretrained(folder)
    else:
        tensors = {name: p.detach().contiguous() for name, p in model.named_parameters()}
        save_file(tensors, folder / "model.safetensors")
    tensors = load_file(folder / "model.safetensors")
    if given.rename:
        tensors = {name: x.contiguous() for name, x in given.rename(tensors).items()}
        save_file(tensors, folder / "model.safetensors")
    return tensors


def _generate(given, model):
    how = dict(given.generate)
    options = how.pop("options")
    settings = model.generation_config
    settings.eos_token_id, settings.bos_token_id = None, None
    settings.pad_token_id = options.pop("pad_token_id", 0)
    prompts = {name: torch.tensor(x) for name, x in how.items()}
    options |= {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad(), exact():
        result = model.generate(**prompts, **options)
    said = ", ".join(f"{name}={x!r}" for name, x in options.items())
    info = {
        "call": f"model.generate({said})",
        "eos_token_id": options.get("eos_token_id"),
        "pad_token_id": settings.pad_token_id,
    }
    return {"gen/sequences": result.sequences, "gen/logits": torch.stack(result.logits)}, how, info
