"""Arrays in .npz, .npy and .safetensors files, sound and hostile ones."""

import ctypes
import io
import multiprocessing
import os
import pickle
import resource
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from patients import (
    COUNT,
    SCANNERS,
    dense_labels,
    everything,
    images_and_labels,
    masks_and_ids,
    opened,
    patients,
    source,
    sources_and_columns,
)
from safetensors.torch import save_file

from cnnaudit.cli import main
from cnnaudit.data import open_images
from cnnaudit.data.stored import Member, Stored, StoredTensor
from cnnaudit.errors import LoadError
from cnnaudit.load import Trust


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- npz -----------------------------------------------------------------------------------------------------


def save(path="data.npz", **arrays):
    images, labels = images_and_labels()
    np.savez(path, **({"images": images.numpy(), "labels": labels.numpy()} | arrays))


def test_an_npz_holds_images_and_labels(here):
    save()
    found = opened(source())
    assert (found.source, found.count, found.classes) == ("data.npz", COUNT, 5)
    images, labels, ids = everything(found)
    assert torch.equal(images, images_and_labels()[0][ids])
    assert torch.equal(labels, images_and_labels()[1][ids])


def test_an_npz_may_call_them_otherwise(here):
    np.savez("data.npz", x=np.zeros((3, 1, 2, 2), np.float32), y=np.array([0, 1, 1], np.uint8))
    found = opened(source(images="x", labels="y"))
    assert sorted(everything(found)[1].tolist()) == [0, 1, 1]


def test_an_npz_may_have_no_labels(here):
    np.savez("data.npz", images=np.zeros((3, 1, 2, 2)))
    assert not opened(source()).labelled


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(3)}, "37 images but 3 labels"),
        ({"labels": np.zeros(COUNT)}, "labels must be one integer an image"),
        ({"labels": np.arange(COUNT) - 1}, "label -1 is negative"),
        ({"images": np.zeros((0, 1, 2, 2)), "labels": np.zeros(0, int)}, "there are no images"),
        (
            {"images": np.array([{"a": 1}] * COUNT, dtype=object)},
            "pickled Python objects, which can run code and are never opened",
        ),
        (
            {"labels": np.array([{"a": 1}] * COUNT, dtype=object)},
            "pickled Python objects, which can run code and are never opened",
        ),
        ({"images": np.zeros((COUNT, 8))}, "images have shape"),
        ({"images": np.array(["a"] * COUNT)}, "not an array of images"),
    ],
)
def test_an_npz_of_something_else_is_refused(here, arrays, message):
    save(**arrays)
    with pytest.raises(LoadError, match=f"data.npz.*{message}"):
        everything(opened(source()))


