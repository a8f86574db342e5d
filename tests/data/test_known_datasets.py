"""What a dataset's name says about the test images a model has seen."""

import pytest

from ferops.data.known_datasets import CHECKPOINTS, DATASETS, Overlap, contains, find, overlap

VIT = "dima806/facial_emotions_image_detection"


@pytest.mark.parametrize("name", ["FER2013", "fer-2013", "fer2013_csv", "fer2013_images", "msambare/fer2013"])
def test_fer2013_is_known_by_all_its_names(name: str) -> None:
    assert find(name) == "fer2013"


def test_no_two_datasets_share_a_name() -> None:
    for key, known in DATASETS.items():
        assert {find(name) for name in (key, known.title, *known.names)} == {key}


def test_facial_emotion_expressions_is_fer2013_split_anew() -> None:
    assert contains("facial-emotion-expressions", "fer2013") == 1.0
    assert contains("Facial Emotion Expressions", "FER+") == 1.0
    assert contains("raf-db", "fer2013") == 0.0
    assert contains("my own faces", "fer2013") is None


@pytest.mark.parametrize("trained_on", [VIT, "Facial Emotion Expressions"])
@pytest.mark.parametrize("dataset", ["fer2013_images", "fer2013_csv", "ferplus"])
def test_the_public_vit_has_seen_most_of_the_test_split(trained_on: str, dataset: str) -> None:
    found = overlap([trained_on], dataset)
    assert (found.known, found.share) == (True, 0.7)
    assert "35,887" in found.evidence


def test_every_checkpoint_is_trained_on_a_known_dataset() -> None:
    assert all(find(name) for names in CHECKPOINTS.values() for name in names)


def test_independent_datasets_share_nothing_that_is_known() -> None:
    assert overlap(["AffectNet", "imagenet-21k"], "fer2013").share == 0.0


@pytest.mark.parametrize(
    ("trained_on", "dataset", "reason"),
    [
        (["my own faces"], "fer2013", "'my own faces'"),
        (["raf-db", "my own faces"], "fer2013", "'my own faces'"),
        (["fer2013"], "fer2013_csv", "on which of the splits"),
        (["FER+"], "fer2013_csv", "on which of the splits"),
        (["raf-db"], "image_tree", "image_tree"),
    ],
)
def test_what_is_not_known_is_not_guessed(trained_on: list[str], dataset: str, reason: str) -> None:
    found = overlap(trained_on, dataset)
    assert (found.known, found.share) == (False, None)
    assert reason in found.evidence


def test_trained_on_nothing_is_a_declaration() -> None:
    assert overlap([], "image_tree") == Overlap(True, 0.0, "It was declared to be trained on no dataset.")
