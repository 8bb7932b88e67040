"""Files of weights: how they are read, which tensors a model is filled with, and what is refused unread."""

import argparse
import codecs
import collections
import datetime as dt
import json
import os
import pathlib
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cnnaudit.errors import LoadError
from cnnaudit.load import Trust
from cnnaudit.load.fitting import fill
from cnnaudit.load.weights import read_weights
from cnnaudit.spec import resolve


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(seed=5, classes=2):
    torch.manual_seed(seed)
    return nn.Sequential(
        collections.OrderedDict(conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Conv2d(4, classes, 1))
    )


def trained(seed=5, prefix=""):
    return {prefix + key: value for key, value in network(seed).state_dict().items()}


def filled(name, model=None, prefix=None, trust=None):
    """A model filled from a file, and what it was filled with."""
    model = network(seed=0) if model is None else model
    found = resolve(name, base=Path.cwd(), role="weights") if isinstance(name, str) else name
    return model, fill(model, read_weights(found, trust or Trust.here()), prefix, found.written)


def holds(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --- formats ------------------------------------------------------------------------------------------------


def test_safetensors_fill_the_model(here):
    save_file(trained(), "w.safetensors")
    model, found = filled("w.safetensors")
    assert holds(model, trained())
    assert found == ((), "float32")


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "pth.tar"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_state_dict_fills_the_model(here, suffix, archive):
    torch.save(network().state_dict(), f"w.{suffix}", _use_new_zipfile_serialization=archive)
    model, found = filled(f"w.{suffix}")
    assert holds(model, trained())
    assert found == ((), "float32")


def test_a_model_keeps_its_weights_when_the_file_goes(here):
    """Files are mapped into memory: what was filled from one must not lie in it."""
    torch.save(trained(), "w.pt")
    model, _ = filled("w.pt")
    with Path("w.pt").open("r+b") as file:
        file.write(bytes(Path("w.pt").stat().st_size))
    assert holds(model, trained())


def sharded(**changes):
    state = trained()
    parts = {"m-1.safetensors": dict(list(state.items())[:3]), "m-2.safetensors": dict(list(state.items())[3:])}
    for name, part in parts.items():
        save_file(part, name)
    named = {key: name for name, part in parts.items() for key in part}
    Path("m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named | changes}))
    return resolve("m.safetensors.index.json", base=Path.cwd(), role="weights")


def test_the_index_of_a_sharded_file_fills_the_model(here):
    model, found = filled(sharded())
    assert holds(model, trained())
    assert found == ((), "float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": "../m-1.safetensors"},
            "'../m-1.safetensors' is no file name; the index must name files of its own folder",
        ),
        (
            {"x": "/etc/m-1.safetensors"},
            "'/etc/m-1.safetensors' is no file name; the index must name files of its own folder",
        ),
        ({"x": "..\\m.safetensors"}, "is no file name; the index must name files of its own folder"),
        ({"x": ".."}, "'..' is no file name; the index must name files of its own folder"),
        ({"x": 3}, "an index of safetensors files must hold weight_map"),
        ({"x": "m-3.safetensors"}, "its part m-3.safetensors: there is no file"),
        ({"x": "m-1.safetensors"}, r"1 of its tensors are in none of its files \(x\)"),
    ],
)
def test_an_index_that_names_something_else_is_refused(here, changes, message):
    with pytest.raises(LoadError, match=message):
        filled(sharded(**changes))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"x": {}}}', "[" * 10**5])
def test_what_is_no_index_is_told(here, content):
    source = sharded()
    Path("m.safetensors.index.json").write_text(content)
    with pytest.raises(
        LoadError, match=r"m.safetensors.index.json: (an index of safetensors files must hold|the file is empty)"
    ):
        filled(source)


# --- what is in a checkpoint --------------------------------------------------------------------------------


