"""A LLaVA folder's own chat template: the ids, logits and answers of transformers' processor and
class."""

import itertools
import json

import pytest
import torch
from transformers import AutoProcessor

import vlm
from tests import templates, tiny
from tests.llava_folders import ONE_IMAGE, TWO_IMAGES, make_llava
from vlm.chat_template import FORMATS, ChatTemplate
from vlm.errors import PromptError
from vlm.prompt import IMAGE_SLOT

QUESTION = {"role": "user", "content": [{"type": "text", "text": " Describe the image.\n"}]}
SEVERAL_TURNS = [
    {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
    *ONE_IMAGE,
    {"role": "assistant", "content": [{"type": "text", "text": "A cat sits on the grass."}]},
    *TWO_IMAGES,
    {"role": "assistant", "content": [{"type": "text", "text": "Two dogs"}]},
    QUESTION,
]
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['content'][0]['text'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
KINDS = ["llava-1.5", "mistral", "llama-3", "phi-3"]


def as_strings(messages, kind):
    """Mistral's template takes parts in questions only."""
    return [
        {**m, "content": m["content"][0]["text"]}
        if kind == "mistral" and m["role"] != "user"
        else m
        for m in messages
    ]


@pytest.mark.parametrize("scheme", ["byte", "always", "legacy", "first"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folders_own_template(tmp_path, kind, scheme):
    tokenizer = templates.tokenizer(scheme)
    llava = make_llava(tmp_path, tokenizer=tokenizer, template=templates.TEMPLATES[kind])
    processor = AutoProcessor.from_pretrained(tmp_path)
    model = vlm.load(tmp_path)
    assert model.config.language.prompt == "template"
    for messages in (ONE_IMAGE, TWO_IMAGES, [QUESTION], SEVERAL_TURNS):
        inputs = processor.apply_chat_template(
            as_strings(messages, kind),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        prompt = model.prompt(messages)
        image = tokenizer.convert_tokens_to_ids("<image>")
        ids = [image if number == IMAGE_SLOT else number for number in prompt.input_ids]
        assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.convert_ids_to_tokens(
            inputs["input_ids"][0].tolist()
        )
        if prompt.images:
            inputs["pixel_values"] = model.vision.preprocessing.batch(prompt.images)
        with torch.no_grad():
            expected = llava(**inputs).logits[0]
        torch.testing.assert_close(model.logits(messages), expected, rtol=0, atol=1e-5)
        answer = llava.generate(**inputs, max_new_tokens=8, do_sample=False)[0, len(ids) :]
        text = tokenizer.decode(answer, skip_special_tokens=True).lstrip()
        assert model.chat(messages, max_tokens=8) == text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.json", json.dumps({"chat_template": templates.TEMPLATES["phi-3"]})),
        ("chat_template.jinja", templates.TEMPLATES["phi-3"]),
    ],
)
def test_the_processors_template_goes_before_the_tokenizers(tmp_path, file, content):
    make_llava(tmp_path, tokenizer=templates.tokenizer("byte", "glm"))
    assert vlm.load(tmp_path).language.template.text == templates.TEMPLATES["glm"]
    (tmp_path / file).write_text(content)
    model = vlm.load(tmp_path)
    text = model.language.tokenizer.decode(model.prompt("Two dogs").input_ids)
    assert text == "<s><|user|>Two dogs<|end|>\n<|assistant|>"
    model.save(tmp_path / "own")
    assert vlm.load(tmp_path / "own").prompt(ONE_IMAGE) == model.prompt(ONE_IMAGE)


@pytest.mark.parametrize(
    ("tokenizer", "asked", "found"),
    [
        (templates.tokenizer("byte"), None, "chatml"),
        (templates.tokenizer("byte", chatml=False), None, "vicuna"),
        (templates.tokenizer("byte", "phi-3"), "vicuna", "vicuna"),
        (templates.tokenizer("byte", "phi-3"), "chatml", "chatml"),
    ],
)
def test_a_folder_without_a_template_or_asked_otherwise(tmp_path, tokenizer, asked, found):
    make_llava(tmp_path, tokenizer=tokenizer)
    model = vlm.load(tmp_path, prompt=asked)
    assert model.config.language.prompt == found
    assert model.language.template.text == FORMATS[found]


def test_a_template_that_cannot_be_followed(tmp_path):
    make_llava(tmp_path, template="{{ raise_exception('no chat') }}")
    with pytest.raises(PromptError) as raised:
        vlm.load(tmp_path)
    assert str(raised.value) == (
        "the chat template refuses this conversation: no chat: choose language.prompt=chatml or "
        "vicuna"
    )
    assert vlm.load(tmp_path, prompt="vicuna").chat("Two dogs", max_tokens=1)


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        *itertools.product([*templates.TEMPLATES, "text parts", "chatml"], ["byte", "first"]),
        # LLaVA-1.5's own code encodes what stands behind an image as the other schemes do.
        *itertools.product(["vicuna"], ["byte", "always", "legacy"]),
    ],
)
def test_an_exported_template_writes_the_same(tmp_path, kind, scheme):
    own = templates.TEMPLATES.get(kind, PARTS if kind == "text parts" else None)
    template = ChatTemplate(templates.tokenizer(scheme, own), "template" if own else kind)
    model = tiny.vision_language_model(template=template)
    model.export_llava(tmp_path / "llava")
    processor = AutoProcessor.from_pretrained(tmp_path / "llava")
    again = vlm.load(tmp_path / "llava")
    ends = json.loads((tmp_path / "llava" / "generation_config.json").read_text())["eos_token_id"]
    # A base model in ChatML names another end itself.
    assert template.end_id in ends
    image = template.vocabulary["<image>"]
    for messages in (TWO_IMAGES, as_strings(SEVERAL_TURNS, kind)):
        if kind in ("r1", "qwen-3.5") and messages is not TWO_IMAGES:
            continue  # Its own thoughts open only the answer to come.
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True
        )
        prompt = model.prompt(messages)
        ids = [image if number == IMAGE_SLOT else number for number in prompt.input_ids]
        assert ids == inputs["input_ids"][0]
        assert again.prompt(messages) == prompt
