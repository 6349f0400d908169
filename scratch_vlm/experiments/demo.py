"""The demo: train every kind of model, measure each once on the test forms, and write a report."""

import time
from functools import partial
from textwrap import fill

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data.digits import load_digits, nearest_neighbour, split
from scratch_vlm.data.scenes import DIGIT_NAMES, evaluation_set
from scratch_vlm.experiments import compare, digits, scenes, vlm_report
from scratch_vlm.experiments.samples import invite
from scratch_vlm.experiments.stages import train_stages, training_facts
from scratch_vlm.models.clip import encode_images_forward
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.ops.losses import chance_loss
from scratch_vlm.training.run import RunFolder, write_metrics
from scratch_vlm.viz.table import results_table

NAMES = ("vit", "clip", "lm", *compare.FUSIONS, "video", "shots")
STEPS = {"unified": 700, "cross_modal": 700, "video": 1400, "shots": 400}  # the others are whole
QUICK_STEPS = {
    "vit": 200,
    "clip": 300,
    "lm": 60,
    "unified": 80,
    "cross_modal": 80,
    "video": 60,
    "shots": 60,
}
PLACES = {"clip": "."}  # its curve and checkpoint stand in the demo's own folder
MEANING = (  # of the columns of the table
    "Value: accuracy on the test forms, 12 and 13; of text alone the loss, without any image. "
    "Chance: guessing. Baseline: the nearest training sample in pixels; question only, image only: "
    "the best that can be said from one of them; few-shot: perfect sight that guesses what is "
    "asked for. The test has 252 digits and 512 scenes, boards or clips: differences of 0.03 are "
    "noise."
)
SHOWN = 8  # scenes in the similarity matrix and captions in the retrieval figure


