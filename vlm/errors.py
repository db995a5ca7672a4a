"""The one exception family: every message is a line for the user, saying what was wrong and what
to do about it. The command line prints it without a traceback."""

import re

LONGEST = 290
"""Characters of an error: a line of 300 has room for what is printed in front of it."""


class VLMError(Exception):
    """Anything a user can put right: base class of all errors raised on purpose. Its message is one
    line, see `shortened`."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class ImageError(VLMError):
    """An image could not be read; names the source and the reason."""


class ConfigError(VLMError):
    """A configuration that cannot be built, or two parts that do not fit together."""


class PromptError(VLMError):
    """A conversation that cannot be turned into tokens."""


class WeightsError(VLMError):
    """Weights that are not there, do not match their hash, or cannot be fetched."""


class CheckpointError(VLMError):
    """A checkpoint folder that cannot be read or written."""


class DataError(VLMError):
    """A data set that cannot be used; names the file and the line."""


class UsageError(VLMError):
    """Options, or a file of options, that a command does not take."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text as one line of at most `longest` characters. If it has more, words of over 100, such
    as a data URL, lose their middle, and if that is not enough, so does the whole."""
    text = " ".join(filter(None, map(str.strip, text.splitlines())))
    if len(text) > longest:
        text = re.sub(r"\S{101,}", lambda word: without_middle(word[0], 60), text)
    return without_middle(text, longest)


def without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    # The end is short: it says what to do, or which file of a folder it was.
    end = (longest - 3) // 3
    return f"{text[: longest - 3 - end]}...{text[-end:]}"
