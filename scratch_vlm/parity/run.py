"""Run cases, and say how far our numbers are from the reference's."""

import json
import time
from pathlib import Path

from scratch_vlm.parity import contrastive, cross_modal, flamingo, language, unified, vision
from scratch_vlm.parity.case import GROUPS, compare, read_case, worst
from scratch_vlm.parity.primitives import run_primitives, with_pictures
from scratch_vlm.pretrained.load import load_pretrained

RUNS = {
    "ViTForImageClassification": vision.run_vit,
    "ViTModel": vision.run_image_tokens,
    "CLIPModel": contrastive.run_clip,
    "CLIPVisionModel": vision.run_image_tokens,
    "CLIPVisionModelWithProjection": contrastive.run_image_tower,
    "CLIPTextModel": contrastive.run_text_tower,
    "CLIPTextModelWithProjection": contrastive.run_text_tower,
    "SiglipModel": contrastive.run_clip,
    "SiglipVisionModel": vision.run_image_tokens,
    "SiglipTextModel": contrastive.run_text_tower,
    "SiglipForImageClassification": vision.run_vit,
    "BertModel": language.run_bert,
    "BertForMaskedLM": language.run_bert,
    "BertForPreTraining": language.run_bert,
    "BertForNextSentencePrediction": language.run_bert,
    "BertForSequenceClassification": language.run_bert,
    "BertForTokenClassification": language.run_bert,
    "BertForQuestionAnswering": language.run_bert,
    "GPT2LMHeadModel": language.run_lm,
    "GPT2Model": language.run_trunk,
    "LlamaForCausalLM": language.run_lm,
    "LlamaModel": language.run_trunk,
    "MistralForCausalLM": language.run_lm,
    "MistralModel": language.run_trunk,
    "Qwen2ForCausalLM": language.run_lm,
    "Qwen2Model": language.run_trunk,
    "LlavaForConditionalGeneration": unified.run_llava,
    "IdeficsForVisionText2Text": cross_modal.run_idefics,
    "MllamaForConditionalGeneration": cross_modal.run_mllama,
    "PerceiverModel": vision.run_perceiver_inputs,
    "PerceiverForImageClassificationLearned": vision.run_perceiver_images,
    "PerceiverForImageClassificationFourier": vision.run_perceiver_images,
    "perceiver_pytorch.Perceiver": vision.run_lucid_perceiver,
    "flamingo_pytorch.PerceiverResampler": flamingo.run_resampler,
    "flamingo_pytorch.GatedCrossAttentionBlock": flamingo.run_gated_block,
    "flamingo_pytorch.MaskedCrossAttention": flamingo.run_cross_attention,
}
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}


def run_case(folder, *, dtype="float64", left_out=None):
    """Run our model on the case of a folder.

    Parameters
    ----------
    folder : str or path
        The folder.
    dtype : {"float64", "float32"}, default "float64"
        To compute in.
    left_out : list of str, optional
        Gains the names of what the reference computed and nothing here does.

    Returns
    -------
    rows : list of Row
        Errors of all arrays.

    Raises
    ------
    FileError
        If the folder is no case, or its files are damaged.
    OptionError
        If the model has options that are not implemented.
    """
    case = read_case(folder, dtype=dtype)
    if "groups" in case.info:  # of pieces without a model
        case = with_pictures(case)
        found, absent = run_primitives(case)
        if left_out is not None:
            left_out += absent
        return compare(case, found, absent)
    model = load_pretrained(folder, dtype=dtype)
    return compare(case, RUNS[model.kind](model, case))


def check_cases(folders, *, dtype="float64", tolerance=None, files=(), show=print):
    """Run cases, print a table of them, and say whether all of them pass.

    Parameters
    ----------
    folders : sequence of path
        One folder: a row for each group of its arrays. Several: a row for each folder.
    dtype : {"float64", "float32"}, default "float64"
        To compute in.
    tolerance : float, optional
        Largest relative error that passes. Default 1e-9 in float64 and 1e-4 in float32.
    files : sequence of path, optional
        Where to write all errors as JSON.
    show : callable, default print
        Takes a line.

    Returns
    -------
    bool

    Raises
    ------
    FileError, OptionError
        If the only folder is no case, or cannot be run.
    ValueError
        If the tolerance is negative.
    """
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    record, passed = [], True
    width = max(len(Path(folder).name) for folder in folders)
    for folder in folders:
        started, left_out = time.perf_counter(), []
        try:
            rows, problem = run_case(folder, dtype=dtype, left_out=left_out), None
        except (ValueError, KeyError, OSError) as error:
            if len(folders) == 1:
                raise
            rows, problem = [], f"{type(error).__name__}: {error}"
        good = not problem and worst(rows) <= tolerance
        passed &= good
        entry = {
            "case": Path(folder).name,
            "passed": good,
            "seconds": time.perf_counter() - started,
        }
        entry |= {"problem": problem, "errors": {row.name: row.error for row in rows}}
        entry["left_out"] = left_out
        record.append(entry)
        if len(folders) == 1:
            _show_groups(rows, tolerance, show)
        elif problem:
            show(f"{Path(folder).name:{width}}  {problem}")
        else:
            by = max(rows, key=lambda row: row.error)
            mark = "" if good else "  <- wrong"
            name = entry["case"]
            show(f"{name:{width}}  {len(rows):4} arrays  {by.error:8.1e}  {by.name}{mark}")
        if left_out:
            show(f"{'':{width}}  without a counterpart here: {', '.join(left_out)}")
    failed = [entry["case"] for entry in record if not entry["passed"]]
    show(
        f"{len(record) - len(failed)} of {len(record)} within {tolerance:g} in {dtype}"
        + (f"; not {', '.join(failed)}" if failed else "")
    )
    content = {"dtype": dtype, "tolerance": tolerance, "cases": record}
    for file in files:
        Path(file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return passed


def _show_groups(rows, tolerance, show):
    for group in GROUPS:
        own = [row for row in rows if row.group == group]
        if own:
            by = max(own, key=lambda row: row.error)
            mark = "" if by.error <= tolerance else "  <- wrong"
            show(f"{group:11} {len(own):4} arrays  {by.error:8.1e}  {by.name}{mark}")
