"""Images in files: folders, manifests, what files hold, and what must not be opened."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from cnnaudit.data import open_images
from cnnaudit.data.files import FileImages
from cnnaudit.data.images import permutation
from cnnaudit.data.pictures import decoded, decoded_mask
from cnnaudit.data.transforms import Steps, Transforms
from cnnaudit.errors import LoadError
from cnnaudit.load import Trust
from cnnaudit.spec import Reading, resolve

SIZE = (5, 4)  # height and width
UNCHANGED = Transforms(None, Steps(()))


def pixels(seed, size=SIZE, channels=3):
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, seed=0, size=SIZE, channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size, channels)).save(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    monkeypatch.chdir(bundle)
    return bundle


def opened(text, *columns, transforms=UNCHANGED, masks=False, options=None, **reading):
    here = Path.cwd()
    source = resolve(text, base=here, role="data", options=options)
    trust = Trust((), here, bundle=here)
    return open_images(source, trust, columns, masks=masks, reading=Reading(**reading), transforms=transforms)


def visited(images, size=4, limit=None):
    """Images, labels and ids in the order of the data."""
    (*blocks,) = images.blocks(size, 1, limit)
    order = torch.cat([block.ids for block in blocks]).argsort()
    labels = None if blocks[0].labels is None else torch.cat([block.labels for block in blocks])[order].tolist()
    return torch.cat([block.images for block in blocks])[order], labels


def classes(here):
    """Two images in each of three folders, and some deeper."""
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/b/1.png", "dog/a/2.PNG", "emu/1.bmp", "emu/2.png")):
        write(here / "photos" / name, number)


# --- folders ---------------------------------------------------------------------------------------------


def test_classes_are_folders_as_torchvision_has_them(here):
    classes(here)
    images = opened("photos/")
    theirs = ImageFolder("photos")
    found, labels = visited(images)
    assert labels == theirs.targets == [0, 0, 1, 1, 2, 2]
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in theirs])
    assert torch.equal(found, expected.float())
    assert (images.classes, images.count, images.order, images.labelled) == (3, 6, "seeded", True)
    assert images.facts["source"] == "photos/"
    (first, *_) = images.blocks(6, 1, None)
    assert first.ids.tolist() == permutation(6, 1).tolist()


def test_a_flat_folder_has_no_labels(here):
    for i in range(3):
        write(here / "photos" / f"{i}.png", i)
    images = opened("photos")
    found, labels = visited(images)
    assert labels is None
    assert (images.labelled, images.classes) == (False, None)
    assert torch.equal(found[2], torch.from_numpy(pixels(2)).permute(2, 0, 1).float())


def test_other_files_are_ignored_and_counted(here):
    classes(here)
    for name in ("photos/notes.txt", "photos/cat/1.png.bak", "photos/.DS_Store", "photos/.hidden/1.png"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(b"x")
    images = opened("photos/")
    assert images.count == 6
    assert images.facts["ignored"] == 4


def test_what_is_usual_for_files_is_a_scale_from_0_to_1(here):
    classes(here)
    images = opened("photos/", transforms=None)
    assert torch.equal(visited(images)[0][0], torch.from_numpy(pixels(0)).permute(2, 0, 1) / 255)
    assert images.facts["transform"] == "scale 255"


def test_labels_may_slice(here):
    classes(here)
    images = opened("photos/", "labels")
    assert images.values == {"labels": ["0", "1", "2"]}
    (block,) = images.blocks(6, 0, None)
    assert torch.equal(block.columns["labels"], block.labels)


def test_what_is_read_does_not_depend_on_the_number_of_processes(here):
    classes(here)
    (here / "photos/dog/broken.jpg").write_bytes(b"no picture")
    alone, together = (opened("photos/", max_corrupt=0.2, workers=n) for n in (0, 2))
    assert torch.equal(visited(alone)[0], visited(together)[0])
    assert alone.facts == together.facts
    assert alone.facts["corrupt"] == {
        "count": 1,
        "told": ["photos/dog/broken.jpg cannot be read (not an image of a known format)"],
    }


def test_processes_are_used_where_they_pay(here, monkeypatch):
    classes(here)
    images = opened("photos/")
    monkeypatch.setattr("cnnaudit.data.files.cpus", lambda: 3)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "fork")
    assert images._workers(1000) == 0  # under pytest
    monkeypatch.delenv("PYTEST_VERSION")
    assert [images._workers(n) for n in (255, 256)] == [0, 3]
    monkeypatch.setattr("cnnaudit.data.files.cpus", lambda: 32)
    assert images._workers(1000) == 4
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "spawn")
    assert images._workers(1000) == 0
    assert opened("photos/", workers=7)._workers(1000) == 7


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"data photos/: there are no images in it or below; put some there \(.bmp, .jpeg, .*\)$"),
        (["cat/notes.txt", "dog/.x.png"], "there are no images in it or below; 2 other files were ignored"),
        (["1.png", "cat/2.png"], "images, such as 1.png, lie beside folders of images, cat: put every image"),
    ],
)
def test_folders_that_hold_no_classes(here, files, message):
    (here / "photos/cat").mkdir(parents=True)
    for name in files:
        (here / "photos" / name).parent.mkdir(exist_ok=True)
        (here / "photos" / name).touch()
    with pytest.raises(LoadError, match=message):
        opened("photos/")


def test_a_folder_that_is_not_there_or_none(here):
    with pytest.raises(LoadError, match=r"data photos/: there is no file .*photos"):
        opened("photos/")
    (here / "photos").touch()
    with pytest.raises(LoadError, match="data photos/: a file, not a folder"):
        opened("photos/")
    with pytest.raises(LoadError, match="a folder has no options, and labels is given under kwargs"):
        opened("photos/", options={"labels": "y"})


def test_mixed_sizes_are_named(here):
    for i in range(4):
        write(here / f"photos/{i}.png", i, (8, 8 + i))
    first, second = permutation(4, 1).tolist()[:2]
    told = f"photos/{first}.png is 3 x 8 x {8 + first} and photos/{second}.png is 3 x 8 x {8 + second}: .*transform: "
    with pytest.raises(LoadError, match=told):
        visited(opened("photos/"))
    fitted = opened("photos/", transforms=Transforms(None, Steps((("resize", (8,)), ("crop", (8,))))))
    assert visited(fitted)[0].shape == (4, 3, 8, 8)


def test_a_transform_that_cannot_be_done_names_the_file(here):
    write(here / "photos/1.png")
    images = opened("photos/", transforms=Transforms(None, Steps((("crop", (9, 9)),))))
    with pytest.raises(LoadError, match=r"photos/1.png: crop: 9 x 9 cannot be cut from an image of 5 x 4"):
        visited(images)


def test_a_column_of_a_folder_is_unknown(here):
    classes(here)
    with pytest.raises(LoadError, match="no column 'scanner', which a rule slices by; the columns are labels"):
        opened("photos/", "scanner")


# --- links -----------------------------------------------------------------------------------------------


def test_links_within_the_folder_are_followed(here):
    classes(here)
    (here / "photos/cat/3.png").symlink_to(here / "photos/dog/b/1.png")
    (here / "photos/pets").symlink_to("dog")
    images = opened("photos/")
    assert visited(images)[1] == [0, 0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("inner", ["cat/3.png", "secret"])
def test_links_that_leave_the_bundle_are_refused(here, inner):
    classes(here)
    outside = write(here.parent / "outside" / "x.png").parent
    target = outside / "x.png" if inner.endswith("png") else outside
    (here / "photos" / inner).symlink_to(target)
    with pytest.raises(LoadError, match=f"the link {inner} lies outside the rule file's folder.*--allow-path"):
        opened("photos/")
    allowed = Trust((), here, paths=(outside.as_posix(),), bundle=here)
    source = resolve("photos/", base=here, role="data")
    assert open_images(source, allowed, transforms=UNCHANGED).count == 7


def test_a_folder_outside_the_bundle_is_refused(here):
    write(here.parent / "outside/x.png")
    with pytest.raises(LoadError, match=r"data ../outside/ lies outside the rule file's folder"):
        opened("../outside/")


def test_links_in_a_circle_and_to_nothing(here):
    classes(here)
    (here / "photos/cat/again").symlink_to(here / "photos/cat")
    with pytest.raises(LoadError, match=r"data photos/: cat/again/?.* is a link to a folder that it lies in"):
        opened("photos/")
    (here / "photos/cat/again").unlink()
    (here / "photos/cat/gone.png").symlink_to(here / "nothing.png")
    with pytest.raises(LoadError, match=r"the link cat/gone.png: there is no file"):
        opened("photos/")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_never_opened(here):
    classes(here)
    os.mkfifo(here / "photos/cat/0.png")
    images = opened("photos/")
    assert (images.count, images.facts["ignored"]) == (6, 1)


# --- what files hold -------------------------------------------------------------------------------------


def of(image, path, **options):
    image.save(path, **options)
    return decoded(path)


def test_every_mode_becomes_rgb(tmp_path):
    rgb = pixels(0, (6, 6))
    grey = torch.from_numpy(rgb[..., 0])
    path = tmp_path / "x.png"
    assert torch.equal(of(Image.fromarray(rgb), path), torch.from_numpy(rgb).permute(2, 0, 1))
    assert torch.equal(of(Image.fromarray(rgb[..., 0]), path), grey.expand(3, 6, 6))
    transparent = np.concatenate([rgb, np.full((6, 6, 1), 7, np.uint8)], axis=2)
    assert torch.equal(of(Image.fromarray(transparent), path), torch.from_numpy(rgb).permute(2, 0, 1))
    palette = Image.fromarray(rgb).quantize(8)
    assert torch.equal(of(palette, path), torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1))
    bits = Image.fromarray(rgb[..., 0] > 127)
    assert torch.equal(of(bits, path), ((grey > 127) * 255).to(torch.uint8).expand(3, 6, 6))
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))  # cyan
    assert of(ink, tmp_path / "x.tif")[:, 0, 0].tolist() == [0, 255, 255]


def test_16_bits_become_8(tmp_path):
    wide = np.array([[0, 257, 65535], [128, 32896, 129]], dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        found = of(Image.fromarray(wide), tmp_path / name)
        assert found.shape == (3, 2, 3)
        assert found[0].tolist() == [[0, 1, 255], [0, 128, 1]]
    with pytest.raises(OSError, match="fractions of an unknown range"):
        of(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "f.tif")
    with pytest.raises(OSError, match="whole numbers beyond 16 bits"):
        of(Image.fromarray(np.full((2, 2), 70000, np.int32)), tmp_path / "i.tif")


def test_exif_turns_the_picture(tmp_path):
    rgb = pixels(0, (4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the right side of the file is the top
    found = of(Image.fromarray(rgb), tmp_path / "x.png", exif=exif)
    assert torch.equal(found, torch.from_numpy(np.rot90(rgb, -1).copy()).permute(2, 0, 1))


def bomb(path, width=50_000, height=50_000):
    """A PNG whose header claims more pixels than memory holds."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


