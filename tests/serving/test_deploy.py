"""The Kubernetes manifest speaks of this service: its settings, addresses, user and times."""

from pathlib import Path

import pytest
import yaml
from bentoml._internal.container.generate import BENTO_UID_GID

from ferops.environment import Environment
from ferops.serving.app import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest():
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifest):
    return manifest["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    return pod["containers"][0]


def test_its_variables_are_settings_of_the_service(container, monkeypatch):
    for variable in container["env"]:
        if (name := variable["name"]).startswith("FEROPS_"):
            assert name.removeprefix("FEROPS_").lower() in Environment.model_fields
            monkeypatch.setenv(name, variable.get("value", "secret"))
    assert Environment().token is not None  # it is asked from other machines


def test_its_probes_and_ports_are_those_of_the_service(manifest, pod, container):
    paths = {route.path for route in app.routes}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
    port = container["ports"][0]["containerPort"]
    assert container["args"] == ["serve", "--host", "0.0.0.0", "--port", str(port)]
    annotations = manifest["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port)
    assert annotations["prometheus.io/path"] in paths
    assert manifest["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_it_leaves_time_to_finish_what_was_accepted(pod, container):
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    least = pause + float(env["FEROPS_TIMEOUT_S"]) + float(env["FEROPS_DRAIN_S"])
    assert pod["terminationGracePeriodSeconds"] >= least + 15  # for the work itself


def test_its_memory_is_enough_for_the_largest_pictures_that_it_takes(container):
    """40 bytes a pixel on every processor, the queue's bodies, and the worker itself (docs/serving.md)."""
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    limits = container["resources"]["limits"]
    assert int(env.get("FEROPS_WORKERS", 1)) == 1
    decoding = 40 * int(env["FEROPS_MAX_PIXELS"]) * int(limits["cpu"])
    queue = float(env.get("FEROPS_QUEUE_MB", Environment.model_fields["queue_mb"].default)) * 1e6
    assert int(limits["memory"].removesuffix("Mi")) * 2**20 >= decoding + queue + 250e6


def test_it_runs_as_the_user_of_the_image_and_writes_only_where_it_may(pod, container):
    assert pod["securityContext"]["runAsUser"] == BENTO_UID_GID
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    for written in (env["FEROPS_LOG_DIR"], env["BENTOML_HOME"]):
        assert any(written.startswith(f"{folder}/") for folder in mounted)
