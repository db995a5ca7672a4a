"""A model behind an OpenAI-compatible address: a local server answers, stumbles and refuses."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.endpoint import RETRIES, EndpointAnswerer
from eval.question import Question
from tests import tiny
from vlm.cli import main
from vlm.errors import ConfigError, VLMError

Reply = tuple[int, Any, dict[str, str]]


def said(text: Any) -> Reply:
    """A reply as servers give it."""
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    return 200, {"choices": [{"message": {"content": text}}], "usage": usage}, {}


class Server:
    """Replies as it is told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.reply: Callable[[dict[str, Any]], Reply] = lambda body: said("a cat")
        self.at_once = self.most_at_once = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.requests.append(body)
                    server.keys.add(self.headers["Authorization"])
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                status, content, headers = server.reply(body)
                with lock:
                    server.at_once -= 1
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status if self.path == "/v1/chat/completions" else 404)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.endpoint.FIRST_WAIT", 0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def questions(count: int) -> list[Question]:
    return [Question(str(n), tiny.photo(n), f"What is {n}?", ("cat",)) for n in range(count)]


def asked(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"][1]["text"]


def test_a_question_is_sent_with_its_photo(server: Server) -> None:
    endpoint = EndpointAnswerer(server.url, "some-model", "secret")
    (answer,) = endpoint.answer(questions(1), 16)
    assert (answer.text, answer.error) == ("a cat", None)
    (body,) = server.requests
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some-model", 16, 0)
    assert asked(body) == "What is 0?"
    head, _, code = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(BytesIO(base64.b64decode(code))).tobytes() == tiny.photo(0).tobytes()
    assert server.keys == {"Bearer secret"}


def test_answers_keep_their_order_and_few_are_under_way(server: Server) -> None:
    three = threading.Barrier(3, timeout=20)

    def reply(body: dict[str, Any]) -> Reply:
        # Three are under way, or it would wait for ever.
        three.wait()
        return said(asked(body))

    server.reply = reply
    endpoint = EndpointAnswerer(server.url + "/", "m", concurrency=3, prices="1000,10000")
    answers = list(endpoint.answer(questions(12), 16))
    assert [answer.text for answer in answers] == [f"What is {n}?" for n in range(12)]
    assert server.most_at_once == 3
    assert server.keys == {None}
    assert endpoint.spent() == "12 answers, 1,200 tokens in, 84 tokens out, 2.04 dollars"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    replies = iter([(status, "busy", {"Retry-After": "0.01"}), (status, "", {}), said("a dog")])
    server.reply = lambda body: next(replies)
    endpoint = EndpointAnswerer(server.url, "m")
    assert next(endpoint.answer(questions(1), 16)).text == "a dog"
    assert len(server.requests) == 3


def test_a_question_that_fails_does_not_end_the_run(server: Server) -> None:
    replies = {
        "What is 0?": said("fine"),
        "What is 1?": (500, "no\nluck", {}),
        "What is 2?": (400, "too\nlarge", {}),
        "What is 3?": (200, "no JSON", {}),
        "What is 4?": (200, {"choices": []}, {}),
        "What is 5?": said(None),
    }
    server.reply = lambda body: replies[asked(body)]
    endpoint = EndpointAnswerer(server.url, "m")
    answers = list(endpoint.answer(questions(6), 16))
    assert [answer.error for answer in answers] == [
        None,
        "500: no luck",
        "400: too large",
        "no answer in the reply: no JSON",
        'no answer in the reply: {"choices": []}',
        "the reply has no text",
    ]
    assert sum(asked(body) == "What is 1?" for body in server.requests) == RETRIES + 1
    assert sum(asked(body) == "What is 2?" for body in server.requests) == 1


def test_a_photo_that_cannot_be_read_is_not_sent(server: Server, tmp_path: Path) -> None:
    question = Question("1", tmp_path / "absent.png", "What?", ("cat",))
    (answer,) = EndpointAnswerer(server.url, "m").answer([question], 16)
    assert "absent.png" in answer.error
    assert not server.requests


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_ends_the_run(server: Server, status: int) -> None:
    server.reply = lambda body: (status, "bad key", {})
    with pytest.raises(VLMError, match=rf"/v1/chat/completions refuses: {status}: bad key"):
        list(EndpointAnswerer(server.url, "m").answer(questions(40), 16))
    assert len(server.requests) < 40


def test_a_server_that_is_not_there_is_an_error_of_each_question() -> None:
    endpoint = EndpointAnswerer("http://127.0.0.1:9/v1", "m")
    first, second = endpoint.answer(questions(2), 16)
    assert first.error.startswith("ConnectError")
    assert second.error.startswith("ConnectError")


def test_an_endpoint_has_an_address() -> None:
    with pytest.raises(ConfigError, match="endpoint must begin with http:// or https://"):
        EndpointAnswerer("localhost:8000", "m")
    with pytest.raises(ConfigError, match=r"^endpoint http://a:b/v1 is no address: .*port.*'b'$"):
        EndpointAnswerer("http://a:b/v1", "m")
    with pytest.raises(ConfigError, match=r"^OPENAI_API_KEY is no key: it has other than ASCII$"):
        EndpointAnswerer("http://localhost", "m", "sk-\u2026")


@pytest.fixture
def evaluate(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """The command on three questions of one's own, asked of the server alone."""
    lines = []
    for n in range(3):
        tiny.photo(n).save(tmp_path / f"{n}.png")
        lines.append({"image": f"{n}.png", "question": f"What is {n}?", "answers": ["a cat"]})
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    who = ["--model", "null", "--endpoint", server.url, "--name", "m"]

    def command(*options: str) -> tuple[int, str, str]:
        where = ["--output", str(tmp_path / "runs")]
        status = main(["eval", str(tmp_path / "mine.jsonl"), *who, *where, *options])
        return (status, *capsys.readouterr())

    return command


def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / f"{tmp_path.name}-mine" / "m"


def test_a_server_that_was_down_is_asked_again(
    server: Server, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    server.reply = lambda body: (400, "still loading", {})
    status, out, told = evaluate()
    assert status == 1
    assert "m: 3 of 3 not answered, the first: 400: still loading\n" in out
    assert f"vlm: not one answer of m to {tmp_path.name}-mine: put the reason right" in told

    server.reply = lambda body: said("a cat") if "1" in asked(body) else (400, "too large", {})
    status, out, told = evaluate()
    assert (status, len(server.requests)) == (0, 6)
    assert "m: 2 of 3 not answered, the first: 400: too large\n" in out
    assert "already" not in out

    server.reply = lambda body: said("a cat")
    status, out, told = evaluate()
    assert (status, {asked(body) for body in server.requests[6:]}) == (
        0,
        {"What is 0?", "What is 2?"},
    )
    assert "not answered, the first" not in out
    assert f"m: {run_folder(tmp_path) / 'report.html'}, 1 of 3 answers were there already\n" in out
    lines = (run_folder(tmp_path) / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"] for line in lines] == [None] * 3
    assert json.loads((run_folder(tmp_path) / "report.json").read_text())["overall"] == 100


def test_json_stays_json_when_nothing_was_answered(
    server: Server, evaluate: Callable[..., Any]
) -> None:
    server.reply = lambda body: (400, "still loading", {})
    status, out, told = evaluate("--json")
    assert (status, json.loads(out)[0]["failed"]) == (1, 3)
    assert "m: 3 of 3 not answered, the first: 400: still loading\n" in told


def test_prices_are_read_before_anything_is_paid_for(
    server: Server, evaluate: Callable[..., Any]
) -> None:
    status, _, told = evaluate("--prices", "free")
    assert (status, server.requests) == (1, [])
    assert "prices are two numbers, such as 2.5,10, not free" in told
    status, _, told = evaluate("--prices", "1000,10000")
    assert status == 0
    assert "3 answers, 300 tokens in, 21 tokens out, 0.51 dollars" in told


def test_a_run_of_a_server_is_tied_to_no_weights(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    assert evaluate("--beams", "2")[0] == 0
    assert json.loads((run_folder(tmp_path) / "run.json").read_text()) == {
        "split": "all",
        "limit": None,
    }
    assert evaluate("--beams", "1")[0] == 0
