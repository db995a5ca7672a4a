"""Vision tower: pixel values -> patch tokens, from any transformers vision model.

Layers are counted as transformers counts `hidden_states`: index 0 is what enters the first layer,
-1 is what leaves the last one, not post-normed. LLaVA takes -2.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vlm.config import VisionConfig
from vlm.efficientnet import EfficientNetTower
from vlm.errors import ConfigError
from vlm.hybrid_clip import hybrid_folder
from vlm.hybrid_tower import HybridTower
from vlm.preprocess import Preprocessing, read_preprocessing
from vlm.sources import EFFICIENTNET, local_source, quiet_loading, reading, require_found
from vlm.tiles import Tiles
from vlm.tower import VisionTower, check_divisible, last, warn_of_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """What differs between kinds of vision transformer: where the list of layers is, the number of
    tokens in front of the patches (CLS, distillation, registers), and whether the forward pass
    takes `interpolate_pos_encoding`."""

    layers: str
    special_tokens: int
    interpolates: bool = True


def family_of(config: Any) -> Family:
    """The family of a transformers vision config, by its model type."""
    families = {
        "clip_vision_model": Family("encoder.layers", special_tokens=1),
        # SigLIP has no CLS: token 0 is a patch like any other.
        "siglip_vision_model": Family("encoder.layers", special_tokens=0),
        "siglip2_vision_model": Family("encoder.layers", special_tokens=0, interpolates=False),
        "dinov2": Family("encoder.layer", special_tokens=1, interpolates=False),
        "dinov2_with_registers": Family(
            "encoder.layer", 1 + getattr(config, "num_register_tokens", 0), interpolates=False
        ),
        # Positions are RoPE, whose coordinates scale with the grid.
        "dinov3_vit": Family(
            "model.layer", 1 + getattr(config, "num_register_tokens", 0), interpolates=False
        ),
        "vit": Family("layers", special_tokens=1),
        "deit": Family("layers", special_tokens=2),
        "swin": Family("encoder.layers", special_tokens=0),
    }
    if config.model_type not in families:
        raise ConfigError(
            f"no vision tower of type {config.model_type!r}; "
            f"there are {', '.join(families)} and efficientnet-lite0"
        )
    return families[config.model_type]


class TransformerTower(VisionTower):
    """Patch tokens of a transformers vision model.

    Layers behind the last one asked for are removed from the model, in place, so they cost neither
    time nor memory; of the others only the states asked for are kept.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        preprocessing: Preprocessing,
        layers: list[int],
        select: str = "default",
    ) -> None:
        super().__init__()
        self.family = family_of(model.config)
        self.preprocessing = preprocessing
        self.select = select
        self.model = model.requires_grad_(False).eval()
        count = len(self.blocks)
        for layer in layers:
            if not -count - 1 <= layer <= count:
                raise ConfigError(
                    f"vision layer {layer} is not in -{count + 1}..{count}: "
                    f"the tower has {count} layers"
                )
        self.layers = [layer % (count + 1) for layer in layers]
        self._keep_first(max(1, *self.layers))
        self.grid = self.grid_at(self.preprocessing.size)
        self.num_tokens = self.grid[0] * self.grid[1]
        if select == "full":
            self.num_tokens += self.family.special_tokens
        self.width = sum(self._layer_width(layer) for layer in self.layers)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.get_submodule(self.family.layers)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixel values (B, 3, H, W) -> patch tokens (B, N, D) in the tower's dtype."""
        states: dict[int, Tensor] = {}

        def capture(layer: int) -> Any:
            def hook(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
                if layer == 0:
                    output = args[0] if args else kwargs["hidden_states"]
                states[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        hooks = [
            self.blocks[max(layer - 1, 0)].register_forward_hook(capture(layer), with_kwargs=True)
            for layer in set(self.layers)
        ]
        try:
            with self.gradients():
                self.model(**self._inputs(pixel_values.to(self.dtype)))
        finally:
            for hook in hooks:
                hook.remove()
        skip = 0 if self.select == "full" else self.family.special_tokens
        return torch.cat([states[layer][:, skip:] for layer in self.layers], dim=-1)

    def last_layers(self, count: int | Literal["all"]) -> list[nn.Module]:
        """See `VisionTower`; a layer is one of those that `hidden_states` counts."""
        # With layer 0 alone, the first block is there only to be called.
        blocks = self.blocks[: max(self.layers)]
        if count != "all":
            return last(blocks, count)
        # The norm behind the last layer is kept for LLaVA's format; hidden states are before it.
        others = {self.family.layers.split(".")[0], "post_layernorm", "layernorm", "norm"}
        front = [module for name, module in self.model.named_children() if name not in others]
        return [*front, *blocks]

    def _keep_first(self, depth: int) -> None:
        config = self.model.config
        if config.model_type == "swin":
            # Stages differ in width, so the final norm would not fit a shorter tower.
            self.model.layernorm = nn.Identity()
        else:
            config.num_hidden_layers = depth
        del self.blocks[depth:]
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        token = getattr(self.model.embeddings, "mask_token", None)
        if token is not None:
            # Nothing is masked here: as a parameter it would wait for a gradient that never comes.
            del self.model.embeddings.mask_token
            self.model.embeddings.register_buffer("mask_token", token.data)
        if getattr(self.model, "use_head", False):
            self.model.use_head = config.vision_use_head = False
            del self.model.head

    def grid_at(self, size: int) -> tuple[int, int]:
        """See `VisionTower`."""
        config = self.model.config
        stride = least = config.patch_size
        own = getattr(config, "image_size", None)
        if config.model_type == "swin":
            merges = {self._swin_merges(layer) for layer in self.layers}
            if len(merges) > 1:
                raise ConfigError("swin stages of different resolution cannot be concatenated")
            stride *= 2 ** merges.pop()
            own = None
            least = config.window_size * config.patch_size * 2 ** (len(self.blocks) - 1)
        # Of its own size a tower may leave pixels over: SigLIP so400m has 27 patches of 14 in 384.
        if size != own or size < stride:
            check_divisible(size, stride)
        if size < least:
            raise ConfigError(
                f"image size {size} is too small: windows of swin's {len(self.blocks)} layers need "
                f"{least} pixels or more"
            )
        trained = self._trained_side()
        if trained is not None:
            warn_of_grid(size, size // config.patch_size, trained)
        return size // stride, size // stride

    def _trained_side(self) -> int | None:
        """Patches a side of the grid that positions were learned at; None where none are learned:
        DINOv3's are computed, Swin's are usually those inside of a window."""
        if self.model.config.model_type == "siglip2_vision_model":
            # NaFlex trains with its 16 x 16 interpolated, for up to 1,024 patches.
            return 32
        for name, positions in self.model.embeddings.named_parameters():
            if name.startswith("position_embedding"):
                # Those of CLS and the like are too few to matter.
                return math.isqrt(positions.shape[-2])
        return None

    def _swin_merges(self, layer: int) -> int:
        # A stage's state is taken behind its patch merging, which the last stage does not have.
        return min(layer, len(self.model.config.depths) - 1)

    def _layer_width(self, layer: int) -> int:
        config = self.model.config
        if config.model_type == "swin":
            return config.embed_dim * 2 ** self._swin_merges(layer)
        return config.hidden_size

    def _inputs(self, pixel_values: Tensor) -> dict[str, Any]:
        config = self.model.config
        if config.model_type == "siglip2_vision_model":
            return whole_patches(pixel_values, config.patch_size)
        inputs: dict[str, Any] = {"pixel_values": pixel_values}
        size = pixel_values.shape[-1]
        if self.family.interpolates and getattr(config, "image_size", size) != size:
            inputs["interpolate_pos_encoding"] = True
        return inputs


def whole_patches(pixel_values: Tensor, patch: int) -> dict[str, Tensor]:
    """Pixel values (B, 3, H, W) -> what SigLIP2 takes instead: patches (B, N, patch * patch * 3),
    row by row, none of them padding."""
    count, _, height, width = pixel_values.shape
    rows, columns = height // patch, width // patch
    patches = pixel_values.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
    shape = count, rows * columns
    return {
        "pixel_values": patches.permute(0, 2, 4, 3, 5, 1).reshape(*shape, -1),
        "pixel_attention_mask": pixel_values.new_ones(shape, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * count),
    }


def load_vision(config: VisionConfig, dtype: torch.dtype = torch.float32) -> VisionTower:
    """Loads the tower that a config names: a WeightsError if its source is not there or its weights
    are not the tower's, a ConfigError for a layer or size that it cannot give."""
    if config.tiles and config.resize == "auto":
        config = replace(config, resize="squash")
    if config.source == EFFICIENTNET:
        return with_tiles(EfficientNetTower(config).to(dtype), config.tiles)
    if (own := hybrid_folder(config.source)) is not None:
        return with_tiles(HybridTower(own, config).to(dtype), config.tiles)
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, PvtImageProcessorPil

    source = local_source(config.source, config.revision)
    with reading(config.source), quiet_loading():
        whole = AutoConfig.from_pretrained(source, revision=config.revision)
        vision = getattr(whole, "vision_config", whole)
        family_of(vision)
        # DINOv3's own class needs torchvision; this one reads the same file, with the same defaults
        # but for the filter, which the published files name.
        needs_torchvision = vision.model_type == "dinov3_vit"
        processor_class = PvtImageProcessorPil if needs_torchvision else AutoImageProcessor
        processor = processor_class.from_pretrained(source, revision=config.revision)
        model, report = AutoModel.from_pretrained(
            source,
            config=vision,
            revision=config.revision,
            dtype=dtype,
            output_loading_info=True,
            # Not ignored: `require_found` reports them.
            ignore_mismatched_sizes=True,
        )
    preprocessing = read_preprocessing(processor, config.resize, config.image_size)
    tower = TransformerTower(model, preprocessing, config.layers or [-2], config.select)
    require_found(config.source, report, tower.model)
    return with_tiles(tower, config.tiles)


def with_tiles(tower: VisionTower, grids: list[list[int]] | None) -> VisionTower:
    """The tower, which sees photos cut into these grids if there are any."""
    tower.tiles = Tiles(tuple(map(tuple, grids)), tower.preprocessing) if grids else None
    return tower
