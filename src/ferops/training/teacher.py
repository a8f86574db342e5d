"""Targets from a teacher: what another trained model answers to the images, learned beside their labels.

    >>> answers = ask(Path("models/teacher/model.keras"), data.grey)  # doctest: +SKIP
    >>> targets = soft_targets(data.labels, 0.1, answers, share=0.5)  # doctest: +SKIP

Knowledge distillation (Hinton et al. 2015) at temperature 1. A label of FER2013 is one emotion, and often
wrong; a teacher's probabilities say which emotions a face lies between. It is asked once, before training.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ferops.emotions import NUM_EMOTIONS
from ferops.errors import reason
from ferops.models.patt_lite import INPUT_SHAPE, SMALLEST_IMAGE, build_backbone

#: Images the teacher answers at a time.
BATCH = 128


class TeacherError(ValueError):
    """The teacher cannot be read or is none; the message says what to give."""


def soft_targets(
    labels: NDArray[np.int64],
    smoothing: float,
    answers: NDArray[np.float32] | None = None,
    share: float = 0.0,
) -> NDArray[np.float32]:
    """What each image is to be answered with: its smoothed label, blended with the teacher's answer.

    Args:
        labels: int64 `[N]`.
        smoothing: share of the label that is spread over all emotions.
        answers: of the teacher, float32 `[N, 7]`; none without one.
        share: of the teacher's answer in the target, 0 to 1.

    Returns:
        float32 `[N, 7]`, rows sum to 1.
    """
    own = np.eye(NUM_EMOTIONS, dtype=np.float32)[labels] * (1 - smoothing) + smoothing / NUM_EMOTIONS
    if answers is None:
        return own.astype(np.float32)
    return ((1 - share) * own + share * answers).astype(np.float32)


def load(path: Path) -> keras.Model:
    """A trained model, `model.keras`: uint8 `[N, 48, 48, 3]` to probabilities `[N, 7]`.

    Raises:
        TeacherError: if there is no such model, it cannot be read, or it takes or gives something else.
    """
    if not path.is_file():
        raise TeacherError(f"recipe.teacher {path} not found: give the path of a trained model's model.keras")
    try:
        model: Any = keras.saving.load_model(path, compile=False)
    except Exception as error:  # no archive, damaged, unknown layers: Keras raises many kinds
        raise TeacherError(f"recipe.teacher {path} cannot be loaded: {reason(error)}") from error
    wanted = ((None, *INPUT_SHAPE), (None, NUM_EMOTIONS))
    if (model.input_shape, model.output_shape) != wanted:
        raise TeacherError(
            f"recipe.teacher {path} turns {model.input_shape} into {model.output_shape}, "
            f"but must turn {wanted[0]} into {wanted[1]}"
        )
    return model


def require_weights(backbone: str, teacher: str | None) -> None:
    """Refuse a recipe whose backbone or teacher is no file that can be used, before any work.

    Raises:
        BackboneUnavailableError, TeacherError: if it is none, or cannot be downloaded.
    """
    if backbone != "none":
        build_backbone(SMALLEST_IMAGE, backbone)
    if teacher is not None:
        load(Path(teacher))


def ask(path: Path, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The teacher's mean answer to each image and its mirror.

    Args:
        path: as `load` takes it.
        grey: uint8 `[N, 48, 48]`.

    Returns:
        float32 `[N, 7]`.

    The images are asked about in one fixed shuffled order: they lie sorted by emotion, which would tell a
    teacher whose images attend to each other the answers.

    Raises:
        TeacherError: as `load`, or if what it gives are no probabilities.
    """
    model = load(path)
    out = np.empty((len(grey), NUM_EMOTIONS), np.float32)
    order = np.random.default_rng(0).permutation(len(grey))
    for start in range(0, len(grey), BATCH):
        rows = order[start : start + BATCH]
        images = np.repeat(grey[rows][..., None], 3, axis=-1)
        answers = [np.asarray(model.predict_on_batch(one)) for one in (images, images[:, :, ::-1])]
        out[rows] = np.mean(answers, axis=0)
    # bfloat16 outputs miss 1 by up to 0.003.
    if not (np.allclose(out.sum(axis=1), 1, atol=1e-2) and (out >= 0).all()):
        raise TeacherError(f"recipe.teacher {path} gives no probabilities: let it end in a softmax")
    return out / out.sum(axis=1, keepdims=True)
