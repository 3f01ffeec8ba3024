"""What went wrong, in one line for the person at the keyboard."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

# Of torch on CUDA, on a CPU; of cuBLAS and cuDNN.
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def in_one_line(text: str) -> str:
    """The text with line breaks, control characters and no UTF-8 written as \\n, \\x1b, \\udcff."""
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], text)


class UserError(ValueError):
    """What the user gave cannot be used: one line names it, what was expected and what to do."""

    def __init__(self, message: str):
        super().__init__(in_one_line(message))


class DataNotFound(UserError):
    """A data set is neither on disk nor to be downloaded; says where it was looked for."""


class StreamError(UserError):
    """A streamed image cannot be read, or its decoder has ended: in this process alone."""


class StoreError(UserError):
    """The run store cannot be read or written (permissions, full disk, damaged file)."""


@contextmanager
def enough_memory(doing: str, advice: str) -> Iterator[None]:
    """Within the block an allocation that fails becomes one line with the advice.

    Raises: UserError; other errors as they are.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch does not always raise OutOfMemoryError
        said = any(words in str(error) for words in NO_MEMORY)
        if not (said or isinstance(error, MemoryError)):
            raise
        raise UserError(f"out of memory {doing}; {advice}") from error