def test_a_checkpoint_of_lightning_fills_the_model_and_its_hyper_parameters_are_passed_over(here):
    hyper = {
        "lr": 0.1,
        "args": argparse.Namespace(root=pathlib.PurePosixPath("/data"), nested={"x": argparse.Namespace(y=1)}),
        "path": pathlib.Path("somewhere"),
        "windows": pathlib.PureWindowsPath("c:/x"),
        "scalar": np.float64(0.5),
        "integer": np.int64(3),
        "array": np.arange(3),
        "type": np.dtype("float32"),
        "when": dt.datetime(2020, 1, 1),  # noqa: DTZ001
        "default": collections.defaultdict(list, {"a": [1]}),
    }
    state = trained(prefix="model.") | {"criterion.weight": torch.ones(2), "teacher.conv.weight": torch.ones(3, 3)}
    callbacks = {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.9)}}
    random = torch.get_rng_state()
    torch.save(
        {"state_dict": state, "epoch": 3, "hyper_parameters": hyper, "callbacks": callbacks, "random": random},
        "last.ckpt",
    )
    model, found = filled("last.ckpt")
    assert holds(model, trained())
    assert found.notes == (
        "The weights last.ckpt were taken from state_dict.model; tensors elsewhere were left out: "
        "state_dict.criterion (1), state_dict.teacher (1).",
    )


