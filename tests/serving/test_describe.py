"""The service describes faces as the datasets are described: drift compares the two."""

import numpy as np

from ferops.data.descriptors import DESCRIPTORS
from ferops.data.descriptors import describe as describe_one
from ferops.serving.describe import NAMES, describe


def test_many_faces_are_described_as_each_of_them_is():
    rng = np.random.default_rng(0)
    ramp = np.arange(48, dtype=np.uint8)[None].repeat(48, axis=0)
    faces = np.stack(
        [
            rng.integers(0, 256, (48, 48), dtype=np.uint8),
            rng.integers(100, 103, (48, 48), dtype=np.uint8),
            ramp * 5,
            np.full((48, 48), 7, np.uint8),
            np.zeros((48, 48), np.uint8),
            np.full((48, 48), 255, np.uint8),
            *(np.full((48, 48), value, np.uint8) for value in (25, 26, 229, 230)),  # about dark and bright
        ]
    )
    assert NAMES == DESCRIPTORS
    np.testing.assert_allclose(describe(faces), [describe_one(face) for face in faces], rtol=0, atol=1e-5)


def test_a_face_is_described_the_same_alone_and_beside_others():
    faces = np.random.default_rng(1).integers(0, 256, (5, 48, 40), dtype=np.uint8)
    alone = np.concatenate([describe(face[None]) for face in faces])
    np.testing.assert_array_equal(describe(faces), alone)
