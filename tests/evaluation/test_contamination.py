from pathlib import Path

import pytest

from fake_classifiers import FakeClassifier, planted_dataset
from ferops.data.store import Dataset
from ferops.evaluation.contamination import measure
from ferops.models.classifier import Card, TrainingData


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("contamination") / "dataset", test=70)


def card(**training_data: object) -> Card:
    return FakeClassifier(training_data=TrainingData(**training_data)).card  # type: ignore[arg-type]


def test_training_images_among_the_test_rows_are_counted(dataset: Dataset, tmp_path: Path) -> None:
    train = list(dataset.frame("train", ["pixel_hash"])["pixel_hash"])
    planted = list(dataset.frame("test", ["pixel_hash"])["pixel_hash"])[:7]
    (tmp_path / "trained_on.txt").write_text("\n".join(train + planted) + "\n")
    found = measure(card(known=True, pixel_hashes="trained_on.txt"), dataset, tmp_path)
    assert (found.known, found.rows, found.share) == (True, 7, 0.1)
    assert "7 are exact copies" in found.evidence[0]


def test_images_that_look_like_training_images_are_reported_but_not_counted(tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "dataset", test=70, near_copies=5)
    hashes = dataset.frame("train", ["pixel_hash"])["pixel_hash"]
    (tmp_path / "trained_on.txt").write_text("\n".join(hashes))
    found = measure(card(known=True, pixel_hashes="trained_on.txt"), dataset, tmp_path)
    assert (found.rows, found.share, found.near_copies) == (0, 0, 5)
    assert any("5 more test rows look like a training image" in sentence for sentence in found.evidence)


def test_a_clean_list_measures_zero(dataset: Dataset, tmp_path: Path) -> None:
    hashes = dataset.frame("train", ["pixel_hash"])["pixel_hash"]
    (tmp_path / "trained_on.txt").write_text("\n".join(hashes))
    found = measure(card(known=True, pixel_hashes="trained_on.txt"), dataset, tmp_path)
    assert (found.known, found.rows, found.share) == (True, 0, 0)


def test_when_nobody_says_it_is_not_known(dataset: Dataset) -> None:
    found = measure(card(known=False), dataset)
    assert (found.known, found.rows, found.share) == (False, None, None)
    assert "Nobody said" in found.evidence[0]


def test_a_list_that_is_not_all_of_it_proves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "trained_on.txt").write_text("\n".join(dataset.frame("train", ["pixel_hash"])["pixel_hash"]))
    found = measure(card(known=False, pixel_hashes="trained_on.txt"), dataset, tmp_path)
    assert (found.known, found.share) == (False, None)


def test_a_lost_list_is_said_and_does_not_count_as_clean(dataset: Dataset, tmp_path: Path) -> None:
    found = measure(card(known=False, pixel_hashes="trained_on.txt"), dataset, tmp_path)
    assert not found.known
    assert "that file is absent" in found.evidence[0]


def test_a_declared_training_set_that_holds_the_test_images_counts(tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "dataset", test=70, source="fer2013_images")
    found = measure(card(known=True, datasets=("Facial Emotion Expressions",)), dataset)
    assert (found.known, found.share, found.rows) == (True, 0.7, 49)
    assert "split anew" in found.evidence[0]


def test_a_model_of_photographs_has_not_seen_the_synthetic_faces(tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "dataset", test=70, source="synthetic", synthetic=True)
    found = measure(card(known=True, datasets=("fer2013",)), dataset)
    assert (found.known, found.share) == (True, 0)


def test_the_same_dataset_without_a_list_of_images_is_not_known(tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "dataset", test=70, source="fer2013_images")
    assert not measure(card(known=True, datasets=("FER2013",)), dataset).known
