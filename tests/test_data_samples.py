"""Datasets of single samples: order, processes, samples that cannot be read, loaders and what holds them."""

import io
import multiprocessing
import os
import pickle
import random
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cnnaudit.data import open_images
from cnnaudit.data.exclude import digest
from cnnaudit.data.images import permutation
from cnnaudit.data.reading import Fetch
from cnnaudit.data.transforms import FRACTIONS, Steps, Transforms
from cnnaudit.errors import LoadError
from cnnaudit.load import Trust
from cnnaudit.spec import Reading, resolve

COUNT = 45


class Numbered(Dataset):
    """Image i is full of i and its label is i modulo 5; ``fail`` may raise first."""

    def __init__(self, count=COUNT, fail=int):
        self.count, self.fail = count, fail

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.fail(i)
        return torch.full((1, 3, 2), float(i)), i % 5


class Noisy(Numbered):
    """Adds noise from each of the places that draw it."""

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return image + torch.rand(1) + np.random.rand() + random.random(), label  # noqa: NPY002, S311


class Mapped(Numbered):
    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        return {"image": image, "label": label, "source": f"patient {i // 4}", "scanner": "AB"[i % 2], "unused": "x"}


def raising(error, *indices):
    def fail(i):
        if i in indices:
            raise error

    return fail


def opened(data, *columns, transforms=None, masks=False, **reading):
    reading = Reading(**reading)
    return open_images(data, Trust(("*.py",), Path.cwd()), columns, masks=masks, reading=reading, transforms=transforms)


def visited(images, size=8, seed=3, limit=None):
    blocks = list(images.blocks(size, seed, limit))
    labels = None if blocks[0].labels is None else torch.cat([block.labels for block in blocks])
    return torch.cat([block.images for block in blocks]), labels, torch.cat([block.ids for block in blocks]).tolist()


# --- order and processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", [Numbered(), Mapped(), Noisy()])
def test_what_is_read_does_not_depend_on_the_number_of_processes(dataset):
    alone, together = opened(dataset, workers=0), opened(dataset, workers=2)
    one, other = visited(alone), visited(together)
    assert one[2] == other[2] == permutation(COUNT, 3).tolist()
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert alone.facts == together.facts


def test_each_image_has_random_numbers_of_its_own():
    images, _, ids = visited(opened(Noisy()))
    noise = images[:, 0, 0, 0] - torch.tensor(ids)
    assert len(noise.unique()) == COUNT
    fewer, _, same = visited(opened(Noisy()), limit=9)
    assert same == ids[:9]
    assert torch.equal(fewer, images[:9])
    assert not torch.equal(visited(opened(Noisy()), seed=4)[0].sort(0)[0], images.sort(0)[0])


def test_sources_and_columns_come_from_other_processes_too():
    alone, together = (list(opened(Mapped(), "scanner", workers=n).blocks(8, 0, None)) for n in (0, 2))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.sources, other.sources)
        assert torch.equal(one.columns["scanner"], other.columns["scanner"])


def test_what_reads_can_be_sent_to_processes_that_begin_anew():
    transforms = Transforms(Steps((("scale", 2),)), FRACTIONS)
    images = opened(Mapped(), "scanner", transforms=transforms)
    sent = pickle.loads(pickle.dumps(Fetch(Noisy(), seed=3, prepare=images._prepare())))  # noqa: S301
    index, held = sent[7]
    assert index == 7
    assert torch.equal(held["images"], Fetch(Noisy(), seed=3)[7][1][0] / 2)


def test_processes_end_with_the_audit():
    blocks = opened(Numbered(400), workers=2).blocks(8, 0, None)
    next(blocks)
    assert len(multiprocessing.active_children()) == 2
    blocks.close()
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_told_with_the_image_that_it_read(monkeypatch):
    # torch looks whether its processes live once in so many seconds, which is the default of this argument.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    parent = os.getpid()

    def die(i):
        if i == 7 and os.getpid() != parent:
            os._exit(1)

    with pytest.raises(
        LoadError,
        match=r"a Numbered from Python, image 7: the process that read it died: .* `workers: 0` under `data:`",
    ):
        visited(opened(Numbered(fail=die), workers=2))
    assert len(visited(opened(Numbered(fail=die), workers=0))[2]) == COUNT


