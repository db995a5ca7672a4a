"""What LLaVA-1.5 puts behind the questions of benchmarks (Liu et al. 2023, table 7)."""

SHORT_ANSWER = "Answer the question using a single word or phrase."

OPTION_LETTER = "Answer with the option's letter from the given choices directly."

UNANSWERABLE = (
    "When the provided information is insufficient, respond with 'Unanswerable'.\n" + SHORT_ANSWER
)
"""VizWiz's."""


def short(text: str) -> str:
    return text + "\n" + SHORT_ANSWER


def with_options(text: str, options: dict[str, str]) -> str:
    """A question with its options, each on a line of its own behind its letter."""
    lines = [text, *(f"{letter}. {option}" for letter, option in options.items()), OPTION_LETTER]
    return "\n".join(lines)
