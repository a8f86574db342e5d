"""Keras models that read the answer planted in an image (`planted_face`), in many guises."""

from collections.abc import Sequence

import keras
from keras import ops

from fake_classifiers import STEP
from ferops.emotions import EMOTIONS, NUM_EMOTIONS


def reader(
    *,
    skill: float = 0.6,
    leak: float = 0.0,
    dtype: str = "uint8",
    channels: int = 3,
    side: int | None = 48,
    white: float = 255.0,
    black: float = 0.0,
    logits: bool = False,
    labels: Sequence[str] = EMOTIONS,
) -> keras.Model:
    """Right where the planted difficulty is under `skill`; else it names the next emotion.

    `leak` is the share of an answer that comes from the mean of its batch; `black` and `white` the range in
    which it takes pixels; `labels` the order of its outputs.
    """
    images = keras.Input((side, side, channels), dtype=dtype)
    grey = (ops.cast(images, "float32")[..., 0] - black) / (white - black) * 255
    own = ops.one_hot(ops.cast(ops.round(grey[:, 0, 0] / STEP), "int32") % NUM_EMOTIONS, NUM_EMOTIONS)
    is_right = ops.cast(grey[:, 0, 1:2] < 256 * skill, "float32")
    answer = is_right * own + (1 - is_right) * ops.roll(own, 1, axis=1)
    answer = 0.5 * answer + 0.5 / NUM_EMOTIONS
    if leak:
        answer = (1 - leak) * answer + leak * ops.mean(answer, axis=0, keepdims=True)
    answer = ops.take(answer, [EMOTIONS.index(label) for label in labels], axis=1)
    return keras.Model(images, ops.log(answer) + 3 if logits else answer, name="reader")
