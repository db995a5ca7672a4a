"""Exact match (DAQUAR, easy-VQA): the answer as it is, but for its case."""


def as_set(text: str) -> frozenset[str]:
    """An answer as it is compared: in lower case, the parts between commas in any order."""
    return frozenset(part for each in text.lower().split(",") if (part := each.strip()))


def exact_match(prediction: str, answer: str) -> bool:
    """Whether both are the same set of answers.

    >>> exact_match("Table, chair", "chair, table")
    True
    """
    return as_set(prediction) == as_set(answer)