def truncated(path):
    write(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:900])


def postscript(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (bomb, r"Image size \(2500000000 pixels\) exceeds limit"),
        (lambda path: bomb(path, 10_000, 10_000), r"Image size \(100000000 pixels\) exceeds limit"),
        (truncated, "truncated|incomplete"),
        (postscript, "not an image of a known format"),
        (lambda path: path.write_bytes(b""), "not an image of a known format"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), "not an image of a known format"),
    ],
)
def test_files_that_cannot_be_decoded_are_corrupt_images(here, break_it, reason):
    for i in range(5):
        write(here / f"photos/{i}.png", i)
    break_it(here / "photos/3.png")
    images = opened("photos/", max_corrupt=0.2)
    assert len(visited(images)[0]) == 4
    (told,) = images.facts["corrupt"]["told"]
    assert told.startswith("photos/3.png cannot be read (")
    with pytest.raises(LoadError, match=f"1 of 5 images cannot be used, and max_corrupt .*: photos/3.png .*{reason}"):
        visited(opened("photos/"))


def test_pillow_may_be_missing(here, monkeypatch):
    classes(here)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(LoadError, match=r"not installed: pip install 'cnnaudit\[vision\]'"):
        opened("photos/")


# --- manifests -------------------------------------------------------------------------------------------