# --- samples that cannot be read -------------------------------------------------------------------------

BOMB = Image.DecompressionBombError("too many pixels")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [OSError("broken"), struct.error("short"), BOMB])
def test_an_image_that_cannot_be_read_is_named_counted_and_left_out(error, workers):
    images = opened(Numbered(fail=raising(error, 0, 31)), max_corrupt=0.05, workers=workers)
    found, labels, ids = visited(images)
    assert ids == [i for i in permutation(COUNT, 3).tolist() if i not in (0, 31)]
    assert found[:, 0, 0, 0].tolist() == ids
    assert labels.tolist() == [i % 5 for i in ids]
    assert images.facts["n_images"] == COUNT - 2
    kind = "" if type(error) is OSError else f"{type(error).__name__}: "
    told = [f"image {i} cannot be read ({kind}{error})" for i in (0, 31)]
    assert images.facts["corrupt"]["count"] == 2
    assert sorted(images.facts["corrupt"]["told"]) == told


def test_too_many_images_that_cannot_be_read_are_an_error():
    images = opened(Numbered(fail=raising(OSError("broken"), 5, 31)), max_corrupt=0.04)
    with pytest.raises(
        LoadError,
        match=r"2 of 45 images cannot be used, and max_corrupt allows 0.04 of them; mend them, or allow more: image",
    ):
        visited(images)
    with pytest.raises(
        LoadError,
        match=r"1 of 45 images cannot be used, and max_corrupt allows 0.01 of them; mend them, or allow more: image 0",
    ):
        opened(Numbered(fail=raising(OSError("broken"), *range(COUNT))))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [KeyError("age"), SyntaxError("of the project's code"), LoadError("no such column")])
def test_what_the_code_of_a_dataset_raises_is_an_error_at_once(error, workers):
    images = opened(Numbered(fail=raising(error, 17)), max_corrupt=0.9, workers=workers)
    told = error if isinstance(error, LoadError) else f"reading it raised {type(error).__name__}: {error}"
    with pytest.raises(LoadError, match=f"a Numbered from Python, image 17: {told}"):
        visited(images)


def test_images_of_several_sizes_are_named():
    class Growing(Numbered):
        def __getitem__(self, i):
            return torch.zeros(3, 8, 8 + i)

    first, second = permutation(COUNT, 3).tolist()[:2]
    with pytest.raises(
        LoadError,
        match=f"image {first} is 3 x 8 x {8 + first} and .*image {second} is 3 x 8 x {8 + second}: .*transform: .{{res",
    ):
        visited(opened(Growing()))
    fitted = opened(Growing(), transforms=Transforms(Steps((("resize", (4, 6)),)), FRACTIONS))
    assert visited(fitted)[0].shape == (COUNT, 3, 4, 6)


def test_a_sample_of_another_form_is_told_without_ado():
    class Odd(Numbered):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return (image, label, label) if i == 9 else (image, label)

    with pytest.raises(LoadError, match=r"^a Odd from Python, image 9: 3 values; yield"):
        visited(opened(Odd()))


# --- transforms, masks and exclusion where samples are read ----------------------------------------------


def test_what_looks_like_the_images_is_transformed_with_them():
    class Both(Numbered):
        def __getitem__(self, i):
            left = torch.full((1, 4, 4), i, dtype=torch.uint8)
            masks = torch.zeros(4, 4, dtype=torch.int64)
            masks[1:3, 1:3] = i % 2 + 1
            return {"images": {"left": left, "right": left + 1, "age": torch.tensor([i])}, "masks": masks}

    transforms = Transforms(Steps((("crop", (2, 2)), ("scale", 2))), FRACTIONS)
    images = opened(Both(), transforms=transforms, masks=True)
    (block,) = images.blocks(COUNT, 0, None)
    assert block.images.shape == block.others[0].shape == (COUNT, 1, 2, 2)
    assert torch.equal(block.images[:, 0, 0, 0], block.ids / 2)
    assert torch.equal(block.others[0][:, 0, 0, 0], (block.ids + 1) / 2)
    assert torch.equal(block.others[1], block.ids[:, None])
    assert torch.equal(block.masks, (block.ids % 2 + 1)[:, None, None].expand(-1, 2, 2).to(torch.int16))
    assert images.facts["transform"] == "crop 2 x 2, scale 2"


