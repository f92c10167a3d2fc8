"""The configuration of a training, and the presets.

A run folder stores it as ``config.yaml``, which ``--preset`` accepts. Data, split and run folder are
arguments of :func:`landcover.training.train`, not settings.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from landcover.config import Config, from_mapping, load_config
from landcover.errors import UsageError, did_you_mean
from landcover.model import Count, ModelConfig
from landcover.textfiles import parse_yaml

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


_UNSAFE_IN_CHANNELS_LAST = ("mobileone", "repvgg")
"""Beginnings of the names of encoders whose training in channels_last corrupts memory within torch."""


class OptimiserConfig(Config):
    """Settings of the optimiser.

    Attributes:
        name: AdamW, or SGD with momentum (not Nesterov's).
        learning_rate: Learning rate of all but the encoder.
        encoder_learning_rate: Learning rate of the encoder; None for the same.
        weight_decay: Decay of convolution weights; norms and biases never decay.
        momentum: Momentum of SGD, 0..1.
        clip_norm: Largest norm of the gradient; None for no clipping.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    encoder_learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-2
    momentum: Share = 0.9
    clip_norm: Positive | None = None


class ScheduleConfig(Config):
    """The learning rate as a function of progress, from 0 (start) to 1 (the limit in steps or minutes).

    Attributes:
        name: ``poly``: (1 - progress)^power; ``cosine``: half a wave; ``piecewise``: factors; ``constant``.
        power: Exponent of ``poly``.
        milestones: Increasing progress values in 0..1 for ``piecewise``.
        factor: Factor of ``piecewise`` at each milestone, 0..1.
        end_learning_rate: Last learning rate of ``poly`` and ``cosine`` (the encoder's keeps its ratio).
        warmup_steps: Steps of a linear increase from zero.
    """

    name: Literal["poly", "cosine", "piecewise", "constant"] = "poly"
    power: Positive = 0.9
    milestones: tuple[Share, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    end_learning_rate: NotNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.name == "piecewise") != bool(self.milestones):
            raise ValueError("schedule.milestones and schedule.name=piecewise require each other")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones must increase; found {list(self.milestones)}")
        return self


class LossTerm(Config):
    """One term of the loss (cross-entropy, focal, Dice or Lovász-Softmax) and its factor."""

    name: Literal["ce", "focal", "dice", "lovasz"]
    weight: Positive = 1.0


class LossConfig(Config):
    """Settings of the loss: a weighted sum on labelled pixels, plus one term for soft labels.

    Attributes:
        terms: The terms.
        stride: Compute the loss at every stride-th pixel; at the decoder's stride (4) without upsampling.
        class_weights: Weights by class name in ``ce`` and ``focal``; other classes have 1.
        label_smoothing: Label smoothing of ``ce``, 0..1.
        gamma: Exponent of ``focal``.
        teacher_weight: Factor of the cross-entropy with the teachers' probabilities on all pixels.
    """

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (LossTerm(name="ce"),)
    stride: Literal[1, 2, 4] = 1
    class_weights: dict[str, Positive] = Field(default_factory=dict)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=1)] = 2.0
    teacher_weight: Positive = 1.0


class AugmentConfig(Config):
    """Settings of the augmentation of crops.

    Attributes:
        d4: Flips and quarter turns, all eight equally likely.
        scale: Smallest and largest magnification, uniform in the logarithm; [1, 1] for none.
        brightness: Largest change of a factor of all channels: 0.2 is 0.8 to 1.2.
        contrast: Largest change of contrast, as a fraction.
        saturation: Largest change of saturation, as a fraction; of red, green and blue alone, like hue.
        hue: Largest rotation of the hue, in turns (0.5 reaches the complementary colour).
        channel_gain: Largest change of a factor of each channel, drawn separately.
        texture: Probability of each change of what only the camera and the file format make: blur or
            sharpening, another resampling kernel, JPEG compression of quality 50 to 95.
    """

    d4: bool = True
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    channel_gain: Share = 0.0
    texture: Share = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale is [smallest, largest]; found {list(self.scale)}")
        return self


