"""The training loop: steps, validations and checkpoints until the run ends."""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landcover._typing import UInt8Array
from landcover.data import Item
from landcover.errors import ModelError, TrainingError
from landcover.evaluation.calibration import Reliability
from landcover.inference import predict_probabilities
from landcover.io import index_to_colours
from landcover.legend import Legend
from landcover.machine import signals_handled
from landcover.metrics import ConfusionMatrix
from landcover.model.card import BEST_NAME, LAST_NAME, ModelCard, read_card, save_model
from landcover.model.runtimes.torch_runtime import TorchRuntime
from landcover.training import runs
from landcover.training.batches import BatchReader, normalise
from landcover.training.config import TrainConfig
from landcover.training.data import TrainingData, evenly_spaced
from landcover.training.log import RunLog
from landcover.training.losses import Loss, labelled_pixels
from landcover.training.optim import learning_rate_factor
from landcover.training.pace import Pace
from landcover.training.processes import ProcessGroup

_PICTURES, _PICTURE_PX = 6, 512
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run: its constant parts, such as validation items, perhaps none, and identity; and its state."""

    config: TrainConfig
    folder: Path
    data: TrainingData
    validation: Sequence[Item]
    identity: Mapping[str, Any]
    card: ModelCard
    group: ProcessGroup
    criterion: Loss
    batches: BatchReader
    state: runs.TrainingState


def fit(run: Run, log: RunLog, interrupted: threading.Event, pace: Pace) -> runs.Reason:
    """Train and validate until the run ends or is interrupted; return why it ended."""
    config, state, progress, group = run.config, run.state, run.state.progress, run.group
    fabric, device = group.fabric, group.device
    module, optimiser = fabric.setup(state.network, state.optimiser)
    module.mark_forward_method("logits")
    network: Any = module if group.size > 1 else state.network  # DDP works in calls of the module only
    base_rates = [group["lr"] for group in optimiser.param_groups]
    runtime = TorchRuntime(state.average.module, run.card, str(device))
    batches = run.batches.stream(progress.step * config.accumulate)
    loss_sum, passes, seconds = torch.zeros((), device=device), 0, 0.0  # since the log's last line
    module.train()
    start = time.monotonic() - progress.seconds  # as if the earlier parts of the run had been without a break
    saved = progress.step, progress.seconds

    def must_stop() -> bool:
        """Take the time; return whether any process of the run was interrupted."""
        progress.seconds, stop = group.largest(time.monotonic() - start, interrupted.is_set())
        return bool(stop)

    while True:
        stop = must_stop()
        if run.validation and runs.validation_due(config, progress):
            scored = _score(run, runtime, interrupted)
            stop = must_stop()
            if not stop:
                _record(run, log, *scored)
            saved = progress.step, progress.seconds
        if stop:
            return "interrupted"
        reason = runs.end_reason(config, progress)
        if reason is not None:
            return reason

        began = time.monotonic() - start
        for parameters, rate in zip(optimiser.param_groups, base_rates, strict=True):
            parameters["lr"] = rate * learning_rate_factor(
                config.schedule, base_rates[-1], runs.fraction_done(config, progress), progress.step
            )
        # One seed for each step (dropout, stochastic depth): no generator state needs to be saved.
        seeds = (config.seed, progress.step, group.rank)[: 3 if group.rank else 2]
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]))
        for number in range(1, config.accumulate + 1):
            batch = next(batches)
            images, targets, colours = (torch.from_numpy(array).to(device) for array in batch[:3])
            soft = None if batch.soft is None else torch.from_numpy(batch.soft).to(device)
            normalised = normalise(images, colours)  # in float32, so outside of autocast
            # Fabric switches precision in calls of forward only, and logits is another method.
            stride, own_stride = config.loss.stride, state.network.stride
            is_last = number == config.accumulate
            unsynced = fabric.no_backward_sync(module) if group.size > 1 and not is_last else nullcontext()
            with unsynced:
                with fabric.autocast():
                    logits = network(normalised) if stride == 1 else network.logits(normalised)
                    if 1 < stride < own_stride:
                        factor = own_stride / stride
                        logits = functional.interpolate(logits, scale_factor=factor, mode="bilinear")
                loss = run.criterion(logits, targets, soft)
                fabric.backward(loss / config.accumulate)
            loss_sum += loss.detach()
            passes += 1
        if config.optimiser.clip_norm is not None:
            fabric.clip_gradients(module, optimiser, max_norm=config.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        state.average.update(progress.step)
        progress.step += 1
        progress.seconds = time.monotonic() - start
        seconds += progress.seconds - began
        if (slow := pace.step(progress.seconds - began)) is not None:
            logger.warning(slow)

        log.progress(runs.fraction_done(config, progress), f"Step {progress.step}")
        if progress.step % config.log_every == 0:
            mean = float(group.sum(loss_sum)) / passes / group.size  # waits: not in every step
            if not np.isfinite(mean):
                raise TrainingError(
                    f"The loss is {mean} at step {progress.step}. Lower optimiser.learning_rate, set "
                    "optimiser.clip_norm, or set precision=fp32, and choose another --out."
                )
            crops = config.batch_size * group.size
            speed = passes * crops / seconds
            log.event(
                "step",
                step=progress.step,
                images=progress.step * crops * config.accumulate,
                loss=round(mean, 6),
                images_per_second=round(speed, 3),
                **batch_scores(logits.detach(), targets, run.card.legend, group),
                lr=optimiser.param_groups[-1]["lr"],
                seconds=round(progress.seconds, 3),
            )
            log.report_step(
                f"Step {progress.step}, {progress.seconds / 60:.1f} min: loss {mean:.4f}, {speed:.1f} crops/s"
            )
            loss_sum, passes, seconds = torch.zeros_like(loss_sum), 0, 0.0
        by_steps = config.checkpoint_steps is not None and progress.step - saved[0] >= config.checkpoint_steps
        due = by_steps or progress.seconds - saved[1] >= 60 * config.checkpoint_minutes
        validates = run.validation and runs.validation_due(config, progress)  # which writes one, too
        if due and not validates:
            save_checkpoint(run)
            saved = progress.step, progress.seconds


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Set the event at a signal to end until the block ends; a second signal has its usual effect.

    The signals are SIGINT, SIGTERM and that of a closed terminal, unless it is ignored (nohup).
    """
    numbers, requested = [signal.SIGINT, signal.SIGTERM], threading.Event()
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    with ExitStack() as handlers:

        def remember(number: int, frame: FrameType | None) -> None:
            requested.set()
            handlers.close()

        handlers.enter_context(signals_handled(numbers, remember))
        yield requested