def run_demo(folder, *, seed=0, quick=False, xp=np, progress=True):
    """Train, measure, and write the report; what an earlier call trained is not trained again.

    Parameters
    ----------
    folder : str or path
        Where to write.
    seed : int, default 0
        Of all weights and batches.
    quick : bool, default False
        A taste: few steps of each, see ``QUICK_STEPS``.
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
    steps = QUICK_STEPS if quick else STEPS
    options = {"seed": seed, "steps": steps, "xp": xp, "progress": progress}
    trained = train_stages(run.path, NAMES, places=PLACES, **options)
    print("all are measured on forms that none has seen")
    metrics = {
        "vit": digits.measure(trained["vit"], "test"),
        "clip": scenes.measure(trained["clip"], "test"),
        **compare.measure(trained, "test"),
    }
    print(f"\n{results_table(metrics)}\n")
    print(fill(MEANING, 90))
    curves = {name: RunFolder(run.path / PLACES.get(name, name)).read_curve() for name in NAMES}
    facts = training_facts(curves, seed=seed, quick=quick, xp=xp)
    write_report(run.report, trained, metrics, curves, facts)
    seconds = sum(float(curve["seconds"].sum()) for curve in curves.values())
    timing = {"training": seconds, "this_call": time.perf_counter() - started}
    write_metrics(run.metrics, {**metrics, "seed": seed, "seconds": timing})
    print(f"\nlook at {run.report}  ({timing['this_call']:.0f} s)")
    invite(run.path, run.path)
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
    from scratch_vlm.viz import figures  # matplotlib takes half a second to import
    from scratch_vlm.viz.attention import attention_maps
    from scratch_vlm.viz.curves import learning_curve
    from scratch_vlm.viz.report import Report

    vit, clip = trained["vit"], trained["clip"]
    test = evaluation_set("test", 128)
    captions = [scene.caption for scene in test.scenes]
    similarity = (
        scenes.image_embeddings(clip, test.images) @ scenes.text_embeddings(clip, captions).T
    )

    report = Report(
        "Vision language models on real handwriting",
        "A Vision Transformer, a CLIP, and language models that see images and videos, written in "
        "NumPy with explicit gradients, trained on digits from ten collection forms and tested on "
        "the handwriting of two others.",
    )
    report.table(metrics, MEANING)
    report.facts(facts)

    report.section(
        "What the model sees",
        "An image is cut into patches, and each patch becomes one token: a row of numbers that a "
        "matrix turns into a vector. Nothing else of the image reaches the model.",
    )
    report.figure(
        partial(figures.patches, test.images[0], scenes.MODEL.image.patch),
        f"A test scene, its nine patches, and the table of tokens. Its caption: {captions[0]!r}.",
        "An image, its patches, and each patch laid out as a row of numbers",
    )
    report.section(
        "Learning",
        "For each scene of a batch the loss asks which of 128 captions describes it, and for each "
        "caption which scene. Guessing costs ln 128.",
    )
    report.figure(
        partial(
            learning_curve,
            curves["clip"]["step"],
            curves["clip"]["loss"],
            chance=chance_loss(scenes.TRAINING.batch_size),
            rates=curves["clip"]["learning_rate"],
        ),
        "The contrastive loss of the CLIP at each step.",
        "A curve that falls from the chance level towards zero",
    )
    report.section(
        "Zero-shot: choosing among captions",
        "The classes are sentences. Seven of the eight differ from the right one in one fact, so "
        "knowing colours and digits alone is not enough: who is left of whom must be read.",
    )
    probabilities = scenes.candidate_probabilities(clip, test)
    right = probabilities.argmax(1) == 0
    for wanted, words in ((True, "A scene that is read rightly."), (False, "And one that is not.")):
        found = np.flatnonzero(right == wanted)
        if found.size:
            i = int(found[0])
            report.figure(
                partial(
                    figures.zero_shot_example,
                    test.images[i],
                    test.candidates[i],
                    probabilities[i],
                    0,
                ),
                words,
                f"A scene of {captions[i]} beside the probabilities of eight captions",
            )
    report.section(
        "Which caption belongs to which scene",
        "Cosines between the embeddings of scenes and captions. In a trained CLIP they are large "
        "on the diagonal and small elsewhere.",
    )
    report.figure(
        partial(
            figures.similarity_matrix,
            similarity[:SHOWN, :SHOWN],
            test.images[:SHOWN],
            captions[:SHOWN],
        ),
        "Eight test scenes and their captions.",
        "A matrix of similarities, largest on the diagonal",
    )
    report.section(
        "Retrieval: finding a scene by its description",
        "The best of 128 test scenes for each caption; the right one is framed.",
    )
    report.figure(
        partial(
            figures.retrieval,
            captions[:SHOWN],
            test.images,
            similarity.T[:SHOWN],
            correct=list(range(SHOWN)),
        ),
        "What the model finds first.",
        "Rows of retrieved scenes, one row a caption",
    )
    report.section(
        "Zero-shot digits",
        "A classifier of single digits made of words alone: the class seven is the mean of the "
        "embeddings of 'red seven', 'green seven', 'blue seven' and 'yellow seven'.",
    )
    images, labels = scenes.single_digit_scenes("test")
    called = (scenes.image_embeddings(clip, images) @ scenes.digit_classes(clip).T).argmax(1)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, called), 1)
    report.figure(
        partial(figures.confusion, counts, list(DIGIT_NAMES)),
        "Each test digit, alone in a scene: what it is, and what it is called.",
        "A confusion matrix of ten digits",
    )
    report.section(
        "Where the model looks",
        "How much the class token of the last block attends to each patch, for each head.",
    )
    report.figure(
        partial(
            attention_maps,
            test.images[0],
            attention_of_class_token(clip, test.images[0]),
            grid=scenes.MODEL.image.grid,
        ),
        f"Attention over the scene {captions[0]!r}.",
        "The scene under one attention map for each head",
    )
    report.section(
        "Single digits",
        "The ViT names digits of hands it has never seen. How the test is cut matters: "
        + _leakage(),
    )
    digit_test = split("test")
    report.figure(
        partial(learning_curve, curves["vit"]["step"], curves["vit"]["loss"]),
        "The ViT's loss; with label smoothing it cannot reach zero.",
        "A falling curve",
    )
    report.figure(
        partial(
            figures.digit_errors,
            digit_test.images,
            digit_test.labels,
            digits.predict(vit, digit_test.images),
        ),
        "Test digits that the ViT takes for others.",
        "A gallery of misread digits",
    )
    vlm_report.image_sections(report, trained, compare.FUSIONS)
    vlm_report.caption_section(report, trained, compare.FUSIONS)
    vlm_report.video_section(report, {"clips": trained["video"]})
    vlm_report.shots_section(report, trained["shots"], metrics["few_shot"])
    report.write(path)


def attention_of_class_token(p, image):
    """Read out whom the class token of the last image block attends to.

    Parameters
    ----------
    p : dict
        Parameters of the CLIP.
    image : numpy.ndarray of shape (24, 24, 3)
        In [0, 1].

    Returns
    -------
    numpy.ndarray of shape (A, N)
        For each head, the share of each patch.
    """
    config = scenes.MODEL.image
    batch = to_device(scenes.prepare(image[None]), namespace(p["log_scale"]))
    _, saved = encode_images_forward(batch, p["image"], config=config)
    blocks = saved["tower"]["features"]["blocks"]
    weights = attention_weights(blocks[str(config.depth - 1)]["attn"]["attend"])  # (1, A, T, T)
    return to_host(weights)[0, :, 0, 1:]


def _leakage():
    # The same baseline under two ways to cut the data, to show why we cut by form.
    every = load_digits()
    order = np.random.default_rng(0).permutation(len(every))
    by_form = [every.forms == form for form in range(14)]
    at_random = [np.isin(np.arange(len(every)), part) for part in np.array_split(order, 14)]
    shares = [
        np.concatenate(
            [
                nearest_neighbour(every.where(~part), every.where(part)) == every.labels[part]
                for part in parts
            ]
        ).mean()
        for parts in (at_random, by_form)
    ]
    return (
        f"the nearest neighbour in pixels is right {shares[0]:.3f} of the time if digits of one "
        f"form fall on both sides of a random cut, and {shares[1]:.3f} if whole forms are held out."
    )