def test_hyper_parameters_are_never_made_again(here):
    made, before = [], torch.serialization.get_safe_globals()
    real = argparse.Namespace.__init__
    torch.save({"state_dict": trained(), "args": argparse.Namespace(x=1)}, "w.pt")
    try:
        argparse.Namespace.__init__ = lambda *_, **__: made.append(1)
        argparse.Namespace.__setstate__ = lambda *_: made.append(2)
        model, _ = filled("w.pt")
    finally:
        argparse.Namespace.__init__ = real
        del argparse.Namespace.__setstate__
    assert holds(model, trained())
    assert not made
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net", "params"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.net."])
def test_a_wrappers_name_before_every_key_is_taken_off(here, name, prefix):
    optimizer = {"state": {0: {"exp_avg": torch.zeros(4, 1, 3, 3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({name: trained(prefix=prefix), "optimizer": optimizer, "epoch": 3}, "w.pt")
    model, found = filled("w.pt")
    assert holds(model, trained())
    assert found.notes == ()


def test_an_average_of_the_weights_beside_them_is_not_chosen_silently(here):
    torch.save({"state_dict": trained(), "state_dict_ema": trained(seed=6)}, "w.pt")
    with pytest.raises(LoadError) as told:
        filled("w.pt")
    assert str(told.value) == (
        "weights w.pt: the model's weights are complete in 2 places that differ: state_dict, state_dict_ema. Say which "
        "one is meant: weights: {load: w.pt, prefix: state_dict_ema}"
    )
    model, found = filled("w.pt", prefix="state_dict_ema")
    assert holds(model, trained(seed=6))
    assert found.notes == (
        "The weights w.pt were taken from state_dict_ema; tensors elsewhere were left out: state_dict (8).",
    )
    assert holds(filled("w.pt", prefix="state_dict")[0], trained())


def test_an_average_below_the_weights_is_no_surplus(here):
    save_file(trained() | trained(seed=6, prefix="ema."), "w.safetensors")
    with pytest.raises(LoadError, match="in 2 places that differ: the top level, ema"):
        filled("w.safetensors")
    assert holds(filled("w.safetensors", prefix="")[0], trained())
    assert holds(filled("w.safetensors", prefix="ema.")[0], trained(seed=6))


def test_the_same_weights_twice_are_no_question(here):
    """As in a loss that holds the network."""
    torch.save(trained(prefix="net.") | trained(prefix="loss.net."), "w.pt")
    model, found = filled("w.pt")
    assert holds(model, trained())
    assert found.notes == ("The weights w.pt were taken from net; tensors elsewhere were left out: loss (8).",)


def test_a_prefix_may_be_the_end_of_a_place(here):
    torch.save(
        {"state_dict": trained(prefix="a.net.") | trained(seed=6, prefix="b.net.") | {"b.x": torch.ones(1)}}, "w.pt"
    )
    assert holds(filled("w.pt", prefix="b.net")[0], trained(seed=6))
    assert holds(filled("w.pt", prefix="state_dict.a.net")[0], trained())
    with pytest.raises(LoadError, match=r"prefix 'net' may mean state_dict.a.net, state_dict.b.net: write it in full"):
        filled("w.pt", prefix="net")
    with pytest.raises(LoadError, match=r"no tensor lies under the prefix 'nett'; did you mean 'net'\?"):
        filled("w.pt", prefix="nett")
    with pytest.raises(
        LoadError, match=r"no tensor lies under the prefix 'xyz'; there are a, b, conv, head, net, norm"
    ):
        filled("w.pt", prefix="xyz")
    with pytest.raises(
        LoadError,
        match=r"weights w.pt under state_dict.b do not fit the model; name those that were saved from it: 8 missing",
    ):
        filled("w.pt", prefix="b")


def test_counters_of_batches_that_old_checkpoints_lack_are_no_error(here):
    state = trained()
    del state["norm.num_batches_tracked"]
    save_file(state, "w.safetensors")
    model, found = filled("w.safetensors")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert found.notes == ("The weights w.safetensors have no num_batches_tracked, which evaluation does not read.",)


def test_counters_that_the_model_does_not_have_are_no_error(here):
    save_file(trained() | {"other.num_batches_tracked": torch.tensor(3)}, "w.safetensors")
    assert holds(filled("w.safetensors")[0], trained())


def test_weights_that_are_the_same_memory_need_be_there_once(here):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    state = tied().state_dict()
    del state["0.weight"]
    save_file(state, "w.safetensors")
    model, found = filled("w.safetensors", tied())
    assert torch.equal(model[0].weight, state["1.weight"])
    assert found.notes == ()


def test_a_file_that_holds_itself_ends(here):
    """A checkpoint is a mapping of mappings: one in itself, and one that unfolds to a billion."""
    circle = {"state_dict": trained()}
    circle["again"] = circle
    many = trained()
    for _ in range(10):
        many = {f"k{i}": many for i in range(10)}
    torch.save(circle, "circle.pt")
    torch.save({"model": trained(), "many": many}, "many.pt")
    assert holds(filled("circle.pt")[0], trained())
    assert holds(filled("many.pt")[0], trained())


# --- number types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_run_in_the_models(here, dtype):
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in trained().items()}
    save_file(stored, "w.safetensors")
    model, found = filled("w.safetensors")
    name = str(dtype).removeprefix("torch.")
    assert holds(model, {key: value.to(network().state_dict()[key].dtype) for key, value in stored.items()})
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert found == ((f"The weights w.safetensors are stored as {name} and run as float32.",), name)


def test_a_model_of_half_precision_stays_so(here):
    save_file({k: v.half() if v.is_floating_point() else v for k, v in trained().items()}, "w.safetensors")
    model, found = filled("w.safetensors", network().half())
    assert {value.dtype for value in model.parameters()} == {torch.float16}
    assert found == ((), "float16")
    save_file(trained(), "w.safetensors")
    assert filled("w.safetensors", network().half())[1].notes == (
        "The weights w.safetensors are stored as float32 and run as float16.",
    )


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.ones(4, 1, 3, 3, dtype=torch.int8), "conv.weight: int8 in the file, float32 in the model"),
        (torch.ones(4, 1, 3, 3).to_sparse(), "conv.weight: quantised, sparse or without content in the file"),
        (torch.empty(4, 1, 3, 3, device="meta"), "conv.weight: quantised, sparse or without content in the file"),
        (torch.ones(4, 1, 3, 3, dtype=torch.complex64), "conv.weight: complex64 in the file, float32 in the model"),
    ],
)
def test_tensors_that_are_no_plain_numbers_do_not_fit(here, value, what):
    torch.save(trained() | {"conv.weight": value}, "w.pt")
    with pytest.raises(LoadError, match=rf"1 of another kind \({what}\)"):
        filled("w.pt")


