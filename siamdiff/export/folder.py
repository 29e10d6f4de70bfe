"""A plain folder: images/KEY.png|jpg, masks/KEY.png and metadata.jsonl. The bytes are those of the shards."""

from collections.abc import Sequence

from siamdiff.data.sample import EncodedSample
from siamdiff.export.common import fields, finish, metadata, open_sets, put_all, read_shards, writing


def export_folder(uris: Sequence[str], target: str) -> dict[str, int]:
    """Writes complete sets as one folder.

    Masks are 8-bit grey PNG, 0 background and 255 lesion. Each line of metadata.jsonl is one sample: the paths of its
    `image` and `mask`, the digest of its `set`, the set's `kind`, and every field of its KEY.json.

    Args:
        uris: of the sets.
        target: URI of a folder that does not exist yet or is empty.

    Returns:
        Samples by split.

    Raises:
        UserError: not complete sets, a key in two of them, or a target that is taken.
        SiamdiffError: a set is damaged, or the store fails.
    """
    sets = open_sets(uris)
    counts: dict[str, int] = {}
    with writing(target) as uri:
        with metadata(uri) as add:
            for shard_set in sets:
                for samples in read_shards(shard_set):
                    put_all(uri, [file for sample in samples for file in _files(sample)])
                    for sample in samples:
                        image, mask = (name for name, _ in _files(sample))
                        add(fields(sample, shard_set, image, mask))
                        counts[sample.meta.split] = counts.get(sample.meta.split, 0) + 1
        finish(uri, sets, "folder", counts)
    return counts


def _files(sample: EncodedSample) -> list[tuple[str, bytes]]:
    """Image and mask: names and contents."""
    key = sample.meta.key
    return [(f"images/{key}.{sample.image_format}", sample.image), (f"masks/{key}.png", sample.mask)]
