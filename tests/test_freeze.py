"""What trains, in which dtype and at which learning rate, and that a checkpoint holds all of it."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import vlm
from tests import tiny, tiny_folders
from train.config import TrainConfig, Trains
from train.freeze import freeze
from train.loss import target_loss
from vlm.checkpoint import TENSOR_FILE
from vlm.config import LanguageConfig, LoraConfig, ModelConfig, ProjectorConfig, VisionConfig
from vlm.errors import ConfigError

LORA = LoraConfig(rank=2)
TABLE, HEAD = "language.model.model.embed_tokens.weight", "language.model.lm_head.weight"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return tiny_folders.model_config(tmp_path_factory.mktemp("parts"))


def adapted(config: ModelConfig, **language: object) -> ModelConfig:
    return replace(config, language=LanguageConfig(config.language.source, lora=LORA, **language))


@pytest.fixture(scope="module")
def tied(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """The head is the embedding table."""
    folder = tmp_path_factory.mktemp("tied")
    language = tiny.language_model()
    language.model.config.tie_word_embeddings = True
    torch.manual_seed(0)
    LlamaForCausalLM(language.model.config).save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    return replace(config, language=LanguageConfig(str(folder)))


def groups_of(model: vlm.VisionLanguageModel, trains: Trains) -> tuple[list[dict], str]:
    """The parameter groups and the table."""
    console = Console(file=io.StringIO(), width=120)
    rates = {"projector_learning_rate": 1e-3, "vision_learning_rate": 1e-5}
    config = TrainConfig([], trains=trains, learning_rate=1e-4, weight_decay=0.1, **rates)
    groups = freeze(model, config, console)
    return groups, console.file.getvalue()


def step(model: vlm.VisionLanguageModel, groups: list[dict], **autocast: object) -> Tensor:
    """One change of the weights; gives the loss before it."""
    optimizer = torch.optim.AdamW(groups)
    with torch.autocast("cpu", **{"enabled": False} | autocast):
        loss = model(tiny.training_batch(model), target_loss)
    loss.backward()
    optimizer.step()
    return loss.detach()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


WHAT_TRAINS = [
    (Trains(), False),
    (Trains(language="lora"), True),
    (Trains(projector=False, language="lora"), True),
    (Trains(language="full"), False),
    (Trains(vision_layers=2), False),
    (Trains(language="lora", vision_layers="all"), True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("trains", "lora"), WHAT_TRAINS, ids=str)
def test_all_that_trains_changes_and_nothing_else(
    config: ModelConfig, trains: Trains, lora: bool, dtype: torch.dtype
) -> None:
    model = vlm.build(adapted(config) if lora else config, "cpu", dtype).train()
    groups, _ = groups_of(model, trains)
    names = trainable(model)
    parts = {"adapters" if ".lora_" in name else name.split(".")[0] for name in names}
    assert ("projector" in parts) == trains.projector
    assert ("adapters" in parts) == (trains.language == "lora")
    assert ("language" in parts) == (trains.language == "full")
    assert ("vision" in parts) == (trains.vision_layers != 0)
    assert {parameter.dtype for parameter in names.values()} == {torch.float32}
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in names.values()}

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert step(model, groups, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16).isfinite()
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    # An adapter's first matrix has no gradient while the second is zero; keys have no bias.
    still = {name for name in names.keys() - changed if "lora_A" not in name}
    assert changed <= names.keys()
    assert all(parameter.grad is not None for parameter in names.values())
    assert all("k_proj.bias" in name for name in still)
    for name, parameter in model.named_parameters():
        if name not in names and not name.startswith(("projector.", "vision.model.post_layer")):
            assert parameter.dtype == dtype


@pytest.mark.parametrize(
    ("trains", "lora"), [*WHAT_TRAINS, (Trains(vision_layers="all"), False)], ids=str
)
@pytest.mark.parametrize("head", ["own", "tied"])
def test_a_checkpoint_holds_what_was_trained(
    config: ModelConfig,
    tied: ModelConfig,
    trains: Trains,
    lora: bool,
    head: str,
    tmp_path: Path,
) -> None:
    config = tied if head == "tied" else config
    model = vlm.build(adapted(config) if lora else config, "cpu")
    groups_of(model, trains)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save(tmp_path / "checkpoint")
    names = load_file(tmp_path / "checkpoint" / TENSOR_FILE).keys()
    projector = {name for name in model.state_dict() if name.startswith("projector.")}
    assert names == trainable(model).keys() | projector
    loaded = vlm.load(tmp_path / "checkpoint", device="cpu")
    question = [{"type": "image", "image": tiny.photo()}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": question}]
    torch.testing.assert_close(
        loaded.logits(messages), model.eval().logits(messages), rtol=1e-4, atol=1e-4
    )

    # A later stage that trains less still saves what came from the checkpoint.
    groups_of(loaded, Trains())
    loaded.save(tmp_path / "later")
    assert load_file(tmp_path / "later" / TENSOR_FILE).keys() == names


def test_tied_embeddings_are_trained_and_saved_once(tied: ModelConfig, tmp_path: Path) -> None:
    model = vlm.build(tied, "cpu", torch.bfloat16)
    groups_of(model, Trains(language="full"))
    state = model.state_dict()
    assert state[TABLE].data_ptr() == state[HEAD].data_ptr()
    assert TABLE in model.trained
    assert HEAD not in model.trained
    with torch.no_grad():
        state[HEAD].add_(1)
    model.save(tmp_path / "checkpoint")
    loaded = vlm.load(tmp_path / "checkpoint", device="cpu").state_dict()
    assert torch.equal(loaded[HEAD], state[HEAD])
    assert torch.equal(loaded[TABLE], state[TABLE])


def test_the_convolutional_tower_trains_under_autocast(config: ModelConfig) -> None:
    source = VisionConfig("efficientnet-lite0", image_size=64)
    model = vlm.build(replace(config, vision=source), "cpu", torch.bfloat16).train()
    groups, _ = groups_of(model, Trains(projector=False, vision_layers=2))
    assert step(model, groups, dtype=torch.bfloat16, enabled=True).isfinite()
    for name, parameter in trainable(model).items():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


def test_adapters_on_half_precision_train_as_on_float32(config: ModelConfig) -> None:
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = vlm.build(adapted(config), "cpu", torch.bfloat16)
        groups_of(model, Trains(language="lora"))
        torch.manual_seed(0)
        for parameter in trainable(model).values():
            nn.init.normal_(parameter, std=0.1)
        model.to(dtype) if dtype == torch.float32 else model
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            model(tiny.training_batch(model), target_loss).backward()
        found.append(torch.cat([p.grad.flatten() for p in trainable(model).values()]))
    half, whole = found
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, whole, dim=0) > 0.99


def test_groups_have_learning_rates_and_decay_of_their_own(config: ModelConfig) -> None:
    projector = ProjectorConfig(kind="resampler", queries=4, depth=1, heads=2)
    model = vlm.build(replace(adapted(config), projector=projector), "cpu")
    groups, _ = groups_of(model, Trains(language="lora", vision_layers="all"))
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        "vision": (1e-5, 0.1),
        "vision, no decay": (1e-5, 0.0),
        "projector": (1e-3, 0.1),
        "projector, no decay": (1e-3, 0.0),
        "adapters": (1e-4, 0.1),
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others = (
        {
            names[id(parameter)]
            for group in groups
            if group["name"].endswith("no decay") == without
            for parameter in group["params"]
        }
        for without in (False, True)
    )
    assert all(name.endswith(".weight") for name in decayed)
    assert "projector.projection.queries" in others
    assert "projector.projection.norm_in.weight" in others
    assert "vision.model.embeddings.class_embedding" in others
    assert "vision.model.embeddings.position_embedding.weight" in others
    undecayed = (".bias", "queries", "norm.weight", "class_embedding", "position_embedding.weight")
    assert all(name.endswith(undecayed) or "norm" in name for name in others)


def test_one_learning_rate_is_everyones(config: ModelConfig) -> None:
    model = vlm.build(adapted(config), "cpu")
    trains = Trains(language="lora", vision_layers=1)
    groups = freeze(
        model, TrainConfig([], trains=trains, learning_rate=1e-4), Console(file=io.StringIO())
    )
    assert {group["lr"] for group in groups} == {1e-4}


def rows(table: str) -> dict[str, list[str]]:
    cells = [line.strip("│").split("│") for line in table.splitlines() if line.startswith("│")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}


def test_the_table_says_what_trains(config: ModelConfig) -> None:
    model = vlm.build(adapted(config), "cpu", torch.bfloat16)
    _, table = groups_of(model, Trains(language="lora", vision_layers=1))

    def count(prefix: str, trains: bool, lora: bool = False) -> str:
        return format(
            sum(
                p.numel()
                for name, p in model.named_parameters()
                if name.startswith(prefix) and p.requires_grad == trains
                if (".lora_" in name) == lora
            ),
            ",",
        )

    both = "bfloat16, float32"
    assert rows(table) == {
        "vision tower": [both, count("vision.", True), count("vision.", False), "1e-05"],
        "projector": ["float32", count("projector.", True), "0", "0.001"],
        "language model": ["bfloat16", "0", count("language.", False), ""],
        "LoRA adapters": ["float32", count("language.", True, lora=True), "0", "0.0001"],
    }


def test_the_table_counts_four_bit_weights(config: ModelConfig) -> None:
    pytest.importorskip("bitsandbytes")
    whole = rows(groups_of(vlm.build(adapted(config), "cpu"), Trains())[1])
    model = vlm.build(adapted(config, load_in="4bit"), "cpu")
    quantised = rows(groups_of(model, Trains(language="qlora"))[1])
    assert quantised["language model"] == ["float32, nf4", *whole["language model"][1:]]


def steps(config: ModelConfig, dtype: torch.dtype, learning_rate: float, frees: bool) -> tuple:
    """Three steps of AdamW under autocast on a projector that is in half precision, as a LLaVA's
    is, freed or left as it is; its weights before and after, float32."""
    model = vlm.build(config, "cpu").eval()
    model.projector.to(dtype)
    model.requires_grad_(False).projector.requires_grad_()
    if frees:
        groups_of(model, Trains())
    weights = {name: p.detach().float().clone() for name, p in trainable(model).items()}
    optimizer = torch.optim.AdamW(trainable(model).values(), learning_rate, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = model(tiny.training_batch(model), target_loss)
        (loss / 100).backward()
        optimizer.step()
    return weights, {name: p.detach().float() for name, p in trainable(model).items()}


def test_small_updates_are_not_lost_in_bfloat16(config: ModelConfig) -> None:
    """AdamW changes a weight by about its learning rate, whatever the gradient: here by less than
    half of what bfloat16 can tell apart at the largest weights."""
    shares = []
    for frees in (False, True):
        before, after = steps(config, torch.bfloat16, 1e-5, frees)
        name = "projector.projection.linear_1.weight"
        large = before[name].abs() > 0.1
        shares.append((before[name] != after[name])[large].float().mean().item())
    as_it_is, freed = shares
    assert as_it_is < 0.1
    assert freed > 0.99


def test_a_projector_does_not_go_to_infinity_in_float16(config: ModelConfig) -> None:
    """The square of a small gradient is zero in float16, and so is AdamW's epsilon."""
    _, as_it_is = steps(config, torch.float16, 1e-3, frees=False)
    assert not all(weight.isfinite().all() for weight in as_it_is.values())
    _, freed = steps(config, torch.float16, 1e-3, frees=True)
    assert all(weight.isfinite().all() for weight in freed.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_layers": -1}, "trains.vision_layers must be 0 or more, or all, not -1"),
        ({"projector": False}, "^nothing trains: choose trains.projector, language or vision_lay"),
    ],
)
def test_impossible_choices(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trains(**fields)


@pytest.mark.parametrize(
    ("language", "trains", "message"),
    [
        ({}, "lora", "^trains.language=lora needs adapters: set model.language.lora$"),
        ({}, "qlora", "^trains.language=qlora needs model.language.load_in=4bit, not None$"),
        ({"lora": LORA, "load_in": "8bit"}, "qlora", "load_in=4bit, not 8bit$"),
        ({"load_in": "4bit"}, "full", "^trains.language=full cannot train 4bit weights: leave"),
        ({"lora": LORA}, "full", "trains the weights themselves: leave out model.language.lora$"),
    ],
)
def test_a_model_without_what_is_to_train(
    config: ModelConfig, language: dict, trains: str, message: str
) -> None:
    if "load_in" in language:
        pytest.importorskip("bitsandbytes")
    model = vlm.build(replace(config, language=replace(config.language, **language)), "cpu")
    with pytest.raises(ConfigError, match=message):
        groups_of(model, Trains(language=trains))


def test_merged_adapters_do_not_train(config: ModelConfig) -> None:
    model = vlm.build(adapted(config), "cpu")
    model.language.merge_adapters()
    with pytest.raises(ConfigError, match=r"^adapters that are merged into the weights cannot tra"):
        groups_of(model, Trains(language="lora"))


def test_more_vision_layers_than_there_are(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=r"the last 5 layers .* cannot train: it has 2$"):
        groups_of(vlm.build(config, "cpu"), Trains(vision_layers=5))
