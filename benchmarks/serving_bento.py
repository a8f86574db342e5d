"""The plain way: a Bento on ONNX Runtime that decodes, resizes, predicts. A side of `benchmarks/serving.py`.

FER_MODEL=model.onnx bentoml serve serving_bento:Plain
"""

import os

import bentoml
import numpy as np
import onnxruntime
from PIL import Image

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@bentoml.service(workers=1)
class Plain:
    """Probabilities by emotion for each image."""

    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(os.environ["FER_MODEL"])
        self.side = self.session.get_inputs()[0].shape[1]

    @bentoml.api
    def predict(self, images: list[Image.Image]) -> list[dict[str, float]]:
        """One answer an image."""
        faces = [np.asarray(image.convert("RGB").resize((self.side, self.side))) for image in images]
        (answers,) = self.session.run(["probabilities"], {"images": np.stack(faces)})
        return [dict(zip(LABELS, map(float, answer), strict=True)) for answer in answers]
