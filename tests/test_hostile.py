"""Files that somebody else wrote, through the command line: one message, exit code 2, and nothing is run.

Each attack is a function that writes its files beside a sound rule file, and returns what it changes in that.
"""

import functools
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cnnaudit.cli import main

SOUND = {
    "cnnaudit": 1,
    "model": "model.py:build",
    "weights": "weights.safetensors",
    "data": "data.npz",
    "rules": [{"metric": "activity.apoz", "min": 0}],
}
MODEL = """
import functools
import os
import subprocess

from torch import nn


def build(channels=4):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)
    )


touch = os.system
later = functools.partial(os.system, "touch exploded")
twice = functools.partial(functools.partial(subprocess.run), ["touch", "exploded"])


class Box:
    run = os.system


def decorated(*args):
    return os.system(*args)


decorated.__module__ = "os"
"""
COUNT = 100
ATTACKS = {}


def attack(message):
    """Note an attack by its name, and what is to be said about it."""

    def noted(write):
        ATTACKS[write.__name__] = (write, message)
        return write

    return noted


class Payload:
    """Unpickled, it runs a command."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@functools.cache
def network():
    space = {}
    exec(MODEL, space)  # noqa: S102 - the text above
    torch.manual_seed(0)
    return space["build"]()


def arrays():
    generator = np.random.default_rng(0)
    return {"images": generator.random((COUNT, 1, 8, 8), np.float32), "labels": np.arange(COUNT) % 3}


def objects():
    """An array that numpy pickles."""
    held = np.empty(COUNT, object)
    held[:] = [Payload() for _ in range(COUNT)]
    return held


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A sound network in a folder of its own, and next to that what does not belong to it."""
    folder, outside = tmp_path / "bundle", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("CNNAUDIT_ALLOW_IMPORT", "CNNAUDIT_ALLOW_PATH"):
        monkeypatch.delenv(variable, raising=False)
    Path("model.py").write_text(MODEL, encoding="utf-8")
    save_file(network().state_dict(), "weights.safetensors")
    np.savez("data.npz", **arrays())
    shutil.copy("data.npz", outside / "data.npz")
    shutil.copy("weights.safetensors", outside / "weights.safetensors")
    return folder


def run(spec, capsys, *more):
    """Exit code and everything that was said."""
    text = spec if isinstance(spec, str) else yaml.safe_dump({**SOUND, **spec})
    Path("flow.audit.yaml").write_text(text, encoding="utf-8")
    capsys.readouterr()
    code = main(["check", "flow.audit.yaml", "--allow-import", "model.py", *more])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_network_is_sound(bundle, capsys):
    code, out, err = run({}, capsys)
    assert (code, err) == (0, "")
    assert "PASSED: 1 rule, 1 passed" in out


# --- code ------------------------------------------------------------------------------------------------


@attack("weights.pt: .*(code|pickle)")
def a_payload_as_weights():
    torch.save({"0.weight": Payload()}, "weights.pt")
    return {"weights": "weights.pt"}


@attack("weights.pt: ")
def a_bare_pickle_as_weights():
    Path("weights.pt").write_bytes(pickle.dumps(Payload()))
    return {"weights": "weights.pt"}


@attack("weights.safetensors: ")
def a_pickle_that_calls_itself_safetensors():
    Path("weights.safetensors").write_bytes(pickle.dumps(Payload()))
    return {}


@attack("'model.pt' is a file of weights, not a model: .* torch.export.save")
def a_pickled_module():
    torch.save(network(), "model.pt")
    return {"model": "model.pt"}


@attack("weights.pt: .*(module|model)")
def a_pickled_module_as_weights():
    torch.save(network(), "weights.pt")
    return {"weights": "weights.pt"}


@attack("script.pt: .*TorchScript")
def torchscript_as_weights():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated in torch
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv2d(1, 4, 3))), "script.pt")
    return {"weights": "script.pt"}


@attack("model.pt2: torch unpickles exported programs, .* --trust-model")
def an_exported_program():
    with zipfile.ZipFile("model.pt2", "w") as archive:
        archive.writestr("archive/data/weights/model.pt", pickle.dumps(Payload()))
    return "cnnaudit: 1\nmodel: model.pt2\ndata: data.npz\nrules: [{metric: activity.dormant, min: 0}]\n"


