"""The embedded faces: reproducible one by one, readable when clean, confusable when noisy."""

import io
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ferops.data.sources.synthetic import SHARES, Synthetic, actions, draw
from ferops.emotions import EMOTIONS
from ferops.settings import SyntheticSettings

SMALL = SyntheticSettings(train=140, validation=35, test=70)


def test_a_face_depends_on_the_seed_and_its_own_number_alone() -> None:
    one = {r.name: r.image for r in Synthetic(SMALL, seed=5)}
    assert {r.name: r.image for r in Synthetic(SMALL, seed=5)} == one
    other = {r.name: r.image for r in Synthetic(SMALL, seed=6)}
    assert not set(one.values()) & set(other.values())


def test_no_face_is_in_two_splits() -> None:
    images = [r.image for r in Synthetic(SMALL, seed=0)]
    assert len(set(images)) == len(images) == 245


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_faces_are_grey_48_and_never_blank(noise: float) -> None:
    settings = SyntheticSettings(train=70, validation=35, test=35, noise=noise)
    for record in Synthetic(settings, seed=1):
        image = Image.open(io.BytesIO(record.image))
        assert (image.mode, image.size, image.format) == ("L", (48, 48), "PNG")
        assert np.asarray(image).std() > 2


def test_every_split_has_the_documented_shares() -> None:
    counts = Counter((r.split, r.emotion) for r in Synthetic(SyntheticSettings(), seed=0))
    assert sum(counts.values()) == 4900
    for emotion, share in SHARES.items():
        assert counts["train", emotion] == pytest.approx(2800 * share, abs=7)
    assert min(counts.values()) >= 20  # what validation asks of every class


def test_clean_expressions_are_told_apart_and_noisy_ones_only_partly() -> None:
    assert _separability(0.0) == 1.0
    assert 0.75 < _separability(0.5) < 0.93
    assert _separability(1.0) < 0.65


def test_weak_expressions_are_mistaken_for_their_neighbours() -> None:
    recall, confusion = _fitted(0.5)
    assert recall["happy"] > recall["neutral"] + 0.05  # classes differ in difficulty
    for one, other in (("fear", "surprise"), ("angry", "disgust"), ("sad", "neutral")):
        row = confusion[EMOTIONS.index(one)].copy()
        row[EMOTIONS.index(one)] = 0
        assert other in [EMOTIONS[i] for i in np.argsort(row)[-2:]]


def test_an_expression_changes_the_picture_and_not_the_person() -> None:
    faces = {e: draw(e, 0.0, np.random.default_rng(3)).astype(float) for e in EMOTIONS}
    background = {e: face[:4, :4].mean() for e, face in faces.items()}
    assert max(background.values()) - min(background.values()) < 3
    differences = [abs(faces[a] - faces["neutral"]).max() for a in EMOTIONS if a != "neutral"]
    assert min(differences) > 30


def _separability(noise: float) -> float:
    _, confusion = _fitted(noise)
    return float(confusion.trace() / confusion.sum())


def _fitted(noise: float) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Confusion of a linear classifier that sees the facial actions themselves: what pixels cannot beat."""
    rng = np.random.default_rng(0)
    labels = rng.choice(7, 6000, p=[SHARES[e] for e in EMOTIONS])
    seen = np.stack([actions(EMOTIONS[label], noise, rng) for label in labels])
    model = LinearDiscriminantAnalysis().fit(seen[:4000], labels[:4000])
    confusion = np.zeros((7, 7), np.int64)
    np.add.at(confusion, (labels[4000:], model.predict(seen[4000:])), 1)
    recall = confusion.diagonal() / confusion.sum(axis=1)
    return dict(zip(EMOTIONS, recall.tolist(), strict=True)), confusion
