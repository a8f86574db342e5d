"""What the prediction log's durability costs: `process` (the system has it) against `disk` (fdatasync).

    python benchmarks/log_durability.py [--folder predictions] [--seconds 3] [--json log_durability.json]

Threads log one prediction at a time, as a worker's requests do, into a new folder on the disk in question;
printed are records a second and the median and 99th percentile of what one request waits.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from ferops import files
from ferops.data.descriptors import DESCRIPTORS
from ferops.serving.prediction_log import PredictionLog, timestamp

THREADS = (1, 4, 16)

RECORD = {
    "id": "0" * 32,
    "time": timestamp(),
    "model_version": "v1-0a1b2c3d",
    "label": "happy",
    "confidence": 0.4000001,
    "probabilities": [0.1000001] * 7,
    "embedding": [0.1234567] * 32,
    "descriptors": dict.fromkeys(DESCRIPTORS, 0.1234567),
}


def measure(log: PredictionLog, threads: int, seconds: float) -> dict[str, float]:
    """Records a second, and milliseconds one of them waits, with so many threads that log without pause."""
    waits: list[list[float]] = [[] for _ in range(threads)]
    end = time.perf_counter() + seconds

    def work(mine: list[float]) -> None:
        begin = time.perf_counter()
        while begin < end:
            if not log.predictions([RECORD]):
                raise SystemExit(f"{log.folder} cannot be written")
            done = time.perf_counter()
            mine.append(done - begin)
            begin = done

    workers = [threading.Thread(target=work, args=(mine,)) for mine in waits]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    all_waits = np.concatenate([np.array(mine) for mine in waits])
    return {
        "records_per_second": len(all_waits) / seconds,
        "median_ms": float(np.median(all_waits)) * 1e3,
        "p99_ms": float(np.percentile(all_waits, 99)) * 1e3,
    }


def main() -> None:
    """Measure both, alternating, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = []
    print(f"{'threads':>8}{'durability':>12}{'records/s':>12}{'median ms':>12}{'p99 ms':>10}")
    for threads in THREADS:
        for durability in ("process", "disk"):
            with tempfile.TemporaryDirectory(prefix=".log-", dir=arguments.folder) as folder:
                result = measure(PredictionLog(Path(folder), durability), threads, arguments.seconds)
            rows.append({"threads": threads, "durability": durability, **result})
            print(
                f"{threads:>8}{durability:>12}{result['records_per_second']:>12.0f}"
                f"{result['median_ms']:>12.3f}{result['p99_ms']:>10.2f}"
            )
    slower = [
        a["records_per_second"] / b["records_per_second"] for a, b in zip(rows[::2], rows[1::2], strict=True)
    ]
    print(
        "`disk` logs slower by " + ", ".join(f"{s:.1f}x at {t}" for s, t in zip(slower, THREADS, strict=True))
    )
    if arguments.json:
        files.write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