@attack("other.py:build is code, and importing it is not allowed. .* --allow-import 'other.py'")
def a_factory_that_is_not_allowed():
    Path("other.py").write_text("import os\nos.system('touch exploded')\n", encoding="utf-8")
    return {"model": "other.py:build"}


@attack("os:system is code, and importing it is not allowed")
def a_module_that_is_not_allowed():
    return {"model": {"load": "os:system", "kwargs": {"command": "touch exploded"}}}


@attack("other.py:load is code, and importing it is not allowed")
def data_from_code_that_is_not_allowed():
    Path("other.py").write_text("import os\nos.system('touch exploded')\n", encoding="utf-8")
    return {"data": "other.py:load"}


@attack("model.py:touch leads to an object of the module '(posix|os|nt)', which is not allowed")
def a_function_under_another_name():
    return {"model": {"load": "model.py:touch", "kwargs": {"command": "touch exploded"}}}


@attack("model.py:later leads to an object of the module '(posix|os|nt)', which is not allowed")
def a_function_with_its_arguments():
    return {"model": "model.py:later"}


@attack("model.py:twice leads to an object of the module 'subprocess', which is not allowed")
def a_function_wrapped_twice():
    return {"model": "model.py:twice"}


@attack("model.py:os.system leads to an object of the module 'os', which is not allowed")
def a_function_of_an_imported_module():
    return {"model": {"load": "model.py:os.system", "kwargs": {"command": "touch exploded"}}}


@attack("model.py:Box.run leads to an object of the module '(posix|os|nt)', which is not allowed")
def a_function_inside_a_class():
    return {"model": {"load": "model.py:Box.run", "kwargs": {"command": "touch exploded"}}}


@attack("flow.audit.yaml:1:1.*!!python|flow.audit.yaml:.*tag")
def yaml_that_calls_a_function():
    return "cnnaudit: !!python/object/apply:os.system ['touch exploded']\n"


# --- arrays ----------------------------------------------------------------------------------------------


@attack("data.npz.*images.*(objects|pickle)")
def an_archive_of_objects():
    np.savez("data.npz", images=objects())
    return {}


@attack("labels.npz.*labels.*(objects|pickle)")
def labels_that_are_objects():
    np.savez("labels.npz", images=arrays()["images"], labels=objects())
    return {"data": "labels.npz"}


@attack("data.npy.*(objects|pickle)")
def a_file_of_objects():
    np.save("data.npy", objects())
    return {"data": "data.npy"}


@attack(r"data.npz.*\.\./images|data.npz.*no array|data.npz.*(outside|name)")
def members_that_leave_the_archive():
    held = io.BytesIO()
    np.save(held, arrays()["images"])
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("../../images.npy", held.getvalue())
    return {}


@attack("label 7 is out of range: 4, which makes the network's logits, tells 3 classes, 0 to 2")
def labels_too_high():
    np.savez("data.npz", **{**arrays(), "labels": np.full(COUNT, 7)})
    return {}


@attack("data.npz: label -1 is negative; classes must count from 0, and each image has one")
def labels_below_zero():
    np.savez("data.npz", **{**arrays(), "labels": np.arange(COUNT) - 1})
    return {}


@attack("labels must be one integer an image, not torch.float32")
def labels_of_fractions():
    np.savez("data.npz", **{**arrays(), "labels": np.linspace(0, 1, COUNT, dtype=np.float32)})
    return {}


@attack(
    "data.npz: 3 of 100 images cannot be used, and max_corrupt allows 0.01 of them; mend them, or allow more: "
    "image .* holds NaN or Inf"
)
def images_of_nan():
    held = arrays()
    held["images"][3:6, 0, 2, 2] = np.nan
    np.savez("data.npz", **held)
    return {}


@attack(r"data.npz: images.npy: its shape is \(0, 1, 8, 8\): there are no images in it")
def no_images():
    np.savez("data.npz", images=np.zeros((0, 1, 8, 8), np.float32))
    return {}


@attack("data.npz")
def the_beginning_of_an_archive():
    Path("data.npz").write_bytes(Path("data.npz").read_bytes()[:-100])
    return {}


