"""Build the Bento, export it, install it into an environment of its own, serve it elsewhere, ask it.

    python benchmarks/bento.py [--keep folder]

What `bentoml containerize` does, without a container: the new environment has nothing but what the Bento
itself names, and BentoML's store there is empty. The model is the champion that your store has, else the
release. Where pip takes that from its own settings say, not the index that BentoML writes into the
Bento. Asked are the pages, the description, the metrics, a face, and a photograph with one to find. Exits
with 1 at the first answer that is not as it must be.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from ferops.serving.trial import running_service
from fuzz_files import LOSSLESS

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "tests" / "serving" / "collins.jpg"
PAGES = (
    "/",
    "/docs",
    "/openapi.json",
    "/static/page.js",
    "/static/swagger-ui-bundle.js",
    "/about",
    "/metrics",
)


def bentoml(home: Path, *arguments: str) -> str:
    """What a command of BentoML's says, in the repository and with a home of its own.

    Raises:
        SystemExit: with its complaint, if it fails.
    """
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"`bentoml {' '.join(arguments)}` fails: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def export(folder: Path) -> Path:
    """Build a Bento and unpack its export in a folder: what another machine has of it.

    It is built in a home that has the user's models and none of their Bentos: nothing is left behind there.
    """
    home = Path(tempfile.mkdtemp(prefix="home-", dir=folder))
    models = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml").resolve() / "models"
    if models.is_dir():
        (home / "models").symlink_to(models)
    tag = bentoml(home, "build", "--output", "tag").splitlines()[-1].removeprefix("__tag__:")
    # The whole path: BentoML 1.4 takes a relative one from the root of the file system.
    archive = folder / f"{tag.replace(':', '-')}.bento"
    bentoml(home, "export", tag, str(archive))
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(unpacked, filter="data")
    return unpacked


def install(bento: Path, folder: Path) -> Path:
    """The Python of a new environment that has what the Bento names."""
    named = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    wanted = folder / "requirements.txt"
    wanted.write_text("\n".join(line for line in named if not line.startswith("--index-url")))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(wanted)]
    subprocess.run(pip, check=True)
    return python


def ask(url: str) -> None:
    """See that everything is there.

    Raises:
        SystemExit: with what is not.
    """
    with httpx.Client(base_url=url, timeout=60) as http:
        for page in PAGES:
            answer = http.get(page)
            if answer.status_code != 200 or not answer.content:
                raise SystemExit(f"{page} answers {answer.status_code}")
        face = LOSSLESS["png"](np.full((48, 48), 100, np.uint8))
        for query, content in (("", face), ("?faces=auto", PHOTO.read_bytes())):
            answer = http.post(f"/predict{query}", files={"images": content})
            if answer.status_code != 200 or len(answer.json()["predictions"]) != 1:
                raise SystemExit(f"/predict{query} answers {answer.status_code}: {answer.text[:300]}")
            said = answer.json()["predictions"][0]
            print(f"/predict{query}: {said['label']} {said['confidence']:.3f} by {said['model_version']}")
        print(f"runs on {http.get('/model').json()['runtime']}")


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="work here and leave everything")
    options = parser.parse_args()
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="ferops-bento-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bento = export(folder)
        size = sum(path.stat().st_size for path in bento.rglob("*") if path.is_file())
        print(f"{size / 1e6:.1f} MB", flush=True)
        begin = time.monotonic()
        python = install(bento, folder)
        print(f"installed in {time.monotonic() - begin:.0f} s", flush=True)
        store = Path(tempfile.mkdtemp(prefix="empty-", dir=folder))
        environment = {
            "FEROPS_LOG_DIR": str(folder / "log"),
            "BENTOML_HOME": str(store),
            "PYTHONPATH": "",
            "VIRTUAL_ENV": "",
        }
        begin = time.monotonic()
        sys.executable = str(python)  # what starts the service
        with running_service(folder, environment, target=str(bento)) as url:
            print(f"ready after {time.monotonic() - begin:.1f} s", flush=True)
            ask(url)
            for process in psutil.Process().children(recursive=True):
                if "_bentoml_impl.worker.service" in process.cmdline():
                    print(f"memory of the worker: {process.memory_info().rss / 1e6:.0f} MB")
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
