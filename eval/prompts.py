"""What LLaVA-1.5 puts behind the questions of benchmarks (Liu et al. 2023, table 7)."""

SHORT_ANSWER = "Answer the question using a single word or phrase."

UNANSWERABLE = (
    "When the provided information is insufficient, respond with 'Unanswerable'.\n" + SHORT_ANSWER
)
"""VizWiz's."""


def short(text: str) -> str:
    return text + "\n" + SHORT_ANSWER