def test_pillows_pictures_are_images_from_files():
    class Pictures(Numbered):
        classes = ("even", "odd")

        def __getitem__(self, i):
            return Image.new("L", (3, 2), i), i % 2

    images = opened(Pictures())
    found, labels, ids = visited(images)
    assert found.shape == (COUNT, 1, 2, 3)
    assert torch.allclose(found[:, 0, 0, 0], torch.tensor(ids) / 255)
    assert labels.tolist() == [i % 2 for i in ids]
    assert images.facts["transform"] == "scale 255"
    assert images.classes == 2


def test_pictures_of_dense_labels_are_masks():
    class Segmented(Numbered):
        def __getitem__(self, i):
            mask = Image.new("P", (3, 2), 255)
            mask.putpixel((0, 1), i % 4)
            return Image.new("RGB", (3, 2), (i, 0, 0)), mask

    images = opened(Segmented(), masks=True)
    assert images.masked
    (block,) = images.blocks(COUNT, 0, None)
    assert torch.equal(block.masks[:, 1, 0], (block.ids % 4).to(torch.int16))
    assert block.masks[:, 0].unique().tolist() == [-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_excluded_samples_are_found_before_anything_is_done_to_them(tmp_path, workers):
    known = [digest(Numbered()[i][0]).hex() for i in (4, 40)]
    manifest = tmp_path / "train.csv"
    manifest.write_text("sha256\n" + "\n".join(known) + "\n")
    images = opened(
        Numbered(), exclude=manifest, workers=workers, transforms=Transforms(Steps((("scale", 7),)), FRACTIONS)
    )
    with pytest.raises(LoadError, match=r"2 of 45 images are in train.csv: image (40, image 4|4, image 40)"):
        visited(images)


# --- loaders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_only_visits_its_dataset_is_visited_in_the_order_of_the_audit(shuffle, workers):
    images = opened(DataLoader(Mapped(), batch_size=7, shuffle=shuffle, num_workers=workers), "scanner")
    assert (images.order, images.count, images.clustered) == ("seeded", COUNT, True)
    found, labels, ids = visited(images)
    assert ids == permutation(COUNT, 3).tolist()
    assert found[:, 0, 0, 0].tolist() == ids
    assert labels.tolist() == [i % 5 for i in ids]
    assert images.facts["source"] == "a DataLoader from Python"


def joined(samples):
    """A batch in channels last, as some loaders make them, and labels of their own."""
    return {"images": torch.stack([x for x, _ in samples]) * 2, "labels": torch.tensor([y + 1 for _, y in samples])}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaders_own_way_of_joining_samples_is_kept(workers):
    data = Numbered(fail=raising(OSError("broken"), 6))
    images = opened(
        DataLoader(data, batch_size=4, collate_fn=joined, num_workers=workers),
        max_corrupt=0.05,
        transforms=Transforms(Steps((("scale", 4),)), FRACTIONS),
    )
    found, labels, ids = visited(images)
    assert ids == [i for i in permutation(COUNT, 3).tolist() if i != 6]
    assert found[:, 0, 0, 0].tolist() == [i / 2 for i in ids]
    assert labels.tolist() == [i % 5 + 1 for i in ids]
    assert images.facts["corrupt"]["told"] == ["image 6 cannot be read (broken)"]


def test_a_way_of_joining_that_fails_or_drops_images_is_told():
    def broken(samples):
        raise ValueError("no")

    with pytest.raises(LoadError, match="image 0: the loader's collate_fn raised ValueError: no"):
        opened(DataLoader(Numbered(), batch_size=4, collate_fn=broken))
    with pytest.raises(LoadError, match="collate_fn made 1 images of them, and each must stay one"):
        visited(opened(DataLoader(Numbered(), batch_size=4, collate_fn=lambda samples: joined(samples[:1]))))


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": WeightedRandomSampler([1.0] * COUNT, COUNT)},
        {"sampler": SubsetRandomSampler(range(COUNT))},
        {"sampler": RandomSampler(range(COUNT), replacement=True)},
        {"sampler": RandomSampler(range(COUNT), num_samples=30)},
        {"batch_sampler": type("Own", (BatchSampler,), {})(SequentialSampler(range(COUNT)), 5, drop_last=False)},
    ],
)
def test_a_loader_with_an_order_of_its_own_is_read_as_given(options):
    images = opened(DataLoader(Numbered(), **options))
    assert (images.order, images.count) == ("as given", None)