def manifest(here, *rows, header="file,label,source,scanner", name="images.csv"):
    path = here / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def four(here):
    for i in range(4):
        write(here / f"photos/{i}.png", i)


def test_a_manifest_lists_files_with_what_is_known_of_them(here):
    for i in range(4):
        write(here / f"sub/photos/{i}.png", i)
    manifest(
        here,
        "photos/2.png,dog,p1,GE",
        'photos/0.png, cat ,p2,"A, B"',
        "",
        "./photos/../photos/1.png,dog,p1,GE",
        name="sub/images.csv",
    )
    images = opened("sub/images.csv", "scanner", "labels")
    found, labels = visited(images)
    assert labels == [1, 0, 1]
    for image, number in zip(found, (2, 0, 1), strict=True):
        assert torch.equal(image, torch.from_numpy(pixels(number)).permute(2, 0, 1).float())
    assert (images.classes, images.clustered, images.all_values) == (2, True, True)
    assert images.values == {"scanner": ["A, B", "GE"], "labels": ["0", "1"]}
    (block,) = images.blocks(3, 0, None)
    order = block.ids.argsort()
    assert block.columns["scanner"][order].tolist() == [1, 0, 1]
    same = block.sources[order]
    assert same[0] == same[2] != same[1]
    assert images._name(1) == "sub/photos/0.png"


