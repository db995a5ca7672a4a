"""Multiple choice (MMBench, SEED-Bench, AI2D): which option an answer means."""

import re
from collections.abc import Mapping


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer means: the letter that it begins with, alone or in
    front of a mark (`B`, `(B)`, `B.`, `B: a fish`); else the only option whose text is in it,
    whatever the case. None if there is no such."""
    text = text.strip()
    found = re.match(r"\(?([A-Z])(?:[).:,]|$)", text)
    if found and found[1] in options:
        return found[1]
    lower = text.lower()
    named = [
        letter
        for letter, option in options.items()
        if re.search(rf"(?<!\w){re.escape(option.strip().lower())}(?!\w)", lower)
    ]
    return named[0] if len(named) == 1 else None