# --- weights ---------------------------------------------------------------------------------------------


@attack("weights.safetensors: ")
def the_beginning_of_safetensors():
    Path("weights.safetensors").write_bytes(Path("weights.safetensors").read_bytes()[:-8])
    return {}


@attack("weights.safetensors: ")
def a_header_of_safetensors_that_is_too_long():
    Path("weights.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    return {}


@attack("weights.pt: ")
def the_beginning_of_a_state_dict():
    torch.save(network().state_dict(), "weights.pt")
    Path("weights.pt").write_bytes(Path("weights.pt").read_bytes()[:-200])
    return {"weights": "weights.pt"}


@attack(r"weights.safetensors.*(0\.weight|conv1\.weight)")
def weights_of_another_network():
    save_file({"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.weight": torch.zeros(3, 8)}, "weights.safetensors")
    return {}


@attack(r"weights.safetensors.*0\.weight.*\(?4, 1, 3, 3")
def weights_of_other_shapes():
    with torch.random.fork_rng():
        save_file({k: torch.zeros(*v.shape, 2) for k, v in network().state_dict().items()}, "weights.safetensors")
    return {}


# --- paths -----------------------------------------------------------------------------------------------


@attack("data ../outside/data.npz lies outside .* --allow-path")
def data_above_the_bundle():
    return {"data": "../outside/data.npz"}


@attack("weights ../outside/weights.safetensors lies outside .* --allow-path|../outside/weights.safetensors lies")
def weights_above_the_bundle():
    return {"weights": "../outside/weights.safetensors"}


@attack("data.npz lies outside .* --allow-path")
def a_link_out_of_the_bundle():
    Path("data.npz").unlink()
    Path("data.npz").symlink_to("../outside/data.npz")
    return {}


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 100).save(path)


@attack("data photos.*lies outside .* --allow-path")
def a_folder_that_is_a_link():
    picture(Path("../outside/photos/a.png"))
    Path("photos").symlink_to("../outside/photos")
    return {"data": "photos/"}


@attack("photos.*secret.png lies outside .* --allow-path")
def a_folder_with_a_link_in_it():
    picture(Path("photos/a.png"))
    picture(Path("../outside/secret.png"))
    Path("photos/secret.png").symlink_to("../../outside/secret.png")
    return {"data": "photos/"}


@attack("list.csv:2: ../outside lies outside .* --allow-path")
def a_list_of_files_elsewhere():
    picture(Path("../outside/secret.png"))
    Path("list.csv").write_text("file,label\n../outside/secret.png,0\n", encoding="utf-8")
    return {"data": "list.csv"}


@attack("exclude lies outside .* --allow-path")
def a_list_of_training_images_elsewhere():
    Path("../outside/train.csv").write_text("sha256\n", encoding="utf-8")
    return {"data": {"load": "data.npz", "exclude": "../outside/train.csv"}}


@attack("data.npz is a device, pipe or socket; name a file or a folder")
def a_pipe():
    Path("data.npz").unlink()
    os.mkfifo("data.npz")
    return {}


@attack("data.npy.*(lies outside|is a device, pipe or socket; name a file or a folder)")
def a_device():
    Path("data.npy").symlink_to("/dev/zero")
    return {"data": "data.npy"}


@attack("weights.safetensors is a device, pipe or socket; name a file or a folder")
def a_pipe_of_weights():
    Path("weights.safetensors").unlink()
    os.mkfifo("weights.safetensors")
    return {}


@attack("flow.audit.yaml:3:10: 'base.yaml' is no file")
def rules_from_a_pipe():
    os.mkfifo("base.yaml")
    return {"extends": "base.yaml"}


@attack("data photos.*there are no images")
def an_empty_folder():
    Path("photos").mkdir()
    return {"data": "photos/"}


