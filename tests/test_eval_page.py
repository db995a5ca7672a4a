"""The page of a run: what it shows, and that nothing in it is taken for HTML."""

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from eval.predictions import Prediction
from eval.question import Question
from eval.report_page import SAMPLED, WORST, write_page
from tests import tiny
from vlm.errors import DataError

REPORT = {
    "title": "Title",
    "split": "test",
    "who": "some <model>",
    "overall": 12.345,
    "interval_95": [10, 15],
    "questions": 3,
    "failed": 1,
}


def page(tmp_path: Path, count: int) -> str:
    tiny.photo(0).save(tmp_path / "photo.png")
    questions = [
        Question(f"id{n}", tmp_path / ("photo.png" if n else "absent.png"), f"<b>{n}</b>?", ("x",))
        for n in range(count)
    ]
    predictions = [
        Prediction(q.id, "photo.png", q.text, f"<script>{n}</script>", ("x", "x", "y & z"))
        for n, q in enumerate(questions)
    ]
    file = tmp_path / "report.html"
    worth = [n / count for n in range(count)]
    write_page(file, REPORT, questions, predictions, worth)
    return file.read_text(encoding="utf-8")


def test_what_strangers_wrote_is_text(tmp_path: Path) -> None:
    html = page(tmp_path, 3)
    assert "&lt;b&gt;1&lt;/b&gt;?" in html
    assert "&lt;script&gt;1&lt;/script&gt;" in html
    assert "<script>1" not in html
    assert "some &lt;model&gt;" in html


def test_the_worst_answers_come_first_and_a_sample_of_all_behind(tmp_path: Path) -> None:
    html = page(tmp_path, WORST + SAMPLED + 50)
    _, worst, sample = re.split("<h2>", html)
    assert worst.startswith(f"The {WORST} worst answers")
    shown = [float(score) for score in re.findall(r'<td class="number">([\d.]+)</td>', worst)]
    assert shown == sorted(shown)
    assert len(shown) == WORST
    assert max(shown) < 0.45
    drawn = [float(score) for score in re.findall(r'<td class="number">([\d.]+)</td>', sample)]
    assert len(drawn) == SAMPLED
    assert max(drawn) > 0.9


def test_photos_are_inside_and_nothing_is_fetched(tmp_path: Path) -> None:
    html = page(tmp_path, 3)
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in re.sub(r'"data:[^"]*"', "", html)


@pytest.mark.skipif(which("chromium") is None, reason="needs the browser chromium")
def test_a_click_on_a_column_sorts_by_it(tmp_path: Path) -> None:
    html = page(tmp_path, 12)
    click = "<script>document.querySelectorAll('.sortable button')[9].click()</script>"
    file = tmp_path / "clicked.html"
    for clicks, expected in ((0, None), (1, False), (2, True)):
        file.write_text(html.replace("</html>", click * clicks + "</html>"), encoding="utf-8")
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        shown = subprocess.run(
            [*browser, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        _, worst, sample = re.split("<h2>", shown)
        scores = [float(each) for each in re.findall(r'<td class="number">([\d.]+)</td>', sample)]
        assert len(scores) == 12
        if expected is not None:
            assert scores == sorted(scores, reverse=expected)
            assert f'aria-sort="{"descending" if expected else "ascending"}"' in sample
        assert worst.count("<img") == 11
        assert "&lt;script&gt;1&lt;/script&gt;" in shown


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_page(tmp_path / "file" / "p.html", REPORT, [], [], [])


def test_a_caption_is_worth_more_than_one(tmp_path: Path) -> None:
    question = Question("1", tiny.photo(0), "Describe.", ("a", "b"))
    prediction = Prediction("1", None, "Describe.", "a", ("a", "b"))
    file = tmp_path / "page.html"
    write_page(file, REPORT, [question], [prediction], [7.5])
    assert "7.50" in file.read_text()
