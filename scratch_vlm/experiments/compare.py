"""The comparison: both ways to give a language model eyes, trained alike and measured side by side.

Unified embedding puts visual tokens among the words; cross-modality attention lets words look at
them from inside. Both start from the same CLIP and the same language model, read the same batches
and take the same steps.
"""

import time
from functools import partial

import numpy as np

from scratch_vlm import costs
from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data import boards
from scratch_vlm.data.chat import chat_batch
from scratch_vlm.data.tokens import PAD
from scratch_vlm.experiments import chats, motion, shots, vlm_report, vqa
from scratch_vlm.experiments.samples import invite
from scratch_vlm.experiments.stages import STAGES, shortened, train_stages, training_facts
from scratch_vlm.models.cross_modal import cross_modal_loss_forward
from scratch_vlm.models.lm import lm_loss_forward
from scratch_vlm.models.unified import UnifiedConfig, unified_loss_forward
from scratch_vlm.ops.losses import IGNORE
from scratch_vlm.training.run import RunFolder, write_metrics
from scratch_vlm.tree import leaves
from scratch_vlm.viz.table import readable, results_table

NAMES = tuple(name for name in STAGES if name != "vit")
FUSIONS = ("unified", "cross_modal")
GATES = ("gates_closed", "gates_closed_fast")
QUICK = 1 / 16  # share of the steps of a taste
COUNT = 512  # boards, clips or episodes of each measurement
IMAGES = (0, 1, 2, 4, 8, 16)  # in a prompt, to see what more of them cost
COSTS = {  # what to call them
    "parameters_trained": "parameters, trained",
    "parameters_frozen": "parameters, frozen",
    "sequence_length": "sequence length (tokens)",
    "prompt_flops": "reading the prompt (FLOPs)",
    "flops_per_token": "one more token (FLOPs)",
    "kv_cache_bytes": "KV cache (bytes)",
    "activation_bytes": "activations in training (bytes)",
    "seconds_per_step": "a training step (seconds)",
}
WORDS = 8  # tokens of a question, its end and the beginning of the text among them
TEXTS = 512  # conversations without images to measure what the language model has kept


def run_compare(folder, *, seed=0, quick=False, xp=np, progress=True):
    """Train both fusions and what belongs to them, measure, and write one report.

    Parameters
    ----------
    folder : str or path
        Where to write. What an earlier call trained there is not trained again.
    seed : int, default 0
        Of all weights and batches.
    quick : bool, default False
        A taste: trainings of a sixteenth of the steps, which learn little.
    xp : module, default numpy
        Where to compute.
    progress : bool, default True
        Show progress bars.

    Returns
    -------
    dict
        Nested metrics, as in ``metrics.json``.

    Raises
    ------
    ValueError
        If the folder holds a run with another seed or length; said before anything is trained.
    """
    started = time.perf_counter()
    run = RunFolder(folder)
    run.prepare()
    steps = shortened(NAMES, QUICK) if quick else {}
    trained = train_stages(run.path, NAMES, seed=seed, steps=steps, xp=xp, progress=progress)
    print(f"{len(NAMES)}/{len(NAMES)}  done; all are measured on forms that none has seen")
    curves = {name: RunFolder(run.path / name).read_curve() for name in NAMES}
    metrics = measure(trained, "test")
    metrics["cost"] = {arm: fusion_costs(arm, curves[arm]) for arm in FUSIONS}
    shown = {name: branch for name, branch in metrics.items() if name != "cost"}
    print(f"\n{results_table(shown)}\n")
    print("value: on the test forms, 12 and 13; of 512 boards or clips 0.03 is noise.")
    print("baseline: the nearest training board in pixels. question only: the likeliest answer;")
    print("image only: the likeliest answer of who sees everything and is not told the question.")
    facts = training_facts(curves, seed=seed, quick=quick, xp=xp)
    write_report(run.report, trained, metrics, curves, facts)
    timing = {name: float(curve["seconds"].sum()) for name, curve in curves.items()}
    timing = {"training": timing, "this_call": time.perf_counter() - started}
    write_metrics(run.metrics, {**metrics, "seed": seed, "seconds": timing})
    print(f"\nlook at {run.report}  ({timing['this_call']:.0f} s)")
    invite(run.path, run.path / "clip")
    return metrics


