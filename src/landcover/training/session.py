"""``train``: open a run, new or resumed, train it, and keep the results in its folder."""

import datetime
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from landcover import __version__
from landcover.config import dump_yaml
from landcover.data import Dataset
from landcover.data.dataset import describe_reading
from landcover.data.fingerprints import image_set
from landcover.errors import ModelError, UsageError
from landcover.evaluation.overlap import overlap_warnings, training_overlap
from landcover.io.files import write_text
from landcover.io.locks import locked_folder
from landcover.legend import Legend
from landcover.machine import check_disk
from landcover.model.card import BEST_NAME, LAST_NAME, ModelCard, UsedImages, model_digest, read_card
from landcover.model.encoders import encoder_preprocessing, weights_digest
from landcover.model.network import build_model, load_model_weights
from landcover.model.preprocessing import PLAIN, RGB, Preprocessing
from landcover.model.runtimes.torch_runtime import pick_device
from landcover.raster.bands import band_names
from landcover.training import runs
from landcover.training.batches import BatchReader
from landcover.training.config import TrainConfig, load_preset
from landcover.training.data import (
    TrainingData,
    evenly_spaced,
    load_training_data,
    measure_imagery,
    same_content,
)
from landcover.training.depthwise import use_fast_depthwise_backward
from landcover.training.log import RunLog
from landcover.training.loop import Run, fit, interrupts, save_best, save_checkpoint
from landcover.training.losses import build_loss
from landcover.training.optim import WeightAverage, build_optimiser
from landcover.training.pace import Pace, choose_threads
from landcover.training.processes import ProcessGroup, process_group, synchronised
from landcover.training.teachers import check_teachers, read_teachers, soft_labels

_COPIES = 5
"""Copies of the weights in a run folder: network, average, state of the optimiser (two), best model."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes:
        folder: The run folder.
        reason: Why it ended: ``limit``, ``patience`` or ``interrupted``.
        step: Steps done.
        seconds: Time spent, over all resumes.
        best_step: Step of the best validation, or None.
        best_miou: Its mIoU, 0..1, or None.
        kept_miou: The mIoU of the weights that are kept, 0..1; None where they were not validated.
        expected_steps: Steps that a run limited in minutes would have made at the speed of its first minute,
            validations included; None for other runs.
    """

    folder: Path
    reason: runs.Reason
    step: int
    seconds: float
    best_step: int | None
    best_miou: float | None
    expected_steps: int | None = None
    kept_miou: float | None = None


