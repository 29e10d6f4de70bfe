"""Sets with lesions of every size, a study of them, and its server as a process that can be killed."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom
from skimage.draw import disk

from siamdiff.data.sample import EncodedSample, Foreign, Synthetic
from siamdiff.data.shardset import ShardSet
from siamdiff.study.making import Made, Plan, make_study
from tests.conftest import REPOSITORY
from tests.segmentation.sets import finish, pair

SIDE = 64
SHARES = {"small": 0.03, "medium": 0.1, "large": 0.3}


def arrays(index: int, lesion: str, seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A soft picture, and a mask of its own that is as large as a class of lesions is."""
    rng = np.random.default_rng([seed, index])
    soft = zoom(rng.uniform(60, 200, (8, 8, 3)), (side / 8, side / 8, 1), order=1)
    image = np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    if lesion != "none":
        mask[disk((side / 2, side / 2), side * (SHARES[lesion] / np.pi) ** 0.5, shape=mask.shape)] = 255
        mask[0, index % side] = 255  # so that no two are the same
    return image, mask


def real_set(uri: str, each: int = 6, *, side: int = SIDE, extra: Sequence[str] = ()) -> ShardSet:
    """`each` JPEG images of every class in the test split, and one in the train split; `extra` classes as well."""
    lesions = [*(lesion for lesion in SHARES for _ in range(each)), *extra]
    samples = [
        pair(i, "test", arrays=arrays(i, lesion, 0, side), image_format="jpg", group=f"patient-{i}")
        for i, lesion in enumerate(lesions)
    ]
    one = pair(900, "train", arrays=arrays(900, "small", 0, side), image_format="jpg")
    return finish(uri, {"test-000000": samples, "train-000000": [one]}, "real", side)


def synthetic_set(
    uri: str,
    seed: int,
    each: int = 6,
    *,
    parents: ShardSet | None = None,
    has_mask: bool = True,
    side: int = SIDE,
) -> ShardSet:
    """`each` PNG images of every class; of masks of `parents`, or of another method's."""
    of_class = [lesion for lesion in SHARES for _ in range(each)]
    keys = parents.keys("test") if parents else []
    samples: list[EncodedSample] = []
    for i, lesion in enumerate(of_class):
        if parents is None:
            origin: Synthetic | Foreign = Foreign(method="Other", has_mask=has_mask)
        else:
            origin = Synthetic(
                parent=keys[i % len(keys)], fold=0, transform={}, seed=i, model_digest="m", sampler={}
            )
        group = parents.row(keys[i % len(keys)]).group if parents else f"{uri}-{i}"
        drawn = arrays(i, lesion if has_mask else "none", seed, side)
        samples.append(pair(i, "train", arrays=drawn, group=group, synthetic=origin))
    return finish(uri, {"fold0-000000": samples}, "synthetic", side)


def small_study(root: Path, images: int = 16, repeats: int = 4, readers: int = 2, each: int = 6) -> Made:
    """A study of one real and two synthetic sets under `root`/study."""
    real = real_set(str(root / "real"), each)
    methods: Mapping[str, str] = {
        "ours": synthetic_set(str(root / "ours"), 1, each).uri,
        "other": synthetic_set(str(root / "other"), 2, each).uri,
    }
    return make_study(real.uri, methods, str(root / "study"), Plan(images, repeats, readers, 7))


@dataclass
class Server:
    """`study serve` as a process, on one port as often as it is started."""

    place: Path
    port: int = 0
    url: str = ""
    log: str = ""
    process: subprocess.Popen[str] | None = field(default=None)

    def start(self) -> None:
        """Returns once it listens."""
        command = [
            sys.executable,
            "-m",
            "siamdiff",
            "study",
            "serve",
            str(self.place),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, (line, self.process.communicate()[1])
        self.url, self.port = found[0], int(found[1])

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process
        self.process.kill()
        self.log += self.process.communicate()[1]

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
