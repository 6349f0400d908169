"""The command that trains a published model further: tune."""

from pathlib import Path

from scratch_vlm.cli.shared import at_least, command, option


@command(
    "train a published model further",
    """\
Train a published model further, on photographs of your own.

  scratch-vlm tune clip --images photos --captions captions.csv --out my-clip
  scratch-vlm tune llava --images photos --captions answers.csv --only projector --out my-llava
  scratch-vlm tune llava --images photos --captions answers.csv --lora 8 --out my-llava
  scratch-vlm tune vit --images photos --captions labels.csv --new-head --out my-vit

The first line of the CSV file names its columns, in any order:

  image,caption             for CLIP and SigLIP
  image,question,answer     for LLaVA and Idefics; without questions, --question is asked
  image,label               for ViT; labels are names of its classes, or of new ones: --new-head

By default a small part learns: the projections of CLIP and SigLIP, the projector of LLaVA, the
gated layers of Idefics, the head of ViT. --only takes another one, --lora adapters in its
attention, which are merged into the weights in the end. One row in ten is kept aside, from 20 rows
on, and the loss on those is shown, before and after.

What is written is a folder like the one that was read, with its tokenizer and all: the
Transformers library loads it with from_pretrained, and so do ask, classify and the others here. In
training/ is the curve. The model that was read is not changed, and no model is overwritten. Press
Ctrl-C at any time: the same command goes on from the last checkpoint.

A model that is stored in 16 bits is written in 16 bits, where little is left of small changes:
--dtype float32 keeps them.
""",
    option("folder", type=Path, metavar="FOLDER", help="of a published model"),
    option("--images", type=Path, required=True, metavar="DIR", help="folder of the images"),
    option(
        "--captions", type=Path, required=True, metavar="FILE", help="CSV file of what is on them"
    ),
    option(
        "--only", metavar="PART", help="what learns: projector, cross, head, vision, language, all"
    ),
    option(
        "--lora",
        type=at_least(1),
        nargs="?",
        const=8,
        metavar="RANK",
        help="learn adapters of this rank (default 8) instead of the weights themselves",
    ),
    option("--new-head", action="store_true", help="of a ViT, for the labels of the table"),
    option("--question", metavar="TEXT", help="asked about rows that have no question"),
    option("--steps", type=at_least(1), default=200, help="default 200"),
    option(
        "--batch-size", type=at_least(1), default=8, metavar="N", help="rows at once (default 8)"
    ),
    option("--rate", type=float, metavar="R", help="highest learning rate (default: by the part)"),
    option("--save-every", type=at_least(1), default=50, metavar="N", help="steps (default 50)"),
    option(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the file (default that of the model)",
    ),
    out="folder to write",
)
def tune(options):
    from scratch_vlm.backend import load
    from scratch_vlm.experiments.tuning import Settings, tune_folder

    if options.out is None:
        raise ValueError("say with --out which folder to write; no model is overwritten")
    if options.rate is not None and not 0 < options.rate < float("inf"):
        raise ValueError(f"--rate must be positive, got {options.rate}")
    settings = Settings(
        part=options.only,
        rank=options.lora,
        steps=options.steps,
        batch=options.batch_size,
        seed=options.seed,
        save_every=options.save_every,
        rate=options.rate,
        dtype=options.dtype,
        new_head=options.new_head,
    )
    if options.question is not None:
        settings = settings._replace(question=options.question)
    tune_folder(
        options.folder,
        options.images,
        options.captions,
        options.out,
        settings,
        xp=load(options.backend),
    )
    return 0
