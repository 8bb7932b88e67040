"""Images, labels and columns from files and from Python."""

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
    patient,
    patients,
    source,
    sources_and_columns,
    with_masks,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from cnnaudit.data import Block, source_id
from cnnaudit.data.blocks import Batch, blocks
from cnnaudit.errors import LoadError
from cnnaudit.spec import Reading


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Samples(Dataset):
    def __init__(self, count=COUNT, label=int):
        self.images, self.labels = images_and_labels(count)
        self.label = label

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.label(self.labels[i])


class Patients(Samples):
    """Samples as mappings: 4 images a patient, patient 0 last, 3 scanners in turn."""

    def __init__(self, image="images", label="labels"):
        super().__init__()
        self.names = image, label

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        values = {"source": f"patient {patient(i)}", "scanner": SCANNERS[i % 3], "age": 30 + i % 4}
        return dict(zip(self.names, (image, label), strict=True)) | values


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
    scanners, sources = torch.arange(COUNT) % 3, torch.arange(COUNT) // 4
    masks = dense_labels()
    given = [
        Batch(
            torch.arange(100, 100 + COUNT)[part],
            images[part],
            labels[part],
            sources[part],
            {"scanner": scanners[part]},
            masks[part],
        )
        for part in (slice(i, i + batch) for i in range(0, COUNT, batch))
    ]
    found = list(blocks(given, size))
    assert [len(b.images) for b in found] == [size] * (COUNT // size) + [COUNT % size] * (COUNT % size > 0)
    assert torch.equal(torch.cat([b.images for b in found]), images)
    assert torch.equal(torch.cat([b.labels for b in found]), labels)
    assert torch.equal(torch.cat([b.sources for b in found]), sources)
    assert torch.equal(torch.cat([b.columns["scanner"] for b in found]), scanners)
    assert torch.equal(torch.cat([b.masks for b in found]), masks)
    assert torch.cat([b.ids for b in found]).tolist() == list(range(100, 100 + COUNT))


def test_blocks_may_have_no_labels():
    (found,) = blocks(
        [Batch(torch.arange(3), torch.zeros(3, 1, 2, 2)), Batch(torch.arange(2), torch.zeros(2, 1, 2, 2))], 8
    )
    assert found.labels is None
    assert found.to(torch.device("cpu"), torch.float32).labels is None
    assert len(found.images) == 5


def test_without_sources_every_image_is_its_own():
    found = list(
        blocks(
            [
                Batch(torch.arange(50, 53), torch.zeros(3, 1, 2, 2)),
                Batch(torch.arange(53, 57), torch.zeros(4, 1, 2, 2)),
            ],
            3,
        )
    )
    assert [block.sources.tolist() for block in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [block.columns for block in found] == [{}, {}, {}]


def test_a_block_moves_with_all_that_the_model_may_need():
    codes = torch.arange(2)
    masks = torch.zeros(2, 2, 2, dtype=torch.int16)
    block = Block(
        3, torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), codes, codes, {"scanner": codes}, masks
    )
    moved = block.to(torch.device("meta"), torch.float16)
    assert moved.number == 3
    assert {x.device.type for x in (moved.images, moved.labels, moved.ids, moved.masks)} == {"meta"}
    assert moved.masks.dtype is torch.int16
    assert {moved.sources.device.type, moved.columns["scanner"].device.type} == {"cpu"}


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
    "mapping": lambda: dict(zip(("images", "labels"), images_and_labels(), strict=True)),
    "mappings": lambda: [{"labels": y, "images": x, "name": ["?"]} for x, y in batches()],
    "mappings in the singular": lambda: [{"image": x, "label": y} for x, y in batches()],
    "dataset of mappings": lambda: Patients("image", "label"),
    "loader of mappings": lambda: DataLoader(Patients(), batch_size=10),
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
    "float labels": ((X, torch.zeros(4)), r"not torch.float32 of shape \(4,\): .* give labels.long\(\)"),
    "float labels in a batch": ([(X, torch.zeros(4))], "batch 0: labels must be one integer an image"),
    "one-hot labels": ([(X, torch.zeros(4, 3))], r"of shape \(4, 3\): if they are one-hot, give labels.argmax\(-1\)"),
    "one-hot labels of integers": (
        {"images": np.zeros((4, 1, 2, 2)), "labels": np.eye(4, 3, dtype=int)},
        r"labels must be one integer an image, not torch.int64 of shape \(4, 3\): if they are one-hot",
    ),
    "one-hot labels of arrays": (
        (X, torch.zeros(4, 3)),
        r"labels must be one integer an image, not .* of shape \(4, 3\)",
    ),
    "negative labels": ((X, torch.tensor([0, 1, -1, 2])), "label -1 is negative"),
    "labels of text": ([(X, ["a", "b", "c", "d"])], "labels are text: number them"),
    "labels of text in an array": (
        (X, np.array(["cat", "dog", "cat", "cat"])),
        r"labels are text: number them with np.unique\(labels, return_inverse=True\)\[1\]",
    ),
    "labels that are not whole": ((X, torch.tensor([0, 0.5, 1, 1])), "classes and not something measured"),
    "complex images": ((X + 0j, None), r"images hold complex numbers \(torch.complex64\)"),
    "a mapping without images": (
        [{"imgs": X, "labels": 3}],
        "batch 0: a mapping without images, of imgs, labels: name them 'images'",
    ),
    "an empty mapping": ({}, "a dict from Python: a mapping without images, of nothing: name them 'images'"),
    "images that are a list": ({"images": [1]}, "images are a list, not an array of images"),
    "images that are a number": ({"images": np.float32(1)}, "images are a float32, not an array of images"),
    "images that are nothing": ([{"images": None}], "a mapping without images, of nothing"),
    "three values": ([(X, X, X)], r"3 values; yield \(images, labels\), images, or a mapping with columns"),
    "vectors": ([torch.zeros(4, 3)], r"images have shape \(4, 3\); expected \(images, channels, \*size\)"),
    "no array": ([("image",)], "str is not an array of images"),
    "a number": (3, "is no data; give arrays, a dataset or an iterable"),
    "a sample without image": (Bad({"img": X[0]}), "image 0: a mapping without images, of img"),
    "a sample that is a number": (Bad((torch.zeros(()), 0)), "image .: images have shape"),
    "sizes that differ": ([(X, None), (torch.zeros(4, 1, 3, 3), None)], "images"),
    "labels that come and go": ([X, (X, torch.zeros(4, dtype=torch.int64))], "labels"),
    "too few labels for the images that are read": ([(X, torch.zeros(2, dtype=torch.int64))], "4 images but 2 labels"),
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


def test_the_digest_of_images_and_labels_is_that_of_every_earlier_version():
    images, labels = images_and_labels()
    digests = {
        "6c84a9da8f29cfe87889a925f4c9e7e9b932452f13dfe117af08660c33f6db79": (images, labels),
        "780cbe91accb3380b41dcb398fff1d2389f21e6f101e2e730bf09d9438b172db": images,
    }
    for digest, data in digests.items():
        found = opened(data)
        everything(found)
        assert found.facts["sha256"] == digest


# --- images that cannot be used --------------------------------------------------------------------------------


def holed(*broken, value=float("nan")):
    """Some of the images have one value that is no number."""
    images, labels = images_and_labels()
    images[list(broken), 1, 0, 1] = value
    return images, labels


def in_batches_of(images, labels, size=10):
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


HOLED = {
    "arrays": holed,
    "numpy": lambda *broken: tuple(x.numpy() for x in holed(*broken)),
    "dataset": lambda *broken: TensorDataset(*holed(*broken)),
    "batches": lambda *broken: in_batches_of(*holed(*broken)),
    "half precision": lambda *broken: [(x.half(), y) for x, y in in_batches_of(*holed(*broken))],
}


@pytest.mark.parametrize("kind", HOLED)
def test_an_image_that_holds_nan_is_named_and_left_out(kind):
    found = opened(HOLED[kind](5, 11), reading=Reading(max_corrupt=2 / COUNT))
    images, labels, ids = everything(found)
    assert sorted(ids.tolist()) == [i for i in range(COUNT) if i not in (5, 11)]
    assert torch.isfinite(images).all()
    assert torch.equal(labels, images_and_labels()[1][ids])
    assert found.facts["n_images"] == COUNT - 2
    assert found.facts["corrupt"]["count"] == 2
    assert sorted(found.facts["corrupt"]["told"]) == ["image 11 holds NaN or Inf", "image 5 holds NaN or Inf"]


@pytest.mark.parametrize("kind", HOLED)
def test_too_many_of_them_are_an_error(kind):
    with pytest.raises(
        LoadError,
        match=r"2 of 37 images cannot be used, and max_corrupt allows 0.05 of them; mend them, or allow more: image ",
    ):
        everything(opened(HOLED[kind](5, 11), reading=Reading(max_corrupt=0.05)))  # 1.85 images


def test_by_default_one_of_a_hundred_may_be_unusable():
    images = torch.zeros(200, 1, 2, 2)
    images[3] = float("inf")
    assert len(everything(opened((images, None)))[0]) == 199
    images[[7, 9], 0, 1, 1] = float("-inf")
    with pytest.raises(LoadError, match=r"3 of 200 images cannot be used, and max_corrupt allows 0.01 of them"):
        everything(opened((images, None)))


def test_the_error_comes_as_soon_as_there_are_too_many_where_their_number_is_known():
    class Counted(TensorDataset):
        asked = 0

        def __getitem__(self, i):
            self.asked += 1
            return super().__getitem__(i)

    dataset = Counted(torch.full((1000, 1, 2, 2), float("nan")))
    with pytest.raises(LoadError, match=r"11 of 1000 images .*: image \d+ holds NaN or Inf; .*; \.\.\."):
        next(iter(opened(dataset).blocks(8, 0, None)))
    assert dataset.asked < 100


def test_images_that_are_all_unusable_are_not_an_empty_data_set():
    images, labels = holed(*range(COUNT))
    for data in ((images, labels), in_batches_of(images, labels)):
        with pytest.raises(LoadError, match=r"of 37 images cannot be used"):
            next(iter(opened(data).blocks(8, 0, None)))


def test_of_a_stream_shorter_than_the_limit_the_share_is_of_what_is_there():
    data = in_batches_of(*holed(5))
    with pytest.raises(LoadError, match=r"1 of 37 images cannot be used"):
        everything(opened(data), limit=1000)
    assert len(everything(opened(data, reading=Reading(max_corrupt=0.03)), limit=1000)[0]) == 36


def test_what_the_network_takes_besides_must_be_finite_too():
    images, _ = images_and_labels()
    ages = torch.arange(COUNT, dtype=torch.float32)
    ages[4] = float("nan")
    data = {"images": images, "age": ages}
    found = opened(data, inputs=["images", "age"], reading=Reading(max_corrupt=0.1))
    read = list(found.blocks(8, 0, None))
    assert sorted(torch.cat([block.others[0] for block in read]).tolist()) == [i for i in range(COUNT) if i != 4]
    assert found.corrupt == ["image 4 holds NaN or Inf"]


def test_unusable_images_are_no_part_of_the_digest():
    def digest(data):
        found = opened(data, reading=Reading(max_corrupt=0.5))
        list(found.blocks(8, 0, None))
        return found.facts["sha256"]

    kept = [i for i in range(COUNT) if i not in (5, 11)]
    whole = tuple(x[kept] for x in images_and_labels())
    assert digest(in_batches_of(*holed(5, 11))) == digest(in_batches_of(*whole))
    assert digest(in_batches_of(*holed(5, 11, value=float("inf")))) == digest(in_batches_of(*whole))


# --- arrays that torch does not take over as they are ------------------------------------------------------------


def test_arrays_that_may_not_be_written_to_are_read(tmp_path):
    images, labels = (x.numpy() for x in images_and_labels())
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels.flags.writeable = False
    masks = dense_labels().numpy()
    masks.flags.writeable = False
    found = opened({"images": mapped, "labels": labels, "masks": masks}, masks=True)
    read, classes, ids = everything(found)
    assert torch.equal(read, torch.from_numpy(images)[ids])
    assert torch.equal(classes, images_and_labels()[1][ids])
    assert torch.equal(masks_and_ids(opened({"images": mapped, "masks": masks}, masks=True))[0], dense_labels()[ids])
    assert torch.equal(everything(opened([(mapped, labels)]))[0], images_and_labels()[0])


@pytest.mark.parametrize("change", [lambda x: x.astype(x.dtype.newbyteorder(">")), lambda x: x[::-1].copy()[::-1]])
def test_byte_order_and_strides_are_no_matter(change):
    images, labels = images_and_labels()
    for data in ((change(images.numpy()), change(labels.numpy())), [(change(images.numpy()), change(labels.numpy()))]):
        read, classes, ids = everything(opened(data))
        assert torch.equal(read, images[ids])
        assert torch.equal(classes, labels[ids])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.bool_, np.int8])
