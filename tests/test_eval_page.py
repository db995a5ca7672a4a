"""The page of a run: what it shows, and that nothing in it is taken for HTML."""

import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from eval.predictions import Prediction
from eval.question import Question
from eval.report_page import PHOTO, SAMPLED, WORST, write_page
from eval.table import figures
from tests import tiny
from vlm.errors import DataError

REPORT: dict[str, Any] = {
    "title": "Title",
    "split": "test",
    "who": "some <model>",
    "metric": "exact <match>",
    "overall": 12.345,
    "interval_95": [10, 15],
    "questions": 3,
    "failed": 1,
    "per_kind": {"<i>": 33.333, "b": 100.0},
    "weights": "12ab",
    "command": "vlm eval --data '<here>'",
}
CONSISTENT = REPORT | {"consistency": 75.0}
MAJORITY = REPORT | {"who": "majority answer", "overall": 5.0, "per_kind": {"<i>": 66.667}}


def page(tmp_path: Path, count: int, best: float = 1) -> str:
    """Of questions whose answers are worth 0 to `best`, more and more."""
    tiny.photo(0).save(tmp_path / "photo.png")
    questions = [
        Question(
            f"id{n}",
            tmp_path / ("photo.png" if n else "absent.png"),
            f"<b>{n}</b>?",
            ("x",),
            {"kind": "<i>"} if n % 2 else {},
        )
        for n in range(count)
    ]
    predictions = [
        Prediction(q.id, "photo.png", q.text, f"<script>{n}</script>", ("x", "x", "y & z"))
        for n, q in enumerate(questions)
    ]
    file = tmp_path / "report.html"
    worth = [best * n / count for n in range(count)]
    write_page(file, [REPORT, MAJORITY], questions, predictions, worth)
    return file.read_text(encoding="utf-8")


def scores_in(part: str) -> list[float]:
    return [float(score) for score in re.findall(r'<td class="number">([\d.]+)</td>', part)]


def test_what_strangers_wrote_is_text(tmp_path: Path) -> None:
    html = page(tmp_path, 3)
    assert "&lt;b&gt;1&lt;/b&gt;?" in html
    assert "&lt;script&gt;1&lt;/script&gt;" in html
    assert '<option value="kind: &lt;i&gt;">kind: &lt;i&gt;</option>' in html
    for mark in ("<script>1", "<i>", "<model>", "<match>", "<here>"):
        assert mark not in html


def test_wrong_answers_come_first_the_worst_of_them_and_a_sample_of_all_behind(
    tmp_path: Path,
) -> None:
    html = page(tmp_path, 2 * WORST + SAMPLED)
    _, worst, sample = re.split("<h3>", html)
    assert worst.startswith(f"The {WORST} worst of 150 wrong answers<")
    shown = scores_in(worst)
    assert shown == sorted(shown)
    assert len(shown) == WORST
    assert max(shown) < 0.35
    drawn = scores_in(sample)
    assert len(drawn) == SAMPLED
    assert max(drawn) > 0.9
    # Of four, two are worth a half or more.
    _, worst, sample = re.split("<h3>", page(tmp_path, 4))
    assert worst.startswith("The 2 worst of 2 wrong answers<")
    assert scores_in(worst) == [0, 0.25]
    assert scores_in(sample) == [0, 0.25, 0.5, 0.75]


def test_who_is_always_right_has_no_worst_answers(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    question = Question("1", tiny.photo(0), "Describe.", ("a", "b"))
    prediction = Prediction("1", None, "Describe.", "a", ("a", "b"))
    # A caption is worth up to ten.
    write_page(file, [REPORT], [question], [prediction], [7.5])
    _, worst, sample = re.split("<h3>", file.read_text())
    assert worst.startswith("No wrong answer<")
    assert scores_in(worst) == []
    assert scores_in(sample) == [7.5]


def test_the_figures_of_all_by_kind_and_what_made_them(tmp_path: Path) -> None:
    shown = re.sub(r"<[^>]*>|\s+", " ", page(tmp_path, 3).split("<h2>Answers")[0])
    shown = " ".join(shown.split())
    assert "metric exact &lt;match&gt; command vlm eval --data &#39;&lt;here&gt;&#39;" in shown
    assert "weights some &lt;model&gt;, hash 12ab Figures of 3 questions" in shown
    assert "some &lt;model&gt; majority answer overall 12.35 5.00 95% interval" in shown
    assert "kind: &lt;i&gt; 33.33 66.67 kind: b 100.00" in shown


def test_a_figure_that_only_some_have() -> None:
    for reports, cells in (
        ([CONSISTENT, MAJORITY], ["75.00", ""]),
        ([MAJORITY, CONSISTENT], ["", "75.00"]),
    ):
        assert figures(reports)[0]["consistency"] == cells


def test_photos_are_inside_enlarge_and_nothing_is_fetched(tmp_path: Path) -> None:
    html = page(tmp_path, 3)
    sources = re.findall(r'<summary><img src="([^"]*)"', html)
    # Two of three can be read, and are among the worst or in the sample.
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert html.count("<img") == html.count('<details name="photo">') == 3
    assert "http" not in re.sub(r'"data:[^"]*"', "", html)
    assert PHOTO >= 3 * 160


@pytest.mark.skipif(which("chromium") is None, reason="needs the browser chromium")
def test_in_a_browser_rows_are_sorted_and_filtered(tmp_path: Path) -> None:
    html = page(tmp_path, 12, best=0.9)
    file = tmp_path / "used.html"

    def after(script: str) -> str:
        """The page as it is when a script has used it."""
        file.write_text(html.replace("</html>", f"<script>{script}</script></html>"))
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        return subprocess.run(
            [*browser, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    click = "document.querySelectorAll('.answers button')[11].click();"
    for clicks, order in ((1, "ascending"), (2, "descending")):
        sample = re.split("<h3>", after(click * clicks))[2]
        assert len(scores_in(sample)) == 12
        assert scores_in(sample) == sorted(scores_in(sample), reverse=clicks == 2)
        assert f'aria-sort="{order}"' in sample
    enter = "{0}.value = '{1}'; {0}.dispatchEvent(new Event('input'));"
    for script, expected in (
        ("", "19 of 19 shown"),
        (enter.format("text", "<SCRIPT>3<"), "2 of 19 shown"),
        (enter.format("kind", "kind: <i>"), "9 of 19 shown"),
        (enter.format("kind", "kind: <i>") + enter.format("text", "<b>2<"), "0 of 19 shown"),
    ):
        shown = after(script)
        assert f">{expected}</output>" in shown
        hidden = 19 - int(expected.split()[0])
        assert len(re.findall(r'<tr hidden="">', shown)) == hidden


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_page(tmp_path / "file" / "p.html", [REPORT], [], [], [])
