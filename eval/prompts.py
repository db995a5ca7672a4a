"""What LLaVA-1.5 puts behind the questions of benchmarks (Liu et al. 2023, table 7)."""


def short(text: str) -> str:
    return text + "\nAnswer the question using a single word or phrase."