def test_labels_of_any_whole_numbers(dtype):
    labels = np.array([0, 1, 1], dtype)
    _, read, ids = everything(opened((np.zeros((3, 1, 2, 2)), labels)))
    assert read.tolist() == labels.astype(int)[ids.numpy()].tolist()


def test_large_images_are_read_a_few_at_a_time():
    class Huge:
        """A thousand images of 2^20 values."""

        shape, dtype, most = (1000, 1, 2**10, 2**10), torch.float32, 0

        def __len__(self):
            return 1000

        def __getitem__(self, rows):
            Huge.most = max(Huge.most, len(rows))
            return torch.zeros(len(rows), *self.shape[1:])

    assert len(next(iter(opened({"images": Huge()}).blocks(2, 0, 2))).images) == 2
    list(opened({"images": Huge()}).blocks(2, 0, 5))
    assert Huge.most == 2


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((4, 32, 40, 3), r"(32, 40, 3), as if their channels came last; torch expects (3, 32, 40): "),
        ((4, 8, 9, 10, 1), "torch expects (1, 8, 9, 10): give np.transpose(images, (0, 4, 1, 2, 3))"),
        ((4, 3, 32, 32), ""),
        ((4, 3, 32, 3), ""),
        ((4, 64, 3), ""),
        ((4, 1, 28, 28), ""),
    ],
)
def test_a_hint_says_that_channels_seem_to_come_last(shape, hint):
    found = opened(torch.zeros(shape))
    list(found.blocks(2, 0, None))
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)