def test_a_missing_array_is_told_with_what_there_is(here):
    np.savez("data.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(LoadError, match=r"data data.npz: no array 'images'; it has x, y"):
        opened(source())


def test_labels_that_were_asked_for_by_name_must_be_there(here):
    save()
    with pytest.raises(LoadError, match="no array 'classes'"):
        opened(source(labels="classes"))


def test_an_option_that_npz_does_not_have_is_told(here):
    save()
    words = "no option 'imagse'; did you mean 'images'[?] the options are images, labels, source, masks and columns"
    with pytest.raises(LoadError, match=words):
        opened(source(imagse="x"))
    with pytest.raises(LoadError, match="no array 'device'; it has images, labels"):
        opened(source(scanner="device"), "scanner")


def save_columns():
    held = {name: np.asarray(values) for name, values in patients().items()}
    save(patient=held["source"], device=held["scanner"], age=held["age"])


def test_an_npz_holds_columns(here):
    save_columns()
    found = opened(source(source="patient", scanner="device"), "scanner", "age")
    ids, sources, names = sources_and_columns(found)
    assert names == {"scanner": [SCANNERS[i % 3] for i in ids], "age": [str(30 + i % 4) for i in ids]}
    assert (found.clustered, len(set(sources))) == (True, 10)
    same = opened(patients(), "age", "scanner")
    everything(same)
    assert found.facts["sha256"] == same.facts["sha256"]


def test_an_npz_may_name_columns_that_no_rule_slices_by(here):
    """Of the rules that name them none may run: pytest audits with those that it selects."""
    save_columns()
    found = opened(source(scanner="device"))
    assert (found.columns, found.clustered) == ((), False)


def test_a_column_that_an_npz_does_not_have_is_told(here):
    save_columns()
    words = "data data.npz: no column 'scaner', which a rule slices by; did you mean 'scanner'[?] "
    with pytest.raises(LoadError, match=words + "the columns are labels, scanner, patient, age$"):
        opened(source(scanner="device"), "scaner")
    with pytest.raises(LoadError, match="no column 'source', which a rule slices by; the columns are labels, patient"):
        opened(source(), "source")


def test_an_npz_holds_masks(here):
    save(masks=dense_labels().numpy())
    found = opened(source(), masks=True)
    masks, ids = masks_and_ids(found)
    assert torch.equal(masks, dense_labels()[ids])
    assert not opened(source()).masked
    save(truth=dense_labels().numpy())
    assert opened(source(masks="truth"), masks=True).masked
    assert not opened(source(masks="truth")).masked  # none of the rules that need them runs this time
    with pytest.raises(LoadError, match="no array 'other'"):
        opened(source(masks="other"))
    assert not opened(source(), masks=True).masked


def test_an_npz_may_hold_dense_labels_as_labels(here):
    save(labels=dense_labels().numpy())
    found = opened(source(), masks=True)
    assert (found.labelled, found.masked, found.concepts) == (False, True, 4)


# --- what is in the file and what is in memory -------------------------------------------------------------------


def write_npz(path, compression=zipfile.ZIP_STORED, **members):
    """Write members of any bytes; those that are arrays as numpy does."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, held in members.items():
            archive.writestr(f"{name}.npy", held if isinstance(held, bytes) else npy(held))


def npy(array, **header):
    """An array as a file; ``header`` changes what that claims."""
    file = io.BytesIO()
    if not header:
        np.save(file, array, allow_pickle=True)
        return file.getvalue()
    claims = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(file, claims)
    return file.getvalue() + array.tobytes()


def test_of_an_npz_that_is_not_compressed_only_what_is_visited_is_read(here):
    save(masks=dense_labels().numpy(), left=np.arange(COUNT * 4.0).reshape(COUNT, 1, 2, 2))
    found = opened(source(), masks=True, inputs=["images", "left"])
    assert isinstance(found.images, Stored)
    assert isinstance(found.masks, Stored)
    assert isinstance(found.others["left"], Stored)
    (block,) = found.blocks(64, 0, None)
    assert torch.equal(block.images, images_and_labels()[0][block.ids])
    assert torch.equal(block.masks, dense_labels()[block.ids])
    assert torch.equal(
        block.others[0], torch.arange(COUNT * 4.0, dtype=torch.float64).reshape(COUNT, 1, 2, 2)[block.ids]
    )


def test_a_compressed_npz_is_inflated(here):
    images, labels = images_and_labels()
    np.savez_compressed("data.npz", images=images.numpy(), labels=labels.numpy())
    read, classes, ids = everything(opened(source()))
    assert torch.equal(read, images[ids])
    assert torch.equal(classes, labels[ids])


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda x: x.astype(">f4"), lambda x: x.astype("<f2"), lambda x: x.astype(np.uint16)]
)
def test_order_and_type_of_the_numbers_are_no_matter(here, write, change):
    images = images_and_labels()[0].numpy()
    write("data.npz", images=change(images))
    read, _, ids = everything(opened(source()))
    assert np.array_equal(read.numpy(), images[ids])


def test_one_array_may_have_two_names(here):
    np.savez("data.npz", x=images_and_labels()[0].numpy())
    found = opened(source(left="x", right="x"), inputs=["left", "right"])
    (block,) = found.blocks(64, 0, None)
    assert found.call.args == ("left", "right")
    assert torch.equal(block.images, block.others[0])
    with pytest.raises(LoadError, match="no array 'right'; it has x"):
        opened(source(left="x"), inputs=["left", "right"])


def test_an_npy_holds_images(here):
    images, _ = images_and_labels()
    np.save("images.npy", images.numpy())
    found = opened(source("images.npy"))
    assert (found.labelled, found.count, found.source) == (False, COUNT, "images.npy")
    assert isinstance(found.images, Stored)
    read, _, ids = everything(found)
    assert torch.equal(read, images[ids])


def test_other_files_beside_an_npy_hold_the_rest(here):
    images, labels = images_and_labels()
    (here / "data" / "more").mkdir(parents=True)
    np.save("data/images.npy", images.numpy())
    np.save("data/labels.npy", labels.numpy())
    np.save("data/more/scanner.npy", np.array(patients()["scanner"]))
    np.save("data/dense.npy", dense_labels().numpy())
    options = {"labels": "labels.npy", "scanner": "more/scanner.npy", "masks": "dense.npy"}
    found = opened(source("data/images.npy", **options), "scanner", masks=True)
    ids, _, names = sources_and_columns(found)
    assert names["scanner"] == [SCANNERS[i % 3] for i in ids]
    assert (found.classes, found.concepts) == (5, 4)
    assert not opened(source("data/images.npy", masks="there is none.npy")).masked  # read by no rule


def test_an_npy_is_the_first_of_several_inputs(here):
    images, _ = images_and_labels()
    np.save("left.npy", images.numpy())
    np.save("right.npy", -images.numpy())
    (block,) = opened(source("left.npy", right="right.npy"), inputs=["left", "right"]).blocks(64, 0, None)
    assert torch.equal(block.images, images[block.ids])
    assert torch.equal(block.others[0], -images[block.ids])
    with pytest.raises(LoadError, match="nothing is called 'right', of left"):
        opened(source("left.npy"), inputs=["left", "right"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "none.npy"}, "data images.npy, labels: none.npy: there is no file"),
        ({"labels": "labels.csv"}, r"the option 'labels' names an .npy file, relative to .*; not 'labels.csv'"),
        ({"labels": 3}, "the option 'labels' names an .npy file, relative to .*; not 3"),
        ({"label": "labels.npy"}, "an npy has no option 'label'; did you mean 'labels'"),
        ({"images": "images.npy"}, "images are those of images.npy itself: leave out the option 'images'"),
        ({"labels": "few.npy"}, "37 images but 3 labels"),
        ({"source": "few.npy"}, "37 images but 3 values in column source"),
    ],
)
def test_a_file_beside_an_npy_that_cannot_be_read_is_told(here, options, message):
    np.save("images.npy", images_and_labels()[0].numpy())
    np.save("few.npy", np.arange(3))
    with pytest.raises(LoadError, match=message):
        opened(source("images.npy", **options))


def test_a_column_without_a_file_is_told(here):
    np.save("images.npy", images_and_labels()[0].numpy())
    with pytest.raises(
        LoadError, match=r"data images.npy: no column 'age', which a rule slices by; the columns are sc"
    ):
        opened(source("images.npy", scanner="x.npy"), "age")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_a_safetensors_file_holds_images(here, dtype):
    images, labels = images_and_labels()
    images = images.remainder(16).to(dtype)  # which every type holds exactly
    save_file(
        {
            "images": images,
            "y": labels,
            "source": labels.clone(),
            "masks": dense_labels(),
            "age": labels + 30,
            "n": labels.sum(),
        },
        "data.safetensors",
    )
    found = opened(source("data.safetensors", labels="y"), "age", masks=True)
    assert isinstance(found.images, StoredTensor)
    assert (found.clustered, found.classes, found.concepts) == (True, 5, 4)
    blocks = list(found.blocks(8, 0, None))
    ids = torch.cat([block.ids for block in blocks])
    assert torch.equal(torch.cat([block.images for block in blocks]).float(), images[ids].float())
    assert torch.equal(torch.cat([block.masks for block in blocks]), dense_labels()[ids])
    ages = [found.values["age"][code] for block in blocks for code in block.columns["age"]]
    assert ages == [str(30 + i % 5) for i in ids.tolist()]


def test_a_tensor_that_a_safetensors_file_does_not_have_is_told(here):
    save_file({"x": torch.zeros(3, 1, 2, 2), "n": torch.tensor(3)}, "data.safetensors")
    with pytest.raises(LoadError, match=r"data data.safetensors: no array 'images'; it has n, x"):
        opened(source("data.safetensors"))
    with pytest.raises(LoadError, match="a safetensors file has no option 'image'; did you mean 'images'"):
        opened(source("data.safetensors", image="x"))
    with pytest.raises(LoadError, match=r"data.safetensors: n: a single number, not an array"):
        opened(source("data.safetensors", images="n"))


def test_a_file_that_changes_is_told(here):
    save()
    found = opened(source())
    (here / "data.npz").write_bytes(b"short")
    with pytest.raises(LoadError, match=r"data.npz: it was changed while it was read"):
        everything(found)


def test_a_file_outside_the_bundle_is_not_opened(here):
    """Nor through a link, nor as the labels of an npy."""
    (here / "bundle").mkdir()
    np.save("secret.npy", np.zeros((4, 1, 2, 2)))
    np.save("bundle/images.npy", np.zeros((4, 1, 2, 2)))
    (here / "bundle" / "link.npy").symlink_to(here / "secret.npy")
    trust = Trust(root=here / "bundle", bundle=here / "bundle")
    assert open_images(source("bundle/images.npy"), trust).count == 4
    for data in (source("secret.npy"), source("bundle/link.npy"), source("bundle/images.npy", labels="../secret.npy")):
        with pytest.raises(LoadError, match="--allow-path"):
            open_images(data, trust)


# --- files that are not what they say ----------------------------------------------------------------------------


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def renamed(name):
    save()
    with zipfile.ZipFile("data.npz", "a") as archive:
        archive.writestr(name, npy(np.zeros(3)))


def duplicate():
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("images.npy", npy(np.zeros((3, 1, 2, 2))))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images.npy", npy(np.ones((3, 1, 2, 2))))


def link():
    info = zipfile.ZipInfo("labels.npy")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("images.npy", npy(np.zeros((3, 1, 2, 2))))
        archive.writestr(info, "/etc/passwd")


def patched(*changes, compressed=False):
    """An npz in which a field of the directory's first entry is another: pairs of its offset and its value."""
    (np.savez_compressed if compressed else np.savez)("data.npz", images=np.zeros((3, 1, 2, 2)))
    data = bytearray(Path("data.npz").read_bytes())
    entry = data.index(b"PK\x01\x02")
    for offset, value in changes:
        struct.pack_into("<I" if offset > 12 else "<H", data, entry + offset, value)
    Path("data.npz").write_bytes(data)


def cut():
    save()
    data = Path("data.npz").read_bytes()
    Path("data.npz").write_bytes(data[: len(data) // 2])


def raw(content, name="data.npz"):
    return lambda: Path(name).write_bytes(content)


def document(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def nested():
    save()
    write_npz("data.npz", images=Path("data.npz").read_bytes())


FLOATS = np.zeros((3, 1, 2, 2), np.float32)
HOSTILE = {
    "empty": (raw(b""), "not readable as arrays of numpy"),
    "no zip": (raw(b"no zip"), "File is not a zip file"),
    "the start of a zip": (raw(b"PK\x03\x04 cut"), "File is not a zip file"),
    "cut off": (cut, "File is not a zip file"),
    "a zip without arrays": (
        lambda: document("data.npz"),
        "a zip without arrays: it holds word/document.xml; write it with np.savez",
    ),
    "an empty zip": (lambda: zipfile.ZipFile("data.npz", "w").close(), "a zip without arrays; write it"),
    "a pickle of objects": (
        lambda: write_npz("data.npz", images=npy(np.array([Payload()] * 3, dtype=object))),
        "pickled Python objects, which can run code and are never opened; save numbers or text",
    ),
    "objects of the size of their pickle": (
        lambda: write_npz("data.npz", images=npy(np.zeros(3), descr="|O")),
        "pickled Python objects",
    ),
    "a bare pickle": (
        lambda: write_npz("data.npz", images=pickle.dumps(Payload())),
        "images.npy: no array of numpy but a pickle, which can run code and is never opened",
    ),
    "a billion values": (
        lambda: write_npz("data.npz", images=npy(FLOATS, shape=(10**9, 1, 1, 1))),
        "images.npy: claims 1,000,000,000 values, 4,000,000,000 bytes of float32, but holds 48 bytes",
    ),
    "a billion values in a compressed member": (
        lambda: write_npz("data.npz", zipfile.ZIP_DEFLATED, images=npy(FLOATS, shape=(10**9, 1, 1, 1))),
        "claims 1,000,000,000 values",
    ),
    "more values than numbers have": (
        lambda: write_npz("data.npz", images=npy(FLOATS, shape=(2**40, 2**40, 2**40, 3))),
        "claims 3,987,683,987,354,747,618,711,421,180,841,033,728 values",
    ),
    "a product that overflows to what is there": (
        lambda: write_npz("data.npz", images=npy(FLOATS, shape=(2**32 + 3, 2**32, 1, 2**32))),
        "but holds 48 bytes",
    ),
    "fewer values than there are": (
        lambda: write_npz("data.npz", images=npy(FLOATS, shape=(2, 1, 2, 2))),
        "claims 8 values, 32 bytes of float32, but holds 48 bytes",
    ),
    "a small file of many images": (
        lambda: np.savez_compressed("data.npz", images=np.zeros((10**7 + 1, 1, 1, 1), np.uint8)),
        "10,000,001 images; an audit takes at most 10,000,000: give a part of them",
    ),
    "a negative dimension": (
        lambda: write_npz("data.npz", images=npy(FLOATS, shape=(-3, -1, 2, 2))),
        r"its shape is \(-3, -1, 2, 2\), and no dimension is below 0",
    ),
    "a billion images without pixels": (
        lambda: write_npz("data.npz", images=npy(np.zeros(0), shape=(10**9, 0, 2, 2))),
        r"its shape is \(1000000000, 0, 2, 2\): there are no images in it",
    ),
    "a billion empty texts": (
        lambda: write_npz("data.npz", images=FLOATS, source=npy(np.zeros(0), shape=(10**9,), descr="<U0")),
        "source.npy: its values are of type <U0",
    ),
    "a single number": (lambda: write_npz("data.npz", images=np.float32(3)), "a single number, not an array"),
    "structures": (
        lambda: write_npz("data.npz", images=np.zeros(3, [("red", "f4"), ("green", "f4")])),
        r"its values are of type \[\('red', '<f4'\), .*; save one array of plain numbers or text",
    ),
    "raw bytes": (lambda: write_npz("data.npz", images=np.zeros((3, 1, 2, 2), "V4")), "its values are of type"),
    "no header": (lambda: write_npz("data.npz", images=b"nothing"), "images.npy: no array of numpy"),
    "a header that is code": (
        lambda: write_npz("data.npz", images=b"\x93NUMPY\x01\x00\x20\x00__import__('os').mkdir('executed')"),
        "images.npy: no array of numpy",
    ),
    "a header of many brackets": (
        lambda: write_npz("data.npz", images=b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 0x2000),
        "images.npy: no array of numpy",
    ),
    "a header of four billion bytes": (
        lambda: write_npz("data.npz", images=b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"),
        "images.npy: no array of numpy",
    ),
    "an archive in an archive": (nested, "images.npy: no array of numpy but a zip: open one of .npy files as .npz"),
    "a path out of it": (lambda: renamed("../../images2.npy"), "'../../images2.npy' leads out of it"),
    "a path out of it on Windows": (lambda: renamed("..\\images2.npy"), "leads out of it"),
    "an absolute path": (lambda: renamed("/tmp/images2.npy"), "'/tmp/images2.npy' leads out of it"),  # noqa: S108 - a name in an archive
    "two of one name": (duplicate, "2 members are called 'images.npy': leave one of them in"),
    "a link": (link, "its member 'labels.npy' is a link"),
    "encrypted": (lambda: patched((8, 1)), "images.npy: it is encrypted, or compressed as numpy never does"),
    "another compression": (
        lambda: write_npz("data.npz", zipfile.ZIP_BZIP2, images=FLOATS),
        "images.npy: it is encrypted, or compressed as numpy never does; use np.savez",
    ),
    "a directory that claims more": (lambda: patched((24, 10**6)), "images.npy: claims 1,000,000 bytes but holds 224"),
    "a directory that claims more on both sides": (lambda: patched((20, 10**6), (24, 10**6)), "images.npy: .*"),
    "a directory that claims more than is compressed": (
        lambda: patched((24, 10**6), compressed=True),
        "images.npy: claims 12 values, 96 bytes of float64, but holds 999,872 bytes",
    ),
    "broken compression": (
        lambda: (
            np.savez_compressed("data.npz", images=np.random.default_rng(0).random((64, 1, 8, 8))),
            flipped("data.npz", 2000),
        ),
        "images.npy: not readable as arrays of numpy",
    ),
}


def flipped(path, at):
    with Path(path).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_not_what_it_says_is_refused(here, kind):
    write, message = HOSTILE[kind]
    write()
    with pytest.raises(LoadError, match="^(data )?data.npz: .*" + message):
        opened(source())
    assert not (here / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(FLOATS)[:-5], "claims 12 values, 48 bytes of float32, but holds 43 bytes"),
        (npy(FLOATS) + b"more", "claims 12 values, 48 bytes of float32, but holds 52 bytes"),
        (npy(FLOATS, shape=(10**9, 1, 1, 1)), "claims 1,000,000,000 values"),
        (npy(np.array([Payload()] * 3, dtype=object)), "pickled Python objects, which can run code"),
        (pickle.dumps(Payload()), "no array of numpy but a pickle, which can run code and is never opened"),
        (b"", "no array of numpy"),
        (b"PK\x03\x04", "no array of numpy but a zip: open one of .npy files as .npz"),
        (npy(np.zeros((0, 1, 2, 2))), r"its shape is \(0, 1, 2, 2\): there are no images in it"),
    ],
)
def test_an_npy_that_is_not_what_it_says_is_refused(here, content, message):
    raw(content, "data.npy")()
    with pytest.raises(LoadError, match="^data data.npy: .*" + message):
        opened(source("data.npy"))
    assert not (here / "executed").exists()


def safetensors(header, body=b"", length=None):
    held = header if isinstance(header, bytes) else repr(header).replace("'", '"').encode()
    return struct.pack("<Q", len(held) if length is None else length) + held + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no header",
        safetensors({"images": {"dtype": "F32", "shape": [10**9, 1, 1, 1], "data_offsets": [0, 16]}}, bytes(16)),
        safetensors({"images": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}, bytes(16)),
        safetensors({"images": {"dtype": "F32", "shape": [4, 1, 1, 1], "data_offsets": [0, 16]}}, bytes(9)),
        safetensors({"images": {"dtype": "F32", "shape": [4, 1, 1, 1], "data_offsets": [0, 16]}}, bytes(90)),
        safetensors(b"{}", length=2**62),
        pickle.dumps(Payload()),
    ],
    ids=["empty", "text", "a billion values", "overflow", "cut off", "more than it says", "huge header", "pickle"],
)
def test_a_safetensors_file_that_is_not_what_it_says_is_refused(here, content):
    raw(content, "data.safetensors")()
    with pytest.raises(LoadError, match=r"^data data.safetensors: not a readable safetensors file"):
        opened(source("data.safetensors"))
    assert not (here / "executed").exists()


def test_a_folder_and_a_missing_file_are_told(here):
    with pytest.raises(LoadError, match=r"data data.npz: there is no file"):
        opened(source())
    (here / "data.npz").mkdir()
    with pytest.raises(LoadError, match=r"data data.npz: .* is a folder, not a file"):
        opened(source())


# --- memory, and the command line ----------------------------------------------------------------------------------


def peak(work, *arguments):
    """What some work returns, and by how many MB it raises the most memory that its process has had."""
    queue = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=_watched, args=(queue, work, arguments))
    process.start()
    found = queue.get()
    process.join()
    return found


