"""Each image is asked among exactly the company it should have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_classifiers import FakeClassifier, planted_face
from ferops.explanation.neighbours import accuracy_by_share, companies, same_class

OPTIONS = {"batch_size": 16, "samples": 200, "level": 0.95, "seed": 0}


def faces(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 7
    grey = [planted_face(int(label), int(generator.integers(256)), generator) for label in labels]
    return np.repeat(np.stack(grey)[..., None], 3, axis=3), labels


@given(
    st.lists(st.integers(0, 6), min_size=8, max_size=120).filter(lambda labels: len(set(labels)) > 1),
    st.integers(2, 20),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_every_probe_is_scored_once_among_the_share_that_was_asked(
    labels: list[int], batch_size: int, share: float, seed: int
) -> None:
    truth = np.array(labels)
    probes = np.arange(0, len(truth), 2)
    same = same_class(share, batch_size)
    scored: list[int] = []
    for batch, seats in companies(truth, probes, same, batch_size, np.random.default_rng(seed)):
        assert len(batch) == batch_size
        assert len({*truth[batch[seats]].tolist()}) == 1
        assert (truth[batch] == truth[batch[seats][0]]).sum() == same
        scored += batch[seats].tolist()
    assert sorted(scored) == probes.tolist()


def test_neighbours_of_its_own_kind_help_only_a_model_that_mixes_its_batch() -> None:
    images, labels = faces(448)
    probes = np.arange(0, 448, 2)
    safe = accuracy_by_share(FakeClassifier(), lambda rows: images[rows], labels, probes, **OPTIONS)
    assert len({point.accuracy for point in safe}) == 1
    assert [point.share for point in safe] == pytest.approx([0, 4 / 15, 8 / 15, 11 / 15, 1])

    mixing = FakeClassifier(skill=0.5, confidence=0.4, leak=0.8)
    found = accuracy_by_share(mixing, lambda rows: images[rows], labels, probes, **OPTIONS)
    assert found[-1].accuracy > found[0].accuracy + 0.3
    assert all(low <= point.accuracy <= high for point in found for low, high in [point.interval])
    assert {point.images for point in found} == {224}


def test_one_emotion_has_no_strangers() -> None:
    images, _ = faces(20)
    with pytest.raises(ValueError, match="two emotions"):
        accuracy_by_share(
            FakeClassifier(), lambda rows: images[rows], np.zeros(20, np.int64), np.arange(4), **OPTIONS
        )