# --- columns -----------------------------------------------------------------------------------------------------


def in_batches(size=10, **changes):
    held = patients(**changes)
    return [{name: values[i : i + size] for name, values in held.items()} for i in range(0, COUNT, size)]


COLUMNED = {
    "arrays": patients,
    "numpy arrays": lambda: {name: np.asarray(values) for name, values in patients().items()},
    "arrays of objects": lambda: patients(scanner=np.array(patients()["scanner"], dtype=object)),
    "numbers one by one": lambda: patients(age=[np.int16(30 + i % 4) for i in range(COUNT)]),
    "dataset": Patients,
    "batches": in_batches,
    "generator": lambda: iter(in_batches(1)),
    "loader": lambda: DataLoader(Patients(), batch_size=10),
}


@pytest.mark.parametrize("kind", COLUMNED)
def test_every_image_has_its_values(kind):
    found = opened(COLUMNED[kind](), "scanner", "age", "scanner")
    assert (found.columns, found.clustered) == (("scanner", "age"), True)
    ids, sources, names = sources_and_columns(found)
    assert names == {"scanner": [SCANNERS[i % 3] for i in ids], "age": [str(30 + i % 4) for i in ids]}
    ranks = {}
    for i, rank in zip(ids, sources, strict=True):
        assert ranks.setdefault(patient(i), rank) == rank
    assert len(set(ranks.values())) == 10
    facts = found.facts
    assert facts["sources"] == 10
    assert facts["columns"]["scanner"] == {"Siemens": 13, "GE": 12, "Philips": 12}
    assert facts["columns"]["age"] == {"30": 10, "31": 9, "32": 9, "33": 9}


