"""Everything that a training works with, put together: new, or as a checkpoint left it."""

import datetime
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim import SGD, AdamW, Optimizer

from landcover import __version__
from landcover.config import dump_yaml
from landcover.data import Item
from landcover.data.fingerprints import image_set
from landcover.errors import ModelError, TrainingError, UsageError
from landcover.legend import Legend
from landcover.model import DeepLabV3Plus, build_model, parameter_groups
from landcover.model.card import (
    BEST_NAME,
    LAST_NAME,
    ModelCard,
    UsedImages,
    model_digest,
    read_card,
    save_model,
)
from landcover.model.runtimes.base import Precision
from landcover.model.runtimes.torch_runtime import pick_device
from landcover.ood import ImageryProfile
from landcover.training.batches import BatchReader
from landcover.training.checkpoint import TrainingState
from landcover.training.config import OptimiserConfig, TrainConfig
from landcover.training.depthwise import quicken_depthwise
from landcover.training.ema import WeightAverage
from landcover.training.imagery import learned_imagery
from landcover.training.initialise import encoder_preprocessing, load_initial, weights_digest
from landcover.training.losses import Loss, build_loss
from landcover.training.material import Material, gather, without_neighbours
from landcover.training.precision import has_bfloat16, pick_precision
from landcover.training.progress import Progress, ended, kept_now, validation_due
from landcover.training.runs import identify, other_place, prepare_folder
from landcover.training.teachers import check_teachers, read_teachers, soft_labels
from landcover.training.validation import spread