class ValidationConfig(Config):
    """When to validate, and which weights to keep.

    Attributes:
        percent: Validate whenever this percentage of the limit has passed, and at the end.
        every_steps: Validate after this number of steps instead, and at the end.
        images: Validate on this number of images, evenly spaced over the subset; None for all.
        patience: Stop after this number of validations in a row without a new best; None for never.
        keep: Weights that become ``best.safetensors``: of the best score, or the last (unbiased scores).
    """

    percent: Annotated[float, Field(gt=0, le=100)] = 10.0
    every_steps: Count | None = None
    images: Count | None = None
    patience: Count | None = None
    keep: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.patience is not None and self.keep == "last":
            raise ValueError("validation.patience needs keep=best; found keep=last")
        return self


class InputsConfig(Config):
    """What a run was started with beside its settings: paths, and options of the data as they were passed.

    Attributes:
        data: Data folders or caches, as absolute paths.
        data_digest: Digest of the items, their sizes and their class counts; other data are refused.
        content_digest: Digest of the pixels of the images and masks of both subsets; None in earlier runs.
        init: Model that the run started from, as an absolute path or the name of a bundled one; or None.
        data_gsd: Metres per pixel of the data.
        command: The command line, for readers; it has no effect.
    """

    data: tuple[str, ...] = ()
    data_digest: str | None = None
    content_digest: str | None = None
    split: str | None = None
    init: str | None = None
    data_gsd: Positive | None = None
    legend: dict[str, Any] | None = None
    bands: str | tuple[int, ...] | None = None
    scaling: str | tuple[float, float] | None = None
    alpha: int | Literal["none"] | None = None
    nodata: float | None = None
    fill: Literal["nodata", "keep"] | None = None
    max_off_palette: Annotated[float, Field(ge=0, le=1)] | None = None
    command: str | None = None