def save_checkpoint(run: Run) -> None:
    """Write the checkpoint, then the best model if it has the present weights.

    In this order, a start after a kill between the two can write the missing model. If weights are not
    finite, the last good checkpoint stays. Rank 0 alone writes.
    """
    if run.group.rank:
        return
    state = run.state
    if not all(bool(tensor.isfinite().all()) for tensor in state.network.parameters()):
        raise TrainingError(
            f"Weights are not finite at step {state.progress.step}. Lower optimiser.learning_rate, set "
            "optimiser.clip_norm, or set precision=fp32."
        )
    state.save(run.folder / LAST_NAME, run.identity)
    save_best(run)


def save_best(run: Run) -> None:
    """Write the best model if it has the present weights, unless it exists and was calibrated since."""
    path, progress = run.folder / BEST_NAME, run.state.progress
    ended = runs.end_reason(run.config, progress) is not None
    scores = runs.kept_scores(run.config.validation, progress, ended=ended)
    if scores is None:
        return
    with suppress(ModelError):  # no best model yet
        existing = read_card(path)
        if existing.calibration and existing.provenance.get("step") == progress.step:
            return
    split = f"{run.card.provenance['split']}:{run.data.validation_subset}"
    measured = {"metric": "challenge", "split": split, "images": len(run.validation), **scores}
    provenance = {**run.card.provenance, "step": progress.step}
    card = run.card.model_copy(update={"provenance": provenance, "scores": (measured,) if scores else ()})
    save_model(path, run.state.average.module.state_dict(), card, force=True)


