"""What there is to look at in models that see and speak: the sections of their reports."""

from functools import partial

import numpy as np

from scratch_vlm.backend import namespace, to_device, to_host
from scratch_vlm.data import boards, clips
from scratch_vlm.data.chat import Turn, encode_chat
from scratch_vlm.data.clips import Question
from scratch_vlm.data.episodes import chats_under, evaluation_episodes
from scratch_vlm.experiments import chats, motion, scenes, shots, vqa
from scratch_vlm.models.cross_modal import cross_modal_forward
from scratch_vlm.models.unified import unified_embed_forward, unified_forward
from scratch_vlm.ops.attend import attention_weights
from scratch_vlm.tree import leaves
from scratch_vlm.viz.table import readable

SHOWN = 4  # boards with questions and answers
GATES = {  # arms of `vqa`, and what tells them apart
    "cross_modal": f"start at {vqa.ARMS['cross_modal'][0]}",
    "gates_closed": "start at 0",
    "gates_closed_fast": f"start at 0, {vqa.FASTER:.0f} x the rate",
}
LOOKING = "what digit is left of"  # the beginning of the question whose words' gaze is shown


def image_sections(report, trained, arms, name="test"):
    """Show what models answer about boards, and where their words look.

    Parameters
    ----------
    report : Report
        Gains the sections.
    trained : dict
        Parameters by arm of `vqa`.
    arms : sequence of str
        Those to show.
    name : {"val", "test"}
        Whose handwriting.
    """
    from scratch_vlm.viz.answers import answers
    from scratch_vlm.viz.attention import word_attention

    test = boards.evaluation_boards(name, 64)
    media = scenes.prepare(test.images)[:, None]
    said = {
        (arm, kind): chats.answers(
            trained[arm], vqa.model_of(arm), media, [q.text for q in test.questions[kind]]
        )
        for arm in arms
        for kind in boards.KINDS
    }
    wrong = [
        i
        for i in range(len(media))
        if any(said[arm, kind][i] != test.questions[kind][i].answer for arm, kind in said)
    ]
    chosen = list(dict.fromkeys([*range(SHOWN - 1), *wrong]))[:SHOWN]
    rows = [
        [
            (asked[i].text, asked[i].answer, {arm: said[arm, kind][i] for arm in arms})
            for kind, asked in test.questions.items()
        ]
        for i in chosen
    ]
    report.section(
        "Questions about images",
        "Each board shows three or four digits in handwriting that was not trained on. Every "
        "question is asked alone, and the answer is generated word by word. The first boards as "
        "they come, and one with a mistake if there is any. The last question of each board is "
        "about a pair of relation and digit that no training question asked for.",
    )
    report.figure(
        partial(answers, test.images[chosen], rows),
        "What was asked, what is right, and what was answered.",
        "Boards of coloured digits with questions and answers",
    )
    report.section(
        "Where the words look",
        "How much of its attention each word gives to each patch, mean over heads, in the last "
        "block that looks at the image. The answer is read off behind the last word.",
    )
    every = ((i, q) for kind in boards.KINDS for i, q in enumerate(test.questions[kind]))
    i, question = next((i, q) for i, q in every if q.text.startswith(LOOKING))
    for arm in arms:
        words, weights = gaze(trained[arm], arm, test.images[i], question.text)
        report.figure(
            partial(
                word_attention,
                test.images[i],
                words,
                weights,
                scenes.MODEL.image.grid,
                title=readable(arm),
            ),
            f"{question.text!r} ({question.answer}), asked of the {readable(arm)} model.",
            "The board under one attention map for each word",
        )


