"""Photographs: faces found, cut out, turned upright and answered one by one.

`collins.jpg` is a part of NASA's portrait of the astronaut Eileen Collins (2003, public domain), as
scikit-image ships it. Drawn faces are no faces to a detector trained on people.
"""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferops.data import images as pixels
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.serving import faces
from ferops.serving.log_reader import read_predictions
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from serving_client import png
from tiny_package import write_tiny_package

PHOTO = Path(__file__).parent / "collins.jpg"
FACE = np.array([80, 66, 89, 111])  # marked by hand, x, y, width, height


@pytest.fixture(scope="module")
def photo():
    return Image.open(PHOTO).convert("RGB")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    classifier = OnnxClassifier(write_tiny_package(folder / "package"))
    return Predictor(classifier, "3", PredictionLog(folder / "log"), 20_000_000)


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def of_two(photo):
    """The same person twice, upright and turned by 20 degrees, on one wall."""
    wall = Image.new("RGB", (900, 500), (120, 140, 160))
    wall.paste(photo, (20, 150))
    wall.paste(photo.rotate(20, Image.Resampling.BICUBIC), (500, 100))
    return wall


def test_the_face_of_a_photograph_is_found(photo):
    (face,) = faces.found(photo)
    assert faces.overlap(np.array(face.box), FACE) > 0.7
    assert face.score > 0.8


def test_a_photograph_without_a_face_gives_none(predictor):
    rng = np.random.default_rng(0)
    wall = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    assert predictor.predict([jpeg(wall)], find_faces=True) == []


def test_every_face_is_a_prediction_of_its_own(predictor, photo):
    answers = predictor.predict([jpeg(of_two(photo)), jpeg(photo)], find_faces=True)
    assert sorted(answer["image"] for answer in answers) == [0, 0, 1]
    assert len({answer["id"] for answer in answers}) == 3
    left = min(answers[:2], key=lambda answer: answer["box"]["x"])
    expected = FACE + np.array([20, 150, 0, 0])
    assert faces.overlap(np.array([left["box"][k] for k in ("x", "y", "width", "height")]), expected) > 0.7
    assert set(left["probabilities"]) == set(EMOTIONS)
    logged = read_predictions(predictor.log.folder)
    assert {answer["id"] for answer in answers} <= set(logged["id"])


def test_a_photograph_is_made_grey_once_for_all_its_faces(predictor, photo, monkeypatch):
    made, grey = [], pixels.grey
    monkeypatch.setattr(pixels, "grey", lambda image: made.append(image.mode != "L") or grey(image))
    assert len(predictor.predict([jpeg(of_two(photo))], find_faces=True)) == 2
    assert sum(made) == 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA", "I;16", "F"])
def test_a_face_of_a_photograph_made_grey_before_has_the_same_pixels(photo, mode):
    wall = of_two(photo)
    if mode in ("I;16", "F"):
        values = np.asarray(wall.convert("L"), np.uint16) * 257
        image = Image.fromarray(values if mode == "I;16" else values.astype(np.float32))
    else:
        image = wall.convert(mode)
    if mode in ("L", "RGB"):
        image.info["transparency"] = 120 if mode == "L" else (120, 140, 160)
    for face in (*faces.found(wall), faces.Face((0, 0, *wall.size), None, None)):
        before, after = faces.cut(image, face), faces.cut(pixels.grey(image), face)
        assert np.array_equal(before, after)
        assert np.array_equal(pixels.flat(before), pixels.flat(after))


def test_what_is_logged_describes_the_face_and_not_the_photograph(predictor, photo):
    dark = Image.new("RGB", (900, 900))
    dark.paste(photo.crop((60, 40, 190, 200)), (400, 400))
    (answer,) = predictor.predict([jpeg(dark)], find_faces=True)
    logged = read_predictions(predictor.log.folder).set_index("id")
    assert logged.loc[answer["id"], "brightness"] > 0.3  # of the whole photograph: under 0.02


@pytest.mark.parametrize("angle", [-25, 25])
def test_a_tilted_face_is_turned_until_its_eyes_are_level(photo, angle):
    (upright,) = faces.found(photo)
    (tilted,) = faces.found(photo.rotate(angle, Image.Resampling.BICUBIC, center=(124, 121)))
    assert abs(np.degrees(tilted.square.slope - upright.square.slope) + angle) < 8
    crops = [faces.cut(photo, upright)]
    crops.append(faces.cut(photo.rotate(angle, Image.Resampling.BICUBIC, center=(124, 121)), tilted))
    a, b = (np.asarray(crop.resize((48, 48)), float).ravel() for crop in crops)
    assert np.corrcoef(a, b)[0, 1] > 0.65  # not turned: 0.35


def test_a_huge_photograph_gives_the_same_crop_as_a_small_one(photo):
    large = photo.resize((photo.width * 12, photo.height * 12), Image.Resampling.BICUBIC)
    small_crop, large_crop = (pixels.face(faces.cut(p, faces.found(p)[0])) for p in (photo, large))
    assert faces.cut(large, faces.found(large)[0]).size <= (128, 128)
    assert np.abs(small_crop.astype(float) - large_crop).mean() < 6


def test_a_face_at_the_edge_has_its_box_within_the_photograph(photo):
    cut_off = photo.crop((105, 60, 320, 300))
    for face in faces.found(cut_off):
        x, y, width, height = face.box
        assert 0 <= x <= x + width <= cut_off.width
        assert 0 <= y <= y + height <= cut_off.height
        assert min(faces.cut(cut_off, face).size) >= 1


@pytest.mark.parametrize(("size", "scored"), [((48, 48), False), ((160, 160), True)])
def test_what_is_already_a_crop_is_passed_through(predictor, photo, size, scored):
    crop = io.BytesIO()
    photo.crop((70, 62, 180, 180)).resize(size, Image.Resampling.BICUBIC).save(crop, "PNG")
    (alone,) = predictor.predict([crop.getvalue()])
    (looked_at,) = predictor.predict([crop.getvalue()], find_faces=True)
    assert looked_at["probabilities"] == alone["probabilities"]
    assert (looked_at["score"] is not None) == scored


def test_without_looking_for_faces_the_answer_is_as_ever(predictor):
    (answer,) = predictor.predict([png()])
    assert not {"image", "box", "score"} & set(answer)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1", "I;16", "F"])
def test_photographs_of_any_mode_are_searched(photo, mode):
    given = photo if mode not in ("I;16", "F") else photo.convert("L")
    image = Image.fromarray(np.asarray(given, np.uint16) * 257) if mode == "I;16" else given.convert(mode)
    assert len(faces.found(image)) <= 1
    if mode not in ("1", "F"):
        assert faces.found(image)


def test_photographs_are_answered_alike_every_time(photo):
    assert faces.found(of_two(photo)) == faces.found(of_two(photo))


@pytest.mark.parametrize("size", [(1, 1), (65, 1), (1, 4000), (65, 65)])
def test_any_size_is_taken(size):
    assert len(faces.found(Image.new("RGB", size))) <= 1


def test_the_detector_is_loaded_only_when_a_photograph_comes(tmp_path):
    code = "import ferops.serving.service, ferops.serving.faces as f; print(f._session.cache_info().currsize)"
    environment = {**os.environ, "FEROPS_PACKAGE": str(write_tiny_package(tmp_path / "package"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "0", done.stderr
