"""The training loop: read from top to bottom."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landcover.config import dump_yaml
from landcover.errors import TrainingError
from landcover.io.files import claimed, write_text
from landcover.legend import Legend
from landcover.metrics import ConfusionMatrix
from landcover.model import DeepLabV3Plus
from landcover.model.runtimes import TorchRuntime
from landcover.training.augment import Batch, normalise
from landcover.training.config import TrainConfig
from landcover.training.interrupt import Interrupt
from landcover.training.log import RunLog
from landcover.training.losses import labelled_pixels
from landcover.training.memory import keep_freed_memory
from landcover.training.progress import Reason, ended, share_done, take_scores
from landcover.training.provenance import git_commit, versions
from landcover.training.runs import CONFIG_NAME
from landcover.training.schedule import learning_rate_factor
from landcover.training.session import Session, open_session
from landcover.training.validation import validate


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        folder: The run folder.
        reason: ``limit`` reached, ``patience`` lost, or ``interrupted``.
        step: Steps done.
        seconds: Time spent, over all resumes.
        best_step: Step of the best validation, or None.
        best_miou: Its mIoU, 0..1, or None.
    """

    folder: Path
    reason: Reason
    step: int
    seconds: float
    best_step: int | None
    best_miou: float | None


def train(
    config: TrainConfig,
    *,
    data: str | Path,
    out: str | Path,
    split: str = "folders",
    init: str | Path | None = None,
    resume: str | Path = "auto",
    legend: Legend | None = None,
    gsd: float | None = None,
) -> TrainResult:
    """Train a network and keep the run in a folder.

    Limited in steps and on a CPU, a run that was killed at any moment and resumed with the same number of
    threads in the same precision ends with the same weights, average and optimiser, bit for bit, as one that
    was not.

    Args:
        config: How to train.
        data: Data folder or prepared cache.
        out: The run folder.
        split: A split; its part named train is trained on, val, valid or validation validated on.
        init: Model file or run folder to start from, made for the same or another legend. ``config.model`` is
            to fit it (take that of :func:`landcover.model.card.read_card`); ``config.weights`` is not used.
        resume: ``auto``: go on where ``out`` holds this run, else begin; ``never``: refuse a folder that
            holds a run; or another run folder, whose copy is gone on with in ``out``.
        legend: Meaning of the masks, if not what the data say.
        gsd: Metres per pixel of the data, if not what the data say.

    Returns:
        How it ended. An interrupt (Ctrl-C) is an end like others: the step is finished and a checkpoint
        written.

    Raises:
        UsageError: If nothing tells the GSD, the split has no training part, or settings do not fit together.
        DataError: If the data cannot be read or have nothing to learn from, or a teacher was trained on
            images that this training leaves out.
        ModelError: If weights or teachers cannot be read or do not fit.
        OutputError: If ``out`` holds another run, or cannot be written.
        TrainingError: If the loss is no longer a number.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=4, size=64)
        >>> tiny = {"steps": 1, "batch_size": 2, "crop_px": 64}
        >>> config = lc.load_preset("demo").model_copy(update=tiny)
        >>> run = lc.train(config, data=folder, split="folders", out="run")
        >>> run.step, lc.open_model("run").classes == lc.DEEPGLOBE.scored_names
        (1, True)
    """
    keep_freed_memory()
    with _threads(config.threads):
        session = open_session(
            config,
            data=Path(data),
            folder=Path(out),
            split=split,
            init=None if init is None else Path(init),
            resume=resume,
            legend=legend,
            gsd=gsd,
        )
        return run(session)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(session: Session) -> TrainResult:
    """Go through a training, and keep in its folder what is to be kept from begin to end."""
    config, progress = session.config, session.progress
    if not session.resumed:
        # Before the log: a start that is killed here knows its own folder again.
        write_text(session.folder / CONFIG_NAME, dump_yaml(config), force=True)
    with (
        claimed(session.folder, session.folder),
        RunLog(session.folder, step=progress.step, validated_step=progress.validated_step) as log,
        Interrupt() as interrupt,
    ):
        for notice in session.notices:
            log.say(notice)
        log.event("start", **_description(session))
        if session.resumed:
            log.say(f"Going on from step {progress.step} in {session.folder}.")
            session.keep_best()
        else:
            session.checkpoint()
        reason = fit(session, log, interrupt)
        session.checkpoint()
        best = progress.best or {"step": None, "miou": None}
        result = TrainResult(
            session.folder, reason, progress.step, progress.seconds, best["step"], best["miou"]
        )
        log.event("end", **{name: value for name, value in asdict(result).items() if name != "folder"})
        if reason == "interrupted":
            log.say(
                f"Interrupted after step {progress.step}; its state is kept. To go on, give the same "
                "command again (with --resume auto)."
            )
    return result


