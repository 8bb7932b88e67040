"""Images and labels from files and from Python."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from cnnaudit.errors import LoadError
from cnnaudit.load import Block, Trust, open_images
from cnnaudit.load.blocks import blocks
from cnnaudit.spec import resolve

COUNT = 37


def images_and_labels(count=COUNT):
    images = torch.arange(count * 8, dtype=torch.float32).reshape(count, 2, 2, 2)
    return images, torch.arange(count) % 5


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(text="data.npz", **options):
    return resolve(text, base=__import__("pathlib").Path.cwd(), role="data", options=options)


def opened(data, globs=("*.py",)):
    return open_images(data, Trust.here(globs))


def everything(images, size=8, seed=0, limit=None):
    """All images, labels and ids in the order of the audit; blocks must be full but the last."""
    found = list(images.blocks(size, seed, limit))
    assert [block.number for block in found] == list(range(len(found)))
    assert all(len(block.images) == size for block in found[:-1])
    labels = None if found[0].labels is None else torch.cat([block.labels for block in found])
    return torch.cat([block.images for block in found]), labels, torch.cat([block.ids for block in found])


class Samples(Dataset):
    def __init__(self, count=COUNT, label=int):
        self.images, self.labels = images_and_labels(count)
        self.label = label

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.label(self.labels[i])


class Flow(IterableDataset):
    def __iter__(self):
        yield from zip(*images_and_labels(), strict=True)


def batches(size=10):
    images, labels = images_and_labels()
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, COUNT, size)]


# --- blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8, 20, 64])
@pytest.mark.parametrize("size", [2, 8, 64])
def test_batches_of_any_size_become_blocks_of_one_size(batch, size):
    images, labels = images_and_labels()
    given = zip(images.split(batch), labels.split(batch), strict=True)
    found = list(blocks(given, range(100, 200), size))
    assert [len(b.images) for b in found] == [size] * (COUNT // size) + [COUNT % size] * (COUNT % size > 0)
    assert torch.equal(torch.cat([b.images for b in found]), images)
    assert torch.equal(torch.cat([b.labels for b in found]), labels)
    assert torch.cat([b.ids for b in found]).tolist() == list(range(100, 100 + COUNT))


def test_blocks_may_have_no_labels():
    (found,) = blocks([(torch.zeros(3, 1, 2, 2), None), (torch.zeros(2, 1, 2, 2), None)], range(5), 8)
    assert found.labels is None
    assert found.to(torch.device("cpu"), torch.float32).labels is None
    assert len(found.images) == 5


def test_a_block_moves_with_all_that_it_has():
    block = Block(3, torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    moved = block.to(torch.device("meta"), torch.float16)
    assert moved.number == 3
    assert {moved.images.device.type, moved.labels.device.type, moved.ids.device.type} == {"meta"}


# --- everything that Python may give ------------------------------------------------------------------------


GIVEN = {
    "tensors": images_and_labels,
    "list of two arrays": lambda: list(images_and_labels()),
    "numpy": lambda: tuple(x.numpy() for x in images_and_labels()),
    "numpy images, list of labels": lambda: TensorDataset(*images_and_labels()),
    "dataset": Samples,
    "dataset with tensor labels": lambda: Samples(label=lambda y: y),
    "dataset with numpy labels": lambda: Samples(label=lambda y: y.numpy()),
    "list of batches": batches,
    "generator": lambda: iter(batches()),
    "lists as batches": lambda: [list(batch) for batch in batches()],
    "loader": lambda: DataLoader(Samples(), batch_size=10),
    "iterable dataset": lambda: DataLoader(Flow(), batch_size=10),
    "numpy batches": lambda: [tuple(x.numpy() for x in batch) for batch in batches(1)],
}


@pytest.mark.parametrize("kind", GIVEN)
def test_every_image_is_read_once_with_its_label(kind):
    images, labels = images_and_labels()
    opened_ = opened(GIVEN[kind]())
    assert opened_.labelled
    found = everything(opened_)
    assert sorted(found[2].tolist()) == list(range(COUNT))
    assert torch.equal(found[0], images[found[2]])
    assert torch.equal(found[1], labels[found[2]])
    assert found[1].dtype == found[2].dtype == torch.int64
    assert opened_.facts["n_images"] == COUNT


@pytest.mark.parametrize("kind", ["tensors", "numpy", "dataset", "generator", "loader"])
def test_a_limit_reads_the_first_of_the_order(kind):
    whole = everything(opened(GIVEN[kind]()))
    part = everything(opened(GIVEN[kind]()), limit=13)
    assert part[2].tolist() == whole[2].tolist()[:13]
    assert torch.equal(part[0], whole[0][:13])


def test_a_limit_takes_no_batch_more_than_it_needs():
    taken = []

    def give():
        for batch in batches():
            taken.append(len(batch[0]))
            yield batch

    assert len(everything(opened(give()), limit=20)[0]) == 20
    assert taken == [10, 10]


def test_what_can_be_indexed_is_visited_in_an_order_that_the_seed_decides():
    order = [everything(opened(images_and_labels()), seed=seed)[2].tolist() for seed in (0, 0, 1)]
    assert order[0] == order[1] != order[2]
    assert order[0] != sorted(order[0])
    assert opened(images_and_labels()).facts["order"] == "seeded"
    assert opened(iter(batches())).facts["order"] == "as given"
    assert everything(opened(iter(batches())), seed=1)[2].tolist() == list(range(COUNT))
    assert everything(opened(Samples()))[2].tolist() == order[0]


def test_the_number_of_classes_is_known_where_the_data_tells():
    named = Samples()
    named.classes = list("abcdefg")
    assert opened(named).classes == 7
    assert opened(Samples()).classes is None
    assert opened(images_and_labels()).classes == 5
    assert opened(iter(batches())).classes is None


def test_integer_images_become_floats_and_doubles_stay_doubles():
    assert everything(opened(np.zeros((3, 1, 2, 2), dtype=np.uint8)))[0].dtype == torch.float32
    assert everything(opened(np.zeros((3, 1, 2, 2))))[0].dtype == torch.float64
    assert everything(opened(torch.zeros(3, 1, 2, 2, dtype=torch.float16)))[0].dtype == torch.float16


@pytest.mark.parametrize(
    "data",
    [
        torch.zeros(3, 1, 2, 2),
        np.zeros((3, 1, 2, 2)),
        (torch.zeros(3, 1, 2, 2), None),
        [torch.zeros(3, 1, 2, 2)],
        [(torch.zeros(3, 1, 2, 2),)],
        iter([torch.zeros(1, 1, 2, 2)] * 3),
    ],
    ids=["tensor", "array", "pair", "batches", "batches of one", "generator"],
)
def test_images_need_no_labels(data):
    found = opened(data)
    assert not found.labelled
    assert everything(found)[0].shape == (3, 1, 2, 2)


def test_two_batches_of_images_are_not_images_and_labels():
    found = opened([torch.zeros(3, 1, 2, 2), torch.ones(2, 1, 2, 2)])
    assert not found.labelled
    assert len(everything(found)[0]) == 5


class Bad(Samples):
    def __init__(self, sample):
        super().__init__(3)
        self.sample = sample

    def __getitem__(self, i):
        return self.sample


X = torch.zeros(4, 1, 2, 2)

REFUSED = {
    "no images": ((torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64)), "there are no images"),
    "an empty iterable": (iter([]), "there are no images"),
    "an empty dataset": (Samples(0), "there are no images"),
    "too few labels": ((X, torch.zeros(3, dtype=torch.int64)), "4 images but 3 labels"),
    "too few labels in a batch": ([(X, torch.zeros(3, dtype=torch.int64))], "batch 0: 4 images but 3 labels"),
    "float labels": ((X, torch.zeros(4)), r"labels must be one integer an image, not torch.float32 of shape \(4,\)"),
    "float labels in a batch": ([(X, torch.zeros(4))], "batch 0: labels must be one integer an image"),
    "one-hot labels": ([(X, torch.zeros(4, 3))], r"labels must be one integer an image, not .* of shape \(4, 3\)"),
    "one-hot labels of arrays": (
        (X, torch.zeros(4, 3)),
        r"labels must be one integer an image, not .* of shape \(4, 3\)",
    ),
    "negative labels": ((X, torch.tensor([0, 1, -1, 2])), "label -1 is negative"),
    "labels of text": ([(X, ["a", "b", "c", "d"])], "labels are not integers"),
    "a mapping": ([{"image": X}], r"a mapping; yield \(images, labels\)"),
    "three values": ([(X, X, X)], r"3 values; yield \(images, labels\) or images"),
    "vectors": ([torch.zeros(4, 3)], r"images have shape \(4, 3\); expected \(images, channels, \*size\)"),
    "no array": ([("image",)], "str is not an array of images"),
    "a number": (3, "is neither arrays, a dataset nor an iterable"),
    "a sample that is a mapping": (Bad({"image": X[0]}), "a mapping"),
    "a sample that is a number": (Bad((torch.zeros(()), 0)), "image .: images have shape"),
    "sizes that differ": ([(X, None), (torch.zeros(4, 1, 3, 3), None)], "images"),
    "labels that come and go": ([X, (X, torch.zeros(4, dtype=torch.int64))], "labels"),
    "labels that go": ([(X, torch.zeros(4, dtype=torch.int64)), X], "labels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_is_refused_with_its_place(kind):
    data, message = REFUSED[kind]
    with pytest.raises(LoadError, match=message):
        everything(opened(data), size=3)


def test_the_digest_is_of_images_and_labels_in_the_order_of_the_audit():
    def digest(edit=lambda x, y: None, **how):
        images, labels = images_and_labels()
        edit(images, labels)
        found = opened((images, labels))
        everything(found, **how)
        return found.facts["sha256"]

    assert digest() == digest()
    assert digest(lambda x, y: x[3, 0, 0].add_(1e-3)) != digest()
    assert digest(lambda x, y: y[3].add_(1)) != digest()
    assert digest(seed=1) != digest()
    assert digest(limit=30) != digest()
    assert digest(size=16) == digest(size=8)


def test_every_type_of_number_has_a_digest():
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        found = opened(torch.ones(3, 1, 2, 2, dtype=dtype))
        everything(found)
        assert len(found.facts["sha256"]) == 64


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
        ({"images": np.array([{"a": 1}] * COUNT, dtype=object)}, "not a readable npz of plain arrays"),
        ({"labels": np.array([{"a": 1}] * COUNT, dtype=object)}, "not a readable npz of plain arrays"),
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
    with pytest.raises(LoadError, match="imagse"):
        opened(source(imagse="x"))


def test_a_missing_file_is_told(here):
    with pytest.raises(LoadError, match=f"data: there is no file {here / 'data.npz'}"):
        opened(source())


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_npz_is_told(here, content):
    (here / "data.npz").write_bytes(content)
    with pytest.raises(LoadError, match=r"data data.npz: not a readable npz"):
        opened(source())


def test_a_truncated_npz_is_told(here):
    save()
    whole = (here / "data.npz").read_bytes()
    (here / "data.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadError, match=r"data data.npz: not a readable npz"):
        opened(source())


# --- factories -------------------------------------------------------------------------------------------------


FACTORY = """
import torch

def build(count=4):
    return torch.zeros(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64)

pair = build(2)

def build_badly():
    raise OSError("the disk is gone")
"""


def test_a_factory_may_make_data(here):
    (here / "data.py").write_text(FACTORY)
    assert opened(source("data.py:build", count=6)).count == 6
    assert opened(source("data.py:pair")).count == 2
    assert opened(source("data.py:build")).source == "data.py:build"


def test_a_factory_must_be_allowed(here):
    (here / "data.py").write_text(FACTORY)
    with pytest.raises(LoadError, match=r"--allow-import 'data.py'"):
        opened(source("data.py:build"), globs=())


def test_a_factory_that_raises_is_told(here):
    (here / "data.py").write_text(FACTORY)
    with pytest.raises(LoadError, match=r"data.py:build_badly.*OSError: the disk is gone"):
        opened(source("data.py:build_badly"))


@pytest.mark.parametrize("text", ["images.npy", "folder/", "synthetic"])
def test_kinds_that_are_not_read_yet_are_told(here, text):
    with pytest.raises(LoadError, match=r"data is not read yet; use an .npz file or a Python factory"):
        opened(source(text))
