"""Multiple choice (MMBench, SEED-Bench, AI2D): which option an answer means."""

import re
from collections.abc import Mapping

MARKS = ".(),:*\"'# \n\t"
"""What may stand around an answer or a letter and is no part of it."""

_MARK = re.compile(r"[(),:*\"#]|(?<![a-z])\.|\.(?![a-z])|(?<!\w)'|'(?!\w)")
"""Those marks, but for the full stops of "a.m." and the apostrophe of "I'd"."""

_WORD = re.compile(
    r"(?<!\S)(?:[ai]|(?<![Oo]ption )(?<![Aa]nswer )(?<![Aa]nswer is )[AI]) "
    r"(?!(?:and|or|is|because)\b)(?=\w\w|\d)"
)
"""`A` and `I` as words of a sentence, once marks are spaces: another follows after a single one."""


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer means, None if it means none or several. The first of
    these that there is, whatever the case:

    - the option whose text is the whole answer, but for marks around it;
    - the letter that stands alone once marks are spaces (`Answer: B`, `**B**`, `(b)`), as
      VLMEvalKit reads it; an `A` in front of a word is the article;
    - the option whose text is in the answer; of one within another, the longer.
    """
    for marks in (None, MARKS):
        said = text.strip(marks).lower()
        whole = [name for name, option in options.items() if option.strip(marks).lower() == said]
        if said and len(whole) == 1:
            return whole[0]
    words = _WORD.sub(" ", _MARK.sub(" ", text)).split()
    letters = {word.upper() for word in words if len(word) == 1} & options.keys()
    if letters:
        return letters.pop() if len(letters) == 1 else None
    return _named(text.lower(), options)


def _named(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one option that a text in lower case has in it."""
    lower = {letter: option.strip().lower() for letter, option in options.items()}
    found = {
        letter: option
        for letter, option in lower.items()
        if option and re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(option)}(?!\w|[.,]\d)", text)
    }
    longest = [
        letter
        for letter, option in found.items()
        if not any(option in other and option != other for other in found.values())
    ]
    return longest[0] if len(longest) == 1 else None
