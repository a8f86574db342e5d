"""The service described for programs: OpenAPI at `/openapi.json`, and what `bentoml.SyncHTTPClient` reads.

BentoML would describe only its own typed APIs, of which there are none; see ferops.serving.app for why. Tests
hold real answers against this document, and send its examples.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ferops.emotions import EMOTIONS, SYNONYMS

Schema = dict[str, Any]

WHY = {
    400: "The body cannot be read, or holds no image.",
    401: "The service wants a token, or answers its own machine only.",
    408: "The request was not received in time.",
    413: "More bytes, images or pixels than the service takes.",
    415: "The content type is another than the one described.",
    422: "The content cannot be used; `index` says which image, counted from 0.",
    500: "The service failed; its log says why.",
    503: "It cannot be done at the moment; come again after `Retry-After` seconds.",
}

ID = {"type": "string", "pattern": "^[0-9a-f]{32}$", "examples": ["8c6f0d5e9b1a4c0f8e2d7a6b5c4d3e2f"]}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
TIME = {"type": "string", "format": "date-time", "examples": ["2026-01-31T23:59:59.123Z"]}


def _object(properties: Schema, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, **more}


SCHEMAS: Schema = {
    "Emotion": {"type": "string", "enum": list(EMOTIONS)},
    "Box": _object(
        {name: {"type": "integer", "minimum": 0} for name in ("x", "y", "width", "height")},
        description="Pixels of the image after its EXIF rotation; x and y are the upper left corner.",
    ),
    "Prediction": _object(
        {
            "id": ID,
            "label": {"$ref": "#/components/schemas/Emotion"},
            "confidence": {**SHARE, "description": "probability of the label"},
            "probabilities": _object(dict.fromkeys(EMOTIONS, SHARE), additionalProperties=False),
            "model_version": {"type": "string"},
            "synthetic": {
                "type": "boolean",
                "description": "the model was trained on drawn faces: its answers mean nothing for people",
            },
            "image": {"type": "integer", "minimum": 0, "description": "with faces=auto: of which image"},
            "box": {"$ref": "#/components/schemas/Box"},
            "score": {
                "type": ["number", "null"],
                "minimum": 0,
                "maximum": 1,
                "description": "the detector's; null for a small image, taken as a face without looking",
            },
        },
        optional=("image", "box", "score"),
        additionalProperties=False,
    ),
    "Predictions": _object(
        {"predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}}
    ),
    "Feedback": _object(
        {
            "id": ID,
            "emotion": {
                "type": "string",
                "enum": [*EMOTIONS, *SYNONYMS],
                "description": f"one of {', '.join(EMOTIONS)}, or a common synonym such as joy",
                "examples": ["happy"],
            },
        }
    ),
    "FeedbackTaken": _object(
        {
            "id": ID,
            "time": TIME,
            "emotion": {"$ref": "#/components/schemas/Emotion"},
            "logged": {"type": "boolean", "description": "false when the log could not be written"},
        }
    ),
    "Model": _object(
        {
            "model_version": {"type": "string"},
            "source": {"enum": ["champion", "release", "package"]},
            "synthetic": {"type": "boolean"},
            "runtime": {"type": "string"},
            "inference": {
                "type": ["object", "null"],
                "description": "asked, runtime, reduced, passed_over (why), evidence of a reduced precision",
            },
            "card": {"type": "object", "description": "name, parameters, labels, training data, lineage"},
            "shadow": {"type": ["string", "null"], "description": "version of a challenger that looks on"},
            "log": _object({"failed": {"type": "integer", "minimum": 0}}),
        }
    ),
    "About": _object(
        {
            "model": _object(
                {
                    "name": {"type": "string"},
                    "version": {"type": "string"},
                    "source": {"enum": ["champion", "release", "package"]},
                    "synthetic": {"type": "boolean"},
                    "trained_on": {"type": "array", "items": {"type": "string"}},
                }
            ),
            "accuracy": {
                "description": "of what answers, on the official test split, as recorded with the model; of a"
                " reduced precision on that split without copies, as it was judged; null if not recorded",
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {
                            "value": SHARE,
                            "interval": {"type": ["array", "null"], "items": SHARE},
                            "images": {"type": "integer"},
                        }
                    ),
                ],
            },
            "keeps_images": {
                "type": "boolean",
                "description": "whether each face is logged too, grey and 48x48",
            },
            "drift": {
                "description": "the monitor's last verdict; null where none is at hand",
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {
                            "verdict": {"enum": ["healthy", "drift", "too_few"]},
                            "time": TIME,
                            "model_version": {"type": "string"},
                            "report": {
                                "type": ["string", "null"],
                                "description": "address of its page, relative to this one",
                            },
                        }
                    ),
                ],
            },
            "history": {
                "type": ["string", "null"],
                "description": "address of the page of all verdicts, relative to this one",
            },
        }
    ),
    "Refusal": _object(
        {
            "code": {"type": "string", "description": "stable, for programs"},
            "message": {"type": "string", "description": "what to do, for people"},
            "index": {"type": "integer", "minimum": 0, "description": "the image that is to blame"},
        },
        optional=("index",),
    ),
}


def _json(schema: str, description: str, example: Any = None) -> Schema:
    content: Schema = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def _refusals(codes: Mapping[int, tuple[str, ...]] | None = None) -> Schema:
    """An operation's refusals, by HTTP status; every operation has two."""
    answers = {}
    for status, names in sorted({401: ("unauthorized",), 500: ("internal_error",), **(codes or {})}.items()):
        said = f"{WHY[status]} Codes: {', '.join(f'`{name}`' for name in names)}."
        answers[str(status)] = _json("Refusal", said, {"code": names[0], "message": WHY[status]})
    if "503" in answers:
        answers["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return answers


FEEDBACK_EXAMPLE = {"id": ID["examples"][0], "emotion": "happy"}
PREDICT = """Classify every image of the request; all of them or none.

    curl -F images=@face.png localhost:3000/predict
    curl -F images=@photo.jpg 'localhost:3000/predict?faces=auto'

Without `faces=auto` an image is one face, and the answers come in the order of the images. With it, faces are
found, cut out and turned upright, and there is one answer a face: none is an empty list. An image that
is a crop already (at most 64 pixels, or filled by its only face) is taken as it is."""

PATHS: Schema = {
    "/predict": {
        "post": {
            "operationId": "predict",
            "summary": "The expression of each face",
            "description": PREDICT,
            "parameters": [
                {
                    "name": "faces",
                    "in": "query",
                    "description": "find the faces of photographs, or take each image as one face",
                    "schema": {"enum": ["auto", "none"], "default": "none"},
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {
                        "schema": _object(
                            {
                                "images": {
                                    "type": "array",
                                    "minItems": 1,
                                    "items": {
                                        "type": "string",
                                        "format": "binary",
                                    },  # so Swagger UI lets one choose files
                                    "description": "files; the field may also be image, file or files",
                                }
                            }
                        ),
                    }
                },
            },
            "responses": {
                "200": _json("Predictions", "One prediction an image, or a face."),
                **_refusals(
                    {
                        400: ("no_image", "bad_multipart", "incomplete"),
                        408: ("timeout",),
                        413: ("too_large", "too_many_images", "too_many_pixels"),
                        415: ("unsupported_media_type",),
                        422: ("not_an_image", "empty", "truncated", "bad_faces"),
                        503: ("overloaded", "log_unavailable"),
                    }
                ),
            },
        }
    },
    "/feedback": {
        "post": {
            "operationId": "feedback",
            "summary": "Say what a face really showed",
            "description": "The last word on an id counts; whether the id exists is found out by monitoring.",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/Feedback"},
                        "example": FEEDBACK_EXAMPLE,
                    }
                },
            },
            "responses": {
                "202": _json("FeedbackTaken", "Taken; `logged` says whether it is kept, too."),
                **_refusals(
                    {
                        400: ("bad_json", "incomplete"),
                        408: ("timeout",),
                        413: ("too_large",),
                        415: ("unsupported_media_type",),
                        422: ("bad_id", "unknown_emotion"),
                        503: ("log_unavailable",),
                    }
                ),
            },
        }
    },
    "/model": {
        "get": {
            "operationId": "model",
            "summary": "What answers",
            "responses": {"200": _json("Model", "The model's card, version and runtime."), **_refusals()},
        }
    },
    "/about": {
        "get": {
            "operationId": "about",
            "summary": "Model, recorded accuracy and drift, as the page shows them",
            "responses": {"200": _json("About", "What is known of the model."), **_refusals()},
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Prometheus metrics",
            "responses": {
                "200": {
                    "description": "Text format.",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                },
                **_refusals(),
            },
        }
    },
    **{
        path: {
            "get": {
                "operationId": path[1:],
                "summary": summary,
                "security": [{}],
                "responses": {"200": {"description": "It is; else nobody answers."}},
            }
        }
        for path, summary in {"/livez": "Whether it runs", "/readyz": "Whether it can answer"}.items()
    },
}

