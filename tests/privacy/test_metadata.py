"""What does not belong into a set is found wherever it hides, and is not repeated."""

import hashlib
import io
import json
import struct
import tarfile
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image, PngImagePlugin

from siamdiff import storage
from siamdiff.data.sample import EncodedSample
from siamdiff.data.shards import build_tar, index_tar, tar_uri
from siamdiff.data.shardset import ShardSet
from siamdiff.privacy.containers import BROKEN, THUMBNAIL, TRAILING, extras
from siamdiff.privacy.metadata import (
    BETWEEN,
    FOREIGN_JSON,
    LINK,
    OWNER,
    STRANGE_FILE,
    TIME,
    MetadataScan,
    source_names,
)
from siamdiff.privacy.record import Metadata
from siamdiff.privacy.wording import OF_SAMPLES, SOURCE_NAME, SourceNames, kinds_in, names_of
from tests.privacy.sets import drawn, phantoms, real_set, synthetic_set

IMAGE = phantoms(1, side=32)[0]
SECRET = "Mueller-Anna-1961"


def png(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "PNG", **options)
    return buffer.getvalue()


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET)
    return info


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = SECRET
    return made


def with_chunk(kind: bytes, content: bytes) -> bytes:
    data = png()
    chunk = struct.pack(">I4s", len(content), kind) + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]  # after IHDR


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(pnginfo=text()), "text chunk"),
        (png(exif=exif()), "EXIF"),
        (png(icc_profile=b"x" * 200), "colour profile"),
        (with_chunk(b"tIME", b"\x07\xe9\x01\x01\x00\x00\x00"), "time of change"),
        (with_chunk(b"prVt", b"x"), "unknown chunk"),
        (png() + SECRET.encode(), TRAILING),
        (png()[:60], BROKEN),
        (jpeg(comment=SECRET), "comment"),
        (jpeg(exif=exif()), "EXIF"),
        (jpeg(xmp=b"<x:xmpmeta/>"), "XMP"),
        (jpeg(icc_profile=b"x" * 200), "colour profile"),
        (jpeg(progressive=True) + b"PK", TRAILING),
        (jpeg()[:-200], BROKEN),
        (jpeg()[:2] + b"\xff\xe0\x00\x13JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x01\x01abc" + jpeg()[20:], THUMBNAIL),
        (jpeg()[:2] + b"\xff\xed\x00\x06abcd" + jpeg()[2:], "IPTC"),
        (jpeg()[:2] + b"\xff\xe9\x00\x06abcd" + jpeg()[2:], "unknown segment"),
    ],
)  # fmt: skip
def test_what_an_image_carries_beside_pixels_is_named(data: bytes, kind: str):
    assert [found for found, _ in extras(data)] == [kind]


@pytest.mark.parametrize("data", [png(), jpeg(quality=95, subsampling=0), jpeg(progressive=True)])
def test_pixels_alone_carry_nothing(data: bytes):
    assert list(extras(data)) == []


def test_damaged_files_are_told_without_an_error():
    rng = np.random.default_rng(0)
    for data in (png(pnginfo=text()), jpeg(comment="x", progressive=True)):
        for _ in range(80):
            damaged = bytearray(data[: rng.integers(1, len(data) + 1)])
            damaged[rng.integers(len(damaged))] ^= int(rng.integers(1, 256))
            list(extras(bytes(damaged)))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("seen on 19610312", "date"),
        ("seen on 12.03.1961", "date"),
        ("1961-3-12", "date"),
        ("case 4711882", "long number"),
        ("anna@clinic.example", "e-mail address"),
        ("MUELLER^ANNA", "name as in DICOM"),
        ("1.2.840.113619.2.55.3", "DICOM identifier"),
        ("from IMG_0042.dcm", "file name"),
        ("/home/amueller/data", "person's folder"),
        ("Mueller_0042", SOURCE_NAME),
        ("of mueller_0042.", SOURCE_NAME),
    ],
)
def test_names_dates_and_numbers_in_texts_are_found(said: str, kind: str):
    assert kind in kinds_in(said, OF_SAMPLES, SourceNames(names_of("images/mueller_0042.png")))


