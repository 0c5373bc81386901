"""How other packages call the tensors of models that timm has: a family a package and architecture.

That a family computes the same is tested with the packages themselves (tests/test_convert.py).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class Family:
    """How another package calls the tensors of some timm models."""

    name: str
    example: str  # one of `models`
    models: str  # a pattern of timm's names of models that compute the same
    why: str  # what other models compute otherwise
    known: str  # a pattern of names that only this family has
    rules: tuple[tuple[str, str], ...] = ()  # patterns of whole names, and timm's names
    heads: str = r"(?!)"  # names of its classifier, which is replaced
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # of the images it was trained on, in 0..1; None: as timm's model
    prepare: Callable[[Tensors, Shapes], Tensors] = field(default=lambda tensors, model: tensors)

    def fits(self, names: Iterable[str]) -> bool:
        return any(re.search(self.known, name) for name in names)


def _numbered_blocks(tensors: Tensors, model: Shapes) -> Tensors:
    """EfficientNet-PyTorch counts its blocks through, timm within stages; which convolution a batch norm follows depends on the block."""
    places = sorted(
        {(int(stage), int(block)) for each in model if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", each)) for stage, block in [m.groups()]}
    )
    expands = {int(m[1]) for each in tensors if (m := re.match(r"_blocks\.(\d+)\._expand_conv\.", each))}
    found = {}
    for each, tensor in tensors.items():
        if not (match := re.match(r"_blocks\.(\d+)\.(.*)", each)) or int(match[1]) >= len(places):
            found[each] = tensor
            continue
        number, rest = int(match[1]), match[2]
        stage, block = places[number]
        has = number in expands
        names = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl" if has else "conv_pw"}
        names |= {"_bn0": "bn1", "_bn1": "bn2" if has else "bn1", "_bn2": "bn3" if has else "bn2"}
        names |= {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
        head, _, tail = rest.partition(".")
        found[f"blocks.{stage}.{block}.{names[head]}.{tail}" if head in names else each] = tensor
    return found


def _torchvision_blocks(tensors: Tensors, model: Shapes) -> Tensors:
    """A torchvision block is a list: expansion (if any), depthwise convolution, squeeze and excitation (if any), projection."""
    blocks: dict[str, set[int]] = {}
    squeezes = {m[1]: int(m[2]) for each in tensors if (m := re.match(r"(features\.\d+\.\d+)\.block\.(\d+)\.fc1\.weight", each))}
    for each in tensors:
        if match := re.match(r"(features\.\d+\.\d+)\.block\.(\d+)\.", each):
            blocks.setdefault(match[1], set()).add(int(match[2]))
    found = {}
    for each, tensor in tensors.items():
        match = re.match(r"(features\.(\d+)\.(\d+))\.block\.(\d+)\.(?:(\d+)|(fc1|fc2))\.(.*)", each)
        if not match:
            found[each] = tensor
            continue
        place, part = match[1], int(match[4])
        order = sorted(blocks[place] - {squeezes.get(place, -1)})
        convs = ("conv_pw", "conv_dw", "conv_pwl") if len(order) == 3 else ("conv_dw", "conv_pw")
        if match[6]:
            name = "se.conv_reduce" if match[6] == "fc1" else "se.conv_expand"
        else:
            step = order.index(part)
            name = convs[step] if match[5] == "0" else f"bn{step + 1}"
        found[f"blocks.{int(match[2]) - 1}.{match[3]}.{name}.{match[7]}"] = tensor
    return found


def _joined_attention(parts: tuple[str, str, str], block: str, to: str) -> Callable[[Tensors, Shapes], Tensors]:
    """Query, key and value as timm's one matrix. block: a pattern with the number of the block."""

    def prepare(tensors: Tensors, model: Shapes) -> Tensors:
        found, pieces = {}, dict[tuple[str, str], dict[str, torch.Tensor]]()
        for each, tensor in tensors.items():
            match = re.fullmatch(rf"{block}\.({'|'.join(map(re.escape, parts))})\.(weight|bias)", each)
            if match:
                pieces.setdefault((match[1], match[3]), {})[match[2]] = tensor
            else:
                found[each] = tensor
        for (number, kind), three in pieces.items():
            if set(three) == set(parts):
                found[to.format(number, kind)] = torch.cat([three[part] for part in parts])
        return found

    return prepare


