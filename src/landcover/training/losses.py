"""Losses on labelled pixels, and one on soft labels of all pixels.

:func:`labelled_pixels` removes the pixels to ignore once, before any loss on labels. Each loss takes plain
(P, C) logits and (P,) targets. Without a labelled pixel the sum is 0 with zero gradients.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from landcover.errors import ConfigError, did_you_mean
from landcover.legend import IGNORE
from landcover.training.config import LossConfig

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes logits float (N, C, h, w), targets uint8 (N, H, W), soft labels uint8 (N, h, w, C) or None."""

_PIXEL_MEANS = ("ce", "focal")
"""Losses that are means over pixels."""


def build_loss(
    config: LossConfig,
    classes: tuple[str, ...],
    device: torch.device,
    balance: Callable[[Tensor], Tensor] | None = None,
) -> Loss:
    """Return the weighted sum of the configured losses, plus that on soft labels if these are given.

    The logits may be smaller than the targets by an integer factor; the loss is then computed at the targets'
    pixels nearest to the centres of the logits' cells. Names of classes are in the order of their channels.

    On several processes, cross-entropy, focal loss and the loss on soft labels are means over the pixels of
    all of them: ``balance`` returns the factor of a mean over this process's pixels from the sum of their
    weights (:meth:`landcover.training.processes.ProcessGroup.balance`). Dice and Lovász-Softmax are not sums
    over pixels: each process computes them for its own, and the values are averaged.
    """
    for name in config.class_weights:
        if name not in classes:
            raise ConfigError(f"loss.class_weights: unknown class {name!r}. {did_you_mean(name, classes)}")
    weights = None
    if config.class_weights:
        weights = torch.tensor([config.class_weights.get(name, 1.0) for name in classes], device=device)

    terms: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ce": partial(functional.cross_entropy, weight=weights, label_smoothing=config.label_smoothing),
        "focal": partial(focal, gamma=config.gamma, weights=weights),
        "dice": dice,
        "lovasz": lovasz_softmax,
    }

    def loss(logits: Tensor, target: Tensor, soft: Tensor | None = None) -> Tensor:
        pixels, truth = labelled_pixels(logits.float(), target)
        total = logits.sum() * 0.0
        factors = {}
        if balance is not None:  # also without a labelled pixel: the other processes wait for it
            weight = weights[truth].sum() if weights is not None else torch.ones_like(truth).sum()
            factors = dict.fromkeys(_PIXEL_MEANS, balance(weight.float()))
        if len(truth):
            values = [
                term.weight * factors.get(term.name, 1.0) * terms[term.name](pixels, truth)
                for term in config.terms
            ]
            total = torch.stack(values).sum()
        if soft is None:
            return total
        every_pixel = logits.float().permute(0, 2, 3, 1).flatten(0, 2)
        soft = soft.flatten(0, 2)
        of_soft = config.teacher_weight * soft_cross_entropy(every_pixel, soft)
        if balance is not None:
            of_soft = of_soft * balance((soft.sum(1) > 0).sum().float())
        return total + of_soft

    return loss


def labelled_pixels(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits and targets of the labelled pixels: float (P, C) and int64 (P,).

    The sides of ``target``, (N, H, W), are those of ``logits``, (N, C, h, w), times one integer.
    """
    stride = target.shape[1] // logits.shape[2]
    if target.shape[1:] != (logits.shape[2] * stride, logits.shape[3] * stride):
        raise ValueError(f"Logits {tuple(logits.shape)} do not fit targets {tuple(target.shape)}.")
    truth = target[:, stride // 2 :: stride, stride // 2 :: stride].flatten()
    pixels = logits.permute(0, 2, 3, 1).flatten(0, 2)
    valid = truth != IGNORE
    if not valid.all():
        pixels, truth = pixels[valid], truth[valid]
    return pixels, truth.long()


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """Return the mean cross-entropy with soft labels (Hinton et al. 2015, 1503.02531).

    Logits are float (P, C), soft labels uint8 (P, C), 255 for a probability of 1, all zero where there are
    none.
    """
    shares = soft.float()
    total = shares.sum(1)
    losses = -(shares * functional.log_softmax(logits, dim=1)).sum(1) / total.clamp_min(1)
    return losses.sum() / (total > 0).sum().clamp_min(1)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0, weights: Tensor | None = None) -> Tensor:
    """Return the focal loss, cross-entropy times ``(1 - p)^gamma`` (Lin et al. 2017, 1708.02002)."""
    log_p = functional.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
    miss = torch.expm1(log_p).neg().clamp_min(0)  # 1 - p, exact for p near 1
    losses = -miss.pow(gamma) * log_p
    if weights is None:
        return losses.mean()
    return (losses * weights[target]).sum() / weights[target].sum()


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient, mean over the classes present in ``target``.

    After Milletari et al. 2016 (1606.04797) with plain sums in the denominator.
    """
    probabilities = logits.softmax(dim=1).T
    truth = _one_hot(target, len(probabilities))
    overlap = (probabilities * truth).sum(1)
    size = truth.sum(1)
    return (1 - 2 * overlap / (probabilities.sum(1) + size))[size > 0].mean()


def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Return the Lovász-Softmax loss, mean over the classes present in ``target``.

    The Lovász extension of one minus the intersection over union (Berman et al. 2018, 1705.08790, Algorithm
    1): errors in decreasing order, each weighted by how much its pixel increases the Jaccard loss.
    """
    probabilities = logits.softmax(dim=1).T.contiguous()
    truth = _one_hot(target, len(probabilities))
    errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
    hits = truth.gather(1, order)
    size = hits.sum(1, keepdim=True)
    jaccard = 1 - (size - hits.cumsum(1)) / (size + (1 - hits).cumsum(1))
    gains = torch.cat((jaccard[:, :1], jaccard.diff(dim=1)), dim=1)
    return (errors * gains).sum(1)[size[:, 0] > 0].mean()


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """Return a (P,) target as float32 (C, P)."""
    return torch.zeros(classes, len(target), device=target.device).scatter_(0, target[None], 1.0)