@pytest.mark.parametrize("name", ["anna mueller", "patient (7)", "(7) anna", "anna, m.", "Mu\u0308ller 1"])
def test_names_of_several_words_or_signs_are_found_but_not_as_a_part_of_a_longer_one(name: str):
    names = names_of(f"images/{name}.png")
    for around in ("{}", "of {}.", "'{}'", "of {}.png, left", "x_{}_2", "{}\n"):
        text = around.format(unicodedata.normalize("NFC", name).upper())
        assert SOURCE_NAME in kinds_in(text, OF_SAMPLES, SourceNames(names)), text
    for longer in (f"jo{name}", f"{name[:-1]}x{name[-1]}"):
        assert SOURCE_NAME not in kinds_in(longer, OF_SAMPLES, SourceNames(names)), longer


def test_names_of_several_words_are_looked_for_in_long_texts_in_time():
    names = SourceNames(
        {f"patient ({i})" for i in range(20000)} | {f"anna {i} mueller" for i in range(20000)}
    )
    text = "a polyp of patient (x), anna 7 " * 3000
    assert SOURCE_NAME not in kinds_in(text, {}, names)
    assert SOURCE_NAME in kinds_in(f"{text}mueller", {}, names)


@pytest.mark.parametrize(
    "said",
    [
        "a polyp",
        "mask+image",
        "0123456789abcdef",
        "ab" * 32,
        "0.12345",
        "ddim",
        "v1.2.3",
        "2026",
        "CC-BY-4.0",
    ],
)
def test_ordinary_texts_are_not(said: str):
    assert kinds_in(said, OF_SAMPLES, SourceNames({"mueller_0042"})) == set()


def scanned(of: ShardSet, names: set[str] | None = None) -> Metadata:
    scan = MetadataScan(names)
    for shard in of.manifest.shards:
        data = storage.read_bytes(tar_uri(of.uri, shard.name))
        scan.shard(shard.name, data, index_tar(data, shard.name))
    scan.set_files(of)
    return scan.outcome()


def kinds(found: Metadata) -> dict[str, int]:
    return {one.kind: one.count for one in found.found}


@pytest.fixture
def clean(tmp_path: Path) -> ShardSet:
    samples = [drawn(image, i) for i, image in enumerate(phantoms(7, side=32))]
    return synthetic_set(f"{tmp_path}/a/set", samples, real_set(f"{tmp_path}/data", phantoms(4, side=32), 0))


def test_a_set_as_it_is_written_passes(clean: ShardSet):
    for name, content in (("plan.json", b"{}"), ("config.yaml", b"a: 1\n"), ("README.md", b"# Card\n")):
        storage.write_bytes(storage.join(clean.uri, name), content)
    found = scanned(clean, {"mueller_0042"})
    assert (found.verdict, found.found, found.images, found.source_names) == ("pass", [], 7, 1)


@pytest.mark.parametrize(("names", "said"), [(None, "could not be read"), (set(), "has no name")])
def test_where_no_name_was_looked_for_the_check_does_not_pass(
    clean: ShardSet, names: set[str] | None, said: str
):
    found = scanned(clean, names)
    assert (found.verdict, found.found) == ("not done", []) and said in found.said
    Path(clean.uri, "notes.txt").write_text("x")
    assert scanned(clean, names).verdict == "look"


def test_a_name_of_two_words_is_found_in_a_description(tmp_path: Path):
    samples = [drawn(IMAGE, 0, prompt="polyp of Anna Mueller")]
    found = scanned(synthetic_set(f"{tmp_path}/set", samples), {"anna mueller"})
    assert found.verdict == "fail" and SOURCE_NAME in kinds(found)


def test_what_an_image_in_a_shard_carries_is_found_at_its_sample(tmp_path: Path):
    sample = drawn(IMAGE, 0)
    image = png(pnginfo=text())
    meta = sample.meta.model_copy(update={"image_sha256": hashlib.sha256(image).hexdigest()})
    of = synthetic_set(f"{tmp_path}/set", [EncodedSample(meta, image, sample.mask, "png")])
    found = scanned(of, {"mueller-anna-1961"})
    assert found.verdict == "fail" and kinds(found) == {"text chunk": 1, SOURCE_NAME: 1}
    assert found.found[0].places == [f"{meta.key}.png"]
    assert "mueller" not in found.model_dump_json().lower()


