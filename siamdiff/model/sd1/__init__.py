"""Stable Diffusion 1.x without its weights: what a single file of them does not say.

`unet.json`, `vae.json` and `text_encoder.json` are the configurations of its networks, in the words of diffusers and
transformers; `merges.txt` holds the merges of CLIP's byte-pair encoding (LICENSE.clip).
"""

import json
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from siamdiff.model.diffusion import SD15_SCHEDULE

_HERE = Path(__file__).parent
TOKENS = 77  # of a prompt, its first and last token included


def network_config(part: str) -> dict[str, Any]:
    """Configuration of `unet`, `vae` or `text_encoder`."""
    return json.loads((_HERE / f"{part}.json").read_text())


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer: 256 bytes, the same at the end of a word, 48894 merges and two marks, 49408 tokens in all."""
    version, *lines = (_HERE / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert version.startswith("#version")
    return clip_tokenizer([(left, right) for left, right in map(str.split, lines)])


def clip_tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """A tokenizer of CLIP's kind, numbered like it: bytes, bytes at the end of a word, merges, marks."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=merges,  # pyrefly: ignore[bad-argument-type] as pairs, too
        unk_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=TOKENS,
    )


def make_scheduler() -> DDIMScheduler:
    """DDIM on Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(**SD15_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
