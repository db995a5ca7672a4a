"""LLaVA in: the same logits as transformers' LlavaForConditionalGeneration."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import vlm
from tests.llava_folders import (
    ONE_IMAGE,
    TWO_IMAGES,
    edit_config,
    inputs_of,
    make_llava,
    reference_logits,
)
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, ProjectorConfig, VisionConfig
from vlm.errors import ConfigError, WeightsError
from vlm.loading import build
from vlm.splice import pad


@pytest.mark.parametrize(
    ("layer", "strategy"),
    [(-2, "default"), (-2, "full"), (-1, "default"), ([0, -3, -1], "default"), ([1, 2], "full")],
)
def test_import_gives_transformers_logits(tmp_path, layer, strategy):
    llava = make_llava(tmp_path, layer, strategy)
    model = vlm.load(tmp_path)
    for messages in (ONE_IMAGE, TWO_IMAGES):
        expected = reference_logits(llava, model, messages)
        torch.testing.assert_close(model.logits(messages), expected, rtol=0, atol=1e-5)


def test_import_of_padded_rows(tmp_path):
    llava = make_llava(tmp_path)
    model = vlm.load(tmp_path)
    prompts = [model.prompt(ONE_IMAGE), model.prompt(TWO_IMAGES)]
    inputs = inputs_of(llava, model, prompts)
    ids, mask = pad([prompt.input_ids for prompt in prompts], side="left")
    one, *two = model.project(model.encode_images(prompts[0].images + prompts[1].images))
    with torch.no_grad():
        found = model.language(model.embed(ids, [one, torch.cat(two)]), mask)
        expected = llava(**inputs).logits
    real = mask.bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)
    for row, messages in enumerate((ONE_IMAGE, TWO_IMAGES)):
        torch.testing.assert_close(
            model.logits(messages), expected[row][real[row]], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("messages", [ONE_IMAGE, TWO_IMAGES])
def test_import_answers_as_transformers(tmp_path, messages):
    llava = make_llava(tmp_path)
    model = vlm.load(tmp_path)
    inputs = inputs_of(llava, model, [model.prompt(messages)])
    ids = llava.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    expected = model.language.tokenizer.decode(new, skip_special_tokens=True).lstrip()
    assert expected
    assert model.chat(messages, max_tokens=8) == expected


@pytest.mark.parametrize(
    "renamed",
    [
        {"vision_tower.": "vision_tower.vision_model."},
        {
            "language_model.lm_head.": "lm_head.",
            "language_model.model.": "model.language_model.",
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
    ],
    ids=["old", "new"],
)
def test_both_forms_of_the_keys_load(tmp_path, renamed):
    make_llava(tmp_path)
    expected = vlm.load(tmp_path).logits(ONE_IMAGE)
    tensors = load_file(tmp_path / "model.safetensors")
    written = {}
    for name, tensor in tensors.items():
        prefix = next((p for p in renamed if name.startswith(p)), "")
        written[renamed.get(prefix, "") + name.removeprefix(prefix)] = tensor
    assert written.keys() != tensors.keys()
    save_file(written, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(vlm.load(tmp_path).logits(ONE_IMAGE), expected)


def test_import_is_frozen_and_says_what_it_found(tmp_path):
    make_llava(tmp_path, [-3, -2], "full")
    model = build(ModelConfig(llava=str(tmp_path)), "cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.vision.layers == [-3, -2]
    assert model.config.vision.select == "full"
    assert model.config.projector.kind == "mlp"
    assert model.config.language.prompt == "template"
    assert model.language.end_ids() == {2}
    low = build(ModelConfig(llava=str(tmp_path)), "cpu", torch.bfloat16)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}


def test_own_checkpoint_of_an_import(tmp_path):
    make_llava(tmp_path / "llava", [-3, -2], "full")
    torch.manual_seed(1)
    lora = LanguageConfig(lora=LoraConfig(rank=2))
    model = build(ModelConfig(llava=str(tmp_path / "llava"), language=lora), "cpu").eval()
    adapters = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in adapters)
    for name in model.trained:
        model.get_parameter(name).data.normal_(std=0.1)
    model.save(tmp_path / "own")
    again = vlm.load(tmp_path / "own")
    assert again.config == model.config
    # Adapters are merged on load.
    torch.testing.assert_close(
        again.logits(ONE_IMAGE), model.logits(ONE_IMAGE), rtol=1e-4, atol=1e-4
    )


def test_quantised_import(tmp_path):
    pytest.importorskip("bitsandbytes")
    make_llava(tmp_path / "llava")
    model = vlm.load(tmp_path / "llava", device="cpu", load_in="8bit")
    quantised = {n for n, p in model.named_parameters() if not p.is_floating_point()}
    assert quantised
    assert all(name.startswith("language.model.model.layers.") for name in quantised)
    expected = vlm.load(tmp_path / "llava", device="cpu").logits(ONE_IMAGE)
    torch.testing.assert_close(model.logits(ONE_IMAGE), expected, rtol=0.1, atol=0.3)
    with pytest.raises(
        ConfigError, match=r"a quantised language model cannot be exported.*load_in"
    ):
        model.export_llava(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "blip_2"}, ConfigError, "type 'blip_2', not 'llava' or 'llava_next'"),
        ({"text_config": None}, ConfigError, "no text_config: this is the form of LLaVA's own"),
        ({"multimodal_projector_bias": False}, ConfigError, "the projector has no bias"),
        ({"projector_hidden_act": "silu"}, ConfigError, "activation is 'silu', only 'gelu'"),
        (
            {"vision_config": {"model_type": "siglip_vision_model"}},
            ConfigError,
            "would lose a real patch; set 'full'",
        ),
        (
            {"vision_config": {"model_type": "dinov2_with_registers"}},
            ConfigError,
            "drops one token in transformers' Llava, but dinov2_with_registers has 5",
        ),
        (
            {
                "vision_config": {"model_type": "siglip2_vision_model"},
                "vision_feature_select_strategy": "full",
            },
            ConfigError,
            "cannot run a vision tower of type 'siglip2_vision_model'",
        ),
        (
            {"vision_config": {"model_type": "convnext"}},
            ConfigError,
            "no vision tower of type 'convnext'",
        ),
        (
            {"text_config": {"model_type": "cohere"}},
            ConfigError,
            r"'cohere' changes its logits \(logit_scale\)",
        ),
        ({"vision_feature_select_strategy": "cls"}, WeightsError, "vision_feature_select_strategy"),
        ({"vision_feature_layer": 9}, ConfigError, r"vision layer 9 is not in -4\.\.3"),
        ({"text_config": {"model_type": "unheard-of"}}, WeightsError, "unheard-of"),
    ],
)
def test_what_cannot_be_imported(tmp_path, changes, error, message):
    make_llava(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(error, match=message):
        vlm.load(tmp_path)


def test_a_config_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="of type None, not 'llava'"):
        vlm.load(tmp_path)


@pytest.mark.parametrize("broken", ["missing", "short"])
def test_import_with_tensors_that_do_not_fit(tmp_path, broken):
    make_llava(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bias = tensors.pop("multi_modal_projector.linear_1.bias")
    if broken == "short":
        tensors["multi_modal_projector.linear_1.bias"] = bias[:5].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = "lacks 1 of the model's tensors .*, model.multi_modal_projector.linear_1.bias for one"
    with pytest.raises(WeightsError, match=message):
        vlm.load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vision": VisionConfig(layers=[-1])}, r"vision.layers cannot be chosen: .* has \[-2\]"),
        ({"vision": VisionConfig(select="full")}, "vision.select cannot be chosen: .* has default"),
        ({"vision": VisionConfig(tiles=[[1, 2]])}, "vision.tiles cannot be chosen: .* has none"),
        (
            {"projector": ProjectorConfig(kind="linear")},
            "projector cannot be chosen: .* mlp of its own",
        ),
    ],
)
def test_import_with_settings_that_contradict_it(tmp_path, setting, message):
    make_llava(tmp_path)
    with pytest.raises(ConfigError, match=message):
        build(ModelConfig(llava=str(tmp_path), **setting), "cpu")
