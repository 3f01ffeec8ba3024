"""JSON with the checksum of its content, and checksums of files."""

import hashlib
import json
from pathlib import Path

from simclr_core.data.files import write_atomically
from simclr_core.errors import StoreError


def checksum(value: object) -> str:
    """SHA-256 of JSON types, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: dict) -> None:
    """Sorted JSON with the SHA-256 of its content. Raises: ValueError for NaN and infinity."""
    value = {**value, "sha256": checksum(value)}
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False), "\n")


def read_json(path: Path) -> dict:
    """Raises: StoreError if the file is damaged or unreadable."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        value = json.loads(path.read_bytes())
        stored = value.pop("sha256")
    except Exception as error:  # many kinds: JSON of any form, any depth, any size
        raise StoreError(f"{path} is damaged or cannot be read ({type(error).__name__})") from error
    if stored != checksum(value):
        raise StoreError(f"{path} is damaged (its checksum does not fit)")
    return value