def test_labels_may_be_numbers_and_need_not_be_there(here):
    four(here)
    manifest(here, "photos/0.png,7", "photos/1.png,0", header="file,label")
    images = opened("images.csv")
    assert (visited(images)[1], images.classes) == ([7, 0], 8)
    manifest(here, "photos/0.png", "photos/1.png", header="file")
    assert visited(opened("images.csv"))[1] is None


def test_options_say_what_columns_are_called(here):
    four(here)
    manifest(here, "a,photos/0.png", "b,photos/1.png", header="diagnosis,path")
    images = opened("images.csv", options={"file": "path", "label": "diagnosis"})
    assert visited(images)[1] == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_go_through_the_transform_with_their_images(here, workers):
    rows = []
    for i in range(3):
        write(here / f"{i}.png", i, (8, 8))
        mask = np.full((8, 8), 255, np.uint8)
        mask[2:6, 2:6] = i
        Image.fromarray(mask).save(here / f"mask{i}.png")
        rows.append(f"{i}.png,mask{i}.png")
    manifest(here, *rows, header="file,mask")
    transforms = Transforms(None, Steps((("resize", (16, 16)), ("crop", (10, 8)))))
    images = opened("images.csv", masks=True, transforms=transforms, workers=workers)
    (block,) = images.blocks(3, 0, None)
    assert block.images.shape == (3, 3, 10, 8)
    expected = torch.full((3, 10, 8), -1)
    expected[:, 1:9] = block.ids[:, None, None]
    assert torch.equal(block.masks, expected.to(torch.int16))
    assert not opened("images.csv", transforms=transforms).masked


