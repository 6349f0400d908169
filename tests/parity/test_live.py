"""The same comparison with models that the reference libraries make on the spot.

Needs them: ``pip install -e ".[parity]"``.
"""

import pytest

from scratch_vlm.parity.case import worst
from scratch_vlm.parity.run import run_case
from scratch_vlm.pretrained.load import load_pretrained, save_pretrained
from scratch_vlm.pretrained.tensors import read_json

NEEDS = 'needs the reference libraries: pip install -e ".[parity]"'
torch = pytest.importorskip("torch", reason=NEEDS)
transformers = pytest.importorskip("transformers", reason=NEEDS)
load_file = pytest.importorskip("safetensors.torch", reason=NEEDS).load_file
write_case = pytest.importorskip("reference", reason=NEEDS).write_case
VARIANTS = pytest.importorskip("variants", reason=NEEDS).VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.mark.parametrize("name", VARIANTS)
def test_options_of_a_family_are_computed_as_the_reference_does(name, tmp_path):
    write_case(tmp_path / "case", VARIANTS[name])
    rows = run_case(tmp_path / "case")
    assert any(row.name.startswith("grad/") for row in rows)
    assert worst(rows) <= 1e-9, max(rows, key=lambda row: row.error)
    assert worst(run_case(tmp_path / "case", dtype="float32")) <= 1e-4


FAMILIES = (  # of those that the library saves and loads by itself
    "vit names in memory",
    "clip",
    "clip image tower",
    "clip text tower",
    "siglip",
    "bert words",
    "gpt2 first files",
    "llama padded in front, tied",
    "perceiver",
    "perceiver learned",
    "idefics",
    "llava first layer, tied",
    "llava activations",
    "mllama two images",
)


@pytest.mark.parametrize("how", [{}, {"shard": 20_000}, {"dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_library_loads_what_we_write(name, how, tmp_path):
    write_case(tmp_path / "case", VARIANTS[name])
    kind = getattr(transformers, read_json(tmp_path / "case" / "case.json")["class"].split(".")[-1])
    save_pretrained(load_pretrained(tmp_path / "case"), tmp_path / "ours", **how)
    assert (len(list((tmp_path / "ours").glob("*.safetensors"))) > 1) == ("shard" in how)
    model, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    dtype = how.get("dtype", "float32")
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    theirs = kind.from_pretrained(tmp_path / "case").state_dict()
    for key, x in model.state_dict().items():
        assert torch.equal(x, theirs[key].to(x.dtype)), key


@pytest.mark.parametrize(
    "name", ["flamingo resampler", "flamingo block", "flamingo attention", "lucid perceiver"]
)
def test_plain_modules_load_what_we_write(name, tmp_path):
    write_case(tmp_path / "case", VARIANTS[name])
    save_pretrained(load_pretrained(tmp_path / "case"), tmp_path / "ours")
    model, before = VARIANTS[name]().model, load_file(tmp_path / "case" / "model.safetensors")
    # what several layers share is in the file once
    shared = set(dict(model.named_parameters(remove_duplicate=False))) - set(before)
    found = load_file(tmp_path / "ours" / "model.safetensors")
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert set(missing) == shared and not unexpected
    for key, p in model.named_parameters():
        assert torch.equal(p, before[key]), key
