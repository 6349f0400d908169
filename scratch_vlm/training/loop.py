"""The training loop, for any model whose objective is a forward and a backward.

::

    config = TrainConfig(steps=800, batch_size=128, peak_rate=2e-3, warmup=100, seed=0)

    def batch(step):
        rng = np.random.default_rng([config.seed, step])
        return draw_scenes(rng, config.batch_size)  # (images, ids)

    p = clip_init(np.random.default_rng(config.seed), model)
    p = train(clip_forward, clip_backward, p, batch, config, "runs/clip", after_step=clip_clamp)

Typed again after Ctrl-C, kill -9 or a power cut, the same lines go on from the last checkpoint and
end with the same curve and the same weights, to the bit.
"""

import json
import math
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from time import perf_counter

import numpy as np
from tqdm import tqdm

from scratch_vlm.backend import (
    PRECISIONS,
    Feed,
    Graphs,
    in_precision,
    is_shortage,
    memory_shortage,
    namespace,
    to_device,
    to_host,
)
from scratch_vlm.training.checkpoint import (
    CheckpointError,
    has_checkpoint,
    load_checkpoint,
    match,
    remove_leftovers,
    save_checkpoint,
    sync,
)
from scratch_vlm.training.loss_scale import LossScale
from scratch_vlm.training.optimizer import ALIKE, EVERYTHING, AdamW
from scratch_vlm.training.run import RunFolder, RunFolderError
from scratch_vlm.training.schedule import warmup_cosine
from scratch_vlm.tree import first_bad, leaves, nbytes, tree_map

BEFORE_CHOICE = {"config/precision": "float32"}  # of runs that are older than the option
COLUMNS = ("step", "loss", "gradient_norm", "learning_rate", "seconds")


class TrainingDiverged(ArithmeticError):
    """A loss, a gradient or a parameter is no longer finite; the message says where it began."""


class OutOfMemory(MemoryError):
    """Memory ran out in a step; the message says how much was asked for, and what needs less."""