def test_a_model_without_memory_or_weights_cannot_be_filled(here):
    save_file(trained(), "w.safetensors")
    with torch.device("meta"):
        empty = network()
    with pytest.raises(LoadError, match="the model was built on the meta device, without memory for weights"):
        filled("w.safetensors", empty)
    with pytest.raises(LoadError, match="the model has no weights to fill"):
        filled("w.safetensors", nn.ReLU())


# --- what does not fit --------------------------------------------------------------------------------------


def test_keys_that_do_not_fit_are_named(here):
    state = trained()
    state["conv.bias"] = torch.zeros(3)
    state["old.weight"] = state.pop("head.weight")
    save_file(state, "w.safetensors")
    with pytest.raises(LoadError) as told:
        filled("w.safetensors")
    assert str(told.value) == (
        "weights w.safetensors do not fit the model; name those that were saved from it: 1 missing (head.weight), 1 unexpected (old.weight), "  # noqa: E501
        "1 of another shape (conv.bias: (3,) in the file, (4,) in the model)"
    )


def test_a_file_of_another_architecture_is_told_as_a_whole(here):
    save_file({f"block.{i}.weight": torch.zeros(1) for i in range(5)}, "w.safetensors")
    with pytest.raises(LoadError) as told:
        filled("w.safetensors")
    assert str(told.value) == (
        "weights w.safetensors do not fit the model; name those that were saved from it: 8 missing (conv.weight; conv.bias; norm.weight; ...), 5 "  # noqa: E501
        "unexpected (block.0.weight; block.1.weight; block.2.weight; ...). None of the model's 8 weights are there: "
        "the file seems to be of another architecture"
    )


def test_a_head_of_other_classes_is_told_with_the_number_to_build(here):
    save_file(network(classes=7).state_dict(), "w.safetensors")
    with pytest.raises(LoadError, match=r"Only a last layer differs: it has 7 outputs in the file and 2 in the model"):
        filled("w.safetensors")
    save_file(trained() | {"norm.bias": torch.zeros(5), "conv.bias": torch.zeros(6)}, "w.safetensors")
    with pytest.raises(LoadError, match=r"2 of another shape .*\)$"):
        filled("w.safetensors")