def test_masks_hold_their_numbers(tmp_path):
    wide = np.array([[0, 300], [65535, 1]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert decoded_mask(tmp_path / "wide.png").tolist() == wide.tolist()
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png")
    assert decoded_mask(tmp_path / "palette.png").tolist() == [[0, 1]]


def test_masks_that_are_none(here):
    write(here / "0.png")
    write(here / "colours.png")
    write(here / "small.png", size=(2, 2), channels=1)
    manifest(here, "0.png,colours.png", header="file,mask")
    with pytest.raises(LoadError, match="a mask holds one class at each position, not a picture in RGB"):
        opened("images.csv", masks=True)
    manifest(here, "0.png,small.png", header="file,mask")
    with pytest.raises(LoadError, match=r"^0.png: its mask is 2 x 2 pixels and the image 5 x 4"):
        opened("images.csv", masks=True)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("file,label", [], "data images.csv: there are no images; write a row for each below the header"),
        ("path,label", ["photos/0.png,1"], "images.csv:1: no column 'file'; the columns are path, label"),
        ("file,file", ["photos/0.png,1"], "images.csv:1: two columns are called 'file'"),
        ("file,label", ["photos/0.png,1", "photos/1.png"], "images.csv:3: 1 values in a row, but there are 2 columns"),
        ("file,label", ["photos/0.png,1", "photos/9.png,2"], "images.csv:3: there is no file photos/9.png"),
        ("file,label", ["nowhere/0.png,1"], "images.csv:2: nowhere: there is no file"),
        ("file,label", ["photos/0.png,"], "images.csv:2: label is empty"),
        ("file,label", ["photos/0.png,-1"], "images.csv:2: label -1 is negative"),
        ("file,label", ["photos/0.png," + "9" * 5000], "images.csv:2: label 9{20}... is no number of a class"),
        ("file;label", ["photos/0.png;1"], "images.csv:1: columns are separated by commas, not as in 'file;label'"),
        ("file,label", ["photos/0.png,1.0"], "images.csv:2: label 1.0 is a fraction"),
        ("file,label", ['photos/0.png,"1'], "images.csv:2: not a row of CSV"),
        ("file,label", ["photos,1"], "images.csv:2: photos is a folder"),
        ("file,label", ["../outside/x.png,1"], r"images.csv:2: ../outside lies outside the rule file's folder"),
        ("file,label", ["/etc/hostname,1"], "images.csv:2: /etc lies outside the rule file's folder"),
        ("file,label", ["photos/out.png,1"], "images.csv:2: photos/out.png lies outside the rule file's folder"),
        ("file,label", ["far/x.png,1"], "images.csv:2: far lies outside the rule file's folder"),
    ],
)
def test_manifests_that_cannot_be_read(here, header, rows, message):
    four(here)
    outside = write(here.parent / "outside/x.png")
    (here / "photos/out.png").symlink_to(outside)
    (here / "far").symlink_to(outside.parent)
    manifest(here, *rows, header=header)
    with pytest.raises(LoadError, match=message):
        opened("images.csv")


def test_columns_and_options_that_a_manifest_does_not_have(here):
    four(here)
    manifest(here, "photos/0.png,1,p,GE")
    with pytest.raises(
        LoadError,
        match=r"no column .scaner., which a rule slices by; did you mean .scanner.. the columns are labels",
    ):
        opened("images.csv", "scaner")
    with pytest.raises(
        LoadError, match=r"a manifest has no option 'lable'; did you mean 'label'. the options are file"
    ):
        opened("images.csv", options={"lable": "scanner"})
    with pytest.raises(LoadError, match=r"images.csv:1: no column 'klass'; the columns are file, label"):
        opened("images.csv", options={"label": "klass"})


def test_a_file_of_a_manifest_that_cannot_be_decoded_is_named(here):
    four(here)
    (here / "photos/1.png").write_bytes(b"no picture")
    manifest(here, *(f"photos/{i}.png" for i in range(4)), header="file")
    images = opened("images.csv", max_corrupt=0.3)
    assert len(visited(images)[0]) == 3
    assert images.facts["corrupt"]["told"] == ["photos/1.png cannot be read (not an image of a known format)"]


# --- training images -------------------------------------------------------------------------------------


def test_training_images_are_found_by_name_and_by_their_bytes(here):
    classes(here)
    train = manifest(here, "cat/2.png", "photos/emu/1.bmp", "cat/9.png", header="file", name="train.csv")
    with pytest.raises(LoadError, match=r"2 of 6 images are in train.csv: photos/cat/2.png, photos/emu/1.bmp; audit"):
        opened("photos/", exclude=train)
    digest = __import__("hashlib").sha256((here / "photos/dog/b/1.png").read_bytes()).hexdigest()
    manifest(here, digest, header="sha256", name="train.csv")
    images = opened("photos/", exclude=train)
    with pytest.raises(LoadError, match=r"1 of 6 images are in train.csv: photos/dog/b/1.png"):
        visited(images)
    manifest(here, "cat/7.png", header="file", name="train.csv")
    assert isinstance(opened("photos/", exclude=train), FileImages)