def train(
    config: TrainConfig | str | Path,
    *,
    data: str | Path | Dataset,
    out: str | Path,
    split: str = "folders",
    init: str | Path | None = None,
    resume: str | Path = "auto",
    legend: Legend | None = None,
    gsd: float | None = None,
) -> TrainResult:
    """Train a network and keep the run in a folder.

    A run that was killed at any moment and resumed ends with the same weights, average and optimiser state,
    bit for bit, as one that was not: on a CPU, with a limit in steps, the same number of threads and the same
    precision. Progress is reported through the ``landcover`` logger.

    In a process that torchrun or ``landcover train --devices N`` started, it is one rank of the run: each
    batch has ``batch_size`` crops of each rank.

    Args:
        config: The configuration, or what :func:`load_preset` makes it from: a preset's name or a YAML file.
        data: Data folder, prepared cache or open dataset, whose legend and GSD then hold.
        out: The run folder.
        split: A split with a subset named train, and perhaps one to validate on (val, valid or validation).
        init: Model file or run folder to start from, made for the same or another legend. ``config.model``
            must fit it (:func:`landcover.model.card.read_card` returns its settings); ``config.weights`` is
            not used.
        resume: ``auto``: resume the run in ``out`` if there is one; ``never``: refuse a folder that contains
            a run; ``extend``: resume it with another limit in steps or minutes, also where it has ended; or
            another run folder, which is copied to ``out`` and resumed there.
        legend: Legend of the masks, if not the one that the data declare.
        gsd: Metres per pixel of the data, if not what the data declare.

    Returns:
        The result. An interrupt (Ctrl-C) ends a run regularly: the step is finished and a checkpoint written.

    Raises:
        UsageError: If the GSD is unknown, the split has no training subset, or settings
            contradict each other.
        DataError: If the data cannot be read or have no labelled pixel, or a teacher was trained on images
            that this training leaves out.
        ModelError: If weights or teachers cannot be read or do not fit.
        OutputError: If ``out`` contains another run, or cannot be written.
        TrainingError: If the loss or weights are not finite, or another process of the run ended.

    Example:
        >>> folder = make_dataset("data", scenes=4, size=64)
        >>> tiny = {"steps": 1, "batch_size": 2, "crop_px": 64}
        >>> config = lc.load_preset("demo").model_copy(update=tiny)
        >>> run = lc.train(config, data=folder, split="folders", out="run")
        >>> run.step, lc.open_model("run").classes == lc.DEEPGLOBE.scored_names
        (1, True)
    """
    if not isinstance(config, TrainConfig):
        config = load_preset(str(config))
    folder = Path(out)
    start = None if init is None else Path(init)
    if config.freeze and start is None and config.weights is None:
        raise UsageError(
            f"freeze=[{','.join(config.freeze)}] would freeze randomly initialised layers. Pass --weights or "
            "--init, or --set 'freeze=[]'."
        )
    device = pick_device(config.device)
    with (
        process_group(device, config.precision) as group,
        locked_folder(folder) if group.rank == 0 else nullcontext(),
        _restored_torch_state(group.device),
    ):
        device, precision = group.device, group.precision
        earlier = folder if str(resume) in ("auto", "never", "extend") else Path(resume)
        torch.set_num_threads(choose_threads(config.threads, earlier, group.on_machine))
        start_card = None if start is None else read_card(start)
        teachers = read_teachers(config.teachers)
        loaded = load_training_data(
            data,
            split,
            crop_px=config.crop_px,
            model_gsd=config.gsd or (start_card.preprocessing.gsd if start_card else None),
            legend=legend,
            gsd=gsd,
            across_tiles=config.across_tiles,
        )
        start_digest = None if start is None else model_digest(start)
        identity = runs.run_identity(
            config,
            loaded,
            weights=None if start else weights_digest(config.weights),
            init=start_digest,
            teachers=[teacher.digest for teacher in teachers],
        )
        reading, count = loaded.dataset.reading, config.model.in_channels
        if reading.channels != count:
            raise UsageError(
                f"{loaded.dataset.root} is read with {describe_reading(reading)}, but the network takes "
                f"{count} bands. Pass --set model.in_channels={reading.channels}, or {count} numbers as "
                "--bands (to landcover prepare, if the data are a cache)."
            )
        digests = {"data_digest": loaded.digest, "content_digest": loaded.content_digest}
        same_data = config.inputs.data_digest in (None, loaded.digest)
        if not (same_data and same_content(config.inputs.content_digest, loaded.content_digest)):
            raise UsageError(
                f"{loaded.dataset.root} has other images or labels in the split {split} than the run of this "
                f"configuration was trained on (inputs.{'content' if same_data else 'data'}_digest differs). "
                "Restore them, or pass --data to train on them as they are."
            )
        config = config.model_copy(update={"inputs": config.inputs.model_copy(update=digests)})
        legend = loaded.dataset.legend
        balance = group.balance if group.size > 1 else None
        criterion = build_loss(config.loss, legend.scored_names, device, balance)
        resumed = group.from_first(
            group.rank == 0 and runs.prepare_folder(folder, identity, dump_yaml(config), resume)
        )
        state = _start_state(config, legend, start, group=group, resumed=resumed)
        validated = evenly_spaced(loaded.validation, config.validation.images)
        if start_card is not None and validated and not resumed:
            overlap = training_overlap(start_card, loaded.dataset, validated)
            if overlap.identical or overlap.same_scene:
                for sentence in overlap_warnings(overlap, f"The model of --init, {start},"):
                    logger.warning(sentence)
        selects = validated and (config.validation.keep == "best" or config.validation.patience is not None)
        parents = [*(teacher.card for teacher in teachers), *([start_card] if start_card else [])]
        imagery = None
        if resumed:
            with suppress(ModelError):  # no best model yet
                imagery = read_card(folder / BEST_NAME).imagery  # the same for the same data
        card = ModelCard(
            model=config.model,
            legend=legend,
            preprocessing=_preprocessing(config, loaded, start_card),
            window_px=config.window_px,
            overlap_px=config.overlap_px,
            recipe=config.model_dump(mode="json", exclude={"inputs"}),
            licence=config.licence,
            provenance={
                "version": __version__,
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "data": loaded.dataset.root.name,
                "data_digest": loaded.digest,
                "split": split,
                "init": start_digest,
                "trained_in": precision,
                "teachers": [teacher.describe() for teacher in teachers],
            },
            used_images=UsedImages(
                training=loaded.images,
                selection=image_set(loaded.dataset, validated) if selects else None,
            ).with_parents(parent.used_images for parent in parents),
            imagery=imagery or measure_imagery(loaded),
        )
        soft = None
        if teachers:
            check_teachers(teachers, loaded)
            with group.fabric.rank_zero_first():  # the others read its file
                soft = soft_labels(
                    teachers,
                    loaded,
                    folder,
                    cell_m=loaded.model_gsd * config.loss.stride,
                    device=str(device),
                    threads=config.threads,
                    precision=precision,
                )
        run = Run(
            config=config,
            folder=folder,
            data=loaded,
            validation=validated,
            identity=identity,
            card=card,
            group=group,
            criterion=criterion,
            batches=BatchReader(loaded, config, card.preprocessing, soft, rank=group.rank, size=group.size),
            state=state,
        )
        if resumed:
            state.load(folder / LAST_NAME)
            if resume == "extend":
                state.progress.stale = 0
            threads = torch.get_num_threads()
            runs.warn_of_other_device(
                folder, device=str(device), threads=threads, precision=precision, processes=group.size
            )
        return _train_to_the_end(run, resumed=resumed)