DOCUMENT: Schema = {
    "openapi": "3.1.0",
    "info": {
        "title": "Facial expressions",
        "version": "1",
        "description": "Labels the expression that a face shows. It does not know what a person feels and "
        "must not be used for any decision about a person.",
    },
    "servers": [{"url": "."}],
    "security": [{}, {"token": []}],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}

_IMAGES = {"type": "object", "properties": {"images": {"type": "array", "items": {"type": "file"}}}}
_FEEDBACK = {"type": "object", "properties": {"id": {"type": "string"}, "emotion": {"type": "string"}}}

#: The same in BentoML's own form: names and inputs of the methods that its client gets.
BENTO_SCHEMA: Schema = {
    "name": "fer_classifier",
    "type": "service",
    "routes": [
        {
            "name": name,
            "route": route,
            "doc": doc,
            "batchable": False,
            "input": {**given, "required": list(given["properties"])},
            "output": {"type": "object"},
        }
        for name, route, doc, given in (
            ("predict", "/predict", "One prediction an image, each a face.", _IMAGES),
            ("predict_faces", "/predict?faces=auto", "One prediction a face found in the images.", _IMAGES),
            ("feedback", "/feedback", "Say what a face really showed.", _FEEDBACK),
        )
    ],
}


async def document(_: Request) -> Response:
    """The OpenAPI document."""
    return JSONResponse(DOCUMENT)


async def bento_schema(_: Request) -> Response:
    """What BentoML's client asks for."""
    return JSONResponse(BENTO_SCHEMA)


#: `/docs.json` and `/schema.json` are where BentoML has its own.
routes = [
    Route("/schema.json", bento_schema, methods=["GET"]),
    Route("/openapi.json", document, methods=["GET"]),
    Route("/docs.json", document, methods=["GET"]),
]