@dataclass
class Session:
    """The parts of a training.

    Attributes:
        config: The settings.
        folder: The run folder.
        material: The data.
        validated: Items that are validated on; may be none.
        identity: What makes the run this run.
        card: Card of the model that is being made.
        device: Where the network is.
        fabric: Runs the network in the wanted precision.
        precision: What that is on this device.
        network: The network.
        average: The moving average of its weights.
        optimiser: Of the network.
        criterion: The loss.
        reader: The batches.
        progress: How far the run has come.
        resumed: Whether it goes on from a checkpoint.
        notices: Sentences for the user.
    """

    config: TrainConfig
    folder: Path
    material: Material
    validated: Sequence[Item]
    identity: dict[str, Any]
    card: ModelCard
    device: torch.device
    fabric: Fabric
    precision: Precision
    network: DeepLabV3Plus
    average: WeightAverage
    optimiser: Optimizer
    criterion: Loss
    reader: BatchReader
    progress: Progress
    resumed: bool
    notices: list[str]
    _since: float = field(default_factory=time.monotonic)
    _saved: tuple[int, float] = (0, 0.0)

    def start_clock(self) -> None:
        """Begin to count time."""
        self._since = time.monotonic()
        self._saved = self.progress.step, self.progress.seconds

    def tick(self) -> None:
        """Bring the time spent up to date."""
        now = time.monotonic()
        self.progress.seconds += now - self._since
        self._since = now

    @property
    def validation_due(self) -> bool:
        """Whether to validate before the next step; never where there is nothing to validate on."""
        return bool(self.validated) and validation_due(self.config, self.progress)

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is old enough for another, and no validation is about to write one."""
        if self.validation_due:
            return False
        step, seconds = self._saved
        every = self.config.checkpoint_steps
        by_time = self.progress.seconds - seconds >= 60 * self.config.checkpoint_minutes
        return by_time or (every is not None and self.progress.step - step >= every)

    def checkpoint(self) -> None:
        """Write the state, then the best model if it is the present one.

        In this order, so that a start can make good a kill in between.

        Raises:
            OutputError: If a file cannot be written; the one before stays.
            TrainingError: If weights are no longer numbers; the last good checkpoint stays.
        """
        if not all(bool(tensor.isfinite().all()) for tensor in self.network.parameters()):
            raise TrainingError(
                f"Weights are no longer finite at step {self.progress.step}. Lower optimiser.learning_rate, "
                "set optimiser.clip_norm, or use precision=fp32."
            )
        self.state.save(self.folder / LAST_NAME, self.progress, self.identity)
        self._saved = self.progress.step, self.progress.seconds
        self.keep_best()

    def keep_best(self) -> None:
        """Write the best model if its weights are the present ones."""
        over = ended(self.config, self.progress) is not None
        scores = kept_now(self.config.validation, self.progress, over=over)
        if scores is not None and not self._calibrated():
            save_model(
                self.folder / BEST_NAME,
                self.average.module.state_dict(),
                self._scored_card(scores),
                force=True,
            )

    def _calibrated(self) -> bool:
        """Whether the best model there has these weights, and a fitted temperature not to be lost."""
        try:
            card = read_card(self.folder / BEST_NAME)
        except ModelError:
            return False
        return bool(card.calibration) and card.provenance.get("step") == self.progress.step

    @property
    def state(self) -> TrainingState:
        """What a checkpoint holds."""
        return TrainingState(self.network, self.average.module, self.optimiser)

    def _scored_card(self, scores: dict[str, Any]) -> ModelCard:
        provenance = {**self.card.provenance, "step": self.progress.step}
        measured = {
            "metric": "challenge",
            "split": f"{self.card.provenance['split']}:{self.material.validation_part}",
            "images": len(self.validated),
            **scores,
        }
        return self.card.model_copy(
            update={"provenance": provenance, "scores": (measured,) if scores else ()}
        )


def open_session(
    config: TrainConfig,
    *,
    data: Path,
    folder: Path,
    split: str,
    init: Path | None,
    resume: str | Path,
    legend: Legend | None,
    gsd: float | None,
) -> Session:
    """Put a training together; arguments and errors as :func:`landcover.training.train`."""
    if config.freeze and init is None and config.weights is None:
        raise UsageError(
            f"freeze=[{','.join(config.freeze)}] keeps what the run starts from, and it starts from random "
            "weights. Give --weights or --init, or --set 'freeze=[]'."
        )
    origin = read_card(init) if init is not None else None
    teachers = read_teachers(config.teachers)
    material = gather(
        data,
        split,
        crop_px=config.crop_px,
        model_gsd=config.gsd or (origin.preprocessing.gsd if origin else None),
        legend=legend,
        gsd=gsd,
    )
    legend = material.dataset.legend
    origin_digest = model_digest(init) if init is not None else None
    identity = identify(
        config,
        weights=None if init else weights_digest(config.weights),
        data=material.digest,
        data_gsd=material.data_gsd,
        model_gsd=material.model_gsd,
        legend=legend.to_dict(),
        init=origin_digest,
        teachers=[teacher.digest for teacher in teachers],
    )
    device = pick_device(config.device)
    criterion = build_loss(config.loss, legend.scored_names, device)
    resumed = prepare_folder(folder, identity, dump_yaml(config), resume)

    precision = pick_precision(config.precision, device)
    torch.manual_seed(config.seed)
    weights = None if resumed or init else config.weights
    network = build_model(config.model, classes=len(legend.scored), weights=weights)
    notices = [*material.notices, *(without_neighbours(material) if config.across_tiles else [])]
    if init is not None and not resumed:
        fresh = load_initial(network, config.model, init, legend)
        notices += [f"Class {name!r} is not known to {init} and starts fresh." for name in fresh]
    if "low_level" in config.freeze:
        network.freeze_low_level()
    if "encoder_batch_norms" in config.freeze and not network.freeze_encoder_batch_norms():
        notices.append(
            f"freeze=[encoder_batch_norms] changes nothing: {config.model.encoder} has no batch norms."
        )
    if precision == "bf16" and not has_bfloat16(device):
        notices.append(
            f"precision=bf16 was asked for, and this {device.type} is not known to have instructions for it: "
            "imitated, it is many times slower than fp32. precision=auto takes what suits the machine."
        )
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.to(device)
    optimiser = build_optimiser(network, config.optimiser)
    average = WeightAverage(network, config.ema_decay)
    if device.type == "cpu":
        quicken_depthwise(network, precision)

    if origin is not None:
        preprocessing = replace(origin.preprocessing, gsd=material.model_gsd)
    else:
        preprocessing = encoder_preprocessing(config.model.encoder, material.model_gsd)
    validated = spread(material.validation, config.validation.images)
    trained = image_set(material.dataset, material.train)
    selects = validated and (config.validation.keep == "best" or config.validation.patience is not None)
    selection = image_set(material.dataset, validated) if selects else None
    parents = [teacher.card for teacher in teachers] + ([origin] if origin is not None else [])
    card = ModelCard(
        model=config.model,
        legend=legend,
        preprocessing=preprocessing,
        window_px=config.window_px,
        overlap_px=config.overlap_px,
        recipe=config.model_dump(mode="json"),
        licence=config.licence,
        provenance={
            "version": __version__,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "data": data.name,
            "data_digest": material.digest,
            "split": split,
            "init": origin_digest,
            "trained_in": precision,
            "teachers": [teacher.describe() for teacher in teachers],
        },
        used_images=UsedImages(training=trained, selection=selection).with_parents(
            parent.used_images for parent in parents
        ),
        imagery=(_kept_imagery(folder) if resumed else None) or learned_imagery(material),
    )
    soft = None
    notices += check_teachers(teachers, legend, material, trained)
    if teachers:
        soft = soft_labels(
            teachers,
            material,
            folder,
            cell_m=material.model_gsd * config.loss.stride,
            device=str(device),
            threads=config.threads,
            precision=precision,
        )
    session = Session(
        config=config,
        folder=folder,
        material=material,
        validated=validated,
        identity=identity,
        card=card,
        device=device,
        fabric=_fabric(device, precision),
        precision=precision,
        network=network,
        average=average,
        optimiser=optimiser,
        criterion=criterion,
        reader=BatchReader(
            material.dataset,
            material.train,
            material.census,
            config,
            preprocessing,
            material.data_gsd / material.model_gsd,
            soft,
        ),
        progress=Progress(),
        resumed=resumed,
        notices=notices,
    )
    if resumed:
        session.progress = session.state.load(folder / LAST_NAME)
        notices += other_place(folder, str(device), torch.get_num_threads(), precision)
    return session


def _kept_imagery(folder: Path) -> ImageryProfile | None:
    """Return what the run's best model says of the imagery, which is the same for the same data."""
    try:
        return read_card(folder / BEST_NAME).imagery
    except ModelError:  # there is none yet
        return None


def _fabric(device: torch.device, precision: Precision) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it repeats the settings at every start
    return Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


def build_optimiser(network: DeepLabV3Plus, config: OptimiserConfig) -> Optimizer:
    """Return the optimiser of a network's parameters, fused (one pass over memory)."""
    groups = parameter_groups(
        network,
        learning_rate=config.learning_rate,
        encoder_learning_rate=config.encoder_learning_rate or config.learning_rate,
        weight_decay=config.weight_decay,
    )
    if config.name == "adamw":
        return AdamW(groups, fused=True)
    return SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)
