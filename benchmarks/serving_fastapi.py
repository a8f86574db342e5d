"""The plain way: FastAPI and Keras, as tutorials write it. A side of `benchmarks/serving.py`.

FER_MODEL=model.keras uvicorn serving_fastapi:app
"""

import io
import os

import keras
import numpy as np
from fastapi import FastAPI, UploadFile
from PIL import Image

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

app = FastAPI()
model = keras.saving.load_model(os.environ["FER_MODEL"], compile=False)
side = model.input_shape[1]


@app.post("/predict")
def predict(images: list[UploadFile]) -> list[dict[str, float]]:
    """Probabilities by emotion for each image."""
    faces = [
        np.asarray(Image.open(io.BytesIO(image.file.read())).convert("RGB").resize((side, side)))
        for image in images
    ]
    answers = model.predict(np.stack(faces), verbose=0)
    return [dict(zip(LABELS, map(float, answer), strict=True)) for answer in answers]
