"""LLaVA-1.5 in the words of its published figures."""

import json

import pytest

import vlm
from eval.published import ask_as_published
from tests import templates, tiny
from tests.llava_folders import make_llava
from vlm.chat_template import VICUNA_SYSTEM
from vlm.cli import main


@pytest.mark.parametrize("kind", list(templates.TEMPLATES)[:4])
def test_only_llava_1_5_is_asked_as_published(tmp_path, kind):
    make_llava(tmp_path, tokenizer=templates.tokenizer("byte"), template=templates.TEMPLATES[kind])
    model = vlm.load(tmp_path)
    before = model.prompt("Where?")
    asked = ask_as_published(model, str(tmp_path))
    assert asked == (kind == "llava-1.5") == (model.prompt("Where?") != before)
    text = model.language.tokenizer.decode(model.prompt("Where?").input_ids)
    assert (text == f"<s>{VICUNA_SYSTEM} USER: Where? ASSISTANT:") == asked
    # What was trained in other words is asked in these.
    model = vlm.load(tmp_path)
    model.save(tmp_path / "own")
    assert not ask_as_published(vlm.load(tmp_path / "own"), str(tmp_path / "own"))


def test_an_evaluation_says_so(tmp_path, capsys):
    llava = tmp_path / "llava"
    template = templates.TEMPLATES["llava-1.5"]
    make_llava(llava, tokenizer=templates.tokenizer("byte"), template=template)
    tiny.photo().save(tmp_path / "a.png")
    record = {"image": "a.png", "question": "What is it?", "answers": ["a cat"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(record))
    output = tmp_path / "out"
    main(["eval", str(tmp_path / "q.jsonl"), "--model", str(llava), "--output", str(output)])
    assert "llava: asked in Vicuna's words, as in LLaVA-1.5's evaluation" in capsys.readouterr().err
    (run,) = output.glob("*/llava/run.json")
    assert json.loads(run.read_text())["prompt"] == "vicuna"
