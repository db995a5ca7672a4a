"""The one exception family: every message is a line for the user, saying what was wrong and what
to do about it. The command line prints it without a traceback."""

LONGEST = 300
"""Characters of such a line, whatever a path, a URL or a key from a stranger's file holds."""


def shortened(line: str, most: int = LONGEST) -> str:
    """A line of at most so many characters: its middle is left out, since what to do comes last."""
    behind = most // 3
    return line if len(line) <= most else f"{line[: most - behind - 3]}...{line[-behind:]}"


class VLMError(Exception):
    """Anything a user can put right: base class of all errors raised on purpose."""

    def __str__(self) -> str:
        return shortened(super().__str__())


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
