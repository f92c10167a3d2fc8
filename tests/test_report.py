import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from commands import invoke, refusal
from fake_runtime import make_card
from landcover.errors import DataError, ModelError, OutputError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.report import ImageScore
from landcover.io import read_mask
from landcover.legend import DEEPGLOBE, LandClass, Legend
from landcover.model.card import model_digest, save_model
from landcover.reporting import report
from landcover.reporting.collect import collect, read_evaluation, read_run
from landcover.reporting.figures import Curve, line_chart, matrix, nice_ticks, reliability_chart
from landcover.reporting.page import evaluation_notes
from landcover.reporting.pictures import IGNORED, WRONG, best_and_worst, draw_scenes, error_colours, shrink
from report_world import NAMES, SCORED, save, validation, write_run, write_world

NASTY = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a page holds: tags with attributes, and the text that is not style."""

    def __init__(self, text):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] != "style":
            self.pieces.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.pieces).split())

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def write_events(run, *events):
    (run / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def step(number, loss):
    return {"event": "step", "step": number, "images": number, "loss": loss, "lr": 0.1, "seconds": number}


def test_what_a_resumed_run_did_again_counts_once(tmp_path):
    run = write_run(tmp_path / "run")
    write_events(
        run, step(1, 5.0), step(2, 4.0), step(3, 9.0), validation(3, 3.0, 0.9),
        {"event": "start"}, step(2, 3.5), step(3, 3.0), validation(3, 3.0, 0.5),
    )  # fmt: skip
    read = read_run(run)
    assert [s.loss for s in read.steps] == [5.0, 3.5, 3.0]
    assert [v.miou for v in read.validations] == [validation(3, 3.0, 0.5)["miou"]]
    assert read.best is read.validations[0]
    assert read.end is None
    assert read_run(write_run(tmp_path / "ended")).end is not None


def test_half_a_last_line_is_left_out_but_damage_elsewhere_is_told(tmp_path):
    run = write_run(tmp_path / "run", ended=False)
    log = run / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"event": "step", "st')
    assert len(read_run(run).steps) == 40
    for content, message in ((b'{"st\n' + whole.encode(), r"log\.jsonl, line 1"), (b"\xff\xfe", "UTF-8")):
        log.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_run(run)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"event": "cake"}', "cake"),
        ('{"event": "step", "step": 3}', "'seconds': Field required"),
        ('{"event": "step", "step": -3, "seconds": 1, "loss": 1, "lr": 1}', "'step'"),
        ('{"event": "validation", "step": 1, "seconds": 1, "miou": "good", "iou": {}}', "'miou'"),
    ],
)
def test_a_log_of_something_else_is_refused(tmp_path, line, said):
    run = write_run(tmp_path / "run")
    (run / "log.jsonl").write_text(f'{{"event": "start"}}\n{line}\n')
    with pytest.raises(DataError, match=f"Line 2 of .*{re.escape(said)}"):
        read_run(run)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"confusion": [[1, 2], [3, 4]]}, "'confusion'"),
        ({"confusion": [[-1] * 7] * 7}, "'confusion'.*0 or more"),
        ({"iou": {"sea": 0.5}}, "'sea', which is not among 'classes'"),
        ({"missed": [1, 2]}, "'missed' has 2 counts"),
        ({"legend": {"name": "x", "classes": "none"}}, "classes: found 'none'"),
        ({"legend": DEEPGLOBE.to_dict(), "classes": [*NAMES[:6], "cloud"]}, "other classes"),
    ],
)
def test_an_evaluation_that_contradicts_itself_is_refused(tmp_path, changes, said):
    path = change(write_world(tmp_path, images=1, size=8), **changes)
    with pytest.raises((DataError, UsageError), match=said):
        collect([path])


@pytest.mark.parametrize("content", [b"", b'{"metric": "chal', b"\xff\xd8\xff", b"[]", b'{"layout": "flat"}'])
def test_a_file_that_is_no_evaluation_is_refused(tmp_path, content):
    path = tmp_path / "e.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"e\.json.*(not JSON|not UTF-8|a result of landcover evaluate)"):
        collect([path])


def test_inputs_must_be_there_and_different(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="does not exist"):
        collect([tmp_path / "loop"])
    path = write_world(tmp_path, images=1, size=8)
    with pytest.raises(UsageError, match="Nothing to report on"):
        collect([])
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        collect([tmp_path / "gone.json"])
    with pytest.raises(UsageError, match="given more than once"):
        collect([path, path.parent / "." / path.name])
    for name in ("config.yaml", "log.jsonl"):
        run = write_run(tmp_path / f"without {name}")
        (run / name).unlink()
        with pytest.raises(DataError, match=f"not a run folder: {name}"):
            collect([run])


def test_nan_in_json_is_an_undefined_number(tmp_path):
    path = write_world(tmp_path, images=1, size=8)
    iou = dict.fromkeys(SCORED, 0.5) | {"water": float("nan")}
    change(path, iou=iou, miou=float("inf"))
    assert "NaN" in path.read_text()
    read = read_evaluation(path)
    assert read.iou["water"] is None
    assert read.miou is None


def test_legend_comes_from_the_json_else_from_what_is_built_in(tmp_path):
    own = Legend("own", tuple(LandClass(n, (i, 9, 9)) for i, n in enumerate(NAMES)), 6)
    path = write_world(tmp_path, images=1, size=8)
    assert collect([path])[1][0].legend is DEEPGLOBE
    assert collect([change(path, legend=own.to_dict())])[1][0].legend == own
    strange = [f"{name}s" for name in NAMES]
    change(path, legend=None, classes=strange, iou=dict.fromkeys(strange[:6], 0.5))
    assert collect([path])[1][0].legend is None


def test_the_card_of_the_best_model_is_read_and_a_damaged_one_told(tmp_path):
    run = write_run(tmp_path / "run")
    own = Legend("own", (LandClass("sea", (1, 2, 3)), LandClass("land", (4, 5, 6))), None)
    card = make_card(gsd=0.75, legend=own).model_copy(update={"licence": "research only"})
    assert read_run(run).legend is DEEPGLOBE
    save_model(run / "best.safetensors", {"w": np.zeros(3, np.float32)}, card)
    assert read_run(run).legend == own
    text = read_page(report([run], tmp_path / "r.html")).text
    assert "0.75 m" in text
    assert "research only" in text
    (run / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes()[:40])
    with pytest.raises(ModelError):
        read_run(run)


@given(st.floats(1e-9, 1e9), st.integers(1, 12))
def test_ticks_are_few_even_and_within(top, count):
    ticks = nice_ticks(top, count)
    assert ticks[0] == 0
    assert 1 <= len(ticks) <= count + 1
    assert ticks[-1] <= top * (1 + 1e-6)
    assert np.allclose(np.diff(ticks), ticks[1] if len(ticks) > 1 else 0, rtol=1e-6)
    if len(ticks) > 1:
        digits = ticks[1] / 10 ** np.floor(np.log10(ticks[1] * (1 + 1e-9)))
        assert np.isclose(digits, [1, 2, 2.5, 5]).any()


def curve(values, **options):
    return Curve("c", np.arange(1.0, len(values) + 1), np.array(values), **options)


def test_a_line_goes_through_its_values_and_breaks_at_gaps():
    chart = line_chart(
        "T",
        [curve([1.0, 0.5, np.nan, 0.25], dots=True)],
        label=str,
        minutes=lambda s: s,
        last_step=4,
        y_max=1,
    )
    assert chart.lines[0].path == "M25 0L50 50M100 75"
    assert [(d.x, d.y) for d in chart.lines[0].dots] == [(25, 0), (50, 50), (100, 75)]
    assert [(t.at, t.label, t.below) for t in chart.x_ticks][-1] == (100, "4", "4 min")
    assert [t.at for t in chart.y_ticks] == [100, 80, 60, 40, 20, 0]
    assert chart.summary == "T: c from 1.0 at step 1 to 0.25 at step 4."


@pytest.mark.parametrize("values", [[], [np.nan], [np.nan] * 500, [0.0, 0.0]])
def test_curves_without_values_can_be_drawn(values):
    chart = line_chart("T", [curve(values)], label=str, minutes=float, last_step=len(values))
    assert "nan" not in chart.lines[0].path + chart.lines[0].band
    assert all(np.isfinite(t.at) for t in chart.x_ticks + chart.y_ticks)


@given(hnp.arrays(np.int64, (7, 7), elements=st.integers(0, 2**52)))
def test_matrix_shows_scored_classes_and_those_with_pixels(counts):
    result = matrix(counts, NAMES, SCORED)
    assert list(result.rows) == NAMES[: 7 if counts[6].any() else 6]
    assert result.columns == NAMES[: 7 if counts[:, 6].any() else 6]
    shares = []
    for i, row in enumerate(result.rows.values()):
        assert row == counts[i, : len(result.columns)].tolist()
        total = sum(int(n) for n in counts[i])
        shares += [n / total for j, n in enumerate(row) if n and i != j and i < 6]
    assert [share for *_, share in result.confusions] == pytest.approx(sorted(shares, reverse=True)[:3])


@given(st.lists(st.none() | st.floats(0, 1), max_size=30), st.integers(0, 8))
def test_best_and_worst_share_no_image_and_bound_the_rest(scores, count):
    rows = [ImageScore(key=str(i), miou=score) for i, score in enumerate(scores)]
    best, worst = best_and_worst(rows, count)
    chosen = [row.key for row in (*best, *worst)]
    assert len(set(chosen)) == len(chosen)
    scored = sorted(s for s in scores if s is not None)
    assert len(chosen) == min(2 * count, len(scored))
    assert 0 <= len(best) - len(worst) <= 1
    assert [row.miou for row in worst] == scored[: len(worst)]
    assert [row.miou for row in best] == scored[::-1][: len(best)]


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)), st.integers(1, 50))
def test_thinning_keeps_only_what_is_there(index, side):
    small = shrink(index, side)
    assert max(small.shape) == min(side, max(index.shape))
    assert set(np.unique(small)) <= set(np.unique(index))
    if max(index.shape) <= side:
        assert (small == index).all()


def test_thinning_by_a_whole_factor_takes_the_central_pixels():
    index = np.arange(81, dtype=np.uint8).reshape(9, 9)
    assert shrink(index, 3).tolist() == [[10, 13, 16], [37, 40, 43], [64, 67, 70]]


def test_error_map_shows_right_wrong_and_not_scored():
    truth = np.array([[0, 1, 6, 255, 3, 3]], np.uint8)
    prediction = np.array([[0, 2, 1, 0, 6, 255]], np.uint8)
    colours = error_colours(truth, prediction, DEEPGLOBE, SCORED)[0]
    assert colours[0].tolist() == [184, 255, 255]  # urban (0, 255, 255), faded to 28 %
    assert [tuple(c) for c in colours[1:].tolist()] == [WRONG, IGNORED, IGNORED, WRONG, WRONG]


def test_pictures_are_the_image_the_truth_the_map_and_its_errors(tmp_path):
    evaluation = read_evaluation(write_world(tmp_path, images=4, size=40))
    scenes = draw_scenes(evaluation, DEEPGLOBE, 1, 480)
    assert (scenes.missing, [s.score.key for s in scenes.best], [s.score.key for s in scenes.worst]) == (
        "",
        ["val/0000"],
        ["val/0003"],
    )
    image, truth, prediction, error = map(decode, (p.uri for p in scenes.worst[0].pictures))
    source = np.asarray(Image.open(tmp_path / "data/val/0003_sat.jpg")).astype(int)
    assert np.abs(image.astype(int) - source).mean() < 12
    assert (truth == np.asarray(Image.open(tmp_path / "data/val/0003_mask.png"))).all()
    assert (prediction == np.asarray(Image.open(tmp_path / "maps/val/0003_mask.png"))).all()
    wrong = (truth != prediction).any(2) & truth.any(2)  # black is unknown
    assert ((error == WRONG).all(2) == wrong).all()
    assert f"{100 * wrong.mean():.1f} %" in scenes.worst[0].pictures[3].alt
    for picture in draw_scenes(evaluation, DEEPGLOBE, 1, 20).best[0].pictures:
        assert (picture.width, picture.height) == decode(picture.uri).shape[:2] == (20, 20)


def decode(uri):
    assert uri is not None
    kind, data = uri.split(";base64,")
    assert kind == "data:image/webp"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_one_damaged_map_costs_only_its_own_pictures(tmp_path):
    path = write_world(tmp_path, images=4, size=40)
    (tmp_path / "maps/val/0000_mask.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "maps/val/0001_mask.png").unlink()
    save(tmp_path / "maps/val/0002_mask.png", np.zeros((8, 9, 3), np.uint8))
    scenes = draw_scenes(read_evaluation(path), DEEPGLOBE, 2, 480)
    assert "0000_mask.png" in scenes.best[0].missing
    assert "0001_mask.png" in scenes.best[1].missing
    assert "8 x 9 pixels (height x width), the image 40 x 40" in scenes.worst[1].missing
    assert len(scenes.worst[0].pictures) == 4
    for kind in ("sat.jpg", "mask.png"):
        (tmp_path / f"data/val/0003_{kind}").unlink()
    assert "no longer in" in draw_scenes(read_evaluation(path), DEEPGLOBE, 2, 480).worst[0].missing


def test_maps_in_another_order_of_classes_are_shown_in_the_truths(tmp_path):
    path = write_world(tmp_path, images=2, size=16)
    turned = Legend("turned", DEEPGLOBE.classes[::-1], 0)
    for number in range(2):
        truth = read_mask(tmp_path / f"data/val/{number:04d}_mask.png", DEEPGLOBE).index
        save(tmp_path / f"maps/val/{number:04d}_mask.png", (6 - truth).astype(np.uint8))
    change(path, model=None, legend=DEEPGLOBE.to_dict(), prediction_legend=turned.to_dict())
    pictures = draw_scenes(read_evaluation(path), DEEPGLOBE, 1, 480).worst[0].pictures
    assert pictures[1].uri == pictures[2].uri
    change(path, model="kept/maps")  # which are in the truth's legend
    pictures = draw_scenes(read_evaluation(path), DEEPGLOBE, 1, 480).worst[0].pictures
    assert pictures[1].uri != pictures[2].uri


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"predictions": None}, "kept no maps"),
        ({"data": None}, "kept no maps"),
        ({"data": "/nowhere"}, "images are no longer at /nowhere"),
        ({"predictions": "/nowhere"}, "maps are no longer at /nowhere"),
        ({"per_image": []}, "no scores of single images"),
        ({"data": str(Path(__file__).parent / "golden")}, "No pictures:"),
    ],
)
def test_the_page_says_why_there_are_no_pictures(tmp_path, changes, said):
    path = change(write_world(tmp_path, images=2, size=16), **changes)
    page = read_page(report([path], tmp_path / "r.html"))
    assert page.images() == []
    assert said in page.text


@pytest.mark.parametrize(
    ("keep", "split", "data", "same", "told"),
    [
        ("best", "scenes-k5@0:val", "data", True, True),
        ("last", "scenes-k5@0:val", "data", True, False),
        ("best", "scenes-k5@1:val", "data", True, False),
        ("best", "scenes-k5@0:val", "cache-of-data", True, True),
        ("best", "scenes-k5@0:val", "data", False, False),
    ],
)
def test_a_number_on_the_images_that_chose_the_step_is_told(tmp_path, keep, split, data, same, told):
    run = write_run(tmp_path / "run")
    card = make_card().model_copy(
        update={
            "recipe": {"validation": {"keep": keep}},
            "scores": ({"split": "scenes-k5@0:val"},),
            "provenance": {"data": "data"},
        }
    )
    save_model(run / "best.safetensors", {"w": np.zeros(3, np.float32)}, card)
    digest = model_digest(run) if same else "0" * 64
    path = write_world(tmp_path, images=1, size=8, split=split, model_sha256=digest, data=f"/x/{data}")
    notes = evaluation_notes(read_evaluation(path), [read_run(run)])
    assert ("best step of run run was chosen by its scores on scenes-k5@0:val" in " ".join(notes)) == told
    for count in (0, 1):  # the evaluation knows, and its own warnings say it
        change(path, training_overlap=OVERLAP | {"selection": count})
        (note,) = evaluation_notes(read_evaluation(path), [read_run(run)])
        assert "No identical image found" in note


@pytest.mark.parametrize(
    ("split", "leaks"), [("folders:validation", True), ("scenes-k5@0:val", False), ("ids.txt", False)]
)
def test_splits_that_ignore_scenes_get_a_note(tmp_path, split, leaks):
    path = change(write_world(tmp_path, images=1, size=8), split=split, iou=dict.fromkeys(SCORED, 0.5))
    assert any("neighbouring tiles" in note for note in evaluation_notes(read_evaluation(path))) == leaks


OVERLAP = {"status": "no identical image found", "images": 1, "identical": 0, "same_scene": None}


@pytest.mark.parametrize(
    ("split", "note", "overlap", "silent"),
    [
        ("all", "All images were scored", {"status": "identical image found", "identical": 1}, True),
        ("all", "All images were scored", {}, True),
        ("all", "All images were scored", {"status": "not recorded", "identical": None}, False),
        ("folders:val", "ignores scenes", {"same_scene": 5}, True),
        ("folders:val", "ignores scenes", {"status": "no overlap", "same_scene": 0}, True),
        ("folders:val", "ignores scenes", {"same_scene": None}, False),
    ],
)
def test_what_the_evaluation_knows_is_not_guessed_beside_it(tmp_path, split, note, overlap, silent):
    path = write_world(tmp_path, images=1, size=8)
    change(path, split=split, training_overlap=OVERLAP | overlap)
    assert (note not in " ".join(evaluation_notes(read_evaluation(path)))) == silent


def test_evaluations_of_0_1_are_read(tmp_path):
    """They have ``seen`` for the overlap, and ``borders`` with ``bands``."""
    scores = {"share": 1.0, "miou": 0.5, "iou": {}, "pixel_accuracy": 0.5}
    bands = [scores | {"from_m": 0, "to_m": 5, "beyond": scores}]
    path = write_world(tmp_path, images=1, size=8)
    change(path, seen=[{"role": "model"}], borders={"metric": "challenge", "bands": bands})
    read = read_evaluation(path)
    assert read.boundaries is not None
    assert [row.name for row in read.boundaries.bins] == ["0 to 5 m"]
    assert read.training_overlap is None


def test_warnings_come_first_then_notes_on_split_and_metric(tmp_path):
    path = write_world(tmp_path, images=1, size=8)
    assert evaluation_notes(read_evaluation(path)) == []
    change(path, warnings=["Class 'water' is absent."], metric="seven-class", split="all")
    first, split, metric = evaluation_notes(read_evaluation(path))
    assert first == "Class 'water' is absent."
    assert "All images were scored" in split
    assert "seven-class" in metric


def test_the_page_shows_the_scores_the_matrix_and_the_curves(tmp_path):
    path = write_world(tmp_path, images=3, size=16)
    read = read_evaluation(path)
    run = write_run(tmp_path / "run", steps=40, every=10)
    page = read_page(report([run, path], tmp_path / "r.html", title="Held-out scenes"))
    headline = "challenge metric, split scenes-k5@0:val, 3 images, model runs/starter"
    assert f"mIoU {100 * (read.miou or 0):.1f} % {headline}" in page.text
    assert page.text.count("Held-out scenes") == 2
    best = read_run(run).best
    assert best is not None
    text = read_page(report([run], tmp_path / "run.html")).text
    assert f"mIoU {100 * (best.miou or 0):.1f} % best validation during training, at step 40" in text
    for name in SCORED:
        assert f"{name} {100 * (read.iou[name] or 0):.1f} %" in page.text
    share = read.confusion[0][0] / sum(read.confusion[0])
    assert f"{100 * share:.1f}" in page.text
    charts = [a["aria-label"] for tag, a in page.tags if tag == "div" and a.get("class") == "plot"]
    assert [c.split(":")[0] for c in charts if c] == ["Loss", "Validation mIoU", "Learning rate", *SCORED]
    assert "encoder: mobilenetv2_100" in page.text
    assert len(page.images()) == 3 * 4
    assert all(image["alt"] and image["width"] for image in page.images())


@pytest.mark.parametrize(
    "events", [[], [{"event": "start"}], [step(1, float("nan"))], [validation(5, 1.0, 0.3)]]
)
def test_a_run_that_has_only_begun_makes_a_page(tmp_path, events):
    run = write_run(tmp_path / "run")
    write_events(run, *events)
    text = report([run], tmp_path / "r.html").read_text()
    assert "nan" not in text.lower()
    assert "interrupted" in text


def test_interval_cleaning_and_unmapped_pixels_are_shown(tmp_path):
    path = write_world(tmp_path, images=1, size=8)
    cleaned = {"min_region": "2000m2", "min_pixels": 8000, "miou": 0.5512, "miou_change": 0.0123}
    change(path, miou_interval=[0.4321, 0.6543], resampled="scenes", min_region=cleaned)
    text = read_page(report([path], tmp_path / "a.html")).text
    assert "95 % interval 43.2 % to 65.4 % (bootstrap over scenes)" in text
    assert "mIoU without regions below 2000m2 55.1 % (+1.2 points)" in text
    assert "no data" not in text
    confusion = [[30, 0], [0, 50]]
    change(path, classes=["sea", "land"], iou={"sea": 0.3, "land": 1.0}, confusion=confusion, missed=[70, 0])
    text = read_page(report([path], tmp_path / "b.html")).text
    assert "70 % of sea mapped as (no data)" in text


def bins(*pairs):
    """A calibration of groups with these confidences and accuracies."""
    return {
        "ece": 0.042,
        "nll": 0.7,
        "worst_class": {"name": "barren", "ece": 0.12},
        "bins": [{"confidence": c, "accuracy": a, "share": 1 / len(pairs)} for c, a in pairs],
        "temperature": 1.25,
        "fitted_on": "scenes-k5@1:val",
    }


def test_calibration_is_drawn_where_the_scores_have_it(tmp_path):
    chart = reliability_chart([(0.5, 0.25), (0.9, 1.0)])
    assert chart.lines[0].path == "M0 100L100 0"
    assert [dot[:2] for dot in chart.lines[1].dots] == [(50, 75), (90, 0)]
    path = write_world(tmp_path, calibration=bins((0.5, 0.4), (0.9, 0.8)))
    page = read_page(report([path], tmp_path / "r.html", images=0))
    for fact in ("ECE) 4.2 %", "12.0 % for pixels predicted as barren", "temperature 1.25, fitted on"):
        assert fact in page.text
    charts = [attributes["aria-label"] for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert any("confidence 50\u00a0%, accuracy 40\u00a0%; confidence 90" in (label or "") for label in charts)
    for empty in (None, bins()):
        change(path, calibration=empty)
        page = read_page(report([path], tmp_path / "r.html", images=0, force=True))
        assert "Calibration" not in page.text
    with pytest.raises(DataError, match="calibration"):
        read_evaluation(change(path, calibration={"ece": 1}))


def test_what_evaluate_writes_is_what_report_reads(tmp_path):
    write_world(tmp_path, images=4, size=64)
    path = tmp_path / "real.json"
    options = EvaluateOptions(min_region="9px", boundaries=True, json=path)
    maps = tmp_path / "maps"
    result = evaluate(tmp_path / "data", "folders:val", predictions=maps, gsd=0.5, options=options)
    page = read_page(report([path], tmp_path / "r.html"))
    assert f"mIoU {100 * result.miou:.1f} % challenge metric, split folders:val, 4 images" in page.text
    assert len(page.images()) == 4 * 4
    assert "regions below 9px" in page.text
    near = result.boundaries.bins[0]
    row = [near.share, near.miou, near.pixel_accuracy]
    assert "0 to 5 m " + " ".join(f"{100 * value:.1f} %" for value in row) in page.text
    assert "over 40 m 0.0 % – –" in page.text  # of an image of 32 m


def test_several_evaluations_are_compared(tmp_path):
    paths = [
        write_world(tmp_path / name, images=2, size=16, miou=miou)
        for name, miou in (("a", 0.25), ("b", 0.75))
    ]
    page = read_page(report(paths, tmp_path / "r.html"))
    assert re.search(r"a/evaluation challenge, scenes-k5@0:val 25\.0 %.*b/evaluation .* 75\.0 %", page.text)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    places = [a.get("id") for tag, a in page.tags if tag == "section"]
    assert links == [f"#{place}" for place in places if place]


def test_names_with_markup_are_harmless(tmp_path):
    run = write_run(tmp_path / f"run {NASTY.replace('/', '')}")
    (run / "config.yaml").write_text(f"note: '{NASTY}'\n")
    names = [NASTY, '" onmouseover="alert(1)', *NAMES[2:]]
    own = Legend(
        "own", tuple(LandClass(n, c.colour) for n, c in zip(names, DEEPGLOBE.classes, strict=True)), 6
    )
    path = write_world(tmp_path, images=2, size=16, model=NASTY, metric=NASTY, split=f"all:{NASTY}")
    rows = [{"key": NASTY, "miou": 0.5, "pixel_accuracy": 0.5}]
    change(
        path,
        classes=names,
        iou=dict.fromkeys(names[:6], 0.5),
        legend=own.to_dict(),
        per_image=rows,
        data=f"/{NASTY}",
    )
    page = read_page(
        report([run, path, write_world(tmp_path / "b", images=1, size=8)], tmp_path / "r.html", title=NASTY)
    )
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "link"})
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert page.text.count(NASTY) >= 8


def test_text_cannot_change_the_text_around_it(tmp_path):
    path = write_world(tmp_path, images=1, size=8, model="m\u202e.xnno\x1b[2J", split="all:\u2066x\n")
    change(path, per_image=[{"key": "\u200fk\0", "miou": 0.5, "pixel_accuracy": 0.5}])
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text("note: '\u202ex'\nseed: 0\n")
    text = report([run, path], tmp_path / "r.html", title="a\u202eb").read_text()
    assert not set(text) & {"\u202e", "\u2066", "\u200f", "\x1b", "\0"}
    for shown in (
        "m\\u202e.xnno\\x1b[2J",
        "\\u2066x",
        "\\u200fk\\x00",
        "a\\u202eb",
        "\\u202ex&#39;\nseed: 0\n",
    ):
        assert shown in text


def test_nothing_on_the_page_comes_from_elsewhere(tmp_path):
    out = report([write_run(tmp_path / "run"), write_world(tmp_path, images=3, size=16)], tmp_path / "r.html")
    page = read_page(out)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, attributes)
    text = out.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_an_existing_page_and_the_inputs_are_safe(tmp_path):
    path = write_world(tmp_path, images=1, size=8)
    out = tmp_path / "deep" / "r.html"
    report([path], out)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="--force"):
        report([path], out, title="Other")
    assert out.read_bytes() == before
    assert "Other" in report([path], out, title="Other", force=True).read_text()
    content = path.read_bytes()
    with pytest.raises(UsageError, match=r"ends with \.html"):
        report([path], path, force=True)
    assert path.read_bytes() == content
    odd = path.rename(path.with_suffix(".html"))
    with pytest.raises(UsageError, match="is an input"):
        report([odd], odd, force=True)
    odd.rename(path)
    model = tmp_path / "best.safetensors"
    model.write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"ends with \.html"):
        report([path], model, force=True)
    assert model.read_bytes() == b"weights"
    path.write_text("{")
    kept = out.read_bytes()
    with pytest.raises(DataError):
        report([path], out, force=True)
    assert out.read_bytes() == kept
    assert [p.name for p in out.parent.iterdir()] == ["r.html"]


def test_the_command_writes_the_page(tmp_path):
    path, out = write_world(tmp_path, images=2, size=16), tmp_path / "r.html"
    command = ["report", path, "--out", out, "--title", "By command", "--images", "1"]
    invoke(*command)
    page = read_page(out)
    assert "By command" in page.text
    assert len(page.images()) == 2 * 4
    assert read_page(report([path], tmp_path / "none.html", images=0)).images() == []
    with pytest.raises(UsageError, match="--images is -1"):
        report([path], tmp_path / "s.html", images=-1)
    assert "--force" in refusal(*command, error=OutputError)
    invoke(*command, "--force")


@pytest.mark.browser
def test_a_browser_shows_the_page_well_at_every_width_and_in_both_schemes(browser, tmp_path):
    calibration = bins(*((0.4 + 0.04 * i, 0.38 + 0.035 * i) for i in range(15)))
    model = "a/long/path/without/any/space/" + "x" * 80
    first = write_world(tmp_path / "a", images=12, size=64, calibration=calibration, model=model)
    second = write_world(tmp_path / "b", images=2, size=64, split="folders:validation")
    inputs = [write_run(tmp_path / "run"), first, second]
    out = report(inputs, tmp_path / "r.html", title="What a browser shows")
    for width, scheme in ((1440, "light"), (390, "light"), (320, "dark"), (1440, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said = []
        asked = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(out.as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:image/")] == [out.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for text in (
            "What a browser shows",
            "Comparison",
            "Confusion matrix",
            "Best and worst images",
            "Training",
        ):
            assert page.get_by_role("heading", name=text).first.is_visible(), text
        assert page.get_by_text(f"mIoU {100 * (read_evaluation(first).miou or 0):.1f}").first.is_visible()
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert page.evaluate("document.images.length") == (6 + 2) * 4
        assert page.locator(".plot svg .line").count() == 4 + 2 * len(SCORED) + 2
        page.close()
