"""What stands where: the champion, what is served, the gate's last word, the pages, and what to do next."""

from collections.abc import Iterator
from pathlib import Path

from ferops import files
from ferops.promotion.champion import load_champion
from ferops.promotion.release import load_release
from ferops.serving.report_folder import INDEX, REPORTS_FOLDER


def describe(reports: Path, registry: Path, release: Path, monitoring: Path) -> Iterator[str]:
    """Lines for a person who just ran the pipeline.

    Args:
        reports: folder of the stages' reports.
        registry: folder of the champion pointer.
        release: folder of the release.
        monitoring: folder of the policy, with the monitor's reports.
    """
    champion, released = load_champion(registry), load_release(release)
    if champion is None:
        yield "champion     none yet"
    else:
        faces = ", trained on synthetic faces" if champion.synthetic else ""
        yield f"champion     {champion.candidate} version {champion.version} ({champion.bento_tag}{faces})"
    if champion is not None:
        yield f"served       {champion.label}, the champion"
        if released is not None and champion.synthetic:
            yield f"             {released.label} knows real faces: FEROPS_PACKAGE={release} bentoml serve"
    elif released is not None:
        yield f"served       {released.label}, the release ({release}), until a champion is promoted"
    else:
        yield "served       nothing: there is neither a champion nor a release"
    gate = reports / "gate.json"
    if gate.exists():
        yield f"gate         {files.read_json(gate)['reason']}"
    for name, path in (
        ("validation", reports / "validation/index.html"),
        ("gate page", reports / "gate.html"),
        ("monitoring", monitoring / REPORTS_FOLDER / INDEX),
    ):
        if path.exists():
            yield f"{name:<12} {path}"
    if champion is None:
        yield "next         dvc repro; if that refused every candidate, the gate page says why and what to do"
        if released is not None:
            yield "             bentoml serve              the release on http://127.0.0.1:3000"
        return
    yield "next         . .venv/bin/activate       once in each new shell"
    yield "             bentoml serve              the champion on http://127.0.0.1:3000"
    yield "             mlflow ui                  runs, and the registry's fer-classifier"
    yield "             ferops monitor             drift report, once there are predictions"
    yield "             make up                    all of it: MLflow, Prefect with a worker, the service"
