"""LLaVA out: the same logits in transformers' LlavaForConditionalGeneration, and back again, in the
form that LLaVA-1.5 is published in (tests/slow/export_versions.py reads it in older versions)."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import vlm
from tests import tiny
from tests.llava_folders import (
    ONE_IMAGE,
    TWO_IMAGES,
    inputs_of,
    make_llava,
    reference_logits,
    reload,
    rename_tokens,
)
from vlm.chat_template import ChatTemplate
from vlm.config import LoraConfig, ModelConfig, ProjectorConfig, VisionConfig
from vlm.efficientnet import EfficientNetTower
from vlm.errors import ConfigError
from vlm.language import LanguageModel
from vlm.model import VisionLanguageModel
from vlm.preprocess import Preprocessing
from vlm.projector import Projector
from vlm.vision import TransformerTower

TOWERS = {
    "clip_vision_model": {},
    "siglip_vision_model": {},
    "dinov2": {},
    "vit": {},
    "dinov2_with_registers": {"num_register_tokens": 2},
    "dinov3_vit": {"num_register_tokens": 4},
    "deit": {},
    "siglip2_vision_model": {"num_patches": 16},
    "swin": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
}


def model_with(
    family: str, layers: list[int], select: str, image_size: int = tiny.IMAGE_SIZE
) -> VisionLanguageModel:
    """A tiny model with a tower of any family."""
    shape = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    sizes = {"image_size": tiny.IMAGE_SIZE, "patch_size": 4 if family == "swin" else tiny.PATCH}
    settings = (TOWERS[family] if family == "swin" else shape | TOWERS[family]) | sizes
    torch.manual_seed(1)
    tower = AutoModel.from_config(AutoConfig.for_model(family, **settings))
    vision = TransformerTower(tower, tiny.preprocessing(image_size), layers, select)
    language = tiny.language_model()
    projector = Projector(ProjectorConfig(), vision, language.width)
    for parameter in projector.parameters():
        parameter.data.normal_(std=0.2)
    return VisionLanguageModel(ModelConfig(), vision, projector, language).eval()


@pytest.mark.parametrize(
    ("family", "layers", "select"),
    [
        ("clip_vision_model", [-2], "default"),
        ("clip_vision_model", [-1], "full"),
        ("clip_vision_model", [1, -1], "default"),
        ("siglip_vision_model", [-1], "default"),
        ("dinov2", [-2], "default"),
        ("vit", [-2], "default"),
        ("dinov2_with_registers", [-1], "full"),
        ("dinov3_vit", [-2], "full"),
        ("deit", [-2], "full"),
    ],
)
def test_export_gives_the_same_logits_and_comes_back(tmp_path, family, layers, select):
    model = model_with(family, layers, select)
    model.export_llava(tmp_path / "llava")
    llava = reload(tmp_path / "llava")
    again = vlm.load(tmp_path / "llava")
    for messages in (ONE_IMAGE, TWO_IMAGES):
        found = model.logits(messages)
        expected = reference_logits(llava, model, messages)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert torch.equal(again.logits(messages), found)
        assert again.chat(messages, max_tokens=8) == model.chat(messages, max_tokens=8)


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(
    ("family", "select", "inside"),
    [
        ("clip_vision_model", "default", "vision_model.encoder.layers.1."),
        ("siglip_vision_model", "full", "vision_model.encoder.layers.1."),
        ("vit", "default", "encoder.layer.1."),
    ],
)
def test_tensors_have_the_published_names(tmp_path, family, select, inside):
    model_with(family, [-2], select).export_llava(tmp_path / "llava")
    names = load_file(tmp_path / "llava" / "model.safetensors").keys()
    projector = {f"multi_modal_projector.linear_{n}.{p}" for n in "12" for p in ("weight", "bias")}
    language = {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.self_attn.q_proj.weight",
        "language_model.model.norm.weight",
    }
    assert names >= projector | language
    assert any(name.startswith(f"vision_tower.{inside}") for name in names)
    prefixes = ("language_model.", "multi_modal_projector.linear_", "vision_tower.")
    assert all(name.startswith(prefixes) for name in names)


def test_settings_are_those_that_older_readers_look_for(tmp_path):
    folder = tmp_path / "llava"
    model = model_with("clip_vision_model", [1, -2], "default")
    model.language.model.generation_config.eos_token_id = 7
    model.export_llava(folder, torch.bfloat16)
    config = read(folder, "config.json")
    text, vision = config["text_config"], config["vision_config"]
    assert {part["torch_dtype"] for part in (config, text, vision)} == {"bfloat16"}
    assert text["architectures"] == ["LlamaForCausalLM"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == 10_000
    # Of three layers the third is left out, so what was the last but one is the last.
    assert vision["num_hidden_layers"] == 2
    assert config["vision_feature_layer"] == vision["vision_feature_layer"] == [-2, -1]
    assert read(folder, "generation_config.json")["eos_token_id"] == [2, 7]
    assert read(folder, "processor_config.json") == {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": tiny.PATCH,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    images = read(folder, "preprocessor_config.json")
    assert (images["image_processor_type"], images["do_rescale"]) == ("LlavaImageProcessor", True)
    tokenizer = read(folder, "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["additional_special_tokens"] == ["<|im_start|>", "<image>"]
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    assert not tokenizer.keys() & {"backend", "extra_special_tokens"}


SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("config", "older"),
    [
        (
            LlamaConfig(**SHAPE, rope_parameters=LLAMA3 | {"rope_theta": 5e5}),
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        ),
        (
            Gemma3TextConfig(
                **SHAPE,
                head_dim=8,
                layer_types=["sliding_attention", "full_attention"],
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                    "full_attention": LINEAR | {"rope_theta": 2e3},
                },
            ),
            {"rope_theta": 2e3, "rope_scaling": LINEAR, "rope_local_base_freq": 50.0},
        ),
    ],
    ids=["llama3", "gemma3"],
)
def test_rotary_embeddings_have_their_older_names_too(tmp_path, config, older):
    model = tiny.vision_language_model()
    model.language.model = AutoModelForCausalLM.from_config(config).eval()
    model.export_llava(tmp_path / "llava")
    text = read(tmp_path / "llava", "config.json")["text_config"]
    assert text.items() >= older.items()
    expected = reference_logits(reload(tmp_path / "llava"), model, ONE_IMAGE)
    torch.testing.assert_close(model.logits(ONE_IMAGE), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_tensors_are_written_in_the_dtype_that_is_asked_for(tmp_path, dtype):
    model = tiny.vision_language_model()
    model.export_llava(tmp_path / "llava", dtype)
    written = load_file(tmp_path / "llava" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {dtype or torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    again = vlm.load(tmp_path / "llava", device="cpu")
    weight = model.state_dict()["projector.projection.linear_1.weight"]
    found = again.state_dict()["projector.projection.linear_1.weight"]
    assert torch.equal(found, weight.to(dtype or torch.float32).float())


def test_an_export_tells_nothing_of_the_machine_and_others_may_read_it(tmp_path):
    make_llava(tmp_path / "secret")
    umask = os.umask(0o022)
    try:
        vlm.load(tmp_path / "secret", device="cpu").export_llava(tmp_path / "llava")
    finally:
        os.umask(umask)
    for file in (tmp_path / "llava").iterdir():
        assert file.stat().st_mode & 0o777 == 0o644
        assert not any(
            word in file.read_bytes() for word in (b"secret", b"_name_or_path", b"local")
        )


def test_export_merges_adapters_into_the_copy_only(tmp_path):
    model = tiny.vision_language_model()
    model.language.add_lora(LoraConfig(rank=2))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(std=0.2)
    before = copy.deepcopy(model.state_dict())
    model.export_llava(tmp_path / "llava")
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    expected = reference_logits(reload(tmp_path / "llava"), model, ONE_IMAGE)
    torch.testing.assert_close(model.logits(ONE_IMAGE), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("rows", "exported_rows"), [(320, 321), (330, 330)])
def test_export_without_an_image_token(tmp_path, rows, exported_rows, tied):
    model = tiny.vision_language_model()
    config = copy.deepcopy(model.language.model.config)
    config.vocab_size, config.tie_word_embeddings = rows, tied
    torch.manual_seed(4)
    tokenizer = rename_tokens(tmp_path / "a", tmp_path / "b", image="photo")
    assert len(tokenizer) == 320
    model.language = LanguageModel(LlamaForCausalLM(config).eval(), ChatTemplate(tokenizer))
    model.export_llava(tmp_path / "llava")
    assert "<image>" not in tokenizer.get_added_vocab()
    assert len(model.language.model.get_input_embeddings().weight) == rows
    llava = reload(tmp_path / "llava")
    assert llava.config.image_token_index == 320
    table = llava.get_input_embeddings().weight
    assert len(table) == len(llava.lm_head.weight) == exported_rows
    if exported_rows > rows:
        torch.testing.assert_close(table[-1], table[:-1].mean(dim=0))
    again = vlm.load(tmp_path / "llava")
    found = model.logits(ONE_IMAGE)
    assert torch.equal(again.logits(ONE_IMAGE)[:, :rows], found)
    expected = reference_logits(llava, model, ONE_IMAGE)[:, :rows]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", ["chatml", "vicuna"])
@pytest.mark.parametrize(
    ("resize", "select"), [("squash", "default"), ("pad", "full"), ("crop", "default")]
)
def test_exported_processor_writes_the_same_inputs(tmp_path, prompt, resize, select):
    model = tiny.vision_language_model(select=select)
    model.language.template = ChatTemplate(tiny.tokenizer(), prompt)
    preprocessing = Preprocessing(32, resize, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), shortest_edge=36)
    model.vision.preprocessing = preprocessing
    model.export_llava(tmp_path / "llava")
    messages = [
        {"role": "system", "content": "Describe the image."},
        *ONE_IMAGE,
        {"role": "assistant", "content": "A cat."},
        *TWO_IMAGES,
    ]
    processor = AutoProcessor.from_pretrained(tmp_path / "llava")
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    expected = inputs_of(reload(tmp_path / "llava"), model, [model.prompt(messages)])
    assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()
    torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"], rtol=0, atol=0.02)
    again = vlm.load(tmp_path / "llava", prompt=prompt)
    images = expected["pixel_values"]
    assert torch.equal(again.vision.preprocessing.batch(model.prompt(messages).images), images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tiny.vision_language_model(ProjectorConfig(kind="linear")),
            "projector.kind=linear cannot be exported: .* only the mlp",
        ),
        (
            lambda: tiny.vision_language_model(ProjectorConfig(input_norm=True)),
            "projector.input_norm cannot be exported: .* no LayerNorm",
        ),
        (
            lambda: tiny.vision_language_model(ProjectorConfig(hidden=7)),
            "projector.hidden=7 cannot be exported: .* only the language model's width",
        ),
        (
            lambda: tiny.vision_language_model(ProjectorConfig(reduce="shuffle")),
            "projector.reduce=shuffle cannot be exported: .* every patch",
        ),
        (
            lambda: model_with("dinov2_with_registers", [-2], "default"),
            "drops one token in transformers' Llava, but dinov2_with_registers has 3",
        ),
        (lambda: model_with("deit", [-2], "default"), "deit has 2 in front of its patches"),
        (lambda: model_with("swin", [-1], "full"), "cannot run a vision tower of type 'swin'"),
        (
            lambda: model_with("siglip2_vision_model", [-2], "full"),
            "cannot run a vision tower of type 'siglip2_vision_model'",
        ),
        (
            lambda: model_with("clip_vision_model", [-2], "default", image_size=48),
            "vision.image_size=48 cannot be exported: .* own 32 px",
        ),
    ],
)
def test_what_cannot_be_exported(tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        make().export_llava(tmp_path / "llava")
    assert not list(tmp_path.iterdir())


def test_a_convolutional_tower_cannot_be_exported(tmp_path):
    model = tiny.vision_language_model()
    model.vision = EfficientNetTower(VisionConfig())
    with pytest.raises(ConfigError, match="a convolutional vision tower cannot be exported"):
        model.export_llava(tmp_path / "llava")


def test_scaled_logits_cannot_be_exported(tmp_path):
    model = tiny.vision_language_model()
    llama = model.language.model.config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    shape = {name: getattr(llama, name) for name in names}
    config = GraniteConfig(**shape, num_attention_heads=4, num_key_value_heads=2, logits_scaling=8)
    model.language = LanguageModel(GraniteForCausalLM(config), ChatTemplate(tiny.tokenizer()))
    with pytest.raises(ConfigError, match=r"'granite' changes its logits \(logits_scaling\)"):
        model.export_llava(tmp_path / "llava")
