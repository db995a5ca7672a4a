"""Captions as one would write them: what the shipped model was taught, whose data sets have them in
lower case, with a space in front of the full stop or without one."""

import re
from functools import partial
from pathlib import Path

from train.embedded.captioned import read_captions
from vlm import cli
from vlm.data.records import read_records
from vlm.files import write_rows


def tidy(caption: str) -> str:
    """A caption as one would write it: capital first, a full stop behind its last letter or digit,
    no space in front of it. Other marks at its end, those of other scripts among them, stay."""
    words = " ".join(caption.split())
    words = f"{words[:1].upper()}{words[1:]}"
    bare = words.rstrip(" .")
    if bare.endswith(("!", "?")):
        return bare
    return f"{bare}." if bare[-1:].isalnum() else re.sub(r" \.$", ".", words)


def main(captions: list[str]) -> None:
    """Write `tidy.jsonl` beside captions files: their captions as one would write them.

    Args:
        captions: JSON-lines files with `image`, `captions` and optionally `split`.
    """
    for name in captions:
        file = Path(name)
        pairs = zip(read_records(file), read_captions(file), strict=True)
        rows = [record.content | {"captions": list(map(tidy, of.captions))} for record, of in pairs]
        write_rows(file.with_name("tidy.jsonl"), rows)


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.tidy", main)))
