"""Schemathesis makes requests out of the service's own description, and holds the answers against it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.generation import GenerationMode

from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from tiny_package import write_tiny_package

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

OPERATIONS = [
    result.ok() for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()
]


@pytest.fixture(scope="module", autouse=True)
def _started(tmp_path_factory):
    before = getattr(app.state, "serving", None)
    folder = tmp_path_factory.mktemp("schema")
    classifier = OnnxClassifier(write_tiny_package(folder / "package"))
    limits = Environment(monitoring_dir=folder)
    start(app, Predictor(classifier, "1", PredictionLog(folder / "log"), limits.max_pixels), limits)
    yield
    app.state.serving = before


def test_every_operation_is_tried():
    assert {operation.label for operation in OPERATIONS} >= {"POST /predict", "POST /feedback", "GET /model"}


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
        for operation in OPERATIONS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or operation.body  # else there is nothing to get wrong
    ],
)
def test_the_service_answers_as_it_describes_itself(operation, mode):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def answers_as_described(case):
        case.call_and_validate(checks=CHECKS)

    answers_as_described()
