"""A request of many images is worked on in parts at one time, which nobody can tell from its answer."""

import pytest

from ferops.models.onnx import OnnxClassifier
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import BATCH_SIZE, Predictor, UnusableImageError
from serving_client import png
from tiny_package import write_tiny_package

MANY = 3 * BATCH_SIZE + 1


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return OnnxClassifier(write_tiny_package(tmp_path_factory.mktemp("tiny") / "package"))


@pytest.fixture
def predictor(classifier, tmp_path):
    return Predictor(classifier, "v1", PredictionLog(tmp_path), 50_000_000, max_request_pixels=MANY * 48 * 48)


def pictures(count):
    return [png(seed) for seed in range(count)]


def logged(predictor):
    return [
        line
        for path in sorted(predictor.log.folder.glob("predictions/*/*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def test_many_images_are_answered_in_their_order_and_as_each_alone(predictor):
    contents = pictures(MANY)
    answers = predictor.predict(contents)
    alone = [predictor.predict([content])[0] for content in contents]
    for one, other in zip(answers, alone, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert len({answer["id"] for answer in answers}) == MANY
    assert len(logged(predictor)) == 2 * MANY


def test_the_first_of_several_bad_images_is_named_and_nothing_is_logged(predictor):
    contents = pictures(MANY)
    contents[BATCH_SIZE + 2] = b"no picture"
    contents[2 * BATCH_SIZE] = b""
    with pytest.raises(UnusableImageError) as refused:
        predictor.predict(contents)
    assert (refused.value.index, refused.value.code) == (BATCH_SIZE + 2, "not_an_image")
    assert not logged(predictor)


def test_all_images_of_a_request_share_its_limit_of_pixels(predictor):
    with pytest.raises(UnusableImageError) as refused:
        predictor.predict(pictures(MANY + 1))
    assert refused.value.code == "too_many_pixels"
    assert not logged(predictor)