class TrainConfig(Config):
    """Settings of a training.

    The keys ``optimizer`` and ``license`` are accepted for ``optimiser`` and ``licence``.

    Attributes:
        model: The network. A run with ``init`` needs the settings on that model's card, except those that
            change no weight, such as dropout.
        weights: Start weights of the encoder: None (random), ``timm`` (downloaded by timm) or a safetensors
            file.
        freeze: Parts of the encoder that are not trained: ``low_level``, the layers up to its stride-4
            features with their batch norms; ``encoder_batch_norms``, statistics, scales and offsets.
        teachers: Model files or run folders whose probabilities are learned beside the labels.
        gsd: Metres per pixel that the network works at; None for that of the data, which are resampled to it.
        crop_px: Height and width of a crop at that scale.
        batch_size: Crops per forward pass.
        accumulate: Forward passes per step.
        steps: Limit in steps; exactly one of ``steps`` and ``minutes`` is set.
        minutes: Limit in minutes of training and validation, over all resumes.
        optimiser: Settings of the optimiser.
        schedule: Schedule of the learning rate.
        loss: Settings of the loss.
        class_balance: 0: every image gives one crop in each epoch; 1: every class is equally likely, and so
            is every image that contains it; between: class fractions to the power of (1 - class_balance).
        across_tiles: Let crops reach into neighbours of the same scene (``scenes.csv``) that are trained on.
        augment: Settings of the augmentation.
        ema_decay: Decay of the moving average of the weights, which is validated and kept; 0 for none.
        precision: ``bf16``: convolutions in bfloat16 (autocast); ``auto``: on devices made for it.
        channels_last: Memory order of the network; faster almost everywhere.
        device: ``auto`` (the accelerator if there is one), ``cpu`` or ``cuda``.
        threads: Threads that compute on a CPU; None for one for each idle processor at the start.
        loaders: Threads that read crops ahead.
        seed: Seed of all random choices.
        log_every: Steps between lines of the log.
        checkpoint_minutes: Minutes between checkpoints (each validation writes one, too).
        checkpoint_steps: Steps between checkpoints; None for by time only.
        validation: When to validate.
        window_px: Height and width of the windows of the finished model's predictions.
        overlap_px: Overlap of these windows.
        licence: Terms of the finished weights, for its card.
        inputs: What the run was started with, which ``train`` writes into ``config.yaml``; options of the
            command line take precedence.

    Example:
        >>> lc.TrainConfig(steps=1000, batch_size=4).steps
        1000
    """

    key_aliases: ClassVar[Mapping[str, str]] = {"optimizer": "optimiser", "license": "licence"}
    key_hints: ClassVar[Mapping[str, str]] = {
        "epochs": "A run is limited by steps or minutes; an epoch is as many steps as there are training "
        "images / (batch_size * accumulate). Pass --steps N.",
        "lr": "Did you mean 'optimiser.learning_rate'?",
    }

    model: ModelConfig = ModelConfig()
    weights: str | None = None
    freeze: Annotated[
        tuple[Literal["encoder_batch_norms", "low_level"], ...],
        AfterValidator(lambda parts: tuple(sorted(set(parts)))),  # order has no meaning
    ] = ()
    teachers: tuple[str, ...] = ()
    gsd: Positive | None = None
    crop_px: Annotated[int, Field(ge=32)] = 320
    batch_size: Count = 12
    accumulate: Count = 1
    steps: Count | None = None
    minutes: Positive | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    class_balance: Share = 0.0
    across_tiles: bool = False
    augment: AugmentConfig = AugmentConfig()
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    channels_last: bool = True
    device: str = "auto"
    threads: Count | None = None
    loaders: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    log_every: Count = 10
    checkpoint_minutes: Positive = 5.0
    checkpoint_steps: Count | None = None
    validation: ValidationConfig = ValidationConfig()
    window_px: Annotated[int, Field(ge=32)] = 512
    overlap_px: Annotated[int, Field(ge=0)] = 128
    licence: str = ""
    inputs: InputsConfig = InputsConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(
                f"exactly one limit is required; found steps={self.steps} and minutes={self.minutes}. Pass "
                "--steps N or --minutes M (which replaces the other)"
            )
        if self.channels_last and self.model.encoder.startswith(_UNSAFE_IN_CHANNELS_LAST):
            raise ValueError(
                f"training the encoder {self.model.encoder} with channels_last=true corrupts memory within "
                "torch and can crash; pass --set channels_last=false"
            )
        if self.overlap_px >= self.window_px:
            raise ValueError(
                f"overlap_px={self.overlap_px} must be smaller than window_px={self.window_px}; set both "
                "with --set"
            )
        if self.crop_px % self.loss.stride:
            raise ValueError(f"crop_px={self.crop_px} must be a multiple of loss.stride={self.loss.stride}")
        if self.batch_size == 1 and not self.model.freeze_batch_norm:
            raise ValueError(
                "batch_size=1 is too small for batch norms. Set batch_size=2 with accumulate, or "
                "model.freeze_batch_norm=true"
            )
        return self


def presets() -> Sequence[str]:
    """Return the names of the presets."""
    names = (entry.name for entry in (files("landcover.training") / "presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_preset(name: str) -> TrainConfig:
    """Return a preset by name, or the configuration in a YAML file.

    Args:
        name: One of :func:`presets`, or the path of a YAML file such as ``config.yaml`` of a run.

    Raises:
        UsageError: If ``name`` is neither.
        ConfigError: If the file is not a valid configuration; the message names the key.

    Example:
        >>> lc.load_preset("demo").model.encoder
        'resnet10t'
    """
    if name in presets():
        text = (files("landcover.training") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        return from_mapping(TrainConfig, parse_yaml(text, f"preset {name}"), f"preset {name}")
    if Path(name).exists():
        return load_config(TrainConfig, Path(name))
    raise UsageError(f"Preset {name!r} is neither built in nor a YAML file. {did_you_mean(name, presets())}")