def _resnet_rules() -> tuple[tuple[str, str], ...]:
    """transformers counts stages from 0, timm from 1; a layer is a list of convolutions with their batch norms."""
    rules = [(r"(?:resnet\.)?embedder\.embedder\.convolution\.(.*)", r"conv1.\1")]
    rules += [(r"(?:resnet\.)?embedder\.embedder\.normalization\.(.*)", r"bn1.\1")]
    for stage in range(4):
        block, layer = rf"(?:resnet\.)?encoder\.stages\.{stage}\.layers\.(\d+)", rf"layer{stage + 1}.\1"
        for kind, to, number in (("convolution", "conv", 0), ("normalization", "bn", 1)):
            rules += [(rf"{block}\.layer\.{step}\.{kind}\.(.*)", rf"{layer}.{to}{step + 1}.\2") for step in range(3)]
            rules += [(rf"{block}\.shortcut\.{kind}\.(.*)", rf"{layer}.downsample.{number}.\2")]
    return tuple(rules)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="EfficientNet-PyTorch",
        example="tf_efficientnet_b0",
        models=r"tf_efficientnet_(?:b\d|lite\d|l2)",
        why="these were trained with TensorFlow's padding, which only timm's tf_ models have",
        known=r"^_blocks\.\d+\._depthwise_conv\.",
        prepare=_numbered_blocks,
        rules=(
            (r"_conv_stem\.(.*)", r"conv_stem.\1"),
            (r"_bn0\.(.*)", r"bn1.\1"),
            (r"_conv_head\.(.*)", r"conv_head.\1"),
            (r"_bn1\.(.*)", r"bn2.\1"),
        ),
        heads=r"_fc\..*",
    ),
    Family(
        name="torchvision's EfficientNet",
        example="efficientnet_b0",
        models=r"efficientnet_b[0-4]",
        why="torchvision pads on both sides alike, as timm's efficientnet_b0 to b4; b5 to b7 have another epsilon in their batch norm",
        known=r"^features\.\d+\.\d+\.block\.\d+\.(?:\d+\.weight|fc1\.)",
        prepare=_torchvision_blocks,
        rules=(
            (r"features\.0\.0\.(.*)", r"conv_stem.\1"),
            (r"features\.0\.1\.(.*)", r"bn1.\1"),
            (r"features\.[89]\.0\.(.*)", r"conv_head.\1"),
            (r"features\.[89]\.1\.(.*)", r"bn2.\1"),
        ),
        heads=r"classifier\.1\..*",
    ),
    Family(
        name="torchvision's ConvNeXt",
        example="convnext_tiny",
        models=r"convnext_(?:tiny|small|base|large)",
        why="other models have other layers",
        known=r"^features\.\d+\.\d+\.layer_scale$",
        prepare=lambda tensors, model: {each: t.reshape(-1) if each.endswith("layer_scale") else t for each, t in tensors.items()},
        rules=(
            (r"features\.0\.(\d)\.(.*)", r"stem.\1.\2"),
            *((rf"features\.{2 * stage}\.(\d)\.(weight|bias)", rf"stages.{stage}.downsample.\1.\2") for stage in (1, 2, 3)),
            *(
                rule
                for stage in range(4)
                for rule in (
                    (rf"features\.{2 * stage + 1}\.(\d+)\.layer_scale", rf"stages.{stage}.blocks.\1.gamma"),
                    (rf"features\.{2 * stage + 1}\.(\d+)\.block\.0\.(.*)", rf"stages.{stage}.blocks.\1.conv_dw.\2"),
                    (rf"features\.{2 * stage + 1}\.(\d+)\.block\.2\.(.*)", rf"stages.{stage}.blocks.\1.norm.\2"),
                    (rf"features\.{2 * stage + 1}\.(\d+)\.block\.3\.(.*)", rf"stages.{stage}.blocks.\1.mlp.fc1.\2"),
                    (rf"features\.{2 * stage + 1}\.(\d+)\.block\.5\.(.*)", rf"stages.{stage}.blocks.\1.mlp.fc2.\2"),
                )
            ),
            (r"classifier\.0\.(.*)", r"head.norm.\1"),
        ),
        heads=r"classifier\.2\..*",
    ),
    Family(
        name="torchvision's ViT",
        example="vit_base_patch16_224",
        models=r"vit_(?:base|large|huge)_patch\d+_\d+",
        why="other models have other layers",
        known=r"^encoder\.layers\.encoder_layer_\d+\.",
        rules=(
            (r"class_token", "cls_token"),
            (r"encoder\.pos_embedding", "pos_embed"),
            (r"conv_proj\.(.*)", r"patch_embed.proj.\1"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.ln_(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
            (r"encoder\.ln\.(.*)", r"norm.\1"),
        ),
        heads=r"heads\..*",
        mean_std=IMAGENET,
    ),
    Family(
        name="transformers' ResNet",
        example="resnet18",
        models=r"(?:wide_)?resnet\d+",
        why="other models have other layers",
        known=r"^(?:resnet\.)?encoder\.stages\.\d+\.layers\.\d+\.layer\.\d+\.convolution\.",
        rules=_resnet_rules(),
        heads=r"classifier\..*",
    ),
    Family(
        name="transformers' ViT",
        example="vit_base_patch16_224",
        models=r"vit_(?:base|tiny|small|large|huge)_patch\d+_\d+.*",
        why="other models have other layers",
        known=r"^(?:vit\.)?(?:encoder\.layer|layers)\.\d+\.(?:attention\.attention\.query|attention\.q_proj)\.",
        prepare=lambda tensors, model: _joined_attention(
            ("attention.q_proj", "attention.k_proj", "attention.v_proj"), r"(?:vit\.)?layers\.(\d+)", "blocks.{}.attn.qkv.{}"
        )(
            _joined_attention(
                ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
                r"(?:vit\.)?encoder\.layer\.(\d+)",
                "blocks.{}.attn.qkv.{}",
            )(tensors, model),
            model,
        ),
        rules=(
            (r"(?:vit\.)?embeddings\.cls_token", "cls_token"),
            (r"(?:vit\.)?embeddings\.position_embeddings", "pos_embed"),
            (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
            (r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(.*)", r"blocks.\1.norm1.\2"),
            (r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(.*)", r"blocks.\1.norm2.\2"),
            (r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(.*)", r"blocks.\1.attn.proj.\2"),
            (r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
            (r"(?:vit\.)?layernorm\.(.*)", r"norm.\1"),
        ),
        heads=r"(?:vit\.)?(?:classifier|pooler\.dense)\..*",
    ),
)
