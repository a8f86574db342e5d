"""Averaging a model's answers over several views of each image, as papers often report.

    >>> Averaged(classifier, "ten_crop").predict(images)  # doctest: +SKIP

Every view costs one prediction, and a service that predicts once does not have the accuracy that these
reach. So they are measured beside the single prediction, under their own names, and the gate never reads
them.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ferops.models.classifier import Card, Classifier, Images, Predictions
from ferops.settings import Views

#: Side of a crop, as a share of the image's: 44 of 48 pixels, customary for FER2013.
CROP = 44 / 48


class Averaged:
    """A classifier whose answer is the mean over views of each image.

    Args:
        classifier: gives the answer to one view.
        views: `flipped`: the image and its mirror. `ten_crop`: the four corners and the centre, cut at `CROP`
            and resized back (bicubic), and their mirrors (Krizhevsky et al. 2012).
    """

    def __init__(self, classifier: Classifier, views: Views) -> None:
        self.classifier = classifier
        self.views = views

    @property
    def card(self) -> Card:
        """The classifier's own, with the views in its name."""
        card = self.classifier.card
        return replace(card, name=f"{card.name}, {self.views}")

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        """Classify uint8 `[N, side, side, 3]`; there is no embedding of a mean of answers."""
        total: NDArray[np.float32] | None = None
        seen = [images] if self.views == "flipped" else list(crops(images))
        for view in (mirrored for one in seen for mirrored in (one, one[:, :, ::-1])):
            answer = self.classifier.predict(np.ascontiguousarray(view), batch_size).probabilities
            total = answer if total is None else total + answer
        assert total is not None
        return Predictions((total / (2 * len(seen))).astype(np.float32), None)


def crops(images: Images) -> list[Images]:
    """The four corners and the centre of each image, resized to its side: five of `[N, side, side, 3]`."""
    side = images.shape[1]
    cut = round(side * CROP)
    far, middle = side - cut, (side - cut) // 2
    places = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    return [_resized(images[:, top : top + cut, left : left + cut], side) for top, left in places]


def _resized(images: Images, side: int) -> Images:
    out = np.empty((len(images), side, side, 3), np.uint8)
    for row, image in enumerate(images):
        out[row] = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    return out
