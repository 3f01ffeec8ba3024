"""What went wrong, in one line for the person at the keyboard."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message names it, what was expected and what to do."""


class DataNotFound(UserError):
    """A data set is neither on disk nor to be downloaded; the message says where it was looked for."""


class StoreError(UserError):
    """The run store cannot be read or written (permissions, full disk, damaged file)."""
