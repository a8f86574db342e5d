"""Averages over views are what they say, and are told apart from the single prediction."""

from dataclasses import dataclass

import numpy as np
import pytest

from ferops.evaluation.views import Averaged, crops
from ferops.models.classifier import Card, Images, Predictions, TrainingData


@dataclass
class Brightness:
    """Answers with the brightness of the image's left and right edge, and counts what it is asked."""

    asked: int = 0

    @property
    def card(self) -> Card:
        return Card("brightness", "onnx", 48, 0, TrainingData(known=True))

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        self.asked += len(images)
        out = np.zeros((len(images), 7), np.float32)
        out[:, 0], out[:, 1] = images[:, :, 0].mean((1, 2)) / 255, images[:, :, -1].mean((1, 2)) / 255
        out[:, 2] = 1 - out[:, :2].sum(1)
        return Predictions(out)


@pytest.fixture
def lit_from_the_left() -> Images:
    images = np.zeros((3, 48, 48, 3), np.uint8)
    images[:, :, :4] = 102
    return images


def test_an_image_and_its_mirror_are_averaged(lit_from_the_left: Images) -> None:
    classifier = Brightness()
    answer = Averaged(classifier, "flipped").predict(lit_from_the_left)
    assert classifier.asked == 6
    np.testing.assert_allclose(answer.probabilities[:, :2], 0.2, rtol=1e-5)
    np.testing.assert_allclose(answer.probabilities.sum(1), 1, rtol=1e-5)
    assert answer.embedding is None


def test_ten_crops_are_ten_predictions_of_parts_of_the_image(lit_from_the_left: Images) -> None:
    classifier = Brightness()
    answer = Averaged(classifier, "ten_crop").predict(lit_from_the_left)
    assert classifier.asked == 30
    # The lit strip is cut away on the right-hand crops, and each crop's mirror lights the other edge.
    assert 0.1 < answer.probabilities[0, 0] < 0.2
    np.testing.assert_allclose(answer.probabilities[:, 0], answer.probabilities[:, 1], rtol=1e-5)


def test_crops_are_the_corners_and_the_centre_at_full_size() -> None:
    image = np.zeros((1, 48, 48, 3), np.uint8)
    image[0, 0, 0] = 255  # in the top left corner alone
    found = crops(image)
    assert [crop.shape for crop in found] == [(1, 48, 48, 3)] * 5
    assert [bool(crop.any()) for crop in found] == [True, False, False, False, False]


def test_the_name_says_that_views_were_averaged() -> None:
    assert Averaged(Brightness(), "ten_crop").card.name == "brightness, ten_crop"