def batch_scores(
    logits: Tensor, targets: Tensor, legend: Legend, group: ProcessGroup | None = None
) -> dict[str, Any]:
    """Score logits on the pixels of the loss, of all ranks: mIoU, IoU, pixel accuracy."""
    pixels, truth = labelled_pixels(logits, targets)
    scored = np.asarray(legend.scored, np.uint8)
    matrix = ConfusionMatrix(legend)
    matrix.update(scored[truth.cpu().numpy()][None], scored[pixels.argmax(dim=1).cpu().numpy()][None])
    if group is not None:
        matrix.table = group.sum(matrix.table).cpu().numpy()
    return matrix.scores().to_dict()


def _score(
    run: Run, runtime: TorchRuntime, interrupted: threading.Event
) -> tuple[ConfusionMatrix, Reliability, dict[str, UInt8Array]]:
    """Predict this rank's validation images, whole, as by ``landcover predict``, until it is interrupted.

    Returns counts of all, and pictures of some by key. Of several ranks each takes every ``size``-th image.
    """
    dataset, legend = run.data.dataset, run.data.dataset.legend
    items = run.validation[run.group.rank :: run.group.size]
    matrix, reliability = ConfusionMatrix(legend), Reliability(len(legend.scored))
    shown = {item.key for item in evenly_spaced(items, _PICTURES)}
    pictures: dict[str, UInt8Array] = {}
    for item in items:
        if interrupted.is_set():
            break
        (image, valid), truth = dataset.read_imagery(item), dataset.read_mask(item)
        probabilities = predict_probabilities(runtime, image, valid=valid, gsd=dataset.sides(item))
        prediction = np.asarray(legend.scored, np.uint8)[probabilities.argmax(axis=0)]
        matrix.update(truth, prediction)
        reliability.update(probabilities, legend.channels[truth])
        if item.key in shown:
            pictures[item.key] = side_by_side(image, truth, prediction, legend)
    return matrix, reliability, pictures


def _record(
    run: Run,
    log: RunLog,
    matrix: ConfusionMatrix,
    reliability: Reliability,
    pictures: dict[str, UInt8Array],
) -> None:
    """Add the counts of all ranks, record the scores of the DeepGlobe metric, and write a checkpoint."""
    progress, group = run.state.progress, run.group
    matrix.table = group.sum(matrix.table).cpu().numpy()
    cross_entropy, pixels = (float(group.sum(n)) for n in (reliability.loss, reliability.pixels.sum()))
    result = matrix.scores()
    loss = cross_entropy / pixels if pixels else None
    scores = {**result.to_dict(), "miou_present": result.miou_present, "loss": loss}
    improved = runs.record_scores(run.config, progress, scores)
    # The log is written first: the next start drops a surplus line, but cannot restore a missing one.
    log.event("validation", step=progress.step, seconds=round(progress.seconds, 3), **scores)
    save_checkpoint(run)
    log.pictures(progress.step, pictures)
    miou = "–" if result.miou is None else f"{100 * result.miou:.2f}"
    classes = ", ".join(f"{n} {100 * v:.1f}" for n, v in result.iou.items() if v is not None)
    best = ", the best so far" if improved else ""
    logger.info(f"Step {progress.step}, {progress.seconds / 60:.1f} min: mIoU {miou} ({classes}){best}")


def side_by_side(image: UInt8Array, truth: UInt8Array, prediction: UInt8Array, legend: Legend) -> UInt8Array:
    """Return image, truth and prediction side by side, each at most 512 pixels large: uint8 (h, 3 w, 3)."""
    step = -(-max(image.shape[:2]) // _PICTURE_PX)
    maps = [
        index_to_colours(np.ascontiguousarray(index[::step, ::step]), legend) for index in (truth, prediction)
    ]
    return np.concatenate((image[::step, ::step, :3], *maps), axis=1)