def gaze(p, arm, image, question):
    """Read off where each word of a question looks.

    Parameters
    ----------
    p : dict
        Parameters of the arm.
    arm : {"unified", "cross_modal"}
        Which architecture.
    image : array of shape (24, 24, 3)
        In [0, 1].
    question : str
        The question.

    Returns
    -------
    words : list of str
        T of them.
    weights : array of shape (T, N)
        Shares of each patch, mean over heads, in the last block that looks at the image.
    """
    model, bpe = vqa.model_of(arm), chats.tokenizer()
    places = chats.placeholders(model)
    ids, _ = encode_chat(bpe, [Turn(question, media=1)], placeholders=places)
    first = 1 + places  # behind the beginning of the text and the image
    xp = namespace(next(leaves(p))[1])
    media = to_device(scenes.prepare(image[None])[:, None], xp)
    forward = unified_forward if arm == "unified" else cross_modal_forward
    _, saved = forward(to_device(np.array([ids]), xp), media, p, config=model)
    trunk, last = saved["trunk"], str(model.lm.depth - 1)
    if arm == "unified":
        weights = attention_weights(trunk["blocks"][last]["attn"]["attend"])[0, :, :, 1:first]
    else:
        weights = attention_weights(trunk["gated"][last]["attn"]["attend"])[0]
    words = [bpe.text([i]).strip() for i in ids[first:]]
    return words, to_host(weights).mean(0)[first:]


def gate_section(report, curves, metrics):
    """Show how far gates open, by where they start and how fast they learn.

    Parameters
    ----------
    report : Report
        Gains the section.
    curves : dict
        Columns of ``metrics.csv`` by stage.
    metrics : dict
        Nested results, with ``vqa`` and ``gates``.
    """
    from scratch_vlm.viz.answers import accuracy_bars
    from scratch_vlm.viz.curves import gate_curves

    report.section(
        "Gates",
        "What a word sees is added to it as far as a gate is open: tanh(alpha) times. Gates that "
        "start at 0 leave the language model as it was at first, and nothing behind a closed gate "
        "learns; the question is how soon they open.",
    )
    names = [key for key in curves["cross_modal"] if key.startswith("gate_")]
    found = {
        said: np.stack([curves[arm][name] for name in names], axis=1) for arm, said in GATES.items()
    }
    report.figure(
        partial(
            gate_curves,
            curves["cross_modal"]["step"],
            found,
            names=["block {1}, {2}".format(*name.split("_")) for name in names],
        ),
        "How far the gates of each run are open, step by step.",
        "Curves of gates that start half open, closed, and closed with a higher learning rate",
    )
    every = {"cross_modal": metrics["vqa"]["cross_modal"], **metrics["gates"]}
    report.figure(
        partial(
            accuracy_bars,
            {
                kind: {said: every[arm][kind]["value"] for arm, said in GATES.items()}
                for kind in every["cross_modal"]
            },
        ),
        "Right answers after the same number of steps.",
        "Bars of accuracy for three ways to start and train the gates",
    )


def video_section(report, trained, name="test"):
    """Show clips with questions and answers, and which frames the visual tokens read.

    Parameters
    ----------
    report : Report
        Gains the section.
    trained : dict
        Parameters by arm of `motion`.
    name : {"val", "test"}
        Whose handwriting.
    """
    from scratch_vlm.viz.clips import film_strip, frame_attention

    lengths, rows, films = (motion.FRAMES[0], motion.FRAMES[1], motion.LONGER), [], []
    for i, frames in enumerate(lengths):
        test = clips.evaluation_clips(name, i + 1, frames)
        asked = test.questions[i][:4]
        films.append(test.frames[i])
        media, texts = test.frames[[i] * len(asked)], [q.text for q in asked]
        said = {
            arm: chats.answers(p, motion.model_of(arm), motion.shown(media, arm), texts)
            for arm, p in trained.items()
        }
        rows.append(
            [(q.text, q.answer, {arm: said[arm][j] for arm in said}) for j, q in enumerate(asked)]
        )
    report.section(
        "Questions about videos",
        "Two digits pass each other on a torus, so that one frame says nothing about which way "
        "they move. Every frame goes through the image tower, and a Perceiver Resampler makes "
        f"{motion.LATENTS} tokens of a clip of any length. Clips of training have at most "
        f"{motion.FRAMES[1]} frames; the last one here is longer.",
    )
    report.figure(
        partial(film_strip, films, marks=rows),
        "Clips of the test, what was asked about them, and what was answered.",
        "Frames of clips in a row, with questions and answers under them",
    )
    report.figure(
        partial(frame_attention, films[1], frame_shares(trained["clips"], films[1])),
        "Which frames each visual token reads, mean over heads.",
        "A heat map of visual tokens and frames",
    )


