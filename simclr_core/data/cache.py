"""Decoded data sets and listings, kept on the disk until their files or the decoder change."""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from simclr_core.data.dataset import Dataset, Split
from simclr_core.data.files import one_at_a_time, read_checksummed, set_aside, write_checksummed
from simclr_core.data.folder import decode, list_folder
from simclr_core.data.source import code_digests
from simclr_core.errors import StoreError, UserError


def kept_by_one(name: str, busy: str, build: Callable[[], bytes]) -> bytes:
    """The cache's file of this name, built if it is missing or damaged (which is set aside).

    Of several processes one builds; the others say `busy` and wait.
    Raises: UserError if the cache cannot be written.
    """
    path = Path(os.environ.get("SIMCLR_CACHE", "data/cache")) / name
    if content := _stored(path):
        return content
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(one_at_a_time(path.with_suffix(".lock"), busy))
        except OSError as error:
            raise UserError(f"{path.parent}, where decoded data are kept, cannot be written to "
                            f"({error.strerror}); name another with SIMCLR_CACHE") from error
        if not (content := _stored(path)):  # by another process meanwhile
            content = build()
            write_checksummed(path, content)
        return content


def _stored(path: Path) -> bytes | None:
    try:
        return read_checksummed(path) if path.is_file() else None
    except (StoreError, OSError) as error:
        set_aside(path, str(error))


def decoded_once(what: str, decoder: str, where: Path, build: Callable[[], Dataset]) -> Dataset:
    """What `build` decodes; decoded anew once `what` or the code of module `decoder` changes."""

    def packed() -> bytes:
        torch.save(build(), content := io.BytesIO())
        return content.getvalue()

    key = hashlib.sha256(f"{what}\n{code_digests(decoder)}".encode()).hexdigest()[:24]
    busy = f"{where}: another process is decoding it; waiting for it"
    content = kept_by_one(f"{key}.decoded", busy, packed)
    with torch.serialization.safe_globals([Dataset, Split]):
        return torch.load(io.BytesIO(content), weights_only=True)


def decoded_folder(root: Path, name: str, image_size: int) -> Dataset:
    """<root>/{train,test}/<class>/<image>; every image becomes image_size x image_size RGB."""
    splits, listing = list_folder(root)
    build = lambda: decode(name, splits, image_size, str(root))  # noqa: E731
    dataset = decoded_once(f"folder {image_size} {listing}", "simclr_core.data.folder", root, build)
    return replace(dataset, name=name)
