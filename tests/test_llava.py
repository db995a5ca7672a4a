"""LLaVA in and out: the same logits as transformers' LlavaForConditionalGeneration."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import vlm
from tests import tiny
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, ProjectorConfig, VisionConfig
from vlm.efficientnet import EfficientNetTower
from vlm.errors import ConfigError, WeightsError
from vlm.language import LanguageModel
from vlm.loading import build
from vlm.model import VisionLanguageModel
from vlm.preprocess import Preprocessing
from vlm.projector import Projector
from vlm.prompt import IMAGE_SLOT, Prompt
from vlm.splice import pad
from vlm.vision import TransformerTower

ONE_IMAGE = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": tiny.photo(0)},
            {"type": "text", "text": "What is in the picture?"},
        ],
    }
]
TWO_IMAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Two dogs "},
            {"type": "image", "image": tiny.photo(1)},
            {"type": "text", "text": "run on "},
            {"type": "image", "image": tiny.photo(2, (25, 50))},
        ],
    }
]


def make_llava(
    folder: Path, layer: int | list[int] = -2, strategy: str = "default"
) -> LlavaForConditionalGeneration:
    """Writes a random CLIP + Llama LLaVA as transformers would, and gives it."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=tiny.clip_config(),
        text_config=tiny.language_model().model.config,
        image_token_index=tiny.tokenizer().convert_tokens_to_ids("<image>"),
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    for parameter in llava.parameters():
        parameter.data.normal_(std=0.2)
    llava.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    size = tiny.IMAGE_SIZE
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return llava


def inputs_of(
    llava: LlavaForConditionalGeneration, model: VisionLanguageModel, prompts: list[Prompt]
) -> dict[str, Tensor]:
    """Left-padded prompts of ours as transformers takes them."""
    ids, mask = pad([prompt.input_ids for prompt in prompts], value=0, side="left")
    images = [image for prompt in prompts for image in prompt.images]
    return {
        "input_ids": ids.masked_fill(ids == IMAGE_SLOT, llava.config.image_token_index),
        "attention_mask": mask,
        "pixel_values": model.vision.preprocessing.batch(images),
    }


@torch.no_grad()
def reference_logits(
    llava: LlavaForConditionalGeneration, model: VisionLanguageModel, messages: list[dict]
) -> Tensor:
    """Logits (T, V) of transformers for a conversation."""
    return llava(**inputs_of(llava, model, [model.prompt(messages)])).logits[0]


def reload(folder: Path) -> LlavaForConditionalGeneration:
    """A written folder in transformers, every tensor in its place."""
    llava, loading = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    return llava.eval()


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename_tokens(source: Path, folder: Path, **names: str) -> object:
    """The tiny tokenizer with some of its special tokens called otherwise."""
    tiny.tokenizer().save_pretrained(source)
    for file in source.iterdir():
        text = file.read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        folder.mkdir(exist_ok=True)
        (folder / file.name).write_text(text)
    return AutoTokenizer.from_pretrained(folder)


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
    ids, mask = pad([prompt.input_ids for prompt in prompts], value=0, side="left")
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
    assert model.config.language.prompt == "chatml"
    assert model.language.end_ids() == {2}
    low = build(ModelConfig(llava=str(tmp_path)), "cpu", torch.bfloat16)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}


def test_import_without_chatml_tokens_speaks_vicuna(tmp_path):
    make_llava(tmp_path)
    rename_tokens(tmp_path / "original", tmp_path, im_start="turn", im_end="over")
    model = vlm.load(tmp_path)
    assert model.config.language.prompt == "vicuna"
    text = model.language.tokenizer.decode(model.prompt("Two dogs").input_ids)
    assert text.endswith("USER: Two dogs ASSISTANT:")
    assert vlm.load(tmp_path, prompt="template").config.language.prompt == "template"


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


TOWERS = {
    "clip_vision_model": {},
    "siglip_vision_model": {},
    "dinov2": {},
    "vit": {},
    "dinov2_with_registers": {"num_register_tokens": 2},
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
    projector = Projector(
        ProjectorConfig(), vision.width, language.width, vision.grid, vision.num_tokens
    )
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
    model.language = LanguageModel(LlamaForCausalLM(config).eval(), tokenizer)
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
    model.config.language.prompt = prompt
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
    ("changes", "error", "message"),
    [
        ({"model_type": "llava_next"}, ConfigError, "type 'llava_next', not 'llava'"),
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tiny.vision_language_model(ProjectorConfig(kind="linear")),
            "projector.kind=linear cannot be exported: .* only the mlp",
        ),
        (
            lambda: tiny.vision_language_model(ProjectorConfig(kind="resampler", queries=4)),
            "projector.kind=resampler cannot be exported",
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
    model.language = LanguageModel(GraniteForCausalLM(config), tiny.tokenizer())
    with pytest.raises(ConfigError, match=r"'granite' changes its logits \(logits_scaling\)"):
        model.export_llava(tmp_path / "llava")