class TrainingInterrupted(SystemExit):
    """Ctrl-C was pressed; the step was finished and saved. Uncaught, it ends the program."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything about a training that is neither the model nor the data.

    Attributes
    ----------
    steps : int
        Steps in all.
    batch_size : int
        Samples in a batch; for the function that draws them, the loop takes what it gets.
    peak_rate : float
        Highest learning rate.
    warmup : int
        Steps in which the rate climbs, see `warmup_cosine`.
    floor_rate : float
        Rate after the last step; equal to `peak_rate` for a constant rate.
    weight_decay : float or tuple of (str, float)
        One rate for all weight matrices, or rules for all parameters, see `AdamW`.
    rate_factors : tuple of (str, float)
        By what to multiply the learning rate of which parameters, see `AdamW`.
    clip : float or None
        Longest gradient that is followed as it is.
    betas, eps : (float, float) and float
        Of `AdamW`.
    trained : tuple of (str, bool)
        Which parameters learn, see `tree.freeze`.
    micro_batches : int
        Pieces that a batch is computed in, see `add_gradients`.
    precision : {"float32", "tf32", "bf16", "fp16"}
        Of the matrix products, see `backend.products_in`. Parameters, moments, their gradients, the
        residual stream, statistics, softmax and losses are float32 in any case, and so is what
        else products do not read alone; for fp16 the loss is scaled, see `LossScale`.
    graph : bool
        Record a step as two CUDA graphs, its gradients and its update, and launch those: worth it
        where a step is shorter than a few milliseconds. It does not change what is computed, so a
        run may go on without. Dropout draws its numbers anew before each launch, but not within
        what is recomputed or chunked.
    seed : int
        For whoever draws weights and batches; the loop draws nothing.
    checkpoint_every : int
        Steps between checkpoints. There is one at the end in any case.
    """

    steps: int
    batch_size: int
    peak_rate: float
    warmup: int = 0
    floor_rate: float = 0.0
    weight_decay: float | tuple = 0.1
    rate_factors: tuple = ALIKE
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    trained: tuple = EVERYTHING
    micro_batches: int = 1
    precision: str = "float32"
    graph: bool = False
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self):
        for name in ("steps", "batch_size", "micro_batches", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"a batch of {self.batch_size} does not split into {self.micro_batches} equal "
                "micro-batches"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        self.rate(0)

    def for_run(self, seed, steps=None, changes=None):
        """Return the same training with another seed and, perhaps, other steps and `changes`.

        A shorter one warms up in a quarter of its steps at most; `changes` is a dict of attributes.
        """
        steps = self.steps if steps is None else steps
        warmup = min(self.warmup, steps // 4)
        return replace(self, seed=seed, steps=steps, warmup=warmup, **(changes or {}))

    def rate(self, step):
        """Learning rate of one step.

        Parameters
        ----------
        step : int
            Counted from 0.

        Returns
        -------
        float
        """
        return warmup_cosine(
            step,
            peak=self.peak_rate,
            warmup=self.warmup,
            total=self.steps,
            floor=self.floor_rate,
        )


def check_run(folder, config, identity=None, *, root=None):
    """Check that `train` could start or go on in a folder, without doing either.

    Parameters
    ----------
    folder, config, identity
        As for `train`.
    root : str or path, optional
        The folder that the user knows, for messages, if this one is a part of it.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged, or its curve is missing.
    ValueError
        If the folder holds a run with another configuration.
    """
    run = RunFolder(folder)
    if has_checkpoint(run.checkpoint):
        _read_run(run, config, _identity(config, identity), root or run.path)


def train(
    forward,
    backward,
    p,
    batch,
    config,
    folder,
    *,
    after_step=None,
    watch=None,
    identity=None,
    xp=np,
    progress=True,
):
    """Train a model, or go on where an interrupted training of the same run left off.

    Parameters
    ----------
    forward, backward : callable
        The objective: ``loss, saved = forward(*batch, p)`` with a 0-d `loss`, and
        ``backward(dloss, saved, g)``.
    p : dict
        Initial parameters, on the host; not changed.
    batch : callable
        ``batch(step)`` returns a tuple of host arrays. It must depend on the step number alone,
        as with ``np.random.default_rng([seed, step])``, since that is what makes a resumed run
        equal to an uninterrupted one. It is called in a thread, one step ahead, and what it
        returned is on its way to the device before that step begins.
    config : TrainConfig
        How to train.
    folder : str or path
        The run's folder, see `RunFolder`. It gains ``metrics.csv``, a row for each step, whose
        column of seconds is the only one that differs between runs, and ``checkpoint/``.
    after_step : callable, optional
        ``after_step(p)`` changes the parameters in place after each step: CLIP clamps its logit
        scale here.
    watch : callable, optional
        ``watch(p)`` gives numbers by name to follow, 0-d arrays such as how far gates are open:
        further columns of the curve, as they are before each step.
    identity : dict, optional
        What else makes this run what it is, such as the model's configuration, as JSON can hold
        it. Resuming with another one is an error, as it is with another `config`.
    xp : module, optional
        `numpy` or `cupy`: where to compute. Default `numpy`.
    progress : bool, default True
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    dict
        The trained parameters, arrays of `xp`. A run that is finished is returned at once.

    Raises
    ------
    TrainingDiverged
        If the loss or the gradient is not finite. The step is not taken and not saved.
    TrainingInterrupted
        After Ctrl-C or a polite kill (SIGTERM), once the step is finished and saved. A second
        Ctrl-C stops at once.
    CheckpointError
        If the folder's checkpoint is damaged or of another model, or its curve is missing.
    BackendError
        If the configuration wants a graph, and `xp` is NumPy.
    GraphError
        If it wants one, and the objective waits for the device, or copies other numbers from the
        host in each call.
    OutOfMemory
        If a step needs more memory than there is. The checkpoint is that of before.
    RunFolderError
        If the folder cannot be written or has no room for three checkpoints, another process is
        training in it, or the disk is full when a row is added to the curve.
    ValueError
        If the folder holds a run with another configuration, or an option is outside its range.
    """
    graphs = Graphs(xp, next(x.dtype for _, x in leaves(p))) if config.graph else None
    run = RunFolder(folder)
    identity = _identity(config, identity)
    start, moments = 0, None
    if has_checkpoint(run.checkpoint):
        remove_leftovers(run.checkpoint)
        found, moments, start = _read_run(run, config, identity, run.path)
        p = match(found, p, run.checkpoint)
    p = tree_map(lambda x: to_device(x, xp), p)
    if start == config.steps:
        return p

    optimizer = AdamW(
        p,
        trained=config.trained,
        decay=config.weight_decay,
        factors=config.rate_factors,
        betas=config.betas,
        eps=config.eps,
        clip=config.clip,
    )
    p, g, scale = optimizer.p, optimizer.g, LossScale(config.precision)
    watch = watch or (lambda p: {})
    if moments:
        scale.load_state(moments)
        optimizer.load_state(moments)
    forward, backward = in_precision(forward, backward, config.precision)
    gradients, update = halves(
        forward,
        backward,
        optimizer,
        micro_batches=config.micro_batches,
        watch=watch,
        after_step=after_step,
        graphs=graphs,
    )
    run.prepare(3 * (nbytes(p) + nbytes(optimizer.state)))
    columns = ",".join([*COLUMNS, *watch(p)]) + "\n"

    def save(step):
        bad = first_bad({"p": p, "optimizer": optimizer.state})
        if bad:
            raise TrainingDiverged(_diverged(run, step - 1, f"it left {bad} not finite"))
        with _writing(curve, run, step - 1):
            sync(run.curve)  # rows first: a checkpoint must never know more steps than the curve
        state = {**optimizer.state, **scale.state}
        save_checkpoint(run.checkpoint, p, state, {"step": step, "run": identity})

    with (
        run.alone(),
        graphs.in_use() if graphs else nullcontext(),
        _explaining_memory(run, config),
        _open_curve(run.curve, columns, start) as curve,
        closing(_drawn_ahead(batch, range(start, config.steps), xp)) as batches,
        tqdm(
            batches,
            total=config.steps,
            initial=start,
            unit="step",
            disable=None if progress else True,  # None: unless standard error is a terminal
        ) as bar,
        _interrupts() as interrupted,
        np.errstate(all="ignore"),  # what is not finite is found and named below
    ):
        for step, arrays in bar:
            began = perf_counter()
            rate = config.rate(step)

            while True:
                numbers = gradients(scale.factor, *arrays)
                loss, norm, *watched = to_host(numbers).tolist()  # the one wait for a device
                if math.isfinite(loss) and math.isfinite(norm):
                    break
                if not (math.isfinite(loss) and scale.lower()):
                    where = _first_bad(forward, arrays, p, g, config.micro_batches)
                    what = f"the loss is {loss} and the gradient's norm {norm}; {where}"
                    raise TrainingDiverged(_diverged(run, step, what))
                optimizer.clear_gradients()
            update(optimizer.plan(rate, norm, scale.factor))
            scale.step_done()

            with _writing(curve, run, step):
                row = f"{step},{loss!r},{norm!r},{rate!r},{perf_counter() - began:.6f}"
                curve.write(",".join([row, *map(repr, watched)]) + "\n")
                curve.flush()
            bar.set_postfix(loss=f"{loss:.4f}", rate=f"{rate:.1e}", refresh=False)
            done = step + 1
            stop = interrupted.is_set()
            if stop or done % config.checkpoint_every == 0 or done == config.steps:
                save(done)
            if stop:
                raise TrainingInterrupted(
                    f"stopped after {done} of {config.steps} steps, saved in {run.checkpoint}; "
                    "the same command goes on from there"
                )
    return p


def halves(
    forward, backward, optimizer, *, micro_batches=1, watch=None, after_step=None, graphs=None
):
    """Make the halves of a training step, between which the host sees the loss and the norm.

    Parameters
    ----------
    forward, backward : callable
        The objective, as for `train`.
    optimizer : Optimizer
        With the parameters and their gradients.
    micro_batches : int, default 1
        See `add_gradients`.
    watch, after_step : callable, optional
        As for `train`.
    graphs : Graphs, optional
        What records both halves. Default nothing.

    Returns
    -------
    gradients : callable
        ``gradients(scale, *batch)`` adds the gradients of a loss that is multiplied with `scale`,
        and returns an array of the loss and the gradient's length, neither of them scaled, and
        of what is watched; on a device, which is not waited for.
    update : callable
        ``update(optimizer.plan(rate, norm, scale))`` takes the step.
    """
    p, g = optimizer.p, optimizer.g

    def gradients(scale, *batch):
        loss = add_gradients(forward, backward, batch, p, g, micro_batches, scale)
        norm = optimizer.gradient_norm() / scale
        watched = watch(p).values() if watch else ()
        return namespace(loss).stack([loss, norm, *watched])

    def update(now):
        optimizer.move(now)
        if after_step:
            after_step(p)

    if graphs:
        return graphs.recorded(gradients), graphs.recorded(update)
    return gradients, update


def add_gradients(forward, backward, batch, p, g, micro_batches=1, scale=1.0):
    """Compute the loss of a batch and add its gradients to a tree.

    Parameters
    ----------
    forward, backward : callable
        The objective, as for `train`.
    batch : tuple of arrays
        Each with the samples as its first axis.
    p : dict
        Parameters.
    g : dict
        Gains the gradients of the loss.
    micro_batches : int, default 1
        Equal pieces to cut the batch into; each goes forward and backward before the next, so
        that memory holds the activations of one.
    scale : float or array of shape (), default 1.0
        Factor on the loss and so on the gradients.

    Returns
    -------
    loss : array of shape ()
        Mean over the pieces, not scaled.

    Raises
    ------
    ValueError
        If the batch does not split, or the loss is not one number.
    TypeError
        If the loss is not an array.

    Notes
    -----
    Pieces are exact for a loss that is the mean over the samples. A contrastive loss compares
    all samples with each other, and in pieces is another, easier loss: there cut the encoders
    instead, with `recompute.chunked`.
    """
    losses = []
    for piece in _pieces(batch, micro_batches):
        loss, saved = forward(*piece, p)
        xp = namespace(loss)
        if loss.shape != ():
            raise ValueError(f"the loss must be one number, its shape is {loss.shape}")
        dloss = xp.full_like(loss, 1 / micro_batches)
        dloss *= scale
        backward(dloss, saved, g)
        del saved  # before the next forward, or memory would have to hold both
        losses.append(loss)
    return sum(losses) / micro_batches


def _pieces(batch, count):
    if count == 1:
        return [batch]
    size, rest = divmod(len(batch[0]), count)
    if rest or any(len(x) != len(batch[0]) for x in batch):
        raise ValueError(
            f"arrays of {', '.join(str(len(x)) for x in batch)} samples do not split into "
            f"{count} equal micro-batches"
        )
    return [tuple(x[i * size : (i + 1) * size] for x in batch) for i in range(count)]


def _drawn_ahead(batch, steps, xp):
    # Drawing a batch takes NumPy some milliseconds, and a second core is usually idle. A device
    # copies it as soon as it is drawn, while it computes the step before.
    def send(step):
        drawn = batch(step)
        if not isinstance(drawn, tuple):
            raise TypeError(f"batch(step) must return a tuple, got {type(drawn).__name__}")
        return feed.send(drawn)

    with Feed(xp) as feed, ThreadPoolExecutor(1, thread_name_prefix="batch") as worker:
        sent = worker.submit(send, steps[0])
        for step in steps:
            arrays = feed.receive(sent.result())
            if step + 1 in steps:
                sent = worker.submit(send, step + 1)
            yield step, arrays


@contextmanager
def _interrupts():
    # While this lasts, Ctrl-C and SIGTERM set the flag it yields; a second one stops at once.
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals come to the main thread only
        return

    def ask(number, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _open_curve(path, columns, rows):
    # Opened for appending after that many steps; later ones were never saved and come again.
    if not rows:
        curve = path.open("w", encoding="utf-8", newline="")
        curve.write(columns)
        return curve
    curve = path.open("r+", encoding="utf-8", newline="")
    kept = [curve.readline() for _ in range(rows + 1)]
    if kept[0] != columns or not kept[-1].startswith(f"{rows - 1},"):
        curve.close()
        raise ValueError(f"{path} is not the curve of this run's first {rows} steps")
    curve.seek(curve.tell())
    curve.truncate()
    return curve


@contextmanager
def _writing(curve, run, step):
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            curve.close()  # tries to write once more, and its error would hide this one
        saved = has_checkpoint(run.checkpoint)
        kept = f"the checkpoint {run.checkpoint} is intact" if saved else "there is no checkpoint"
        raise RunFolderError(
            f"step {step}: cannot write {run.curve} ({error.strerror}); {kept}"
        ) from error


@contextmanager
def _explaining_memory(run, config):
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        saved = has_checkpoint(run.checkpoint)
        kept = f"the checkpoint {run.checkpoint} is intact" if saved else "there is no checkpoint"
        raise OutOfMemory(
            f"{memory_shortage(error)}; a smaller batch_size than {config.batch_size} needs less "
            f"(scratch-vlm train --batch-size {max(1, config.batch_size // 2)}); {kept}"
        ) from error


def _identity(config, identity):
    # As it is after a checkpoint: tuples are lists in JSON.
    what = {name: value for name, value in asdict(config).items() if name != "graph"}
    return json.loads(json.dumps({"config": what, **(identity or {})}))


def _read_run(run, config, identity, root):
    # Parameters, moments and step of the checkpoint, if the training can go on from it.
    p, moments, state = load_checkpoint(run.checkpoint)
    _check_same_run(state, identity, run, root)
    step, optimizer_step = state["step"], moments.get("step")
    if type(step) is not int or not 1 <= step <= config.steps:
        problem = f"its step is {step!r}, not a whole number from 1 to {config.steps}"
    elif not np.array_equal(step, optimizer_step):
        problem = f"its step is {step}, and the optimizer's {optimizer_step}"
    elif bad := first_bad({"p": p, "optimizer": moments}):
        problem = f"{bad} is not finite"
    elif not run.curve.exists():
        problem = f"{run.curve}, the curve of its {step} steps, is missing"
    else:
        return p, moments, step
    raise CheckpointError(
        f"cannot go on from {run.checkpoint}: {problem}; remove {root} to start again"
    )


def _check_same_run(state, identity, run, root):
    if not isinstance(state, dict) or state.keys() != {"step", "run"}:
        raise CheckpointError(f"{run.checkpoint} was not written by this training loop")
    old, new = BEFORE_CHOICE | dict(leaves(state["run"])), dict(leaves(identity))
    for name in [*new, *old]:
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{root} holds a run with {name.removeprefix('config/')} {old.get(name)}, "
                f"not {new.get(name)}: choose another folder, or remove this one to start again"
            )


def _first_bad(forward, batch, p, g, micro_batches):
    # The forward runs again to see what it saved: keeping that of every step costs memory.
    for piece in _pieces(batch, micro_batches):
        _, saved = forward(*piece, p)
        bad = first_bad({"batch": piece, "p": p, "saved": saved, "g": g})
        if bad:
            return f"the first tensor that is not finite is {bad}"
    return "every tensor is finite, but their squares are too large to sum"


def _diverged(run, step, what):
    saved = has_checkpoint(run.checkpoint)
    kept = f"the last good checkpoint is {run.checkpoint}" if saved else "there is no checkpoint"
    return f"step {step}: {what}; {kept}"
