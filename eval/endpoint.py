"""Any model behind an OpenAI-compatible address (OpenAI, Anthropic, vLLM, llama.cpp): the same
questions, for the same table."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from eval.answerers import Answer
from eval.question import Question, data_url, opened
from vlm.errors import ConfigError, ImageError, VLMError, shortened

RETRIES = 5
"""Further tries of a request that the server was too busy for, or that got lost."""

FIRST_WAIT = 1.0
"""Seconds before the second try; they double with each."""

LONGEST_WAIT = 60.0
"""Seconds between two tries, at most."""

WORTH_A_RETRY = {408, 409, 429, 500, 502, 503, 504, 529}

AHEAD = 32
"""Questions asked at most before their answers are taken: a run that is killed loses no more."""

REFUSED = {401, 403, 404}
"""The same would happen to every question: the run ends."""


class EndpointAnswerer:
    """Asks a server, several questions at a time.

    Args:
        url: what `/chat/completions` is put behind, such as `http://localhost:8000/v1`.
        key: sent as bearer token; None sends none.
        concurrency: requests under way at a time.
        prices: dollars for a million tokens of input and of output, as `2.5,10`.

    Raises a ConfigError for an address, a key or prices that cannot be.
    """

    def __init__(
        self,
        url: str,
        name: str,
        key: str | None = None,
        concurrency: int = 8,
        prices: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint must begin with http:// or https://, not {url}")
        try:
            self._address = httpx.URL(f"{url.rstrip('/')}/chat/completions")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            self._client = httpx.Client(headers=headers, timeout=120)
        except httpx.InvalidURL as error:
            raise ConfigError(f"endpoint {url} is no address: {error}") from error
        except UnicodeEncodeError as error:
            raise ConfigError("OPENAI_API_KEY is no key: it has other than ASCII") from error
        self.name = name
        self.concurrency = concurrency
        self.prices = None if prices is None else prices_of(prices)
        self.answers, self.tokens_in, self.tokens_out = 0, 0, 0
        self._lock = threading.Lock()

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        """See `Answerer`. A question that fails after all tries is an error of its own; a VLMError
        if the server refuses the key, or knows no such address or model."""
        with ThreadPoolExecutor(self.concurrency) as executor:
            for start in range(0, len(questions), AHEAD):
                some = questions[start : start + AHEAD]
                yield from executor.map(lambda question: self._ask(question, max_tokens), some)

    def _ask(self, question: Question, max_tokens: int) -> Answer:
        try:
            messages = question.messages(part)
        except ImageError as error:
            return Answer("", str(error))
        body = {"model": self.name, "messages": messages}
        body |= {"max_tokens": max_tokens, "temperature": 0}
        wait = FIRST_WAIT
        for left in range(RETRIES, -1, -1):
            try:
                reply = self._client.post(self._address, json=body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if reply.status_code == 200:
                    return self._read(reply)
                problem = f"{reply.status_code}: {shortened(reply.text, 200)}"
                if reply.status_code in REFUSED:
                    raise VLMError(f"{self._address} refuses: {problem}")
                if reply.status_code not in WORTH_A_RETRY:
                    break
                wait = max(wait, seconds(reply.headers.get("retry-after")))
            if left:
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
        return Answer("", problem)

    def _read(self, reply: httpx.Response) -> Answer:
        try:
            found: dict[str, Any] = reply.json()
            text = found["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return Answer("", f"no answer in the reply: {shortened(reply.text, 200)}")
        usage = found.get("usage") or {}
        with self._lock:
            self.answers += 1
            self.tokens_in += usage.get("prompt_tokens") or 0
            self.tokens_out += usage.get("completion_tokens") or 0
        if not isinstance(text, str):
            return Answer("", "the reply has no text")
        return Answer(text.strip())

    def spent(self) -> str:
        """What the server counted, images included, and what that costs."""
        told = f"{self.answers:,} answers, {self.tokens_in:,} tokens in, "
        told += f"{self.tokens_out:,} tokens out"
        if self.prices is None:
            return told
        cost = self.tokens_in * self.prices[0] + self.tokens_out * self.prices[1]
        return f"{told}, {cost / 1e6:.2f} dollars"


def part(image: Any) -> dict[str, Any]:
    """An image in a message, as PNG, so that the server sees the pixels that our models see."""
    return {"type": "image_url", "image_url": {"url": data_url(opened(image), "png")}}


def seconds(header: str | None) -> float:
    """A `Retry-After` header in seconds; 0 for none, and for a date."""
    try:
        return float(header or 0)
    except ValueError:
        return 0.0


def prices_of(text: str) -> tuple[float, float]:
    try:
        for_input, for_output = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"prices are two numbers, such as 2.5,10, not {text}") from error
    return for_input, for_output
