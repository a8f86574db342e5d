"""Labelled traffic as batches under the real DVC, and what ingest makes of them beside a main source."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sources.trees import tree, write_folder

from ferops.data.collected import (
    PLACE,
    Labelled,
    UnknownBatchError,
    batches,
    known,
    labelled,
    reject,
    split_of,
    update,
)
from ferops.data.ingest import ingest
from ferops.data.sources import SourceError
from ferops.data.store import Dataset, Summary
from ferops.emotions import EMOTIONS
from ferops.files import sha256
from ferops.settings import CollectedSettings, DataSettings, load_settings
from repositories import commit, dvc, run

SHARES = CollectedSettings(sha256="0" * 64, validation=0.1, test=0.2)


def faces(count: int, emotion: str = "happy", first: int = 0) -> list[Labelled]:
    """Labels of so many different images, `face-<number>`."""
    rng = np.random.default_rng(first + 10**6)
    return [
        labelled(f"face-{first + n}", emotion, rng.integers(0, 256, 48 * 48, np.uint8).tobytes())
        for n in range(count)
    ]


def collected_settings(root: Path) -> CollectedSettings:
    settings = load_settings(root / "params.yaml").data.collected
    assert settings is not None
    return settings.model_copy(update={"path": root / settings.path})


def ingested(root: Path, members: dict[str, bytes] | None = None) -> tuple[Summary, Dataset]:
    """A small tree of images and what was collected, as one dataset."""
    path = write_folder(root / "main", members or tree({"train": 5, "test": 2}))
    data = DataSettings(source="image_tree", path=path, collected=collected_settings(root))
    return ingest(data, out=root / "dataset"), Dataset.open(root / "dataset")


def test_the_parameters_name_the_version_that_git_and_dvc_bring_back(repository: Path) -> None:
    update(repository, {"first": faces(3)})
    first = commit(repository, "first")
    update(repository, {"second": faces(2, first=3)})
    second = commit(repository, "second")

    for version, held in ((first, ["first"]), (second, ["first", "second"])):
        run(repository, "git", "checkout", "-q", version)
        dvc(repository, "checkout", "-q")
        place = repository / PLACE
        assert [batch.stem for batch in batches(place)] == held
        assert collected_settings(repository).sha256 == sha256(place)
    assert run(repository, "git", "status", "--porcelain") == ""


def test_updating_with_nothing_new_changes_nothing(repository: Path) -> None:
    version = update(repository, {"first": faces(3)})
    commit(repository, "first")
    assert update(repository, {}) == version
    assert run(repository, "git", "status", "--porcelain") == ""


def test_shares_that_a_person_set_stay(repository: Path) -> None:
    update(repository, {"first": faces(3)})
    params = repository / "params.yaml"
    params.write_text(
        params.read_text().replace("path: data/collected", "path: data/collected\n    test: 0.5")
    )
    update(repository, {"second": faces(2, first=3)})
    assert collected_settings(repository).test == 0.5


def test_the_collected_stand_beside_the_main_source(repository: Path) -> None:
    update(repository, {"first": faces(60)})
    summary, dataset = ingested(repository)

    rows = dataset.frame()
    assert rows["source"].value_counts().to_dict() == {"collected": 60, "image_tree": 49}
    assert rows["id"].is_unique
    assert summary.sources["image_tree"]["test"] == 14
    assert sum(summary.sources["collected"].values()) == 60
    assert min(summary.sources["collected"].values()) > 0
    assert set(rows.loc[rows["source"] == "collected", "source_split"]) == {"first"}
    assert any("60 labels of served predictions, in 1 batches" in note for note in summary.notes)


def test_the_last_word_on_a_prediction_counts(repository: Path) -> None:
    rows = faces(5)
    update(repository, {"first": rows, "second": [rows[0]._replace(emotion="sad")]})
    _, dataset = ingested(repository)
    ours = dataset.frame().query("source == 'collected'").set_index("id")
    assert len(ours) == 5
    assert ours.loc["collected/face-0", ["emotion", "source_split"]].tolist() == ["sad", "second"]


def test_an_upload_of_a_known_image_moves_nothing(repository: Path) -> None:
    """Whoever sends images of the main source cannot take them from its train or test, or name them anew."""
    _, before = ingested_without(repository)
    grey = before.images("test")[..., 0], before.images("train")[..., 0]
    stolen = [labelled(f"copy-{n}", "angry", image.tobytes()) for n, image in enumerate(np.concatenate(grey))]
    update(repository, {"stolen": stolen})
    summary, dataset = ingested(repository)

    columns = ["id", "split", "emotion", "copy_in_train"]
    assert dataset.frame(columns=columns).equals(before.frame(columns=columns))
    excluded = dataset.frame(include_excluded=True).query("source == 'collected'")["excluded"]
    assert set(excluded) == {"copy_of_main"}
    assert any("collected images are in the main source" in note for note in summary.notes)


def ingested_without(root: Path) -> tuple[Summary, Dataset]:
    path = write_folder(root / "main", tree({"train": 5, "test": 2}))
    data = DataSettings(source="image_tree", path=path)
    return ingest(data, out=root / "before"), Dataset.open(root / "before")


def test_an_image_has_one_split_for_ever() -> None:
    """Copies share it, larger shares only take from train, and the shares are what was asked for."""
    rows = faces(2000)
    splits = [split_of(row.pixel_hash, SHARES) for row in rows]
    assert splits == [split_of(row.pixel_hash, SHARES) for row in rows]
    assert splits.count("test") / 2000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("validation") / 2000 == pytest.approx(0.1, abs=0.03)
    more = SHARES.model_copy(update={"test": 0.3})
    assert all(
        split_of(r.pixel_hash, more) == "test" for r, s in zip(rows, splits, strict=True) if s == "test"
    )


def test_a_rejected_batch_is_known_and_not_learnt(repository: Path) -> None:
    update(repository, {"good": faces(3), "bad": faces(2, first=3)})
    reject(repository, "bad")
    place = repository / PLACE
    assert [batch.stem for batch in batches(place)] == ["good"]
    assert len(known(place)) == 5
    _, dataset = ingested(repository)
    assert len(dataset.frame().query("source == 'collected'")) == 3
    with pytest.raises(UnknownBatchError, match="has no batch worse; it has: good"):
        reject(repository, "worse")


def test_what_is_forgotten_leaves_its_batch(repository: Path) -> None:
    update(repository, {"first": faces(3)})
    update(repository, {}, frozenset({"face-1"}))
    assert set(known(repository / PLACE)) == {"face-0", "face-2"}


@pytest.mark.parametrize("damage", ["absent", "another version"])
def test_a_folder_that_is_not_the_named_version_is_refused(repository: Path, damage: str) -> None:
    update(repository, {"first": faces(3)})
    if damage == "absent":
        (repository / PLACE).rename(repository / "elsewhere")
    else:
        (repository / PLACE / "first.parquet").write_bytes(b"something else")
    with pytest.raises(SourceError, match="dvc checkout"):
        ingested(repository)


def test_a_killed_call_is_mended_by_the_next(repository: Path) -> None:
    """The folder changed, DVC and the parameters did not."""
    update(repository, {"first": faces(3)})
    before = collected_settings(repository).sha256
    (repository / PLACE / "first.parquet").rename(repository / PLACE / "renamed.parquet")
    assert update(repository, {}) == collected_settings(repository).sha256 != before


def test_every_emotion_can_be_collected(repository: Path) -> None:
    rows: Sequence[Labelled] = [row for n, e in enumerate(EMOTIONS) for row in faces(2, e, first=10 * n)]
    update(repository, {"all": rows})
    _, dataset = ingested(repository)
    assert set(dataset.frame().query("source == 'collected'")["emotion"]) == set(EMOTIONS)
