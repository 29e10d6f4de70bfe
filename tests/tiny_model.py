"""A mask set and a model in the layout of a finished run, made in a second: untrained, but masks, prompts and noise all
change what it samples."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from siamdiff.config import Config
from siamdiff.data.phantom import render_phantom
from siamdiff.data.sample import make_sample
from siamdiff.data.shards import shard_name, write_shard
from siamdiff.data.shardset import ShardSet, finish_set
from siamdiff.model.base import load_base
from siamdiff.model.build import build_model
from siamdiff.model.diffusion import SD15_SCHEDULE
from siamdiff.model.folder import save_model

RESOLUTION = 32
TOKENS = 8
HINT_CHANNELS = (4, 4, 8, 8, 16)
MASK_ALONE = {"image_branch": False, "online_augmentation": False, "consistency_weight": 0}


def write_masks(
    uri: str, count: int, *, resolution: int = RESOLUTION, splits: tuple[str, ...] = ("train",)
) -> ShardSet:
    """A real shard set of phantoms, `count` per split."""
    names = []
    for number, split in enumerate(splits):
        samples = []
        for index in range(count):
            image, mask = render_phantom(seed=number, index=index, size=resolution)
            samples.append(
                make_sample(
                    image,
                    mask,
                    prompt="a polyp" if index % 2 else "polyp two",
                    split=split,
                    group=f"patient-{index // 2}-{split}",
                    source_size=(resolution, resolution),
                    image_format="png",
                )
            )
        names.append(shard_name(split, 0))
        write_shard(uri, names[-1], samples)
    finish_set(
        uri,
        names,
        kind="real",
        resolution=resolution,
        demo=False,
        license="CC-BY-4.0",
        permitted_use="research",
        made_from={},
    )
    return ShardSet.open(uri)


def write_base(folder: Path, *, seed: int = 0, scheduler: SchedulerMixin | None = None) -> None:
    """A base of random weights in the local `folder`."""
    torch.manual_seed(seed)
    networks = {
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=54,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=52,
                eos_token_id=53,
            )
        ),
        "tokenizer": _tokenizer(),
        "scheduler": scheduler or DDIMScheduler(**SD15_SCHEDULE),
    }
    for name, part in networks.items():
        part.save_pretrained(folder / name)
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    unet.save_pretrained(folder / "unet")


def write_model(
    uri: str,
    folder: Path,
    masks: ShardSet,
    *,
    control: str = "dhi",
    seed: int = 0,
    scheduler: SchedulerMixin | None = None,
) -> None:
    """A model of random weights under `uri`, by way of a base in the local `folder`, with that scheduler."""
    write_base(folder, seed=seed, scheduler=scheduler)
    chosen = {"control": control, "hint_channels": HINT_CHANNELS if control == "dhi" else None}
    train = MASK_ALONE if control == "t2i-adapter" else {}
    config = Config(root=str(folder), model=chosen, train=train).resolve()
    model = build_model(config, load_base(str(folder)))
    with torch.no_grad():
        for p in model.control.parameters():
            if not p.any():  # zero convolutions, which would hide the mask
                p.normal_(std=0.2)
    save_model(uri, folder, model, config, masks)


def _tokenizer() -> CLIPTokenizer:
    """Letter by letter."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=TOKENS
    )