def _watched(queue, work, arguments):
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: nothing is kept that was freed
    torch.set_num_threads(1)  # the threads of the process that this one is a copy of are not here
    work("small.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = [work(argument) for argument in arguments]
    queue.put((told, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024))


def counted(text):
    try:
        return sum(len(block.images) for block in opened(source(text)).blocks(8, 0, None))
    except LoadError as error:
        return str(error)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="memory is that of a copied process")
def test_the_memory_is_that_of_the_images_in_work(here):
    """100 MB of zeros that take no disk, in each of the forms, all of them read; before that, what must be refused."""
    count, size = 100, 100 * 2**20
    save("small.npz")
    header = npy(np.zeros(0, np.float32), shape=(count, 1, 512, 512))
    tensor = {"dtype": "F32", "shape": [count, 1, 512, 512], "data_offsets": [0, size]}
    sparse("data.npy", [(0, header)], len(header) + size)
    sparse("data.npz", sparse_npz(header, size))
    sparse("data.safetensors", [(0, safetensors({"images": tensor}))], len(safetensors({"images": tensor})) + size)
    write_npz("claim.npz", zipfile.ZIP_DEFLATED, images=npy(FLOATS, shape=(10**9, 1, 1, 1)))
    Path("claim.npy").write_bytes(npy(FLOATS, shape=(10**9, 1, 1, 1)))
    bomb("bomb.npz", 33)
    (bombed, *claimed), taken = peak(counted, "bomb.npz", "claim.npz", "claim.npy")
    assert "bytes that would inflate to 276,824,192: that is a zip bomb" in bombed
    assert all("claims 1,000,000,000 values" in told for told in claimed)
    assert taken < 20
    read, taken = peak(counted, "data.npy", "data.npz", "data.safetensors")
    assert read == [count] * 3
    assert taken < 60


