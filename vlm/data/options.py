"""Questions with lettered options, in the words that LLaVA-1.5 is evaluated with (Liu et al. 2023,
table 7), for training and evaluation alike."""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from vlm.data.sample import SkipSample

OPTION_LETTER = "Answer with the option's letter from the given choices directly."


def with_options(text: str, options: Mapping[str, str], hint: str | None = None) -> str:
    """A question behind its hint (ScienceQA's context), with its options, if it has some, each on a
    line of its own behind its letter."""
    lines = [f"Context: {hint}"] if hint else []
    lines.append(text)
    if options:
        lines += [*(f"{letter}. {option}" for letter, option in options.items()), OPTION_LETTER]
    return "\n".join(lines)


def options_of(value: Any) -> dict[str, str]:
    """The options by letter, of a list, of an object from letter to text, or of one with the lists
    `label` and `text` (ARC's); none if there is nothing. A SkipSample for anything else."""
    if not value:
        return {}
    if isinstance(value, dict) and isinstance(value.get("label"), list):
        value = dict(zip(map(str, value["label"]), value.get("text") or [], strict=False))
    elif isinstance(value, list) and len(value) <= len(ascii_uppercase):
        value = dict(zip(ascii_uppercase, value, strict=False))
    texts = list(value.values()) if isinstance(value, dict) else []
    if len(texts) < 2 or not all(isinstance(text, str | int | float) for text in texts):
        raise SkipSample("choices are not a list of texts", repr(value)[:100])
    options = {str(letter).strip(): str(option).strip() for letter, option in value.items()}
    # Some write each behind its letter already.
    own = {n: re.match(rf"\(?{re.escape(n)}[.):]\s+", option) for n, option in options.items()}
    if all(own.values()):
        options = {n: option[own[n].end() :] for n, option in options.items()}
    return options


def letter_of(answer: Any, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names: by letter (`B`, `(b)`, `B.`), by text, or by
    place, from 0; true and false also by yes and no. A SkipSample if it names none, or may mean
    several: 1 among the options 0, 1."""
    text = str(answer).strip().casefold()
    texts = {text, "yes" if answer else "no"} if isinstance(answer, bool) else {text}
    letter = re.fullmatch(r"\(?(\w+)[).:]?", text)
    fits = {name for name in options if letter and name.casefold() == letter[1]}
    fits |= {name for name, option in options.items() if option.casefold() in texts}
    place = int(text) if re.fullmatch("[0-9]{1,2}", text) else len(options)
    if place < len(options) and (not fits or isinstance(answer, int)):
        fits.add(list(options)[place])
    if len(fits) != 1:
        which = "several" if fits else "none"
        raise SkipSample(f"answer is {which} of the choices", text[:100])
    return fits.pop()
