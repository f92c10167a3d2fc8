import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score
from torch.nn import functional

from landcover.config import from_mapping
from landcover.errors import ConfigError
from landcover.legend import DEEPGLOBE, IGNORE
from landcover.training.config import LossConfig
from landcover.training.losses import build_loss, dice, focal, labelled_pixels, lovasz_softmax

CLASSES = DEEPGLOBE.scored_names
CPU = torch.device("cpu")
TERMS = ("ce", "focal", "dice", "lovasz")


def configured(*names, **options):
    data = {"terms": [{"name": name} for name in names], **options}
    return build_loss(from_mapping(LossConfig, data, "test"), CLASSES, CPU)


def sample(seed, classes=6, size=(2, 8, 10), ignored=0.3):
    """Logits, and targets of which a share is to be ignored."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (size[0], classes, *size[1:])).astype(np.float32))
    target = rng.integers(0, classes, size).astype(np.uint8)
    target[rng.random(size) < ignored] = IGNORE
    return logits, torch.from_numpy(target)


def hard(prediction, classes=6):
    """Logits that are as good as sure."""
    return torch.from_numpy(np.eye(classes, dtype=np.float32)[prediction] * 1e4)


def lovasz_by_definition(probabilities, truth):
    """The Lovász extension of the Jaccard loss as a sum over sets, float64."""
    losses = []
    for c in np.unique(truth):
        errors = np.where(truth == c, 1 - probabilities[:, c], probabilities[:, c])
        order = np.argsort(-errors, kind="stable")
        total, before = 0.0, 0.0
        for count in range(1, len(order) + 1):
            mistaken = set(order[:count].tolist())  # pixels whose class is taken to be wrong
            union = set(np.flatnonzero(truth == c).tolist()) | mistaken
            jaccard_loss = len(mistaken) / len(union)
            total += errors[order[count - 1]] * (jaccard_loss - before)
            before = jaccard_loss
        losses.append(total)
    return np.mean(losses)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 6))
@settings(max_examples=25)
def test_lovasz_is_the_definition_of_the_paper(seed, pixels, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (pixels, classes))
    truth = rng.integers(0, classes, pixels)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = lovasz_softmax(torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(truth))
    assert float(found) == pytest.approx(lovasz_by_definition(probabilities, truth), abs=1e-5)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_region_losses_of_sure_predictions_are_the_scores_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, 6, (2, 50))
    present = np.unique(truth)
    target = torch.from_numpy(truth)
    jaccard = jaccard_score(truth, prediction, labels=present, average=None)
    f1 = f1_score(truth, prediction, labels=present, average=None)
    assert float(lovasz_softmax(hard(prediction), target)) == pytest.approx(np.mean(1 - jaccard), abs=1e-6)
    assert float(dice(hard(prediction), target)) == pytest.approx(np.mean(1 - f1), abs=1e-6)


def test_cross_entropy_is_that_of_torch_with_its_own_ignore_index():
    logits, target = sample(0)
    weights = {"urban": 2.0, "water": 0.25}
    ours = configured("ce", class_weights=weights, label_smoothing=0.1)(logits, target)
    tensor = torch.tensor([weights.get(name, 1.0) for name in CLASSES])
    theirs = functional.cross_entropy(logits, target.long(), tensor, ignore_index=IGNORE, label_smoothing=0.1)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_focal_is_its_formula_and_cross_entropy_at_its_limit():
    logits, target = sample(1, ignored=0)
    pixels, truth = labelled_pixels(logits, target)
    p = pixels.double().softmax(1).numpy()[np.arange(len(truth)), truth.numpy()]
    assert float(focal(pixels, truth, 3.0)) == pytest.approx(np.mean(-((1 - p) ** 3) * np.log(p)), rel=1e-5)
    assert float(focal(pixels, truth, 0.0)) == pytest.approx(
        float(functional.cross_entropy(pixels, truth)), rel=1e-6
    )
    weights = torch.rand(6) + 0.5
    w = weights.double().numpy()[truth.numpy()]
    expected = np.sum(-w * (1 - p) ** 2 * np.log(p)) / w.sum()
    assert float(focal(pixels, truth, 2.0, weights)) == pytest.approx(expected, rel=1e-5)


def test_focal_of_a_sure_pixel_has_a_finite_gradient():
    logits = hard(np.array([2, 4])).requires_grad_()
    focal(logits, torch.tensor([2, 4]), 1.0).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 0.95))
@settings(max_examples=15)
def test_ignored_pixels_change_neither_value_nor_gradient(name, seed, share):
    loss = configured(name)
    logits, target = sample(seed, ignored=share)
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    other = torch.where(ignored, torch.randn_like(logits) * 50, logits)
    values, gradients = [], []
    for variant in (logits, other):
        variant.requires_grad_()
        value = loss(variant, target)
        value.backward()
        values.append(value.item())
        gradients.append(variant.grad)
    assert values[0] == values[1]
    assert torch.equal(*gradients)
    assert not gradients[0][ignored].any()


@pytest.mark.parametrize("name", TERMS)
def test_a_loss_is_that_of_the_labelled_pixels_alone(name):
    logits, target = sample(3)
    valid = target != IGNORE
    compressed = logits.permute(0, 2, 3, 1)[valid].T[None, :, None]  # one image of one row
    alone = configured(name)(compressed, target[valid][None, None])
    assert float(configured(name)(logits, target)) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("names", [*((name,) for name in TERMS), TERMS])
def test_without_a_labelled_pixel_loss_and_gradients_are_zero(names):
    logits, target = sample(4, ignored=1.0)
    logits.requires_grad_()
    value = configured(*names)(logits, target)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_finite_differences(name):
    functions = {"ce": functional.cross_entropy, "focal": focal, "dice": dice, "lovasz": lovasz_softmax}
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0, 1, 0, 0])
    assert torch.autograd.gradcheck(lambda x: functions[name](x, target).double(), logits, atol=1e-4)


def test_a_sum_is_weighted():
    logits, target = sample(6)
    both = configured(terms=[{"name": "ce", "weight": 2}, {"name": "dice", "weight": 0.5}])
    expected = 2 * configured("ce")(logits, target) + 0.5 * configured("dice")(logits, target)
    assert float(both(logits, target)) == pytest.approx(float(expected), rel=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, target = sample(7)
    low = logits.bfloat16()
    assert float(configured(*TERMS)(low, target)) == float(configured(*TERMS)(low.float(), target))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_small_logits_meet_the_pixels_nearest_to_their_centres(stride):
    target = torch.arange(2 * 8 * 12, dtype=torch.uint8).reshape(2, 8, 12)
    _, truth = labelled_pixels(torch.zeros(2, 6, 8 // stride, 12 // stride), target)
    offset = {1: 0, 2: 1, 4: 2}[stride]
    expected = [
        int(target[n, y, x])
        for n in range(2)
        for y in range(offset, 8, stride)
        for x in range(offset, 12, stride)
    ]
    assert truth.tolist() == expected


def test_logits_and_weights_that_do_not_fit_are_refused():
    for side, labelled in ((5, 12), (8, 4)):
        with pytest.raises(ValueError, match="do not fit"):
            labelled_pixels(
                torch.zeros(1, 6, side, side), torch.zeros(1, labelled, labelled, dtype=torch.uint8)
            )
    with pytest.raises(ConfigError, match=r"'watr'.*'water'"):
        configured("ce", class_weights={"watr": 2.0})
