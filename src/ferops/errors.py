r"""What another library's error says, for a sentence of ours.

>>> reason(OSError("no space left\nTraceback of the server"))
'no space left'
"""


def reason(error: Exception) -> str:
    """The first line of an error's message, or its class's name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