@attack("photos/0.png is 3 x 8 x 8 and photos/3.png is 3 x 9 x 8: a network takes images of one size")
def images_of_several_sizes():
    for i in range(4):
        picture(Path(f"photos/{i}.png"), (8, 8 + i // 3))
    return {"data": "photos/"}


@attack("photos.*a.png")
def a_file_that_is_no_image():
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(pickle.dumps(Payload()))
    return {"data": "photos/"}


@pytest.mark.parametrize("name", ATTACKS)
def test_one_message_and_nothing_is_run(bundle, capsys, name):
    write, message = ATTACKS[name]
    before = {path.name for path in bundle.parent.rglob("*")}
    code, out, err = run(write(), capsys)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    told = err.splitlines()
    assert re.search(message, told[0]), err
    assert re.match(r"error: |flow.audit.yaml:\d+:\d+: ", told[0])
    assert sum(line.startswith("error: ") for line in told) <= 1
    assert "exploded" not in {path.name for path in bundle.parent.rglob("*")} - before
    assert not Path("exploded").exists()


# --- memory ----------------------------------------------------------------------------------------------

BILLION = 10**9


def array_header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def png(width, height):
    """A picture of one colour, a bit for each pixel."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    content = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def huge(folder):
    """Files that are small and claim to hold a thousand million values; what is told about each."""
    claims = {}

    def case(name, message, **spec):
        (folder / f"{name}.audit.yaml").write_text(yaml.safe_dump({**SOUND, **spec}), encoding="utf-8")
        claims[name] = message

    (folder / "claim.npy").write_bytes(array_header((BILLION, 1, 8, 8)))
    case("npy", "claim.npy", data="claim.npy")
    with zipfile.ZipFile(folder / "claim.npz", "w") as archive:
        archive.writestr("images.npy", array_header((BILLION, 1, 8, 8)))
    case("npz", "claim.npz", data="claim.npz")
    header = {"images": {"dtype": "F32", "shape": [BILLION, 1, 8, 8], "data_offsets": [0, BILLION * 256]}}
    text = json.dumps(header).encode()
    (folder / "claim.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    case("safetensors", "claim.safetensors", data="claim.safetensors")
    case("weights", "claim.safetensors", weights="claim.safetensors")
    state = network().state_dict()
    torch.save({**state, "0.weight": torch.zeros(1, 1, 1, 1).expand(BILLION, 1, 3, 3)}, folder / "claim.pt")
    case("state", "0.weight: (1000000000, 1, 3, 3) in the file, (4, 1, 3, 3) in the model", weights="claim.pt")
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(array_header((10**6, 1, 10, 10)))
        for _ in range(100):
            member.write(bytes(4 * 10**6))
    case("zip", "bomb.npz", data="bomb.npz")
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(png(30_000, 30_000))
    case("png", "a.png", data="photos/")
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    (folder / "yaml.audit.yaml").write_text(f"a0: &a0 [lol, lol]\n{levels}", encoding="utf-8")
    claims["yaml"] = "yaml.audit.yaml"
    (folder / "deep.audit.yaml").write_text("[" * 100_000, encoding="utf-8")
    claims["deep"] = "deep.audit.yaml"
    return claims


# The kernel's own record: what resource.getrusage tells begins with the process that this one was started from.
PEAK = """
import sys
from pathlib import Path
import cnnaudit.pipeline
from cnnaudit.cli import main

for name in ("", *sys.argv[1:]):
    code = main(["check", f"{name}.audit.yaml", "--allow-import", "model.py"]) if name else 0
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print("CASE", name or "imported", code, int(peak.split()[1]) // 1024, flush=True)
    print("CASE", file=sys.stderr, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory of a process is told on Linux")
def test_what_claims_to_be_huge_takes_no_memory(bundle):
    claims = huge(bundle)
    command = [sys.executable, "-c", PEAK, *claims]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    cases = [line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("CASE")]
    codes, peaks = {case[0]: case[1] for case in cases}, {case[0]: int(case[2]) for case in cases}
    assert codes == {"imported": "0"} | dict.fromkeys(claims, "2"), ran.stderr[-2000:]
    assert "Traceback" not in ran.stderr
    told = dict(zip(codes, ran.stderr.split("CASE\n"), strict=False))
    for name, message in claims.items():
        assert message in told[name], (name, told[name])
        assert len(told[name].splitlines()) == 1
    # Importing torch takes up to 500 MB by itself, half of that its libraries; what matters is what comes on top.
    assert max(peaks.values()) - peaks["imported"] < 50