def write_report(path, trained, metrics, curves, facts):
    """Write the page with everything to look at.

    Parameters
    ----------
    path : path
        The HTML file.
    trained : dict
        Parameters by stage.
    metrics : dict
        Nested results.
    curves : dict
        Columns of ``metrics.csv`` by stage.
    facts : dict of str to str
        What to say about the run.
    """
    from scratch_vlm.viz.answers import accuracy_bars  # matplotlib takes half a second to import
    from scratch_vlm.viz.curves import learning_curves
    from scratch_vlm.viz.report import Report

    report = Report(
        "Two ways to see",
        "A language model learns to answer questions about images: once with visual tokens among "
        "its words (unified embedding, as LLaVA), once with words that look at the image from "
        "inside (cross-modality attention, as Flamingo). Written in NumPy with explicit "
        "gradients, trained on real handwriting, tested on the hands of others.",
    )
    beside = {arm: metrics["vqa"][arm] for arm in FUSIONS}
    report.figure(
        partial(
            accuracy_bars,
            {
                kind: {
                    **{arm: beside[arm][kind]["value"] for arm in FUSIONS},
                    "chance": beside["unified"][kind]["chance"],
                    "question_only": beside["unified"][kind]["question_only"],
                }
                for kind in beside["unified"]
            },
        ),
        "Right answers by kind of question, on handwriting that was not trained on. A held-out "
        "relation is one that no training question asked of this digit.",
        "Bars of accuracy for both models, far above chance and the question alone",
    )
    report.table(
        {name: metrics[name] for name in ("vqa", "captions")},
        "Baseline: the nearest training board in pixels. Question only: the likeliest answer to "
        "the question. Image only: the likeliest answer of who sees the board perfectly and is "
        "told only the kind of the question.",
    )
    report.facts(facts)
    report.section(
        "Learning",
        "The same batches in the same order. The loss is of the words of answers alone, in nats.",
    )
    report.figure(
        partial(
            learning_curves,
            {arm: (curves[arm]["step"], curves[arm]["loss"]) for arm in FUSIONS},
        ),
        "The loss of both models at each step.",
        "Two falling curves",
    )
    vlm_report.image_sections(report, trained, FUSIONS)
    vlm_report.caption_section(report, trained, FUSIONS)
    vlm_report.gate_section(report, {arm: curves[arm] for arm in ("cross_modal", *GATES)}, metrics)
    _cost_section(report, metrics)
    videos = {"clips": trained["video"]}
    videos |= {arm: trained[f"video_{arm}"] for arm in motion.ARMS[1:]}
    vlm_report.video_section(report, videos)
    report.table(
        {"video": metrics["video"]},
        "One frame, and clips without time embeddings, are trained alike and cannot know the "
        f"direction; clips of {motion.LONGER} frames are longer than any in training.",
    )
    vlm_report.shots_section(report, trained["shots"], metrics["few_shot"])
    report.table({"few_shot": metrics["few_shot"]})
    report.write(path)


def _cost_section(report, metrics):
    from scratch_vlm.viz.curves import cost_curves

    report.section(
        "What it costs",
        "By formula, but for the seconds. With unified embedding every image lengthens the text, "
        "and each new word reads all of it; with cross-attention the text stays short, and the "
        "keys and values of images are kept beside it.",
    )
    cost = metrics["cost"]
    report.grid(
        ["cost", *map(readable, FUSIONS)],
        [[COSTS[key], *(_grouped(cost[arm][key]) for arm in FUSIONS)] for key in cost["unified"]],
        "Of a question about one image.",
    )
    every = {arm: [prompt_costs(vqa.model_of(arm), count) for count in IMAGES] for arm in FUSIONS}
    report.figure(
        partial(
            cost_curves,
            IMAGES,
            {
                title: {arm: [cost[key] for cost in every[arm]] for arm in FUSIONS}
                for key, title in COSTS.items()
                if key in every["unified"][0]
            },
        ),
        "What more images in the prompt cost.",
        "Curves of five costs against the number of images",
    )
    report.table(
        {"text_only": metrics["text_only"]},
        "Nats a token on conversations without images: what is left of the language model that "
        "both started from. It is trained on with the rest here; frozen, and with gates that "
        "also close for words that see nothing, it would stay the same to the bit.",
    )


def _grouped(number):
    return f"{number:,}" if isinstance(number, int) else f"{number:.3f}"