def test_images_are_visited_in_the_same_order_with_columns_and_without():
    assert torch.equal(everything(opened(patients(), "scanner"))[2], everything(opened(images_and_labels()))[2])


def test_what_no_rule_slices_by_is_not_read():
    found = opened(patients(age=object(), scanner=[1.5]))
    assert (found.columns, found.values, found.clustered) == ((), {}, True)
    assert next(found.blocks(8, 0, None)).columns == {}
    assert found.facts["columns"] == {}


@pytest.mark.parametrize("data", [images_and_labels, Samples, batches], ids=["arrays", "dataset", "batches"])
def test_without_a_source_every_image_is_one(data):
    found = opened(data())
    assert not found.clustered
    assert sources_and_columns(found)[1] == list(range(COUNT))
    assert found.facts["sources"] is None


def test_a_source_is_known_by_its_name_in_all_data():
    def numbers(data, seed=0):
        ids, sources, _ = sources_and_columns(opened(data), seed=seed)
        return {patient(i): number for i, number in zip(ids, sources, strict=True)}

    usual = numbers(patients())
    assert usual == {p: source_id(f"patient {p}") for p in range(10)}
    assert numbers(Patients()) == numbers(patients(), seed=1) == usual
    assert numbers(patients(source=torch.tensor([patient(i) for i in range(COUNT)]))) == {
        p: source_id(p) for p in range(10)
    }


