"""Manifests of training images, and that an audit does not read any of them."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from patients import COUNT, everything, images_and_labels, opened, source
from torch import nn
from torch.utils.data import TensorDataset

from cnnaudit import audit
from cnnaudit.data import open_images
from cnnaudit.data.exclude import Excluded, digest
from cnnaudit.errors import LoadError
from cnnaudit.load import Trust
from cnnaudit.spec import Reading


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest(text, name="train.csv"):
    path = Path(name).absolute()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def listed(*indices, images=None):
    """A manifest of some of the 37 images."""
    images = images_and_labels()[0] if images is None else images
    return manifest("sha256\n" + "".join(f"{digest(images[i]).hex()}\n" for i in indices))


# --- digests ---------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_numbers_in_c_order():
    image = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    expected = hashlib.sha256(image.tobytes()).digest()
    same = [
        image,
        image.astype(">f4"),
        np.asfortranarray(image),
        image[:, ::-1][:, ::-1],
        image.reshape(4, 6),
        torch.from_numpy(image),
        torch.from_numpy(image).flip(0).flip(0),
        torch.from_numpy(image).to(memory_format=torch.preserve_format).requires_grad_(),
        image.tolist() and np.float32(image.tolist()),
    ]
    assert [digest(x) for x in same] == [expected] * len(same)
    assert digest(image.astype("<f8")) != expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.int64])
def test_every_type_of_number_has_a_digest(dtype):
    image = torch.tensor([[[0, 1], [1, 0]]]).to(dtype)
    if dtype is not torch.bfloat16:
        assert digest(image) == digest(image.numpy())
    assert digest(image) == digest(image.clone()) != digest(1 - image.int())


# --- manifests -------------------------------------------------------------------------------------------------------


A, B = "0a" * 32, "B1" * 32


def test_a_manifest_has_digests_or_files_or_both(here):
    read = Excluded.read(manifest(f"sha256\n{A}\n{B}\n{A}\n"))
    assert (read.digests, read.files, read.rows) == ({bytes.fromhex(A), bytes.fromhex(B)}, frozenset(), 3)
    read = Excluded.read(manifest(f"split,File,SHA256\ntrain,a/1.png,{A}\ntrain, b\\2.png ,\ntrain,,{B}\n"))
    assert (read.digests, read.files) == ({bytes.fromhex(A), bytes.fromhex(B)}, {"a/1.png", "b/2.png"})
    assert Excluded.read(manifest("./a/1.png\n\na//2.png\na/../3.png\n")).files == {"a/1.png", "a/2.png", "3.png"}
    assert Excluded.read(manifest('file\n"a, b.png"\n')).files == {"a, b.png"}
    assert Excluded.read(manifest("\ufefffile\r\nä.png\r\n")).files == {"ä.png"}  # as Excel writes it


BAD = {
    "nothing": ("", "train.csv: it lists no images, so that nothing would be excluded"),
    "a header alone": ("sha256,file\n", "train.csv: it lists no images"),
    "no known column": ("path,label\na.png,3\n", "train.csv:1: no column sha256 or file; the header has path, label"),
    "a digest that is none": (
        f"sha256\n{A}\n{A[:-1]}\n",
        "train.csv:3: '0a.*' is no SHA-256; write its 64 hexadecimal",
    ),
    "another digest": ("sha256\n" + "é" * 64 + "\n", "train.csv:2: 'é+' is no SHA-256"),
    "digests without a header": (f"{A}\n{B}\n", "train.csv:1: digests need a header: write sha256 into the first line"),
    "what sha256sum prints": (f"{A}  a.png\n", "train.csv:1: digests need a header"),
    "semicolons": (
        f"sha256;file\n{A};a.png\n",
        "train.csv:1: columns are separated by commas, not as in 'sha256;",
    ),
    "a row too long": ("file\na.png\nb.png,3\n", "train.csv:3: 2 values in a row, but there are 1 columns"),
    "a row too short": (f"sha256,file\n{A}\n", "train.csv:2: 1 values in a row, but there are 2 columns"),
    "a row of nothing": (f"sha256,file\n{A},a.png\n,\n", "train.csv:3: it names no image: sha256 and file are empty"),
    "two of a column": ("file,file\na,b\n", "train.csv:1: two columns are called file"),
    "an open quote": ('file\na.png\n"b.png\nc.png\n', "train.csv:3: not a row of CSV \\(unexpected end of data\\)"),
    "text after a quote": ('file\n"a.png"x\n', "train.csv:2: not a row of CSV"),
    "another encoding": (b"file\na.png\n\xe4.png\n", r"train.csv:3: not text in UTF-8 \(invalid continuation byte\)"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "train.csv:1: not text in UTF-8"),
    "an endless line": (b"file\n" + b"a" * 10**6, "train.csv:2: a line of more than 131,072 bytes; name a manifest"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_manifest_is_told_with_its_line(here, kind):
    content, message = BAD[kind]
    with pytest.raises(LoadError, match="^" + message):
        Excluded.read(manifest(content))


def test_many_images_are_read_in_a_moment(here):
    count = 10**5
    rows = np.random.default_rng(0).bytes(32 * count)
    path = manifest("sha256\n" + "\n".join(rows[i : i + 32].hex() for i in range(0, len(rows), 32)) + "\n")
    start = time.process_time()
    read = Excluded.read(path)
    assert read.rows == len(read.digests) == count
    assert rows[:32] in read.digests
    assert time.process_time() - start < 3


def test_a_file_is_known_by_its_path_from_the_data_or_from_the_manifest(here):
    (here / "photos").mkdir()
    names = ["cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png", "dogs/3.png"]
    written = ["cats/1.png", "photos/dogs/1.png", f"{here}/photos/dogs/2.png", "other/cats/2.png", "3.png"]
    read = Excluded.read(manifest("file\n" + "\n".join(written)))
    assert read.names(names, here / "photos") == ["cats/1.png", "dogs/1.png", "dogs/2.png"]
    (here / "lists").mkdir()
    read = Excluded.read(manifest("file\n../photos/cats/2.png\n", "lists/train.csv"))
    assert read.names(names, here / "photos") == ["cats/2.png"]
    assert Excluded.read(manifest(f"sha256\n{A}\n")).names(names, here / "photos") == []


# --- data ------------------------------------------------------------------------------------------------------------


def as_arrays(images, labels):
    return images, labels


def as_npz(images, labels):
    np.savez("data.npz", images=images.numpy(), labels=labels.numpy())
    return source()


def as_batches(images, labels):
    return [(images[i : i + 10], labels[i : i + 10]) for i in range(0, len(images), 10)]


DATA = [as_arrays, as_npz, TensorDataset, as_batches, lambda images, labels: iter(as_batches(images, labels))]
IDS = ["arrays", "npz", "dataset", "batches", "generator"]


@pytest.mark.parametrize("given", DATA, ids=IDS)
def test_images_of_the_manifest_are_named_and_counted(here, given):
    data = given(*images_and_labels())
    found = opened(data, reading=Reading(exclude=listed(3, 20, 36)))
    with pytest.raises(LoadError, match=r"data .*: 3 of 37 images are in train.csv: image \d+, image \d+, image \d+; "):
        everything(found)


@pytest.mark.parametrize("given", DATA, ids=IDS)
def test_images_that_are_not_in_the_manifest_are_audited(here, given):
    others = images_and_labels()[0] + 0.5
    found = opened(given(*images_and_labels()), reading=Reading(exclude=listed(3, 20, 36, images=others)))
    assert len(everything(found)[0]) == COUNT
    assert found.facts["excluded"] == {"manifest": "train.csv", "images": 3}
    assert opened(images_and_labels()).facts["excluded"] is None


def test_nothing_is_handed_out_after_an_excluded_image(here):
    images, labels = images_and_labels()
    found = opened(as_batches(images, labels), reading=Reading(exclude=listed(25)))
    blocks = found.blocks(10, 0, None)
    assert [next(blocks).number, next(blocks).number] == [0, 1]
    with pytest.raises(LoadError, match=r"1 of 37 images are in train.csv: image 25;"):
        next(blocks)


def test_images_that_the_audit_would_not_read_are_no_matter(here):
    images, labels = images_and_labels()
    reading = Reading(exclude=listed(25))
    assert len(everything(opened(as_batches(images, labels), reading=reading), limit=25)[0]) == 25
    with pytest.raises(LoadError, match=r"1 of 26 images"):
        everything(opened(as_batches(images, labels), reading=reading), limit=26)


def test_the_count_of_a_large_data_set_is_of_its_start(here):
    images = torch.zeros(10_000, 1, 1, 1)
    with pytest.raises(LoadError, match=r"4096 of 4096 images are in train.csv: (image \d+, ){5}\.\.\.; audit"):
        everything(opened(images, reading=Reading(exclude=listed(0, images=images))))


def test_images_are_compared_before_anything_is_done_to_them(here):
    """Bytes of an npz are; what the network sees are single numbers."""
    images = torch.randint(0, 255, (9, 1, 4, 4), dtype=torch.uint8)
    np.savez("data.npz", images=images.numpy())
    with pytest.raises(LoadError, match=r"1 of 9 images are in train.csv: image 2;"):
        everything(opened(source(), reading=Reading(exclude=listed(2, images=images.numpy()))))
    assert len(everything(opened(source(), reading=Reading(exclude=listed(2, images=images.float()))))[0]) == 9


def test_a_manifest_that_cannot_be_compared_is_an_error_and_no_pass(here):
    reading = Reading(exclude=manifest("file\na.png\n"))
    for given in DATA:
        with pytest.raises(
            LoadError, match=r"exclude train.csv: it lists files, and the images of .* are none: list t"
        ):
            opened(given(*images_and_labels()), reading=reading)


def test_a_manifest_outside_the_bundle_is_not_opened(here):
    path = listed(3)
    (here / "bundle").mkdir()
    trust = Trust(root=here / "bundle", bundle=here / "bundle")
    with pytest.raises(LoadError, match="--allow-path"):
        open_images(images_and_labels(), trust, reading=Reading(exclude=path))
    with pytest.raises(LoadError, match=r"exclude: there is no file .*other.csv"):
        opened(images_and_labels(), reading=Reading(exclude=here / "other.csv"))


def test_a_rule_file_reaches_no_further_where_python_gives_the_data(here):
    """What is named from Python is trusted; the manifest is named by the rule file all the same."""
    (here / "bundle").mkdir()
    (here / "started").mkdir()
    (here / "secret.csv").write_text("file\n", encoding="utf-8")
    rules = "cnnaudit: 1\ndata: {load: x.npz, exclude: ../secret.csv}\nrules: [{metric: activity.dead, max: 0}]\n"
    (here / "bundle" / "x.audit.yaml").write_text(rules, encoding="utf-8")
    os.chdir(here / "started")
    with pytest.raises(LoadError, match="exclude lies outside the rule file's folder"):
        audit(
            here / "bundle" / "x.audit.yaml",
            model=nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()),
            data=images_and_labels(),
        )
