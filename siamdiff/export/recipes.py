"""How each layout is opened, for its card. Every Python block runs in the folder that the card lies in."""

SHARDS = """\
`webdataset`; its own `.decode()` is left out, for it would unpickle what a foreign tar holds:

```python
import io
import json
from glob import glob

import webdataset
from PIL import Image


def picture(data):
    return Image.open(io.BytesIO(data))


samples = (
    webdataset.WebDataset(sorted(glob("shards/*.tar")), shardshuffle=False)
    .rename(image="png;jpg", mask="mask.png", about="json")
    .map_dict(image=picture, mask=picture, about=json.loads)
)
```

`datasets` (5.2 was tried); without `features` it guesses what is in `json` from the first five samples, and drops or
refuses what later ones hold:

```python
from datasets import Features, Image, Json, Value, load_dataset

columns = {"png": Image(), "mask.png": Image(), "json": Json()}  # "jpg" where the shards hold JPEG
columns |= {"__key__": Value("string"), "__url__": Value("string")}
samples = load_dataset("webdataset", data_files="shards/*.tar", features=Features(columns))["train"]
```

For MONAI and nnU-Net: `python -m siamdiff export`."""

FOLDER = """\
`images/`, `masks/` (0 background, 255 lesion) and `metadata.jsonl`, one sample a line. The folder is whole
if it holds `export.json`.

MONAI; tensors are (channels, height, width), image in [0, 1], mask 0 or 1:

```python
import json

from monai.data import Dataset, PILReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged

with open("metadata.jsonl") as lines:
    about = [json.loads(line) for line in lines]
files = [{name: sample[name] for name in ("image", "mask")} for sample in about if sample["split"] == "train"]
load = Compose(
    [
        # else height and width come swapped
        LoadImaged(("image", "mask"), reader=PILReader(reverse_indexing=False)),
        EnsureChannelFirstd("image", channel_dim=-1),
        EnsureChannelFirstd("mask", channel_dim="no_channel"),
        ScaleIntensityRanged(("image", "mask"), a_min=0, a_max=255, b_min=0, b_max=1),
    ]
)
samples = Dataset(files, load)
```"""

NNUNET = """\
A raw data set of nnU-Net v2, `DatasetNNN_NAME`, to lie in `nnUNet_raw`. It is whole if it holds `export.json`. Labels:
0 background, 1 lesion. Synthetic cases are called `synthetic_KEY`; `metadata.jsonl` tells what each case is.

    nnUNetv2_plan_and_preprocess -d NNN --verify_dataset_integrity
    nnUNetv2_train NNN 2d 0

`splits_final.json` keeps synthetic cases out of validation. nnU-Net reads it in `nnUNet_preprocessed/DatasetNNN_NAME`;
the planner of 2.8 copies it there, with an older one do so before training:

    cp "$nnUNet_raw/DatasetNNN_NAME/splits_final.json" "$nnUNet_preprocessed/DatasetNNN_NAME/"

Train only the folds that it holds, numbered from 0: for another number, or for `all`, nnU-Net makes a split of its own
that validates on synthetic cases too."""

HF = """\
Parquet with image columns: `image` (RGB), `mask` (grey, 0 background, 255 lesion), and what is known of each sample.
The folder is whole if it holds `export.json`. `transform`, `sampler` and `scores` are JSON.

```python
from datasets import load_dataset

samples = load_dataset(".")  # or the name that it has on the hub
```"""

RECIPES = {"shards": SHARDS, "folder": FOLDER, "nnunet": NNUNET, "hf": HF}
