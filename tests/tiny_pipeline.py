"""A DVC repository of three stages that take no time, named so that files order and run order differ."""

import subprocess
import sys
from pathlib import Path

DVC_YAML = """
stages:
  report:
    matrix:
      candidate: [patt_lite, vit]
    cmd: python copy_file.py model.txt report_${item.candidate}.txt
    deps: [model.txt]
    outs: ["report_${item.candidate}.txt"]
  ingest:
    cmd: python copy_file.py raw.txt data.txt
    deps: [raw.txt]
    outs: [data.txt]
  train:
    cmd: python train.py
    deps: [data.txt, train.py]
    outs: [model.txt]
"""

COPY = """
import shutil, sys
print("reading", sys.argv[1])
shutil.copy(*sys.argv[1:])
"""

TRAIN = """
import pathlib, sys
data = pathlib.Path("data.txt").read_text()
print("epoch 1", flush=True)
if "broken" in data:
    sys.exit("the data is broken")
pathlib.Path("model.txt").write_text(data.upper())
"""

ORDER = ["ingest", "train", "report@patt_lite", "report@vit"]


def write_tiny_pipeline(folder: Path) -> Path:
    """A git and DVC repository; `raw.txt` is its data, and the word `broken` in it fails the stage train."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "copy_file.py").write_text(COPY)
    (folder / "train.py").write_text(TRAIN)
    (folder / "raw.txt").write_text("faces")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    return folder