def test_sources_of_a_stream_are_those_of_the_images_that_are_read():
    found = opened(iter(in_batches()))
    assert sources_and_columns(found)[1] == [source_id(f"patient {patient(i)}") for i in range(COUNT)]
    assert found.facts["sources"] == 10
    found = opened(iter(in_batches()))
    assert sources_and_columns(found, limit=9)[1] == [source_id(f"patient {patient(i)}") for i in range(9)]
    assert found.facts["sources"] == len({patient(i) for i in range(9)})


@pytest.mark.parametrize("size", [5, 10, 30, 37])
def test_values_beyond_the_limit_are_not_met(size):
    data = patients(scanner=["early"] * 10 + ["late"] * (COUNT - 10), age=[1] * COUNT)
    found = opened([{n: v[i : i + size] for n, v in data.items()} for i in range(0, COUNT, size)], "scanner")
    assert sum(len(block.images) for block in found.blocks(8, 0, 10)) == 10
    assert found.values == {"scanner": ["early"]}


def test_values_of_arrays_are_in_their_order_and_those_of_a_stream_as_they_come():
    count = np.arange(COUNT) % 12
    assert opened(patients(), "scanner").values == {"scanner": ["GE", "Philips", "Siemens"]}
    assert opened(patients(age=count), "age").values["age"] == [str(i) for i in range(12)]
    assert opened(patients(age=count % 2 == 0), "age").values["age"] == ["False", "True"]
    found = opened(iter(in_batches(1)), "scanner")
    assert found.values == {"scanner": []}
    rest = found.blocks(2, 0, None)
    next(rest)
    assert found.values == {"scanner": ["Siemens", "GE"]}
    next(rest)
    assert found.values == {"scanner": SCANNERS}


def test_numbers_and_text_are_one_column():
    data = patients(age=[30 + i % 2 if i % 4 < 2 else str(30 + i % 2) for i in range(COUNT)])
    assert opened(data, "age").values == {"age": ["30", "31"]}
    assert opened(patients(age=[i % 3 or "none" for i in range(COUNT)]), "age").values == {"age": ["1", "2", "none"]}


@pytest.mark.parametrize("kind", ["arrays", "dataset", "batches", "loader"])
def test_labels_are_a_column_too(kind):
    found = opened(COLUMNED[kind](), "labels")
    ids, _, names = sources_and_columns(found)
    assert names == {"labels": [str(i % 5) for i in ids]}
    assert found.facts["columns"]["labels"] == {"0": 8, "1": 8, "2": 7, "3": 7, "4": 7}


def test_labels_are_a_column_without_a_mapping():
    for data in (images_and_labels(), batches(), Samples()):
        ids, _, names = sources_and_columns(opened(data, "labels"))
        assert names["labels"] == [str(i % 5) for i in ids]


def test_a_value_of_which_no_image_is_read_counts_none():
    found = opened(patients(scanner=["rare" if i == 0 else "usual" for i in range(COUNT)]), "scanner")
    ids, _, _ = sources_and_columns(found, limit=5)
    assert 0 not in ids
    assert found.facts["columns"] == {"scanner": {"rare": 0, "usual": 5}}


def test_a_column_has_at_most_64_values():
    many = torch.arange(130).remainder(65)
    data = {"images": torch.zeros(130, 1, 2, 2), "scanner": many, "source": many}
    words = "column scanner has more than 64 values: slice by one with few"
    with pytest.raises(LoadError, match=words):
        opened(data, "scanner")
    found = opened(
        [{"images": x[None], "scanner": y[None]} for x, y in zip(data["images"], many, strict=True)], "scanner"
    )
    with pytest.raises(LoadError, match=words):
        everything(found)
    assert len(opened(data | {"scanner": many.clamp(max=63)}, "scanner").values["scanner"]) == 64
    assert sum(len(block.images) for block in opened(data).blocks(16, 0, None)) == 130  # of sources there may be many