def test_arrays_that_inflate_beyond_measure_together_are_refused(here, monkeypatch):
    """Each of the three is below what one may inflate to."""
    monkeypatch.setattr("cnnaudit.data.stored._MOST_INFLATED", 2**16)
    zeros = np.zeros((1, 1, 200, 200), np.int8)
    np.savez_compressed("data.npz", images=zeros, right=zeros, third=zeros)
    assert counted("data.npz") == 1
    with pytest.raises(LoadError, match=r"^data data.npz: .* would inflate to 120,384: that is a zip bomb"):
        open_images(source(), Trust(), inputs=["images", "right", "third"])


def test_an_array_of_two_names_is_read_once(here, monkeypatch):
    np.savez_compressed("data.npz", x=np.zeros((3, 1, 2, 2), np.float32))
    read = []
    whole = Member.read
    monkeypatch.setattr(Member, "read", lambda member: read.append(member) or whole(member))
    open_images(source(left="x", right="x"), Trust(), inputs=["left", "right"])
    assert len(read) == 1


def test_holes_that_claim_more_than_any_memory_are_refused_before_they_are_read(here):
    images = npy(np.zeros(0, np.float32), shape=(2, 1, 2**15, 2**15))
    sparse("data.npy", [(0, images)], len(images) + 2**33)
    with pytest.raises(LoadError, match=r"data.npy: images of 1 x 32768 x 32768, and an audit takes at most"):
        opened(source("data.npy"))
    np.save("small.npy", np.zeros((2, 1, 2, 2), np.float32))
    column = npy(np.zeros(0, np.dtype("<U268435456")), shape=(2,))
    sparse("source.npy", [(0, column)], len(column) + 2**31)
    with pytest.raises(LoadError, match=r"small.npy: source: 2,147,483,648 bytes, and one short text or number"):
        opened(source("small.npy", source="source.npy"))


