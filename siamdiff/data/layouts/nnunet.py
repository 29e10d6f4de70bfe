"""nnU-Net v2 datasets of 2D images: imagesTr/, labelsTr/, perhaps imagesTs/ and labelsTs/, and dataset.json.

Images are `CASE_0000.png`: one file in grey or RGB, or three files _0000, _0001, _0002 of red, green and blue.
Labels are `CASE.png`, maps of the numbers that dataset.json names; a region is a list of them, `ignore` stands for
pixels that nobody annotated. https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import json
import re
from collections import defaultdict

from pydantic import BaseModel, ValidationError

from siamdiff import storage
from siamdiff.data.layouts.pairs import Files, Found, Labels, Pair, Rejected, is_image, unless_all_train
from siamdiff.errors import UserError
from siamdiff.sections import Data

DESCRIPTION = "dataset.json"
ENDINGS = (".png", ".tif", ".tiff", ".bmp")
_PARTS = {"Tr": "train", "Ts": "test"}
_CHANNEL = re.compile(r"(.+)_(\d{4})")


class _Description(BaseModel):
    """The fields of dataset.json that matter here."""

    labels: dict[str, int | list[int]]
    file_ending: str


def fits(files: Files) -> bool:
    """Whether there are imagesTr/ and labelsTr/."""
    return all(any(path.startswith(f"{kind}Tr/") for path in files) for kind in ("images", "labels"))


def find(source: str, files: Files, data: Data) -> Found:
    """The cases with labels; those of imagesTs/ belong to the test set where labelsTs/ is there.

    Raises:
        UserError: dataset.json is missing, of version 1 or of 3D data, or `data.foreground` is not among its labels.
    """
    text, described = _describe(source)
    if described.file_ending not in ENDINGS:
        raise UserError(
            f"{source}/{DESCRIPTION}: file_ending {described.file_ending!r} cannot be read; "
            f"2D images in {', '.join(ENDINGS)} can"
        )
    labels = _choose(source, described, data.foreground)
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    for part in [part for part in _PARTS if any(path.startswith(f"labels{part}/") for path in files)]:
        masks = _cases(files, f"labels{part}/", described.file_ending)
        images: dict[str, list[str]] = defaultdict(list)
        for name, path in _cases(files, f"images{part}/", described.file_ending).items():
            channel = _CHANNEL.fullmatch(name)
            if channel:
                images[channel[1]].append(path)
            else:
                rejected.append(Rejected([path], "image without channel number", "CASE_0000 is its name"))
        for case in sorted(images.keys() | masks.keys()):
            channels, mask = sorted(images.get(case, [])), masks.get(case)
            if mask is None:
                rejected.append(Rejected(channels, "image without mask"))
            elif not channels:
                rejected.append(Rejected([mask], "mask without image"))
            elif len(channels) not in (1, 3):
                detail = f"{len(channels)} files; one, or three of red, green and blue, are an image"
                rejected.append(Rejected([*channels, mask], "image of other channels", detail))
            else:
                image, *planes = channels
                pairs.append(Pair(image, mask, split=_PARTS[part], planes=tuple(planes), labels=labels))
    return Found(unless_all_train(pairs), rejected, read=[text, list(labels.lesion)])


def _cases(files: Files, folder: str, ending: str) -> dict[str, str]:
    """Paths right in a folder by their names without the ending."""
    names = {path.removeprefix(folder): path for path in files if path.startswith(folder) and is_image(path)}
    return {n.removesuffix(ending): path for n, path in names.items() if n.endswith(ending) and "/" not in n}


def _describe(source: str) -> tuple[str, _Description]:
    uri = storage.join(source, DESCRIPTION)
    try:
        text = storage.read_bytes(uri).decode()
        return text, _Description.model_validate(json.loads(text))
    except FileNotFoundError:
        raise UserError(
            f"data.source {source} has imagesTr/ and labelsTr/, but no {DESCRIPTION}, which names the labels; "
            "give the dataset's own folder, with it"
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][:2]) or "content"
        raise UserError(
            f"{uri} is not nnU-Net v2's: {where}: {fault['msg'].lower()}; labels map names to numbers, file_ending "
            "is such as .png (nnUNetv2_convert_old_nnUNet_dataset converts version 1)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is not valid JSON ({error}); repair it") from None


def _choose(source: str, described: _Description, foreground: tuple[int, ...] | None) -> Labels:
    """The labels that are lesion: those chosen, else all but the background.

    Raises:
        UserError: one that dataset.json does not name, naming those it does; or a set without any.
    """
    numbers = {
        name: set(value) if isinstance(value, list) else {value} for name, value in described.labels.items()
    }
    ignored = min(numbers.pop("ignore", set()), default=None)
    lesions = set().union(*numbers.values()) - {0, ignored}
    chosen = lesions if foreground is None else set(foreground)
    if not chosen or not chosen <= lesions:
        there = ", ".join(f"{name} {sorted(value)}" for name, value in numbers.items() if value - {0})
        given = "nothing" if foreground is None else ",".join(map(str, foreground))
        raise UserError(
            f"data.foreground {given}: the labels of {source} are {there or 'none but the background'}; "
            "choose among these numbers"
        )
    known = {0, *lesions} if ignored is None else {0, *lesions, ignored}
    return Labels(tuple(sorted(chosen)), tuple(sorted(known)), ignored)