def test_a_loader_of_ready_batches_is_read_as_given():
    batches = TensorDataset(torch.zeros(3, 4, 1, 2, 2), torch.zeros(3, 4, dtype=torch.int64))
    images = opened(DataLoader(batches, batch_size=None))
    assert images.order == "as given"
    assert len(visited(images)[2]) == 12


def test_what_fetches_several_items_at_once_is_visited_by_index():
    class HuggingFace:
        """As the datasets of that library are: no dataset of torch's, and iterable besides."""

        def __len__(self):
            return COUNT

        def __getitem__(self, i):
            return {"image": Image.new("RGB", (3, 2), (i, i, i)), "label": i % 5}

        def __getitems__(self, indices):
            return [self[i] for i in indices]

        def __iter__(self):
            return iter(self.__getitems__(range(COUNT)))

    images = opened(HuggingFace())
    assert images.order == "seeded"
    assert visited(images)[2] == permutation(COUNT, 3).tolist()


# --- data modules ----------------------------------------------------------------------------------------


class Module:
    """A data module without a base class; it notes what it was set up for."""

    def prepare_data(self):
        raise AssertionError("it would download")

    def setup(self, stage):
        self.stage = stage

    def val_dataloader(self):
        return DataLoader(Numbered(20 if self.stage == "validate" else 1))

    def predict_dataloader(self):
        return DataLoader(Numbered(30))


class WithTests(Module):
    def test_dataloader(self):
        return [DataLoader(Numbered(10 if self.stage == "test" else 1))]


def test_a_data_module_gives_test_data_then_validation_data():
    tested, validated = opened(WithTests()), opened(Module())
    assert (tested.count, tested.source) == (10, "a WithTests from Python, its test_dataloader")
    assert (validated.count, validated.source) == (20, "a Module from Python, its val_dataloader")


def test_loaders_that_only_lightnings_base_class_has_are_passed_over():
    def missing(self):
        raise AssertionError("Lightning raises here")

    missing.__module__ = "lightning.pytorch.core.hooks"
    module = type("Data", (Module,), {"test_dataloader": missing, "val_dataloader": missing})()
    assert opened(module).count == 30
    none = type("Data", (Module,), dict.fromkeys(("val_dataloader", "predict_dataloader"), missing))()
    with pytest.raises(LoadError, match="Data has none of test_dataloader, val_dataloader, predict_dataloader"):
        opened(none)


def test_a_data_module_that_fails_or_has_several_loaders_is_told():
    class Several(Module):
        def test_dataloader(self):
            return {"a": 1, "b": 2}

    class Broken(Module):
        def setup(self, stage):
            raise ValueError("no path")

    with pytest.raises(LoadError, match="test_dataloader returns 2 loaders; let the factory return one"):
        opened(Several())
    with pytest.raises(
        LoadError, match=r"Broken: setup\('validate'\) or val_dataloader: it raised ValueError: no path"
    ):
        opened(Broken())


def test_a_factory_may_return_a_data_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.py").write_text(
        "import torch\n"
        "class Digits:\n"
        "    def __init__(self, count): self.count = count\n"
        "    def setup(self, stage): pass\n"
        "    def test_dataloader(self): return [(torch.zeros(self.count, 1, 2, 2), torch.zeros(self.count).long())]\n"
    )
    images = opened(resolve("data.py:Digits", base=tmp_path, role="data", options={"count": 6}))
    assert images.source == "data.py:Digits, its test_dataloader"
    assert len(visited(images)[2]) == 6


# --- torchvision's datasets ------------------------------------------------------------------------------


def torchvision(name, **options):
    return opened(resolve(f"torchvision:{name}", base=Path.cwd(), role="data", options=options))