NO_COLUMN = {
    "arrays": (patients(), "scaner", "did you mean 'scanner'? the columns are labels, source, scanner, age"),
    "dataset": (Patients(), "scaner", "did you mean 'scanner'? the columns are labels, source, scanner, age"),
    "batches": (in_batches(), "scaner", "did you mean 'scanner'? the columns are labels, source, scanner, age"),
    "pair": (images_and_labels(), "scanner", "the columns are labels"),
    "pairs": (batches(), "scanner", "the columns are labels"),
    "images": (torch.zeros(3, 1, 2, 2), "labels", "give it one"),
    "no source": (images_and_labels(), "source", "the columns are labels"),
}


@pytest.mark.parametrize("kind", NO_COLUMN)
def test_a_column_that_is_missing_is_told_when_the_data_is_opened(kind):
    data, name, hint = NO_COLUMN[kind]
    with pytest.raises(LoadError) as caught:
        opened(data, name)
    assert str(caught.value).split(": ", 1)[1] == f"no column {name!r}, which a rule slices by; {hint}"


KINDS = "a column must hold text or whole numbers, one an image"
BAD_COLUMNS = {
    "fractions": (patients(age=torch.ones(COUNT)), f"column age holds 1.0, a float: {KINDS}"),
    "nothing": (patients(age=[None] * COUNT), f"column age holds None, a NoneType: {KINDS}"),
    "bytes": (patients(age=np.array([b"a"] * COUNT)), f"column age holds b'a', a bytes: {KINDS}"),
    "rows": (patients(age=torch.ones(COUNT, 2, dtype=torch.int64)), rf"column age holds \[1, 1\], a list: {KINDS}"),
    "too few": (patients(age=[1, 2]), "37 images but 2 values in column age"),
    "one for all": (patients(age="old"), "37 images but 1 values in column age"),
    "sources of fractions": (patients(source=torch.ones(COUNT)), f"column source holds 1.0, a float: {KINDS}"),
    "too few sources": (patients(source=["a"]), "37 images but 1 values in column source"),
    "too few in a batch": ([patients(), patients(age=[1, 2])], "batch 1: 37 images but 2 values in column age"),
    "a batch without": ([patients(), patients(age=None)], "batch 1: no column 'age', which a rule slices by; the col"),
    "sources that go": ([patients(), patients(source=None)], "some batches have sources and some have none"),
    "sources that come": ([patients(source=None), patients()], "some batches have sources and some have none"),
    "a fraction of a sample": (Bad({"image": torch.zeros(1, 2, 2), "age": 1.5}), "image .: column age holds 1.5, a fl"),
}


@pytest.mark.parametrize("kind", BAD_COLUMNS)
def test_what_is_no_column_is_refused_with_its_place(kind):
    data, message = BAD_COLUMNS[kind]
    with pytest.raises(LoadError, match=message):
        everything(opened(data, "age"))


def test_the_digest_is_of_sources_and_wanted_columns_too():
    def digest(*columns, size=8, limit=None, **changes):
        found = opened(patients(**changes), *columns)
        everything(found, size=size, limit=limit)
        return found.facts["sha256"]

    scanner = ["other", *patients()["scanner"][1:]]
    alone = dict.fromkeys(("source", "scanner", "age"))
    distinct = {digest(**alone), digest(), digest("scanner"), digest("age"), digest("age", "scanner")}
    assert len(distinct) == 5
    assert digest("scanner", scanner=scanner) != digest("scanner")
    assert digest(scanner=scanner) == digest()
    assert digest(source=["patient 0", *patients()["source"][1:]]) != digest()
    assert digest("scanner", "age", size=16) == digest("age", "scanner")
    assert digest("scanner", source=None, limit=5) == digest("scanner", source=None, limit=5, scanner=scanner)


# --- masks -------------------------------------------------------------------------------------------------------


class Scenes(Samples):
    def __init__(self, form=lambda image, label, mask: {"image": image, "label": label, "mask": mask}):
        super().__init__()
        self.masks, self.form = dense_labels(), form

    def __getitem__(self, i):
        return self.form(*super().__getitem__(i), self.masks[i])


