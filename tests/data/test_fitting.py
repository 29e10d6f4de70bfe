"""What is kept of a pair, how it becomes square, and that a point of the square has its place in the source."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from siamdiff.commandline import load
from siamdiff.data.checking import Fault
from siamdiff.data.fitting import Frame, field_of_view, frame_pair
from siamdiff.data.pairing import scan
from siamdiff.data.raw import Plan, Planned, encode, examine, make_plan
from siamdiff.errors import UserError
from siamdiff.sections import Box, Data
from tests.data.raw_folders import image, make_folder, mask

DEMO = Path(__file__).parents[2] / "jobs/configs/demo.yaml"
FIELD: Box = (180, 40, 600, 460)


def scene(frame: tuple[int, int, int] = (0, 0, 0), shape: str = "ellipse", noise: int = 0) -> np.ndarray:
    """A field of view of 420 x 420 in a frame of 640 x 480, with text, a logo and a thumbnail outside of it."""
    picture = Image.new("RGB", (640, 480), frame)
    stencil = Image.new("L", picture.size)
    getattr(ImageDraw.Draw(stencil), shape)((*FIELD[:2], FIELD[2] - 1, FIELD[3] - 1), fill=255)
    picture.paste(image(3, 640, 480).point(lambda value: 60 + value // 2), mask=stencil)
    draw = ImageDraw.Draw(picture)
    draw.text((8, 60), "NAME: DOE, JANE\n21/05/2012", fill=(255, 255, 255), font=ImageFont.load_default(20))
    draw.rectangle((20, 300, 110, 390), fill=(20, 180, 140))
    values = np.array(picture)
    if noise:
        rng = np.random.default_rng(0)
        values = np.clip(values + rng.integers(-noise, noise + 1, values.shape), 0, 255).astype(np.uint8)
    return values


def lesion(*boxes: Box, size: tuple[int, int] = (640, 480)) -> np.ndarray:
    picture = Image.new("L", size)
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return np.array(picture)


def settings(**fields: object) -> Data:
    return Data.model_validate(fields)


INSIDE = lesion((300, 200, 340, 240))


@pytest.mark.parametrize("shape", ["ellipse", "rectangle"])
@pytest.mark.parametrize("frame", [(0, 0, 0), (14, 12, 16), (255, 255, 255), (128, 128, 128)])
def test_the_field_of_view_is_found_in_its_frame(frame: tuple[int, int, int], shape: str) -> None:
    found = field_of_view(scene(frame, shape))
    assert np.abs(np.subtract(found, FIELD)).max() <= 2
    assert field_of_view(scene(noise=8)) == pytest.approx(FIELD, abs=2)


def test_an_image_without_a_frame_stays_whole() -> None:
    for seed in range(5):
        assert field_of_view(np.array(image(seed, 640, 480))) == (0, 0, 640, 480)
    assert field_of_view(np.zeros((48, 64, 3), np.uint8)) == (0, 0, 64, 48)
    spot = np.zeros((480, 640, 3), np.uint8)
    spot[100:200, 100:200] = 200
    assert field_of_view(spot) == (0, 0, 640, 480), "too small to be a field of view"


def test_a_dark_fold_does_not_halve_the_field() -> None:
    values = scene()
    values[:, 380:400] = 0
    assert np.abs(np.subtract(field_of_view(values), FIELD)).max() <= 2


def test_large_images_are_never_cut_into() -> None:
    big = np.array(Image.fromarray(scene(shape="rectangle")).resize((1920, 1440), Image.Resampling.NEAREST))
    left, top, right, bottom = field_of_view(big)
    inner = [3 * side for side in FIELD]
    assert left <= inner[0] and top <= inner[1] and right >= inner[2] and bottom >= inner[3]
    assert np.abs(np.subtract((left, top, right, bottom), inner)).max() <= 6


def test_the_crop_holds_the_whole_lesion() -> None:
    data = settings(crop="auto")
    assert frame_pair(scene(), INSIDE, data).crop == pytest.approx(FIELD, abs=2)
    outside = frame_pair(scene(), lesion((300, 200, 340, 240), (100, 450, 120, 480)), data).crop
    assert outside[0] == 100 and outside[3] == 480 and outside[1:3] == pytest.approx(FIELD[1:3], abs=2)
    empty = frame_pair(scene(), lesion(), data).crop
    assert empty == pytest.approx(FIELD, abs=2)


def test_a_box_is_taken_as_it_is() -> None:
    data = settings(crop=(100, 50, 640, 480))
    assert frame_pair(scene(), INSIDE, data) == Frame((100, 50, 640, 480), (0, 0, 0, 0))
    with pytest.raises(Fault) as fault:
        frame_pair(scene()[:, :639], INSIDE[:, :639], data)
    assert fault.value.reason == "crop leaves the image"
    assert fault.value.detail == "data.crop 100,50,640,480, image 639 x 480"


@pytest.mark.parametrize(
    ("fit", "crop", "padding"),
    [
        ("squash", (10, 0, 310, 201), (0, 0, 0, 0)),
        ("pad", (10, 0, 310, 201), (0, 49, 0, 50)),
        ("crop", (59, 0, 260, 201), (0, 0, 0, 0)),
    ],
)
def test_fits(fit: str, crop: Box, padding: Box) -> None:
    values = np.array(image(1, 320, 240))
    frame = frame_pair(
        values, lesion((100, 90, 140, 120), size=(320, 240)), settings(crop=(10, 0, 310, 201), fit=fit)
    )
    assert frame == Frame(crop, padding)
    cut = frame.cut(values)
    assert fit == "squash" or cut.shape[0] == cut.shape[1]
    left, top, right, bottom = padding
    assert not cut[:top].any() and not cut[cut.shape[0] - bottom :].any()
    inner = cut[top : cut.shape[0] - bottom, left : cut.shape[1] - right]
    assert np.array_equal(inner, values[crop[1] : crop[3], crop[0] : crop[2]])


def test_a_lesion_that_is_cropped_away_is_a_fault() -> None:
    for fields in ({"fit": "crop"}, {"crop": (0, 0, 100, 100), "allow_empty": True}):
        with pytest.raises(Fault) as fault:
            frame_pair(scene(), lesion((600, 400, 640, 480)), settings(**fields))
        assert fault.value.reason == "lesion is cropped away"
    part = lesion((500, 400, 640, 480))
    assert frame_pair(scene(), part, settings(fit="crop")).cut(part).any()


@pytest.mark.parametrize(
    ("given", "crop"),
    [("auto", "auto"), ("none", "none"), ("10,20,300,400", (10, 20, 300, 400)), ("[1,2,3,4]", (1, 2, 3, 4))],
)
def test_a_crop_on_the_command_line(given: str, crop: object) -> None:
    assert load(["--data.crop", given], DEMO, "")[0].data.crop == crop


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("middle", "must be none, auto or left,top,right,bottom"),
        ("1,2,3", "must be none, auto or left,top,right,bottom"),
        ("1,2,x,4", "must be none, auto or left,top,right,bottom"),
        ("5,0,5,9", "left must be below right"),
        ("-1,0,5,9", "none below 0"),
    ],
)
def test_a_crop_that_is_none_is_one_line(given: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"data\.crop = .*: .*{message}"):
        load([f"--data.crop={given}"], DEMO, "")


def plan_of(data: Data) -> tuple[Plan, list[Planned]]:
    source = scan(data)
    plan = make_plan(source.pairs, [examine(source.folder, pair, data) for pair in source.pairs], data)
    return plan, [sample for samples in plan.shards.values() for sample in samples]


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("crop", ["none", "auto", (150, 20, 640, 480)])
def test_image_and_mask_take_the_same_way_and_it_leads_back(tmp_path: Path, fit: str, crop: object) -> None:
    square: Box = (330, 210, 390, 270)
    drawn = Image.fromarray(scene())
    ImageDraw.Draw(drawn).rectangle((330, 210, 389, 269), fill=(255, 255, 255))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    drawn.save(tmp_path / "images/a.png")
    Image.fromarray(lesion(square)).save(tmp_path / "masks/a.png")
    data = settings(source=str(tmp_path), resolution=256, fit=fit, crop=crop)
    _, (planned,) = plan_of(data)
    sample = encode(str(tmp_path), planned, data).decode()
    meta = sample.meta
    assert sample.image[sample.mask > 0].mean() > 250, "the mask lies on what was drawn"
    rows, columns = np.nonzero(sample.mask)
    stored = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert meta.crop is not None
    left, top, right, bottom = meta.crop
    before_x, before_y, after_x, after_y = meta.padding
    scale_x = (right - left + before_x + after_x) / meta.width
    scale_y = (bottom - top + before_y + after_y) / meta.height
    back = [
        offset + side * scale
        for side, scale, offset in zip(
            stored, (scale_x, scale_y) * 2, (left - before_x, top - before_y) * 2, strict=True
        )
    ]
    assert back == pytest.approx(square, abs=2.5)


def test_the_key_is_that_of_the_whole_picture(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    keys = [
        sorted(sample.key for sample in plan_of(settings(source=str(tmp_path), resolution=32, **fields))[1])
        for fields in ({}, {"fit": "pad"}, {"fit": "crop"}, {"crop": (5, 5, 30, 30)})
    ]
    assert all(found == keys[0] for found in keys)


def test_frames_with_other_text_look_the_same_once_it_is_cropped(tmp_path: Path) -> None:
    for number, name in enumerate(("train_0", "test_0")):
        values = scene()
        values[100:380, 20 + 60 * number : 70 + 60 * number] = 255 - 200 * number  # another overlay in each
        for kind, array in (("images", values), ("masks", INSIDE)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / f"{name}.png")
    near = [
        len(plan_of(settings(source=str(tmp_path), crop=crop))[0].near_duplicates)
        for crop in ("none", "auto")
    ]
    assert near == [0, 1]


def test_crops_that_do_not_fit_are_counted_by_reason(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a", "b"])
    image(7, 80, 60).save(tmp_path / "images/b.png")
    mask(80, 60).save(tmp_path / "masks/b.png")
    plan, planned = plan_of(settings(source=str(tmp_path), resolution=32, crop=(20, 15, 80, 60)))
    assert [(bad.files[0], bad.reason) for bad in plan.rejected] == [
        ("images/a.png", "crop leaves the image")
    ]
    assert len(planned) == 1


def test_real_fields_of_view_hold_their_lesions(shared: Path) -> None:
    folder = shared / "data/kvasir_seg"
    framed = 0
    for path in sorted((folder / "images").glob("*"))[::30]:
        values = np.array(Image.open(path).convert("RGB"))
        truth = np.array(Image.open(folder / "masks" / f"{path.stem}.png").convert("L")) > 127
        left, top, right, bottom = field_of_view(values)
        assert truth[top:bottom, left:right].sum() == truth.sum()
        framed += (left, top, right, bottom) != (0, 0, 352, 352)
    assert framed <= 3, "most of these images were cropped to the field when the set was made"
