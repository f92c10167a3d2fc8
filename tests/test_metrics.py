"""The confusion matrix and its metrics, against scikit-learn, hand-computed tables and known mistakes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix, jaccard_score

from fake_runtime import make_card
from landcover.errors import MaskError, UsageError
from landcover.inference import predict_index
from landcover.legend import DEEPGLOBE, NODATA, LandClass, Legend
from landcover.metrics import METRICS, ConfusionMatrix, class_iou, mean_iou
from landcover.windows import spans

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(7)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def many_classes(number, unknown=None):
    return Legend("many", tuple(LandClass(f"c{i}", (i, 0, 0)) for i in range(number)), unknown)


def matrix_of(table, legend):
    """Make the matrix by counting: one column image with as many pixels of each pair as the table says."""
    counts = np.array(table)
    truth, prediction = np.indices(counts.shape)
    matrix = ConfusionMatrix(legend)
    matrix.update(
        np.repeat(truth, counts.ravel()).astype(np.uint8)[:, None],
        np.repeat(prediction, counts.ravel()).astype(np.uint8)[:, None],
    )
    return matrix


def count(truth, prediction, legend=DEEPGLOBE):
    matrix = ConfusionMatrix(legend)
    matrix.update(np.array([truth], np.uint8), np.array([prediction], np.uint8))
    return matrix


@given(data=st.data(), shape=SHAPES, number=st.sampled_from([2, 3, 7, 15, 16, 40, 255]))
def test_counts_agree_with_scikit_learn(data, shape, number):
    labels = hnp.arrays(np.uint8, shape, elements=st.integers(0, number - 1))
    truth, prediction = data.draw(labels), data.draw(labels)
    matrix = ConfusionMatrix(many_classes(number))
    matrix.update(truth, prediction)
    expected = confusion_matrix(truth.ravel(), prediction.ravel(), labels=range(number))
    np.testing.assert_array_equal(matrix.counts, expected)
    assert matrix.counts.dtype == np.int64


@given(data=st.data(), shape=SHAPES)
def test_challenge_agrees_with_scikit_learn(data, shape):
    truth = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 6)))
    prediction = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 5)))
    matrix = ConfusionMatrix(DEEPGLOBE)
    matrix.update(truth, prediction)
    known = truth != UNKNOWN
    scores = matrix.scores()
    for index, name in enumerate(DEEPGLOBE.scored_names):
        mine = scores.iou[name]
        if mine is None:
            assert not (truth[known] == index).any()
            assert not (prediction[known] == index).any()
        else:
            theirs = jaccard_score(
                truth[known], prediction[known], labels=[index], average="macro", zero_division=0
            )
            assert mine == pytest.approx(theirs)
    present = [value for value in scores.iou.values() if value is not None]
    assert scores.miou == (pytest.approx(np.mean(present)) if present else None)


@pytest.mark.parametrize("number", [7, 40])
def test_images_larger_than_a_block_with_an_odd_number_of_pixels(number):
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, number, (2, 301, 1003)).astype(np.uint8)
    truth[5:9, 3:100] = NODATA
    matrix = ConfusionMatrix(many_classes(number))
    matrix.update(truth, prediction)
    inside = truth != NODATA
    np.testing.assert_array_equal(
        matrix.counts, confusion_matrix(truth[inside], prediction[inside], labels=range(number))
    )


def test_strided_and_read_only_arrays_are_counted_as_they_look():
    rng = np.random.default_rng(2)
    truth, prediction = rng.integers(0, 7, (2, 20, 30)).astype(np.uint8)
    truth.flags.writeable = False
    whole, turned = ConfusionMatrix(DEEPGLOBE), ConfusionMatrix(DEEPGLOBE)
    whole.update(truth, prediction)
    turned.update(truth.T[::-1], prediction.T[::-1])
    np.testing.assert_array_equal(whole.table, turned.table)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30), st.data())
def test_addition_of_parts_is_the_whole(pairs, data):
    cut = data.draw(st.integers(1, len(pairs) - 1))
    truth, prediction = ([pair[i] for pair in pairs] for i in (0, 1))
    parts = count(truth[:cut], prediction[:cut]) + count(truth[cut:], prediction[cut:])
    np.testing.assert_array_equal(parts.table, count(truth, prediction).table)


def test_addition_refuses_another_legend_and_leaves_its_terms_alone():
    one = count([0], [0])
    with pytest.raises(UsageError, match="cannot be added"):
        one + ConfusionMatrix(many_classes(7))
    one + one
    assert one.table.sum() == 1


LEGEND = Legend("four", tuple(LandClass(n, (i, 9, 9)) for i, n in enumerate(("a", "b", "c", "none"))), 3)
TABLE = [  # columns: predicted a, b, c, none
    [6, 1, 0, 3],
    [2, 8, 0, 0],
    [0, 0, 0, 0],
    [4, 0, 0, 1],
]


@pytest.mark.parametrize(
    ("metric", "iou", "right", "warning"),
    [
        # a: 6 right, 4 missed (3 of them as none), 2 false; what was said of unknown pixels does not count.
        ("challenge", {"a": 6 / (6 + 4 + 2), "b": 8 / (8 + 2 + 1), "c": None}, 14 / 20, "'c'"),
        ("glnet", {"a": 6 / (6 + 4 + 2 + 4), "b": 8 / 11, "c": 0.0}, 15 / 25, "counts as 0"),
        ("seven-class", {"a": 6 / 16, "b": 8 / 11, "c": None, "none": 1 / (1 + 4 + 3)}, 15 / 25, ""),
    ],
)
def test_metrics_by_hand(metric, iou, right, warning):
    scores = matrix_of(TABLE, LEGEND).scores(metric)
    assert scores.iou == iou
    assert scores.miou == pytest.approx(np.mean([value for value in iou.values() if value is not None]))
    assert scores.pixel_accuracy == right
    assert warning in scores.warnings[0]


@pytest.mark.parametrize("metric", METRICS)
def test_class_that_is_predicted_but_never_true_has_an_iou_of_0(metric):
    scores = count([URBAN, URBAN], [URBAN, WATER]).scores(metric)
    assert scores.iou["water"] == 0.0


def test_class_predicted_only_where_the_truth_is_unknown_is_absent_in_the_challenge():
    matrix = count([URBAN, UNKNOWN], [URBAN, WATER])
    assert matrix.scores("challenge").iou["water"] is None
    assert matrix.scores("challenge").miou == 1.0
    assert matrix.scores("glnet").iou["water"] == 0.0
    assert any("'water'" in warning for warning in matrix.scores("challenge").warnings)
    assert any("predicted on 1 pixels" in warning for warning in matrix.scores("glnet").warnings)


@pytest.mark.parametrize("metric", METRICS)
def test_legend_without_unknown_scores_every_class(metric):
    matrix = matrix_of([[3, 1], [0, 4]], many_classes(2))
    scores = matrix.scores(metric)
    assert scores.iou == {"c0": 3 / 4, "c1": 4 / 5}
    assert scores.pixel_accuracy == 7 / 8


def test_nothing_known_gives_no_number_but_a_warning():
    scores = count([UNKNOWN, NODATA], [WATER, WATER]).scores()
    assert (scores.miou, scores.pixel_accuracy, set(scores.iou.values())) == (None, None, {None})
    assert scores.warnings == ("No pixel was counted: the truth has no known class anywhere.",)


def test_many_tables_at_once_give_what_each_gives():
    tables = np.random.default_rng(4).integers(0, 3, (5, 7, 8))
    tables[0] = 0
    for metric in METRICS:
        together = mean_iou(class_iou(tables, DEEPGLOBE, metric))
        alone = [mean_iou(class_iou(table, DEEPGLOBE, metric)) for table in tables]
        np.testing.assert_array_equal(together, alone)


def test_trap_5_three_billion_pixels_in_one_cell_do_not_overflow():
    image = np.full((1024, 1024), AGRICULTURE, np.uint8)
    matrix = ConfusionMatrix(DEEPGLOBE)
    matrix.update(image, image)
    for _ in range(12):
        matrix = matrix + matrix
    matrix.update(image, np.full_like(image, WATER))
    assert matrix.counts[AGRICULTURE, AGRICULTURE] == 2**32
    assert matrix.counts[AGRICULTURE, AGRICULTURE] > 3_000_000_000
    assert matrix.scores().iou["agriculture"] == 2**32 / (2**32 + 2**20)


def test_trap_6_reduced_truth_is_refused():
    matrix = ConfusionMatrix(DEEPGLOBE)
    with pytest.raises(MaskError, match="at the size of the truth"):
        matrix.update(np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(MaskError, match="4 x 6 pixels"):  # same number of pixels, other shape
        matrix.update(np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8))
    assert not matrix.table.any()


class Disagreeing:
    """A network that says of each window something else: urban for certain, or water, rather."""

    card, device, name, stride = make_card(), "cpu", "fake", 1
    said = ((0.9999, 0, 0, 0, 0.0001, 0), (0.2, 0, 0, 0, 0.8, 0), (0.3, 0, 0, 0, 0.7, 0))

    def __init__(self):
        self.windows = 0

    def coarse(self, batch):
        values = [self.said[(self.windows + i) % 3] for i in range(len(batch))]
        self.windows += len(batch)
        return np.tile(np.array(values, np.float32)[..., None, None], (1, 1, *batch.shape[1:3]))


def test_trap_7_overlapping_windows_are_averaged_as_probabilities_and_count_once():
    """Each pixel against a mean by hand over the windows that see it; logits would give another map."""
    height, width, window, overlap = 64, 96, 32, 16
    runtime = Disagreeing()
    index = predict_index(
        runtime, np.zeros((height, width, 3), np.uint8), window_px=window, overlap_px=overlap
    )
    mean, logits = np.zeros((2, height, width, 6))
    seen = 0
    windows = product(spans(height, window, overlap), spans(width, window, overlap))
    for number, (down, across) in enumerate(windows):
        said = np.array(Disagreeing.said[number % 3])
        for row in range(down.start, down.stop):
            for col in range(across.start, across.stop):
                weight = down.weights[row - down.start] * across.weights[col - across.start]
                mean[row, col] += weight * said
                logits[row, col] += weight * np.log(said + 1e-9)
                seen += 1
    assert runtime.windows == 15
    np.testing.assert_array_equal(index, mean.argmax(axis=2))
    assert (index != logits.argmax(axis=2)).mean() > 0.05
    matrix = ConfusionMatrix(DEEPGLOBE)
    matrix.update(np.full_like(index, URBAN), index)
    assert matrix.table.sum() == height * width < seen


def test_trap_8_and_peers_4_unequal_images_are_summed_before_dividing():
    """A mean over images of per-image means would be (1 + 0) / 2; the split has 1 wrong pixel of 100."""
    large, small = count([FOREST] * 99, [FOREST] * 99), count([FOREST], [WATER])
    assert (large.scores().miou, small.scores().miou) == (1.0, 0.0)
    total = (large + small).scores()
    assert total.iou["forest"] == 99 / 100
    assert total.miou == pytest.approx((0.99 + 0.0) / 2)
    assert total.pixel_accuracy == 0.99


@pytest.mark.parametrize("unknown", range(3))
def test_trap_9_ignoring_unknown_leaves_the_other_classes_untouched(unknown):
    legend = many_classes(3, unknown)
    scored = [i for i in range(3) if i != unknown]
    table = np.zeros((3, 3), int)
    table[np.ix_(scored, scored)] = [[5, 2], [1, 7]]
    clean = matrix_of(table.tolist(), legend).scores()
    table[unknown] = 100
    assert matrix_of(table.tolist(), legend).scores() == clean
    assert clean.iou == {f"c{scored[0]}": 5 / 8, f"c{scored[1]}": 7 / 10}


@pytest.mark.parametrize("metric", METRICS)
def test_trap_10_nodata_in_the_truth_is_not_unknown_and_counts_nowhere(metric):
    inside = count([URBAN, WATER, UNKNOWN], [URBAN, URBAN, WATER])
    padded = count([URBAN, WATER, UNKNOWN] + [NODATA] * 8, [URBAN, URBAN, WATER, *range(7), NODATA])
    np.testing.assert_array_equal(padded.table, inside.table)
    assert padded.scores(metric) == inside.scores(metric)


@pytest.mark.parametrize("metric", METRICS)
def test_predicted_nodata_is_a_predicted_unknown(metric):
    as_nodata = count([URBAN, URBAN, WATER], [URBAN, NODATA, WATER])
    as_unknown = count([URBAN, URBAN, WATER], [URBAN, UNKNOWN, WATER])
    np.testing.assert_array_equal(as_nodata.table, as_unknown.table)
    scores = as_nodata.scores(metric)
    assert (scores.iou["urban"], scores.iou["water"]) == (1 / 2, 1.0)


def test_predicted_nodata_is_a_miss_where_the_legend_has_no_unknown():
    matrix = count([0, 0, 1], [0, NODATA, 1], many_classes(2))
    assert matrix.missed.tolist() == [1, 0]
    assert matrix.scores().iou == {"c0": 1 / 2, "c1": 1.0}
    assert matrix.scores().pixel_accuracy == 2 / 3


def test_trap_11_colours_given_as_labels_are_refused():
    index, colours = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)
    for truth, prediction in ((index, colours), (colours, index), (colours, colours)):
        with pytest.raises(MaskError, match="Convert colours to indices"):
            ConfusionMatrix(DEEPGLOBE).update(truth, prediction)
    with pytest.raises(MaskError, match="int64"):
        ConfusionMatrix(DEEPGLOBE).update(index, index.astype(np.int64))


@pytest.mark.parametrize("number", [7, 15, 40])
@pytest.mark.parametrize("where", ["truth", "prediction"])
def test_value_that_is_no_class_is_refused_and_nothing_is_counted(number, where):
    matrix = ConfusionMatrix(many_classes(number))
    good, bad = np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8)
    for value in (number, 254):
        bad[1, 1] = value
        with pytest.raises(
            MaskError, match=f"The {where} holds the value {value}; expected 0 to {number - 1}"
        ):
            matrix.update(*((bad, good) if where == "truth" else (good, bad)))
    assert not matrix.table.any()