def test_a_dataset_of_torchvisions_that_needs_no_files():
    images = torchvision("FakeData", size=12, image_size=[3, 8, 9], num_classes=4)
    found, labels, _ = visited(images)
    assert found.shape == (12, 3, 8, 9)
    assert 0 <= found.min() < 0.1
    assert 0.9 < found.max() <= 1
    assert set(labels.tolist()) <= {0, 1, 2, 3}
    assert images.source == "torchvision:FakeData"


def test_a_dataset_of_torchvisions_from_files(tmp_path, monkeypatch):
    raw = tmp_path / "held" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    for part, count in (("t10k", 5), ("train", 5)):
        header = struct.pack(">iiii", 2051, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, count) + bytes([3, 1, 4, 1, 5]))
    monkeypatch.chdir(raw)  # root is relative to the rule file, wherever the command is started
    options = {"root": "held", "train": False}
    images = opened(resolve("torchvision:FashionMNIST", base=tmp_path, role="data", options=options))
    found, labels, ids = visited(images)
    assert images.classes == 10
    assert labels.tolist() == [[3, 1, 4, 1, 5][i] for i in ids]
    assert torch.equal((found * 255).round().to(torch.uint8)[0, 0], torch.from_numpy(pixels.reshape(5, 28, 28)[ids[0]]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "FashionMNIST",
            {"root": "."},
            r"torchvision cannot read it below .*\(RuntimeError: Dataset not found.*fetch it",
        ),
        ("FashionMNIST", {"root": ".", "download": True}, "an audit downloads nothing: leave `download` out"),
        ("FashionMNIST", {"train": False}, "torchvision:FashionMNIST: it needs root under kwargs"),
        ("FashionMNIST", {"root": "nowhere"}, "torchvision:FashionMNIST, root: there is no file .*nowhere"),
        ("FashonMNIST", {}, "torchvision has no data set of this name; did you mean 'FashionMNIST'"),
        ("wrap_dataset_for_transforms_v2", {}, "torchvision has no data set of this name"),
        ("LSUN", {"root": "."}, "it reads a pickled index in the current directory, which can run code"),
        ("Cityscapes", {"root": "."}, "it unpacks whatever archives lie beside"),
        (
            "ImageFolder",
            {"root": ".", "loader": "os.system"},
            "loader is a function, which a rule file cannot name: leave it out$",
        ),
        ("FakeData", {"transform": "auto"}, "transform is a function, .*: write `transform:` beside `kwargs:`"),
        (
            "Kinetics",
            {"root": ".", "frames_per_clip": 1, "_precomputed_metadata": {}},
            "_precomputed_metadata is torch",
        ),
        ("ImageFolder", {"root": "."}, r"torchvision cannot read it below .*\); correct its arguments under kwargs:$"),
        ("FakeData", {"sise": 3}, "torchvision cannot read it .*unexpected keyword argument 'sise'"),
    ],
)
def test_datasets_of_torchvisions_that_cannot_be_opened(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match=message):
        torchvision(name, **options)


def audited(tmp_path, monkeypatch, name, **options):
    """A data set of torchvision's that a rule file in a folder of its own names."""
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    monkeypatch.chdir(bundle)
    named = resolve(f"torchvision:{name}", base=bundle, role="data", options=options)
    return open_images(named, Trust((), bundle, bundle=bundle))


@pytest.mark.parametrize("inner", ["c", "c/0.png"])
def test_links_below_a_root_must_not_lead_out_of_the_bundle(inner, tmp_path, monkeypatch):
    for folder in ("outside", "bundle/photos/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "0.png")
    link = tmp_path / "bundle" / "photos" / inner
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "outside" / "0.png" if inner.endswith("png") else tmp_path / "outside")
    with pytest.raises(LoadError, match=f"ImageFolder, root: the link {inner} lies outside the rule file's folder"):
        audited(tmp_path, monkeypatch, "ImageFolder", root="photos")


