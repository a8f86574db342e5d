"""What becomes of the faces in a simulation."""

import numpy as np
import pytest

from ferops.simulation.drifts import DRIFTS, SEVERITIES

FACE = np.random.default_rng(0).integers(40, 200, (48, 48)).astype(np.uint8)


@pytest.mark.parametrize("name", DRIFTS)
def test_a_higher_severity_changes_a_face_more(name):
    changed = [DRIFTS[name].change(FACE, severity, np.random.default_rng(1)) for severity in SEVERITIES]
    distances = [float(np.abs(face.astype(float) - FACE).mean()) for face in changed]
    assert distances == sorted(distances)
    assert distances[0] > 0
    assert all(face.dtype == np.uint8 and face.shape == FACE.shape for face in changed)


def test_darker_takes_the_share_of_light_that_it_says():
    darker = DRIFTS["darker"]
    assert darker.sentence(5) == "factor 0.3"
    assert darker.change(np.full((48, 48), 200, np.uint8), 5, np.random.default_rng(0)).max() == 60