# --- what is no file of weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_what_is_not_there_or_not_a_file_is_told(here, name):
    with pytest.raises(LoadError, match=f"weights {name}: there is no file .*{name}"):
        filled(name)
    Path(name).write_bytes(b"")
    with pytest.raises(LoadError, match=f"weights {name}: the file is empty"):
        filled(name)
    Path(name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(LoadError, match=f"weights {name}: only the pointer to a file in Git LFS; .* git lfs pull"):
        filled(name)
    Path(name).unlink()
    Path(name).mkdir()
    with pytest.raises(LoadError, match=f"weights {name}: a folder; name the file in it"):
        filled(name)


def test_a_link_out_of_the_bundle_is_refused(here):
    (here / "bundle").mkdir()
    (here / "started").mkdir()
    save_file(trained(), "secret.safetensors")
    (here / "bundle" / "w.safetensors").symlink_to(here / "secret.safetensors")
    source = resolve("w.safetensors", base=here / "bundle", role="weights")
    with pytest.raises(LoadError, match=r"weights w.safetensors lies outside .* add --allow-path"):
        filled(source, trust=Trust(root=here / "started", bundle=here / "bundle"))


@pytest.mark.parametrize("how", ["safetensors", "archive", "legacy"])
@pytest.mark.parametrize("kept", [5, 100, -10])
def test_a_truncated_file_is_told(here, how, kept):
    name = "w.safetensors" if how == "safetensors" else "w.pt"
    if how == "safetensors":
        save_file(trained(), name)
    else:
        torch.save(trained(), name, _use_new_zipfile_serialization=how == "archive")
    Path(name).write_bytes(Path(name).read_bytes()[:kept])
    with pytest.raises(LoadError, match=f"weights {name}: not a "):
        filled(name)


@pytest.mark.parametrize("content", [b"not weights at all", b"\x80\x02}q\x00X", b"PK\x03\x04 not a zip", b"\x80"])
def test_a_file_of_something_else_is_told(here, content):
    Path("w.pt").write_bytes(content)
    with pytest.raises(LoadError, match=r"weights w.pt: not a state dict"):
        filled("w.pt")


def test_a_state_dict_of_other_things_is_told(here):
    for number, (found, kind) in enumerate([([1, 2], "list"), ({"epoch": 3}, "dict"), (torch.zeros(2), "Tensor")]):
        torch.save(found, f"w{number}.pt")
        with pytest.raises(LoadError, match=f"a {kind}.*, not a state dict of tensors"):
            filled(f"w{number}.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_programs_are_told_from_weights_and_not_opened(here):
    model, images = network().eval(), torch.zeros(2, 1, 8, 8)
    torch.jit.save(torch.jit.trace(model, images), "script.pt")
    torch.export.save(torch.export.export(model, (images,), strict=False), "program.pt2")
    Path("program.pt2").rename("program.pt")
    torch.save(model, "module.pt")
    torch.save({"model": model, "epoch": 3}, "nested.ckpt")
    np.savez("arrays.npz", x=np.zeros(3))
    Path("arrays.npz").rename("arrays.pt")
    way_out = r"load it elsewhere and save model.state_dict\(\) with torch.save or as safetensors"
    for name, message in [
        ("script.pt", f"a TorchScript archive, which is a program and not weights. .*{way_out}"),
        ("program.pt", "an exported program, not weights: name it under model:, with the suffix .pt2"),
        ("module.pt", rf"a pickled model, not a state dict .*\(it calls .*torch.nn.modules.*\). .*{way_out}"),
        ("nested.ckpt", rf"a pickled model, not a state dict .*{way_out}"),
        ("arrays.pt", "not a state dict: torch.save did not write this archive"),
    ]:
        with pytest.raises(LoadError, match=f"weights {name}: {message}"):
            filled(name)


# --- hostile files ------------------------------------------------------------------------------------------


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("how", ["archive", "legacy", "plain pickle", "hidden", "among hyper-parameters"])
def test_a_pickle_with_code_is_refused_and_nothing_is_run(here, how):
    bomb = Call(os.system, "touch exploded")
    found = {
        "hidden": {"state_dict": trained(), "extra": bomb},
        "among hyper-parameters": {"state_dict": trained(), "args": argparse.Namespace(path=bomb)},
    }.get(how, bomb)
    if how == "plain pickle":
        Path("w.pt").write_bytes(pickle.dumps(found))
        message = "not a state dict: torch.save did not write this file"
    else:
        torch.save(found, "w.pt", _use_new_zipfile_serialization=how != "legacy")
        message = r"not a state dict that loads without running code \(it calls posix.system\)"
    with pytest.raises(LoadError, match=f"weights w.pt: {message}"):
        filled("w.pt")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "call",
    [
        (eval, "1"),
        (getattr, "x", "y"),
        (__import__, "os"),
        (bytearray, 10**10),
        (torch.Tensor, 10**10),
        (map, "x", "y"),
    ],
)
def test_nothing_is_called_but_what_builds_tensors(here, call):
    """Some of these torch itself would let pass: they take memory for a few bytes of the file."""
    torch.save({"state_dict": trained(), "x": Call(*call)}, "w.pt")
    with pytest.raises(LoadError, match=rf"\(it calls (builtins|torch).{call[0].__name__}\)"):
        filled("w.pt")


def test_bytes_that_could_be_doubled_again_and_again_are_refused(here):
    grown = Call(codecs.encode, "ab", "latin1")
    for _ in range(60):
        grown = Call(codecs.encode, grown, "Hex")
    torch.save({"state_dict": trained(), "x": grown}, "w.pt")
    with pytest.raises(LoadError, match="it holds bytes that unpack to more"):
        filled("w.pt")


def test_a_user_who_trusts_a_class_elsewhere_does_not_trust_it_here(here):
    torch.save({"state_dict": trained(), "x": Call(os.path.join, "a", "b")}, "w.pt")
    with torch.serialization.safe_globals([os.path.join]), pytest.raises(LoadError, match=r"it calls posixpath.join"):
        filled("w.pt")


def rewritten(edit=lambda _, content: content, compression=zipfile.ZIP_STORED, twice=()):
    """Write w.pt again, member by member."""
    with zipfile.ZipFile("w.pt") as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile("w.pt", "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, edit(name, content))
        for name, content in twice:
            archive.writestr(name, content)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_an_archive_that_unpacks_to_more_is_refused_before_it_is_unpacked(here):
    torch.save(trained(), "w.pt")
    before = peak()
    rewritten(lambda name, content: bytes(10**8) if name.endswith("data/0") else content, zipfile.ZIP_DEFLATED)
    written = peak()
    assert Path("w.pt").stat().st_size < 10**6
    with pytest.raises(LoadError, match=r"this archive is compressed, and torch.save compresses nothing"):
        filled("w.pt")
    assert peak() - max(before, written) < 10**7


def test_an_archive_whose_members_overlap_is_refused(here):
    """Its directory names the same bytes again and again."""
    torch.save(trained(), "w.pt")
    with zipfile.ZipFile("w.pt", "a") as archive:
        big = max(archive.infolist(), key=lambda member: member.file_size)
        for i in range(100):
            again = zipfile.ZipInfo(f"w/data/{i + 100}")
            again.header_offset, again.CRC = big.header_offset, big.CRC
            again.file_size = again.compress_size = big.file_size
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(LoadError, match=r"its archive claims to hold \d+ bytes, and the file has \d+"):
        filled("w.pt")


def test_an_archive_with_two_pickles_is_refused(here):
    torch.save(trained(), "w.pt")
    rewritten(twice=[("x/data.pkl", pickle.dumps(3, 2))])
    with pytest.raises(LoadError, match=r"not a state dict: torch.save did not write this archive"):
        filled("w.pt")


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("what", ["storage", "shape"])
def test_absurd_sizes_are_refused_before_memory_is_taken(here, archive, what):
    torch.save({"conv.weight": torch.ones(2, 1, 3, 3)}, "w.pt", _use_new_zipfile_serialization=archive)
    old, new = {
        "storage": (b"K\x12", b"\x8a\x05\xff\xff\xff\xff\x0f"),  # 18 numbers; 2 ** 36
        "shape": (b"(K\x02K\x01K\x03K\x03t", b"(J\xff\xff\xff\x3fK\x01K\x03K\x03t"),  # 2; 2 ** 30
    }[what]
    content = Path("w.pt").read_bytes()
    assert content.count(old) == 1
    if archive:
        rewritten(lambda _, content: content.replace(old, new))
    else:
        Path("w.pt").write_bytes(content.replace(old, new))
    before = peak()
    with pytest.raises(LoadError, match=r"weights w.pt(: not a state dict| do not fit the model)"):
        filled("w.pt")
    assert peak() - before < 10**8


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [("[1000000000]", "[0, 4000000000]"), ("[1000000000]", "[0, 4]"), ("[-1]", "[0, 4]"), ("[1]", "[0, 8]")],
)
def test_a_header_that_claims_more_than_the_file_holds_is_refused(here, shape, offsets):
    header = f'{{"conv.weight": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}'.encode()
    Path("w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    before = peak()
    with pytest.raises(LoadError, match="not a readable safetensors file"):
        filled("w.safetensors")
    assert peak() - before < 10**7


def test_a_header_of_absurd_length_is_refused(here):
    Path("w.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(LoadError, match="not a readable safetensors file"):
        filled("w.safetensors")


def test_what_a_file_calls_is_told_without_control_characters(here):
    data = b"\x80\x02cos\x1b[31m\nsystem\n."
    torch.save(trained(), "w.pt")
    rewritten(lambda name, content: data if name.endswith("data.pkl") else content)
    with pytest.raises(LoadError, match=r"it calls os\\x1b\[31m.system"):
        filled("w.pt")


def test_keys_that_are_no_plain_text_are_passed_over(here):
    torch.save(trained() | {"\x1b[31mred": torch.ones(1), "x" * 10**6: torch.ones(1), 3: torch.ones(1)}, "w.pt")
    assert holds(filled("w.pt")[0], trained())