def masks_in_batches(size=10):
    return [{name: x[i : i + size] for name, x in with_masks().items()} for i in range(0, COUNT, size)]


MASKED = {
    "arrays": with_masks,
    "numpy arrays": lambda: {name: np.asarray(values) for name, values in with_masks().items()},
    "mask": lambda: with_masks(name="mask"),
    "dataset": Scenes,
    "dataset with numpy masks": lambda: Scenes(lambda x, y, m: {"image": x, "labels": y, "masks": m.numpy()}),
    "dataset of masks of lists": lambda: Scenes(lambda x, y, m: {"image": x, "masks": m.tolist()}),
    "batches": masks_in_batches,
    "loader": lambda: DataLoader(Scenes(), batch_size=10),
    "pair of arrays": lambda: (images_and_labels()[0], dense_labels()),
    "dataset of pairs": lambda: Scenes(lambda x, y, m: (x, m.long())),
    "loader of pairs": lambda: DataLoader(Scenes(lambda x, y, m: (x, m)), batch_size=10),
    "labels that are masks": lambda: {"images": images_and_labels()[0], "labels": dense_labels()},
    "unsigned": lambda: with_masks(dense_labels().to(torch.uint8)),  # -1 becomes 255
    "wider": lambda: with_masks(dense_labels().to(torch.int64)),
}


@pytest.mark.parametrize("kind", MASKED)
def test_every_image_has_its_dense_labels(kind):
    found = opened(MASKED[kind](), masks=True)
    assert found.masked
    masks, ids = masks_and_ids(found)
    assert masks.dtype is torch.int16
    assert torch.equal(masks, dense_labels()[ids])
    assert sorted(ids.tolist()) == list(range(COUNT))
    many = any(word in kind for word in ("dataset", "batches", "loader"))
    assert found.concepts == (None if many else 4)


@pytest.mark.parametrize("kind", MASKED)
def test_masks_are_not_read_where_no_rule_needs_them(kind):
    found = opened(MASKED[kind]())
    assert (found.masked, found.concepts) == (False, None)
    blocks_ = list(found.blocks(8, 0, None))
    assert all(block.masks is None for block in blocks_)
    assert sum(len(block.images) for block in blocks_) == COUNT
    assert found.labelled == ("pair" not in kind and kind not in {"labels that are masks", "dataset of masks of lists"})


def test_masks_that_are_not_read_may_be_anything():
    found = opened(with_masks("nonsense"))
    assert sum(len(block.images) for block in found.blocks(8, 0, None)) == COUNT


CONCEPTS = torch.stack([dense_labels() == c for c in range(3)], 1)


@pytest.mark.parametrize(
    "masks",
    [CONCEPTS, CONCEPTS.long(), CONCEPTS.to(torch.uint8), CONCEPTS.numpy(), CONCEPTS.numpy().astype(np.uint16)],
    ids=["bool", "int64", "uint8", "numpy", "uint16"],
)
def test_concept_masks(masks):
    found = opened(with_masks(masks), masks=True)
    assert found.concepts == 3
    read, ids = masks_and_ids(found)
    assert read.dtype is torch.bool
    assert torch.equal(read, CONCEPTS[ids])
    (part,) = list(opened([with_masks(masks)], masks=True).blocks(64, 0, None))
    assert torch.equal(part.masks, CONCEPTS)


def test_true_and_false_without_concepts_are_one():
    found = opened((images_and_labels()[0], dense_labels() > 1), masks=True)
    read, ids = masks_and_ids(found)
    assert (found.concepts, read.shape) == (1, (COUNT, 1, 3, 2))
    assert torch.equal(read[:, 0], (dense_labels() > 1)[ids])


def test_two_batches_of_whole_numbers_are_not_images_and_masks():
    batches_ = [torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.ones(3, 1, 2, 2, dtype=torch.uint8)]
    found = opened(batches_, masks=True)
    assert not found.masked
    assert len(everything(found)[0]) == 6


@pytest.mark.parametrize("labels", [torch.zeros(4, 3), torch.zeros(4, 2, 2)], ids=["one-hot", "fractions everywhere"])
def test_labels_of_fractions_are_never_masks(labels):
    with pytest.raises(LoadError, match="labels must be one integer an image"):
        everything(opened([(X, labels)], masks=True))