def frame_shares(p, frames):
    """Read off how much of its attention each visual token gives to each frame.

    Parameters
    ----------
    p : dict
        Parameters of the arm ``clips`` of `motion`.
    frames : array of shape (F, 24, 24, 3)
        In [0, 1].

    Returns
    -------
    array of shape (R, F)
        Shares, mean over heads; what is missing to 1 goes to the latents themselves.
    """
    model = motion.model_of("clips")
    xp = namespace(next(leaves(p))[1])
    media = to_device(motion.shown(frames[None], "clips"), xp)
    ids = np.full((1, chats.placeholders(model, len(frames))), model.image)
    _, saved = unified_embed_forward(to_device(ids, xp), media, p, config=model)
    attend = saved["sight"]["connector"]["resampler"]["blocks"]["0"]["attn"]["attend"]
    weights = to_host(attention_weights(attend))[0].mean(0)  # (R, F N + R)
    patches = model.sight.tower.patches
    return weights[:, : len(frames) * patches].reshape(-1, len(frames), patches).sum(2)


def shots_section(report, p, metrics, name="test"):
    """Show an episode with its shots, and accuracy against their number.

    Parameters
    ----------
    report : Report
        Gains the section.
    p : dict
        Parameters of `shots`.
    metrics : dict
        What `shots.measure` returned.
    name : {"val", "test"}
        Whose handwriting.
    """
    from scratch_vlm.viz import curves
    from scratch_vlm.viz.answers import answers

    report.section(
        "Learning from examples in the prompt",
        "Images and their answers stand before the question, which is always the same: what is "
        "asked for, colour, digit or place, can only be told from the answers to the examples. "
        "Nothing is trained any more.",
    )
    test = evaluation_episodes(name, 3, 2)
    rows = []
    for i in range(3):
        chat = chats_under(test.answers[i : i + 1], test.rules[i : i + 1])[0]
        asked = chats_under(test.answers[i : i + 1], test.rules[i : i + 1], asked=True)
        (said,) = shots.answers(p, test.images[i : i + 1], asked)
        rows += [[(turn.question, turn.answer, {"shown": turn.answer})] for turn in chat[:-1]]
        rows.append([(chat[-1].question, chat[-1].answer, {"answered": said})])
    report.figure(
        partial(answers, test.images.reshape(-1, *test.images.shape[2:]), rows),
        "Three episodes: two examples with their answers, then an image to answer for.",
        "Images with answers in groups of three",
    )
    counts = [int(count) for count in metrics["by_shots"]]
    report.figure(
        partial(
            curves.shots,
            counts,
            {"right answers": [entry["value"] for entry in metrics["by_shots"].values()]},
            chance=metrics["by_shots"]["0"]["baseline"],
            chance_name="rule guessed",
        ),
        "Accuracy by the number of examples; the line is perfect sight that guesses what is asked "
        "for. In "
        f"training there were at most {shots.SHOTS}.",
        "A curve that rises from a third with the first example",
    )


def caption_section(report, trained, arms, name="test"):
    """Show descriptions of boards.

    Parameters
    ----------
    report : Report
        Gains the section.
    trained : dict
        Parameters by arm of `vqa`.
    arms : sequence of str
        Those to show.
    name : {"val", "test"}
        Whose handwriting.
    """
    from scratch_vlm.viz.answers import answers

    test = boards.evaluation_boards(name, 3)
    media = scenes.prepare(test.images)[:, None]
    asked = [Question("caption", boards.CAPTION, boards.describe(b)) for b in test.boards]
    said = {
        arm: chats.answers(
            trained[arm], vqa.model_of(arm), media, [q.text for q in asked], new=vqa.CAPTION_TOKENS
        )
        for arm in arms
    }
    report.section("Captions", "The same models, asked to describe the board.")
    report.figure(
        partial(
            answers,
            test.images,
            [
                [(q.text, q.answer, {arm: said[arm][i] for arm in arms})]
                for i, q in enumerate(asked)
            ],
        ),
        "Descriptions in reading order.",
        "Boards with a description of each",
    )