def fit(session: Session, log: RunLog, interrupt: Interrupt) -> Reason:
    """Train and validate until the run is over; return why it is."""
    config, progress = session.config, session.progress
    module, optimiser = session.fabric.setup(session.network, session.optimiser)
    base_rates = [group["lr"] for group in optimiser.param_groups]
    runtime = TorchRuntime(session.average.module, session.card, str(session.device))
    batches = session.reader.stream(progress.step * config.accumulate)
    meter = Meter(session.device)
    module.train()
    session.start_clock()
    while True:
        session.tick()
        if session.validation_due:
            _validate(session, runtime, log, interrupt)
        if interrupt.requested:
            return "interrupted"
        reason = ended(config, progress)
        if reason is not None:
            return reason

        began = time.monotonic()
        for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(
                config.schedule, base_rates[-1], share_done(config, progress), progress.step
            )
        _seed(config.seed, progress.step)
        for _ in range(config.accumulate):
            images, targets, soft = _to_network(next(batches), session.device)
            # Fabric's own switching of precision sees calls of forward alone, and logits is another method.
            with session.fabric.autocast():
                logits = _logits(session.network, images, config.loss.stride)
            loss = session.criterion(logits, targets, soft)
            session.fabric.backward(loss / config.accumulate)
            meter.add(loss.detach(), len(images))
        if config.optimiser.clip_norm is not None:
            session.fabric.clip_gradients(module, optimiser, max_norm=config.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        session.average.update(progress.step)
        progress.step += 1
        meter.seconds += time.monotonic() - began

        session.tick()
        log.progress(share_done(config, progress), f"Step {progress.step}")
        if progress.step % config.log_every == 0:
            log.event(
                "step",
                step=progress.step,
                images=progress.step * config.batch_size * config.accumulate,
                **meter.read(progress.step),
                **_batch_scores(logits.detach(), targets, session.card.legend),
                lr=optimiser.param_groups[-1]["lr"],
                seconds=round(progress.seconds, 3),
            )
        if session.checkpoint_due:
            session.checkpoint()


class Meter:
    """Mean loss and images per second since the last reading.

    Attributes:
        seconds: Time spent on steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clear()

    def _clear(self) -> None:
        self._sum = torch.zeros((), device=self._device)
        self._losses = self._images = 0
        self.seconds = 0.0

    def add(self, loss: Tensor, images: int) -> None:
        """Count a forward pass; the loss stays on its device."""
        self._sum += loss
        self._losses += 1
        self._images += images

    def read(self, step: int) -> dict[str, float]:
        """Return ``loss`` and ``images_per_second``, and begin anew.

        Raises:
            TrainingError: If the loss is not finite.
        """
        loss = float(self._sum) / self._losses
        if not np.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {step}. Lower optimiser.learning_rate, set "
                "optimiser.clip_norm, or use "
                "precision=fp32; --resume auto goes on from the last good checkpoint only with unchanged "
                "settings."
            )
        rate = self._images / self.seconds
        self._clear()
        return {"loss": round(loss, 6), "images_per_second": round(rate, 3)}


def _to_network(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return normalised images, targets and soft labels on the device."""
    images, targets, colours = (torch.from_numpy(array).to(device) for array in batch[:3])
    soft = None if batch.soft is None else torch.from_numpy(batch.soft).to(device)
    return normalise(images, colours), targets, soft


def _logits(module: DeepLabV3Plus, images: Tensor, stride: int) -> Tensor:
    """Return the logits at every stride-th pixel."""
    if stride == 1:
        full: Tensor = module(images)
        return full
    logits: Tensor = module.logits(images)
    if stride == module.stride:
        return logits
    factor = module.stride / stride
    return functional.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)


def _batch_scores(logits: Tensor, targets: Tensor, legend: Legend) -> dict[str, Any]:
    """Score logits on the pixels that the loss saw, as a validation does: mIoU, IoU, pixel accuracy."""
    pixels, truth = labelled_pixels(logits, targets)
    scored = np.asarray(legend.scored, np.uint8)
    matrix = ConfusionMatrix(legend)
    matrix.update(scored[truth.cpu().numpy()][None], scored[pixels.argmax(dim=1).cpu().numpy()][None])
    return matrix.scores().to_dict()


def _seed(seed: int, step: int) -> None:
    """Seed torch (dropout, stochastic depth) for one step, so that no state needs keeping."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def _validate(session: Session, runtime: TorchRuntime, log: RunLog, interrupt: Interrupt) -> None:
    """Score the average of the weights and keep what follows, unless interrupted."""
    progress = session.progress
    found = validate(
        runtime,
        session.material.dataset,
        session.validated,
        gsd=session.material.data_gsd,
        stopped=lambda: interrupt.requested,
    )
    session.tick()
    if found is None:
        return
    scores = {**found.scores.to_dict(), "loss": found.loss}
    improved = take_scores(session.config, progress, scores)
    # The log first: a line too many is dropped by the next start, one too few could not be made good.
    log.event("validation", step=progress.step, seconds=round(progress.seconds, 3), **scores)
    session.checkpoint()
    log.strips(progress.step, found.strips)
    miou = "–" if found.scores.miou is None else f"{100 * found.scores.miou:.2f}"
    classes = ", ".join(f"{n} {100 * v:.1f}" for n, v in found.scores.iou.items() if v is not None)
    log.say(
        f"Step {progress.step}, {progress.seconds / 60:.1f} min: mIoU {miou} ({classes})"
        + (", the best so far" if improved else "")
    )


def _description(session: Session) -> dict[str, Any]:
    """What the log says of a start."""
    material = session.material
    return {
        "step": session.progress.step,
        "config": session.config.model_dump(mode="json"),
        "counts": {"train": len(material.train), "validation": len(session.validated)},
        "class_share": material.class_share,
        "provenance": session.card.provenance,
        "gsd": material.model_gsd,
        "data_gsd": material.data_gsd,
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "precision": session.precision,
        "versions": versions(),
        "git": git_commit(),
    }