def test_a_label_of_one_number_in_an_array_is_a_label_and_no_mask():
    labels = torch.tensor([[2], [0], [1], [2]])
    for data in ((torch.zeros(4, 1, 9), labels), [(torch.zeros(4, 1, 9), labels)]):
        found = opened(data, "labels", masks=True)
        _, read, ids = everything(found)
        assert torch.equal(read, labels[ids, 0])
        assert found.values == {"labels": ["0", "1", "2"] if isinstance(data, tuple) else ["2", "0", "1"]}
    dataset = TensorDataset(torch.zeros(4, 1, 9), labels)  # each label is of shape (1,)
    _, read, ids = everything(opened(dataset))
    assert torch.equal(read, labels[ids, 0])


ONE = torch.zeros(4, 2, 2, dtype=torch.int64)
BAD_MASKS = {
    "fractions": (ONE.double(), "masks hold whole numbers, or True and False, not torch.float64"),
    "NaN": (ONE * float("nan"), "masks hold whole numbers, or True and False, not torch.float32"),
    "text": ([["a"]] * 4, "list is not an array of masks"),
    "one a image": (
        torch.zeros(4, dtype=torch.int64),
        r"masks have shape \(4,\); expected dense labels \(images, size1, s",
    ),
    "too many dimensions": (
        ONE[:, None, None],
        r"masks have shape \(4, 1, 1, 2, 2\); .* or \(images, concepts, size1, size2\) of 0 a",
    ),
    "no positions": (ONE[..., :0], r"masks have shape \(4, 2, 0\)"),
    "no concepts": (ONE[:, None][:, :0], r"masks have shape \(4, 0, 2, 2\)"),
    "too few": (ONE[:3], "4 images but 3 masks"),
    "negative": (ONE - 2, "dense labels hold -2: a class must be 0 or more, and -1 where nothing is known"),
    "too large": (ONE + 40_000, "dense labels hold 40000: a class may be at most 32767"),
    "classes with a dimension of concepts": (
        ONE[:, None] + 3,
        "masks with a dimension of concepts hold 0 and 1, not 3; dense labels have none",
    ),
}


@pytest.mark.parametrize("many", [False, True], ids=["arrays", "batches"])
@pytest.mark.parametrize("kind", BAD_MASKS)
def test_what_is_no_mask_is_refused_with_its_place(kind, many):
    masks, message = BAD_MASKS[kind]
    data = {"images": X, "masks": masks}
    if kind == "text" and not many:
        message = "masks are a list, not an array of masks"
    with pytest.raises(LoadError, match=("batch 0: " if many else "a dict from Python: ") + message):
        everything(opened([data] if many else data, masks=True))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (None, "some batches have masks and some have none"),
        (
            torch.zeros(4, 3, 3, dtype=torch.int64),
            r"dense labels of shape \(3, 3\) after dense labels of shape \(2, 2\)",
        ),
        (ONE[:, None] > 0, r"masks of shape \(1, 2, 2\) after dense labels of shape \(2, 2\)"),
    ],
    ids=["none", "another size", "another form"],
)
def test_masks_that_cannot_be_joined_are_told(second, message):
    with pytest.raises(LoadError, match=message):
        everything(opened([{"images": X, "masks": ONE}, {"images": X, "masks": second}], masks=True), size=16)


def test_a_limit_reads_only_the_masks_of_its_images():
    broken = masks_in_batches()
    broken[1]["masks"] = broken[1]["masks"].clone()
    broken[1]["masks"][5:] = -7
    masks, ids = masks_and_ids(opened(broken, masks=True), limit=15)
    assert torch.equal(masks, dense_labels()[ids])
    assert len(ids) == 15


def test_the_digest_is_of_masks_where_they_are_read():
    def digest(masks=None, *, read=True):
        found = opened(with_masks(masks), masks=read)
        everything(found)
        return found.facts["sha256"]

    changed = dense_labels()
    changed[3, 0, 0] = 3
    assert digest() == digest(dense_labels().long()) == digest(dense_labels().to(torch.uint8))
    assert digest(changed) != digest()
    assert digest(changed, read=False) == digest(read=False) != digest()


def test_masks_are_not_a_column():
    with pytest.raises(LoadError, match=r"no column 'masks', which a rule slices by; the columns are labels$"):
        opened(with_masks(), "masks", masks=True)


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
