"""Answer: generated token ids -> text, piece by piece, cut at stop strings."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerText:
    """The text of one answer as its tokens come in, cut at the stop string that is complete first.

    What may still change is held back: half of a multi-byte character, or the beginning of what
    may become a stop string. Once one was seen (`stopped`), nothing more will come. `sent` is all
    that was given so far.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._ids: list[int] = []
        self.sent = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes one token id, gives the text that is now certain (often "")."""
        self._ids.append(token)
        # Half a character decodes to U+FFFD, until its other half comes.
        text = self._cut(self._text().rstrip("\ufffd"))
        if self.stopped:
            return self._send(text)
        held = max(
            (
                length
                for stop in self._stop
                for length in range(1, len(stop))
                if text.endswith(stop[:length])
            ),
            default=0,
        )
        return self._send(text[: len(text) - held])

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        return "" if self.stopped else self._send(self._cut(self._text()))

    def _text(self) -> str:
        # "Cleaning up" the spaces would change text that is already sent.
        return self._tokenizer.decode(
            self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).lstrip()

    def _cut(self, text: str) -> str:
        starts = [(text.index(stop), stop) for stop in self._stop if stop in text]
        if not starts:
            return text
        self.stopped = True
        return text[: min((start + len(stop), start) for start, stop in starts)[1]]

    def _send(self, text: str) -> str:
        piece = text[len(self.sent) :]
        self.sent += piece
        return piece