def measure(trained, name):
    """Measure everything that was trained, in handwriting that it was not trained on.

    Parameters
    ----------
    trained : dict
        Parameters by stage; what is missing is not measured.
    name : {"val", "test"}
        Which forms.

    Returns
    -------
    dict
        Nested metrics: ``vqa``, ``captions``, ``gates``, ``video``, ``few_shot``, ``text_only``.
    """
    metrics = {}
    for family, arms, judge in (
        ("vqa", FUSIONS, vqa.measure),
        ("captions", FUSIONS, vqa.measure_captions),
        ("gates", GATES, vqa.measure),
    ):
        found = {arm: judge(trained[arm], arm, name, count=COUNT) for arm in arms if arm in trained}
        metrics |= {family: found} if found else {}
    if "video" in trained:
        metrics["video"] = video_metrics(trained, name)
    if "shots" in trained:
        metrics["few_shot"] = shots.measure(trained["shots"], name, count=COUNT)
    metrics["text_only"] = {
        arm: text_only_loss(trained[arm], arm) for arm in ("lm", *FUSIONS) if arm in trained
    }
    return metrics


def video_metrics(trained, name):
    """Measure the models of clips, and what they lose with the order of frames.

    Parameters
    ----------
    trained : dict
        Parameters by stage; ``video``, and perhaps those of the other arms.
    name : {"val", "test"}
        Which forms.

    Returns
    -------
    dict
        ``direction`` of ``clips``, and where they are trained ``one_frame`` and
        ``no_time_embedding``, and of clips longer than any in training; ``colour``,
        ``which_digit`` and ``digit`` of clips.
    """
    metrics = motion.measure(trained["video"], "clips", name, count=COUNT)
    direction = {"clips": metrics.pop("direction")}
    for arm in motion.ARMS[1:]:
        if f"video_{arm}" in trained:
            found = motion.measure(trained[f"video_{arm}"], arm, name, count=COUNT)
            direction[arm] = found["direction"]
    longer = (motion.LONGER,)
    longer = motion.measure(trained["video"], "clips", name, lengths=longer, count=COUNT)
    direction[f"length_{motion.LONGER}"] = longer["direction"]
    return {"direction": direction, **metrics}


def text_only_loss(p, arm):
    """Measure how well a model foretells conversations without images.

    Parameters
    ----------
    p : dict
        Parameters of the language model, or of one that sees.
    arm : {"lm", "unified", "cross_modal"}
        Which.

    Returns
    -------
    float
        In nats a token: how much of its language a model has kept.
    """
    asked = chats.unseen_questions(np.random.default_rng(10**6), TEXTS, turns=boards.TURNS)
    ids, _ = chat_batch(chats.tokenizer(), chats.conversations(asked, media=0))
    xp = namespace(next(leaves(p))[1])
    ids, labels = (to_device(x, xp) for x in (ids, np.where(ids == PAD, IGNORE, ids)))
    if arm == "lm":
        loss, _ = lm_loss_forward(ids, labels, p, config=chats.language())
    else:
        config = vqa.model_of(arm)
        forward = unified_loss_forward if arm == "unified" else cross_modal_loss_forward
        loss, _ = forward(ids, labels, None, p, config=config)
    return float(to_host(loss))


def fusion_costs(arm, curve):
    """Say what a model costs, by formula but for the seconds.

    Parameters
    ----------
    arm : {"unified", "cross_modal"}
        Which architecture.
    curve : dict
        Columns of its ``metrics.csv``.

    Returns
    -------
    dict of str to float
        Of a question on one image, with one token of its answer at a time.
    """
    config = vqa.model_of(arm)
    whole = prompt_costs(config, 1)
    parameters = whole.pop("parameters")
    return {
        "parameters_trained": parameters,
        "parameters_frozen": 0,
        **whole,
        "seconds_per_step": float(np.median(curve["seconds"])),
    }


def prompt_costs(config, images):
    """Say what a question about some images costs.

    Parameters
    ----------
    config : UnifiedConfig or CrossModalConfig
        The model.
    images : int
        Images in the prompt.

    Returns
    -------
    dict of str to int
        ``parameters``; ``sequence_length`` of the prompt; ``prompt_flops``, to read it with its
        images; ``flops_per_token``, to write one more; ``kv_cache_bytes`` while it is written,
        in float32; ``activation_bytes``, kept for a backward through the prompt.
    """
    unified = isinstance(config, UnifiedConfig)
    cost = costs.unified_cost if unified else costs.cross_modal_cost
    visual = images * config.sight.tokens()
    tokens = WORDS + (visual if unified else images)
    read = cost(config, tokens=tokens, media=images)
    written = cost(config, tokens=1, media=images, past=tokens)
    cached = tokens * costs.kv_cache_numbers(config.lm)
    cached += 0 if unified else visual * costs.seen_cache_numbers(config)
    return {
        "parameters": read.parameters,
        "sequence_length": tokens,
        "prompt_flops": read.flops,
        "flops_per_token": written.flops,
        "kv_cache_bytes": 4 * cached,
        "activation_bytes": read.bytes(),
    }
