"""Whether one client sends nearly all, without saying which: each prediction notes one of 256 buckets.

    >>> ClientBuckets(Path("predictions")).bucket("203.0.113.7")  # doctest: +SKIP
    137

The bucket is a keyed hash of the client's address, under a random key of that UTC day which all workers
share and which is deleted when the day is over. A client that sends 94 % of a day fills a bucket; yet two
predictions of one bucket need not be of one client (256 buckets are few), a bucket means nothing on the
next day, and without the key nobody can tell which bucket an address was in.
"""

import os
import secrets
import threading
import time
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

#: Of the log folder; it holds the key of one day.
KEYS_FOLDER = "keys"

#: One of 256 buckets: enough that one client does not look like many, too few to tell clients apart.
DIGEST_BYTES = 1
KEY_BYTES = 32

#: Seconds after which a key that is not whole was left by a full disk or a killed worker.
WRITTEN_BY_THEN_S = 1.0
_DAY_S = 86_400


class ClientBuckets:
    """Sorts clients into buckets; safe to share by threads, and the same in all workers of a log folder.

    Args:
        log_dir: the folder that the service logs to.
    """

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._lock = threading.Lock()
        self._current: tuple[int, bytes] = (-1, b"")

    def bucket(self, address: str) -> int | None:
        """Today's bucket of a client, 0 to 255; none where the day's key cannot be had.

        That is no reason to refuse an answer: the log, which lies beside the key, tells its own failures.
        """
        day, key = self._current
        today = int(time.time() // _DAY_S)
        if day != today:
            try:
                with self._lock:
                    if self._current[0] != today:
                        self._current = (today, _shared_key(self._log_dir, today))
            except OSError:
                return None
            _, key = self._current
        return blake2b(address.encode(), key=key, digest_size=DIGEST_BYTES).digest()[0]


def _shared_key(log_dir: Path, day: int) -> bytes:
    """The key of a day (counted from 1970), made by the first worker that asks; those before are deleted."""
    name = f"{datetime.fromtimestamp(day * _DAY_S, UTC):%Y-%m-%d}"
    path = log_dir / KEYS_FOLDER / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:  # another worker writes it at this moment, or could not: it is made anew
        if time.time() - path.stat().st_mtime > WRITTEN_BY_THEN_S:
            path.unlink(missing_ok=True)
        raise OSError(f"{path} is not written yet")
    delete_keys(log_dir, before=name)
    return key


def delete_keys(log_dir: Path, before: str) -> None:
    """Delete the keys of days before an ISO date: from then on nobody can tell whose their buckets were."""
    for path in (log_dir / KEYS_FOLDER).glob("????-??-??"):
        if path.name < before:
            path.unlink(missing_ok=True)
