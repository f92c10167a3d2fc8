"""Everything that decides how a training goes, as one typed configuration.

A run folder keeps it as ``config.yaml``; the same file can be given to ``--preset``. Where the data lie, how
they are split and where the run is kept are arguments of :func:`landcover.training.train`, not settings.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from landcover.config import Config, from_mapping, load_config, parse_yaml
from landcover.errors import UsageError, did_you_mean
from landcover.model import ModelConfig

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class OptimiserConfig(Config):
    """How weights change.

    Attributes:
        name: AdamW, or SGD with Nesterov-free momentum.
        learning_rate: Of everything but the encoder.
        encoder_learning_rate: Of the encoder; None for the same.
        weight_decay: Of convolution weights; norms and biases never decay.
        momentum: Of SGD.
        clip_norm: Largest norm of the gradient; None for no clipping.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    encoder_learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-2
    momentum: Share = 0.9
    clip_norm: Positive | None = None


class ScheduleConfig(Config):
    """How the learning rate goes over the run, from 0 (begin) to 1 (the limit in steps or minutes).

    Attributes:
        name: ``poly``: (1 - progress)^power; ``cosine``: half a wave; ``piecewise``: times ``factor`` at each
            milestone; ``constant``.
        power: Exponent of ``poly``.
        milestones: Rising progress values in 0..1 for ``piecewise``.
        factor: What ``piecewise`` multiplies by.
        end_learning_rate: Where ``poly`` and ``cosine`` end (groups with another rate keep the same ratio).
        warmup_steps: Steps over which the rate rises linearly to its value.
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
            raise ValueError("schedule.milestones goes with schedule.name=piecewise, and only with it")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"schedule.milestones must rise; found {list(self.milestones)}")
        return self


class LossTerm(Config):
    """One loss of the sum.

    Attributes:
        name: Which.
        weight: What it is multiplied by.
    """

    name: Literal["ce", "focal", "dice", "lovasz"]
    weight: Positive = 1.0


class LossConfig(Config):
    """A weighted sum of losses on labelled pixels, and of the one on teachers' probabilities.

    Attributes:
        terms: The losses.
        stride: Take the loss at every stride-th pixel, 1 for all. At the decoder's stride the logits need no
            upsampling, which saves a tenth of a step on a CPU.
        class_weights: Weights by class name in ``ce`` and ``focal``; classes left out have 1.
        label_smoothing: Of ``ce``.
        gamma: Of ``focal``.
        teacher_weight: What the cross-entropy with the teachers' probabilities is multiplied by, where a run
            has teachers; it is taken on all pixels, labelled or not.
    """

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (LossTerm(name="ce"),)
    stride: Literal[1, 2, 4] = 1
    class_weights: dict[str, Positive] = Field(default_factory=dict)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=1)] = 2.0
    teacher_weight: Positive = 1.0


class AugmentConfig(Config):
    """How a crop is varied.

    Attributes:
        d4: Flips and quarter turns, all eight alike.
        scale: Smallest and largest magnification, drawn evenly in the logarithm; [1, 1] for none.
        brightness: Largest change of the factor that all channels are multiplied by: 0.2 is 0.8 to 1.2.
        contrast: Largest change, as a share.
        saturation: Largest change, as a share.
        hue: Largest turn, in turns (0.5 reaches the complementary colour).
        channel_gain: The same for each channel on its own.
    """

    d4: bool = True
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    channel_gain: Share = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"augment.scale is [smallest, largest]; found {list(self.scale)}")
        return self


class ValidationConfig(Config):
    """When whole images are scored, and what comes of it.

    Attributes:
        percent: Score whenever this share of the limit has passed, and at the end.
        every_steps: Score every so many steps instead, and at the end.
        images: Score only so many images, evenly spread over the part; None for all.
        patience: Stop after so many scores in a row without a new best; None for never.
        keep: Which weights become ``best.safetensors``: those of the best score, or the last ones (an honest
            choice where the part that is validated on is also reported).
    """

    percent: Annotated[float, Field(gt=0, le=100)] = 10.0
    every_steps: Count | None = None
    images: Count | None = None
    patience: Count | None = None
    keep: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.patience is not None and self.keep == "last":
            raise ValueError("validation.patience stops at the best score; it does not go with keep=last")
        return self


class TrainConfig(Config):
    """How a network is trained.

    Attributes:
        model: The network. A run that starts from a model (``init``) needs the settings on its card, but for
            those that change no weight, such as dropout; ``landcover train --init`` takes them from there.
        weights: The encoder's start: None (random), ``timm`` (downloaded by timm) or a safetensors file.
        freeze: What of the encoder stays as it starts: ``low_level``, the layers up to its stride-4 features
            with their batch norms (a step takes some three quarters of the time on a CPU);
            ``encoder_batch_norms``, statistics, scales and offsets. Order and repetition mean nothing.
        teachers: Model files or run folders whose probabilities are learned beside the labels. They are asked
            about each training image once, before the first step.
        gsd: Metres per pixel that the network works at; None for that of the data. Data are resampled to it.
        crop_px: Height and width of a crop at that scale.
        batch_size: Crops per forward pass.
        accumulate: Forward passes per step.
        steps: Limit in steps; exactly one of ``steps`` and ``minutes`` is given.
        minutes: Limit in minutes of training and validation, summed over all resumes.
        optimiser: How weights change.
        schedule: How the learning rate goes.
        loss: What is minimised.
        class_balance: 0: every image gives one crop in each epoch; 1: every class is as likely to be cropped,
            and within it every image that has it; between: class shares to the power of (1 - class_balance).
        across_tiles: Crops reach across an image's edges into its neighbours of the same scene, where the
            data tell which these are (``scenes.csv``) and they are trained on too.
        augment: How crops are varied.
        ema_decay: Of the moving average of the weights, which is what is validated and kept; 0 for none.
        precision: ``bf16`` computes convolutions in bfloat16 (autocast); weights stay fp32. ``auto`` does so
            where the device has instructions for it.
        channels_last: Memory order of the network; faster almost everywhere.
        device: ``auto`` (the accelerator where there is one), ``cpu`` or ``cuda``.
        threads: Threads that compute on a CPU; None for torch's choice.
        loaders: Threads that read crops ahead.
        seed: Decides everything that is drawn.
        log_every: Steps between lines of the log.
        checkpoint_minutes: Time between checkpoints (there is one after every validation, too).
        checkpoint_steps: Steps between checkpoints; None for by time only.
        validation: When whole images are scored.
        window_px: Height and width of the windows that the finished model predicts by.
        overlap_px: What these windows share.
        licence: Terms of the finished weights, in words; its card keeps them.

    Example:
        >>> import landcover as lc
        >>> lc.TrainConfig(steps=1000, batch_size=4).steps
        1000
    """

    model: ModelConfig = ModelConfig()
    weights: str | None = None
    freeze: tuple[Literal["encoder_batch_norms", "low_level"], ...] = ()
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

    @field_validator("freeze")
    @classmethod
    def _one_order(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(parts)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(
                f"exactly one limit is needed; found steps={self.steps} and minutes={self.minutes}. Pass "
                "--steps N or "
                "--minutes M (which replaces the other)"
            )
        if self.overlap_px >= self.window_px:
            raise ValueError(
                f"overlap_px={self.overlap_px} must be smaller than window_px={self.window_px}: set both "
                "with --set"
            )
        if self.crop_px % self.loss.stride:
            raise ValueError(f"crop_px={self.crop_px} must be a multiple of loss.stride={self.loss.stride}")
        if self.batch_size == 1 and not self.model.freeze_batch_norm:
            raise ValueError(
                "batch_size=1 gives batch norms nothing to average: use batch_size=2 with accumulate, or set "
                "model.freeze_batch_norm=true"
            )
        return self


def presets() -> Sequence[str]:
    """Names of the presets that ship with the package."""
    folder = files("landcover.training") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_preset(name: str) -> TrainConfig:
    """Return a preset by name, or the configuration in a YAML file.

    Args:
        name: One of :func:`presets`, or the path of a YAML file such as ``config.yaml`` of a run.

    Raises:
        UsageError: If ``name`` is neither.
        ConfigError: If the file does not fit; the message names the key.

    Example:
        >>> import landcover as lc
        >>> lc.load_preset("demo").model.encoder
        'resnet10t'
    """
    if name in presets():
        text = (files("landcover.training") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        return from_mapping(TrainConfig, parse_yaml(text, f"preset {name}"), f"preset {name}")
    if Path(name).is_file():
        return load_config(TrainConfig, Path(name))
    raise UsageError(
        f"No preset {name!r}: it is neither a YAML file nor built in. {did_you_mean(name, presets())}"
    )
