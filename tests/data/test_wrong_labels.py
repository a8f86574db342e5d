"""Mislabelled and poisoned feedback is stopped by validation, and honest feedback is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ferops.data import wrong_labels
from ferops.data.collected import Collected, labelled, write_batch
from ferops.data.ingest import ingest
from ferops.data.store import Dataset
from ferops.data.validation import ValidationFailedError, validate
from ferops.emotions import EMOTIONS
from ferops.files import sha256
from ferops.settings import CollectedSettings, DataSettings, SyntheticSettings, ValidationSettings

Grey = NDArray[np.uint8]
Faces = tuple[Grey, list[str]]
SYNTHETIC = SyntheticSettings(train=700, validation=70, test=70, noise=0.3)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """350 faces of the kind that the main source has, none of them in it, with their emotions."""
    folder = tmp_path_factory.mktemp("traffic") / "dataset"
    other = SyntheticSettings(train=350, validation=35, test=35, noise=0.3)
    ingest(DataSettings(synthetic=other, seed=99), out=folder)
    dataset = Dataset.open(folder)
    return dataset.images("train")[..., 0], [EMOTIONS[label] for label in dataset.labels("train")]


@pytest.fixture
def with_feedback(tmp_path: Path) -> Callable[..., Dataset]:
    """The synthetic faces with batches of feedback beside them."""

    def build(*batches: Faces) -> Dataset:
        place = tmp_path / "collected"
        place.mkdir()
        for number, (grey, emotions) in enumerate(batches):
            rows = [
                labelled(f"{number}-{i}", emotion, face.tobytes())
                for i, (face, emotion) in enumerate(zip(grey, emotions, strict=True))
            ]
            write_batch(place / f"batch-{number}.parquet", rows)
        collected = CollectedSettings(path=place, sha256=sha256(place))
        assert len(Collected(collected)) == sum(len(emotions) for _, emotions in batches)
        data = DataSettings(synthetic=SYNTHETIC, collected=collected)
        ingest(data, out=tmp_path / "dataset")
        return Dataset.open(tmp_path / "dataset")

    return build


def shuffled(emotions: list[str]) -> list[str]:
    return [str(e) for e in np.random.default_rng(0).permutation(emotions)]


def all_angry(emotions: list[str]) -> list[str]:
    """A grudge against one emotion: who is happy is called angry."""
    return ["angry" if emotion == "happy" else emotion for emotion in emotions]


def stopped(dataset: Dataset, folder: Path) -> list[str]:
    """What the pipeline stops for."""
    settings = ValidationSettings(min_rows_per_class=5)
    try:
        report = validate(dataset.folder, settings, folder / "docs", folder / "report.json")
    except ValidationFailedError as error:
        return [line.split(" ")[2] for line in str(error).splitlines()[1:-1]]
    return list(report.blocking_failures)


def test_honest_feedback_goes_through(
    with_feedback: Callable[..., Dataset], traffic: Faces, tmp_path: Path
) -> None:
    assert stopped(with_feedback(traffic), tmp_path) == []


@pytest.mark.parametrize("poison", [shuffled, all_angry])
def test_a_mislabelled_batch_stops_the_pipeline(
    with_feedback: Callable[..., Dataset],
    traffic: Faces,
    tmp_path: Path,
    poison: Callable[[list[str]], list[str]],
) -> None:
    grey, emotions = traffic
    assert "wrong_labels_of_emotion_fraction" in stopped(with_feedback((grey, poison(emotions))), tmp_path)


def test_a_bad_batch_does_not_hide_among_good_ones(
    with_feedback: Callable[..., Dataset], traffic: Faces
) -> None:
    grey, emotions = traffic
    good, bad = (grey[:230], emotions[:230]), (grey[230:], shuffled(emotions[230:]))
    found = wrong_labels.measure(with_feedback(good, bad))
    worst = found.worst(by_emotion=False)
    assert worst is not None
    assert worst.name == "collected batch-1"
    assert worst.at_least > 0.3
    assert "at least" in worst.sentence()
    assert next(s for s in found.suspicions if s.name == "collected batch-0" and not s.emotion).at_least < 0.1


def test_a_flood_of_one_image_is_stopped(
    with_feedback: Callable[..., Dataset], traffic: Faces, tmp_path: Path
) -> None:
    """Not one file again and again, which is a copy, but one face with other noise each time."""
    grey, emotions = traffic
    noise = np.random.default_rng(1).integers(-2, 3, (60, 48, 48))
    flood = np.clip(grey[0].astype(int) + noise, 0, 255).astype(np.uint8)
    dataset = with_feedback((np.concatenate([grey, flood]), [*emotions, *["happy"] * 60]))
    assert "repeated_image_fraction" in stopped(dataset, tmp_path)


def test_right_labels_of_drifted_images_are_no_wrong_labels(
    with_feedback: Callable[..., Dataset], traffic: Faces
) -> None:
    grey, emotions = traffic
    dark = (grey * 0.4).astype(np.uint8)
    flat = (128 + (grey.astype(float) - 128) * 0.4).astype(np.uint8)
    blurred = gaussian_filter(grey, (0, 1, 1))
    found = wrong_labels.measure(with_feedback((dark, emotions), (flat, emotions), (blurred, emotions)))
    assert {s.name for s in found.suspicions} >= {f"collected batch-{number}" for number in range(3)}
    numbers, limits = found.numbers(), ValidationSettings()
    assert numbers["wrong_labels_fraction"] <= limits.max_wrong_labels
    assert numbers["wrong_labels_of_emotion_fraction"] <= limits.max_wrong_labels_of_emotion


def test_a_main_source_whose_labels_are_shuffled_is_stopped(tmp_path: Path) -> None:
    """Nothing to compare it with, but its labels have to do with its pixels."""
    ingest(DataSettings(synthetic=SYNTHETIC), out=tmp_path / "dataset")
    dataset = Dataset.open(tmp_path / "dataset")
    assert wrong_labels.measure(dataset).agreement > 0.4
    frame = dataset.frame(columns=["emotion"])
    names = shuffled(frame["emotion"].tolist())
    dataset.frame = lambda columns: Dataset.frame(dataset, columns=columns).assign(emotion=names)  # type: ignore[method-assign, assignment, misc]
    found = wrong_labels.measure(dataset)
    assert found.agreement_at_most < ValidationSettings().min_label_agreement


def test_too_few_images_are_not_judged_and_the_report_says_so(tiny_dataset: Dataset) -> None:
    found = wrong_labels.measure(tiny_dataset)
    assert found.reason is not None
    assert "it takes 30" in found.reason
    assert found.worst(by_emotion=False) is None