def _preprocessing(config: TrainConfig, data: TrainingData, start: ModelCard | None) -> Preprocessing:
    """Return the preprocessing of the model: mean and std of its start, bands and scaling of the data.

    Further bands have mean and std of red, green and blue again, like the weights of the first layer.
    """
    base = start.preprocessing if start else encoder_preprocessing(config.model.encoder, data.model_gsd)
    bands, scaling = data.dataset.reading.bands, data.dataset.reading.scaling
    count = config.model.in_channels
    names = RGB if bands is None else band_names(data.train[0].image, bands)
    return replace(
        base,
        gsd=data.model_gsd,
        mean=tuple(base.mean[channel % base.channels] for channel in range(count)),
        std=tuple(base.std[channel % base.channels] for channel in range(count)),
        bands=names,
        band_indices=(1, 2, 3) if bands is None else tuple(bands),
        scaling=scaling or PLAIN,
    )


@contextmanager
def _restored_torch_state(device: torch.device) -> Iterator[None]:
    """Restore the number of threads and the state of torch's random generators at the end."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _start_state(
    config: TrainConfig,
    legend: Legend,
    init: Path | None,
    *,
    group: ProcessGroup,
    resumed: bool,
) -> runs.TrainingState:
    """Build the network, frozen as configured, its optimiser and its average.

    The start weights are those of ``init`` or ``config.weights``; a resumed run reads its checkpoint instead.
    """
    torch.manual_seed(config.seed)
    weights = None if resumed or init else config.weights
    network = build_model(config.model, classes=len(legend.scored), weights=weights)
    if init is not None and not resumed:
        for name in load_model_weights(network, config.model, init, legend):
            logger.warning(f"Class {name!r} is not in {init}; its weights start from random values.")
    for part in config.freeze:
        if not network.freeze(part):
            logger.warning(f"freeze=[{part}] has no effect: {config.model.encoder} has nothing to freeze.")
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.to(group.device)
    if group.size > 1:
        network = synchronised(network, group.device)
    optimiser = build_optimiser(network, config.optimiser)
    average = WeightAverage(network, config.ema_decay)
    if group.device.type == "cpu":
        use_fast_depthwise_backward(network, group.precision)
    return runs.TrainingState(network, average, optimiser, runs.Progress())


def _train_to_the_end(run: Run, *, resumed: bool) -> TrainResult:
    """Train a run and write its folder: configuration, log, checkpoints and the best model."""
    config, progress, folder, group = run.config, run.state.progress, run.folder, run.group
    weights = sum(each.numel() * each.element_size() for each in run.state.network.state_dict().values())
    check_disk(folder, _COPIES * weights, "Training")
    if not resumed and group.rank == 0:
        # Before the log: a start that is killed here recognises its own folder later.
        write_text(folder / runs.CONFIG_NAME, dump_yaml(config), force=True)
    with (
        RunLog(folder, progress.step, progress.validated_step, writes=group.rank == 0) as log,
        interrupts() as interrupted,
    ):
        log.event(
            "start",
            step=progress.step,
            config=config.model_dump(mode="json", exclude={"inputs"}),
            counts={"train": len(run.data.train), "validation": len(run.validation)},
            class_share=run.data.class_share,
            provenance=run.card.provenance,
            gsd=run.data.model_gsd,
            data_gsd=run.data.data_gsd,
            device=str(group.device),
            threads=torch.get_num_threads(),
            precision=group.precision,
            processes=group.size,
            versions=runs.versions(),
            git=runs.git_commit(),
        )
        if resumed:
            logger.info(f"Resuming at step {progress.step} in {folder}.")
            save_best(run)
        else:
            save_checkpoint(run)
        pace, begin = Pace(), (progress.step, progress.seconds)
        reason = fit(run, log, interrupted, pace)
        save_checkpoint(run)
        expected = None
        if config.minutes is not None and pace.first is not None:
            expected = begin[0] + round(pace.first * (progress.seconds - begin[1]) / 60)
        best = kept = progress.best or {}
        if config.validation.keep == "last":
            kept = runs.kept_scores(config.validation, progress, ended=True) or {}
        result = TrainResult(
            folder=folder,
            reason=reason,
            step=progress.step,
            seconds=progress.seconds,
            best_step=best.get("step"),
            best_miou=best.get("miou"),
            expected_steps=expected,
            kept_miou=kept.get("miou"),
        )
        own = ("folder", "kept_miou")  # the log has the scores of each validation
        log.event("end", **{name: value for name, value in asdict(result).items() if name not in own})
        if reason == "interrupted":
            logger.warning(
                f"Interrupted after step {progress.step}; the checkpoint is in {folder}. To resume, run the "
                "same command again (with --resume auto)."
            )
    return result