def test_descriptions_are_read_whole(tmp_path: Path):
    samples = [drawn(IMAGE, 0, prompt="polyp of patient 47118822"), drawn(IMAGE, 1, parent=SECRET)]
    found = scanned(synthetic_set(f"{tmp_path}/set", samples), {SECRET.lower()})
    assert kinds(found) == {"long number": 1, SOURCE_NAME: 3}  # parent and group; marker
    assert "4711" not in found.model_dump_json() and SECRET not in found.model_dump_json()
    assert any(place.endswith("json, synthetic.parent") for one in found.found for place in one.places)


def test_foreign_files_and_links_in_the_folder_are_found(clean: ShardSet):
    folder = Path(clean.uri)
    (folder / "notes.txt").write_text("call anna@clinic.example")
    (folder / "shards" / "old.tar").write_bytes(b"x")
    (folder / "linked").symlink_to(folder / "notes.txt")
    (folder / "config.yaml").write_text("root: /home/amueller/x\n")
    found = scanned(clean)
    assert kinds(found) == {"e-mail address": 1, STRANGE_FILE: 2, LINK: 1, "person's folder": 1}
    assert found.verdict == "fail" and "could not be read" in found.said


def archive(of: ShardSet, change) -> tuple[str, bytes]:
    """A shard whose first header was changed."""
    name = of.manifest.shards[0].name
    data = bytearray(storage.read_bytes(tar_uri(of.uri, name)))
    info = tarfile.TarInfo.frombuf(bytes(data[:512]), "ascii", "strict")
    change(info)
    data[:512] = info.tobuf(tarfile.USTAR_FORMAT)
    return name, bytes(data)


@pytest.mark.parametrize(
    ("field", "value", "kind"), [("uname", "amueller", OWNER), ("uid", 1000, OWNER), ("mtime", 1, TIME)]
)
def test_owners_and_times_in_the_archive_are_found(clean: ShardSet, field: str, value: object, kind: str):
    name, data = archive(clean, lambda info: setattr(info, field, value))
    scan = MetadataScan(None)
    scan.shard(name, data, index_tar(data, name))
    assert kinds(scan.outcome()) == {kind: 1}


def test_bytes_between_members_are_found(clean: ShardSet):
    name = clean.manifest.shards[0].name
    data = bytearray(storage.read_bytes(tar_uri(clean.uri, name)))
    row = index_tar(bytes(data), name)[0]
    data[row.meta_offset + row.meta_size] = 65
    scan = MetadataScan(None)
    scan.shard(name, bytes(data), index_tar(bytes(data), name))
    assert kinds(scan.outcome()) == {BETWEEN: 1}


def test_names_of_sources_are_read_beside_the_training_set(tmp_path: Path):
    real = real_set(f"{tmp_path}/data", phantoms(4, side=32), 0)
    assert source_names(real) is None and source_names(None) is None
    private = tmp_path / "private" / "data"
    private.mkdir(parents=True)
    rows = [{"key": "0" * 16, "image": "img/Mueller_0042.PNG", "mask": "m/a.png", "group": "Patient-7"}]
    (private / "keys.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert source_names(real) == {"mueller_0042.png", "mueller_0042", "a.png", "patient-7"}
    (private / "keys.jsonl").write_text("not JSON")
    assert source_names(real) is None


def test_names_that_nobody_may_read_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = real_set(f"{tmp_path}/data", phantoms(4, side=32), 0)
    (tmp_path / "private").write_text("a file where a folder should be")
    assert source_names(real) is None

    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFileSystem, "cat_file", refuse)
    assert source_names(real) is None


def test_what_a_description_says_twice_is_found(tmp_path: Path):
    sample = drawn(IMAGE, 0)
    data = build_tar([sample])
    (row,) = index_tar(data, "fold0-000000")
    meta = data[row.meta_offset : row.meta_offset + row.meta_size]
    twice = meta.replace(b'"prompt":"a polyp"', b'"prompt":"MUELLER^ANNA","prompt":"a polyp"')
    members = {f"{sample.meta.key}.json": twice}
    members |= {f"{sample.meta.key}.mask.png": sample.mask, f"{sample.meta.key}.png": sample.image}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    scan = MetadataScan(None)
    scan.shard("fold0-000000", buffer.getvalue(), index_tar(buffer.getvalue(), "fold0-000000"))
    assert kinds(scan.outcome()) == {FOREIGN_JSON: 1, "name as in DICOM": 1}