@pytest.mark.parametrize("name", [["x"], 5, "X"])
def test_an_option_that_names_no_array_is_told(here, name):
    save()
    with pytest.raises(LoadError, match=r"data data.npz: no array .*; it has images, labels$"):
        opened(source(images=name))


def bomb(path, blocks):
    """An npz of an array of zeros whose bytes really are in it, 8 MB a block."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        file.write(npy(np.zeros(0), shape=(blocks, 1, 2**10, 2**10)))
        for _ in range(blocks):
            file.write(bytes(2**23))


def sparse(path, parts, size=0):
    """A file of bytes that stand somewhere in it, and zeros elsewhere."""
    with Path(path).open("wb") as file:
        for at, part in parts:
            file.seek(at)
            file.write(part)
        file.truncate(max(file.tell(), size))


def sparse_npz(header, size):
    """The parts of an npz with one stored member of zeros, and where they stand."""
    name = b"images.npy"
    common = (20, 0, 0, 0, 0, 0, len(header) + size, len(header) + size, len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *common) + name
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *common, 0, 0, 0, 0, 0) + name
    end = len(local) + len(header) + size
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), end, 0)
    return [(0, local + header), (end, entry + tail)]


SPEC = """\
cnnaudit: 1
model: model.py:build
data: {data}
rules:
  - {{metric: activity.dead, max: 0}}
"""


MODEL = """\
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
"""


@pytest.mark.parametrize("name", ["objects.npz", "claim.npy"])
def test_the_command_line_ends_with_one_message(here, name, capsys):
    write_npz("objects.npz", images=npy(np.array([Payload()] * 3, dtype=object)))
    Path("claim.npy").write_bytes(npy(FLOATS, shape=(10**9, 1, 1, 1)))
    Path("x.audit.yaml").write_text(SPEC.format(data=name))
    Path("model.py").write_text(MODEL)
    assert main(["check", "x.audit.yaml", "--allow-import", "model.py"]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert not out
    assert ("never opened" if name == "objects.npz" else "claims 1,000,000,000 values") in line
    assert not (here / "executed").exists()