@pytest.mark.parametrize(
    ("name", "option"), [("Flickr8k", "ann_file"), ("UCF101", "annotation_path"), ("CocoDetection", "annFile")]
)
def test_every_option_that_is_a_path_is_checked(name, option, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("secret", encoding="utf-8")
    options = {"root": ".", "frames_per_clip": 1} if name == "UCF101" else {"root": "."}
    with pytest.raises(LoadError, match=f"{name}, {option} lies outside the rule file's folder"):
        audited(tmp_path, monkeypatch, name, **options, **{option: "../list.txt"})


def test_a_list_of_files_must_not_lead_out_of_the_bundle(tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "bundle" / "list.txt").write_text("../secret.png#0\ta caption\n", encoding="utf-8")
    with pytest.raises(LoadError, match=r"torchvision:Flickr30k.* lies outside the rule file's folder"):
        audited(tmp_path, monkeypatch, "Flickr30k", root=".", ann_file="list.txt")


def test_a_picture_of_a_kind_that_other_programs_decode_is_not_opened(tmp_path, monkeypatch):
    folder = tmp_path / "bundle" / "photos" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "0.png", format="EPS")
    with pytest.raises(LoadError, match=r"1 of 1 images cannot be used, .*image 0 cannot be read \(UnidentifiedImage"):
        audited(tmp_path, monkeypatch, "ImageFolder", root="photos")


def test_a_column_may_be_called_anything():
    class Marked(Numbered):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return {"image": image, "label": label, "excluded": "no" if i % 2 else "yes"}

    images = open_images(Marked(), Trust(), ("excluded",))
    blocks = list(images.blocks(16, 0, None))
    assert sum(len(block.images) for block in blocks) == COUNT
    found = [
        (i, images.values["excluded"][code])
        for x in blocks
        for i, code in zip(x.ids, x.columns["excluded"], strict=True)
    ]
    assert all(value == ("no" if i % 2 else "yes") for i, value in found)


def test_a_root_outside_the_bundle_is_refused(tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    source = resolve("torchvision:FashionMNIST", base=Path.cwd(), role="data", options={"root": ".."})
    with pytest.raises(LoadError, match="torchvision:FashionMNIST, root lies outside the rule file's folder"):
        open_images(source, Trust((), Path.cwd(), bundle=Path.cwd()))


# --- recipes of docs/data.md -----------------------------------------------------------------------------


def recipe(name, folder):
    """Write a recipe of the documentation to a file."""
    text = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    code = next(block for block in text.split("```python\n")[1:] if block.startswith(f"# {name}\n"))
    (folder / name).write_text(code.partition("```")[0])


def test_the_recipe_for_hugging_face(tmp_path, monkeypatch):
    class Held(Numbered):
        def __getitem__(self, i):
            return {"image": Image.new("L", (3, 2), i), "label": i % 5}

    def load_dataset(name, *, split, revision):
        assert (name, split, revision) == ("someone/digits", "test", "77f3279")
        return Held()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    recipe("huggingface.py", tmp_path)
    options = {"name": "someone/digits", "revision": "77f3279"}
    images = opened(resolve("huggingface.py:build", base=tmp_path, role="data", options=options))
    found, labels, ids = visited(images)
    assert (images.order, labels.tolist()) == ("seeded", [i % 5 for i in ids])
    assert torch.allclose(found[:, 0, 0, 0], torch.tensor(ids) / 255)


def test_the_recipe_for_webdataset_decodes_only_what_it_names(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os._exit, (1,)

    def jpeg(colour):
        file = io.BytesIO()
        Image.new("RGB", (30, 20), (colour, 0, 0)).save(file, "JPEG")
        return file.getvalue()

    class Shards(IterableDataset):
        def __init__(self, urls, *, shardshuffle):
            assert (urls, shardshuffle) == ("x.tar", False)

        def map(self, function):
            self.function = function
            return self

        def __iter__(self):
            for i in range(20):
                files = {"__key__": f"x/{i // 2}", "jpg": jpeg(10 * i), "cls": str(i % 3).encode()}
                yield self.function(files | {"pkl": pickle.dumps(Bomb())})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "webdataset", SimpleNamespace(WebDataset=Shards))
    recipe("shards.py", tmp_path)
    images = opened(resolve("shards.py:build", base=tmp_path, role="data", options={"urls": "x.tar"}))
    (block,) = images.blocks(20, 0, None)
    assert (images.order, block.images.shape) == ("as given", (20, 3, 224, 224))
    assert torch.allclose(block.images[:, 0, 0, 0] * 255, 10.0 * torch.arange(20), atol=3)  # JPEG loses some
    assert block.labels.tolist() == [i % 3 for i in range(20)]
    assert len(block.sources.unique()) == 10
