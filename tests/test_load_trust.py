"""Which code may be imported and which files opened, and by whose leave."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cnnaudit.errors import LoadError
from cnnaudit.load import Trust
from cnnaudit.spec import resolve

BUILD = "def build(width=3):\n    return ('built', width)\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory is a fresh project without permissions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNAUDIT_ALLOW_IMPORT", raising=False)
    monkeypatch.delenv("CNNAUDIT_ALLOW_PATH", raising=False)
    return tmp_path


@pytest.fixture
def package(here, monkeypatch):
    """An importable package ``made_up_pkg`` with modules ``models`` and ``models.deep``, forgotten afterwards."""
    folder = here / "lib" / "made_up_pkg" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text(BUILD)
    (folder / "deep.py").write_text(BUILD + "from os import system as run\n")
    monkeypatch.syspath_prepend(str(here / "lib"))
    yield
    for name in [name for name in sys.modules if name.startswith("made_up_pkg")]:
        del sys.modules[name]


def write(path: Path, text: str = BUILD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def factory(text, globs=(), base="."):
    return Trust.here(globs).factory(resolve(text, base=Path(base), role="model"))


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "path", "allowed"),
    [
        ("model.py", "model.py", True),
        ("examples/**.py", "examples/model.py", True),
        ("examples/**.py", "examples/deep/er/model.py", True),
        ("examples/*.py", "examples/model.py", True),
        ("examples/*.py", "examples/deep/model.py", False),
        ("examples/**.py", "other/model.py", False),
        ("examples/**.py", "examples_of_mine/model.py", False),
        ("examples/**", "examples/deep/model.py", True),
        ("xmodel.py", "model.py", False),
        ("mode?.py", "model.py", False),  # only * and ** are wild
        ("model", "model.py", False),  # the name of a module allows no file
        ("**", "model.py", False),  # nor do all modules
    ],
)
def test_a_file_is_imported_where_a_path_glob_allows_it(here, glob, path, allowed):
    write(here / path)
    if allowed:
        assert factory(f"{path}:build", [glob])(width=2) == ("built", 2)
    else:
        with pytest.raises(LoadError, match="importing it is not allowed"):
            factory(f"{path}:build", [glob])


def test_a_refused_file_is_not_run_and_the_message_says_which_flag_allows_it(here):
    write(here / "zoo" / "model.py", "raise SystemExit('this code ran')")
    with pytest.raises(LoadError) as refused:
        factory("zoo/model.py:build")
    assert str(refused.value) == (
        "zoo/model.py:build is code, and importing it is not allowed. If you trust it, add "
        "--allow-import 'zoo/model.py', set CNNAUDIT_ALLOW_IMPORT, or list it in pyproject.toml under "
        "[tool.cnnaudit] allow-import"
    )


def test_the_flag_that_the_message_names_does_allow_it(here):
    write(here / "zoo" / "model.py")
    assert factory("zoo/model.py:build", ["zoo/model.py"])() == ("built", 3)


def test_a_file_outside_the_working_directory_needs_its_whole_path(here, tmp_path_factory):
    outside = write(tmp_path_factory.mktemp("outside") / "model.py")
    with pytest.raises(LoadError, match=f"--allow-import '{outside}'"):
        factory(f"{outside}:build", ["**.py.py", "model.py", "*.py"])
    assert factory(f"{outside}:build", [str(outside)])() == ("built", 3)


def test_dots_in_a_path_do_not_lead_around_a_glob(here):
    write(here / "secret" / "model.py")
    (here / "examples").mkdir()
    with pytest.raises(LoadError, match=r"--allow-import 'secret/model.py'"):
        factory("examples/../secret/model.py:build", ["examples/**.py"])


def test_a_link_counts_as_what_it_leads_to(here, tmp_path_factory):
    outside = write(tmp_path_factory.mktemp("outside") / "model.py")
    (here / "examples").mkdir()
    (here / "examples" / "model.py").symlink_to(outside)
    with pytest.raises(LoadError, match="importing it is not allowed"):
        factory("examples/model.py:build", ["examples/**.py"])


def test_a_file_may_import_its_neighbours_while_it_is_imported_and_leaves_the_path_alone(here):
    write(here / "zoo" / "made_up_neighbour.py", "WIDTH = 7\n")
    write(here / "zoo" / "model.py", "import made_up_neighbour\ndef build(): return made_up_neighbour.WIDTH\n")
    before = list(sys.path)
    try:
        assert factory("zoo/model.py:build", ["zoo/*.py"])() == 7
    finally:
        sys.modules.pop("made_up_neighbour", None)
    assert sys.path == before


def test_a_file_that_raises_is_told_with_what_it_raised_and_is_forgotten(here):
    write(here / "model.py", "1 / 0")
    before = set(sys.modules)
    with pytest.raises(LoadError, match=r"model.py:build: importing it raised ZeroDivisionError: division by zero"):
        factory("model.py:build", ["model.py"])
    assert set(sys.modules) == before


def test_a_missing_file_and_a_missing_function_are_told_apart(here):
    with pytest.raises(LoadError, match="there is no file"):
        factory("model.py:build", ["model.py"])
    write(here / "model.py", BUILD + "def broken(): ...\ndef _private(): ...\n")
    with pytest.raises(LoadError, match=r"has no 'made'; it has broken, build$"):
        factory("model.py:made", ["model.py"])
    write(here / "empty.py", "")
    with pytest.raises(LoadError, match=r"has no 'build'; write a function of that name$"):
        factory("empty.py:build", ["empty.py"])


# --- modules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "module", "allowed"),
    [
        ("made_up_pkg.models", "made_up_pkg.models", True),
        ("made_up_pkg.models", "made_up_pkg.models.deep", False),
        ("made_up_pkg.models.*", "made_up_pkg.models", True),
        ("made_up_pkg.models.*", "made_up_pkg.models.deep", True),
        ("made_up_pkg.*", "made_up_pkg.models.deep", True),
        ("made_up_pkg.**", "made_up_pkg.models.deep", True),
        ("made_up_*", "made_up_pkg.models", False),
        ("made_up_**", "made_up_pkg.models", True),
        ("made_up_pkg/models", "made_up_pkg.models", False),
        ("other", "made_up_pkg.models", False),
    ],
)
def test_a_module_is_imported_where_a_module_glob_allows_it(package, glob, module, allowed):
    if allowed:
        assert factory(f"{module}:build", [glob])() == ("built", 3)
    else:
        with pytest.raises(LoadError, match=f"--allow-import '{module}'"):
            factory(f"{module}:build", [glob])


def test_a_refused_module_is_not_imported(package):
    with pytest.raises(LoadError, match="importing it is not allowed"):
        factory("made_up_pkg.models:build")
    assert "made_up_pkg" not in sys.modules


def test_model_zoos_need_leave_too_where_they_are_named_as_code(here):
    """They hold helpers that unpickle files and open addresses beside the networks."""
    with pytest.raises(LoadError, match=r"--allow-import 'torchvision\.models\.resnet'"):
        factory("torchvision.models.resnet:resnet18")
    assert factory("torchvision.models.resnet:resnet18", ["torchvision.models.*"]).__name__ == "resnet18"


def test_a_module_that_is_not_there(here):
    with pytest.raises(LoadError, match="importing it raised ModuleNotFoundError: No module named 'made_up_nowhere'"):
        factory("made_up_nowhere:build", ["made_up_nowhere"])


# --- what a name leads to ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "home"),
    [
        ("from os import system as build", "posix"),
        ("import os\nbuild = os.system", "posix"),
        ("import functools, os\nbuild = functools.partial(functools.partial(os.system), 'true')", "posix"),
        ("from subprocess import run as build", "subprocess"),
        ("build = eval", "builtins"),
    ],
)
def test_an_object_of_another_module_is_refused_whatever_it_is_called(here, code, home):
    write(here / "model.py", code)
    with pytest.raises(LoadError, match=r"leads to an object of the module .*, which is not allowed") as refused:
        factory("model.py:build", ["model.py"])
    assert home in str(refused.value)


def test_what_cannot_be_called_may_come_from_anywhere(here):
    write(here / "model.py", "from torch.nn import Identity\nfrom string import digits\nmodel = Identity()\n")
    assert type(factory("model.py:model", ["model.py"])).__name__ == "Identity"
    assert factory("model.py:digits", ["model.py"]) == "0123456789"
    with pytest.raises(LoadError, match=r"leads to an object of the module 'torch.nn"):
        factory("model.py:Identity", ["model.py"])


def test_an_attribute_of_an_import_is_refused(package):
    with pytest.raises(LoadError, match="leads to an object of the module 'posix'"):
        factory("made_up_pkg.models.deep:run", ["made_up_pkg.*"])
    write(Path("model.py"), "import os\nclass Kit:\n    @staticmethod\n    def build(): return 'kit'\n")
    with pytest.raises(LoadError, match="leads to an object of the module 'os'"):
        factory("model.py:os.system", ["model.py"])
    assert factory("model.py:Kit.build", ["model.py"])() == "kit"


@pytest.mark.parametrize(
    ("code", "home"),
    [
        ("import functools, subprocess\nbuild = functools.cache(subprocess.call)", "subprocess"),
        ("import shutil\nclass Kit:\n    build = staticmethod(shutil.rmtree)\nbuild = Kit().build", "shutil"),
        ("import argparse\nbuild = argparse.ArgumentParser().parse_args", "argparse"),
        ("import string\nbuild = string.Template('$x').substitute", "string"),
        ("import operator\nbuild = operator.methodcaller('clear')", "operator"),
        ("build = {}.update", "builtins"),
        ("build = (lambda: 0).__call__", "builtins"),
    ],
)
def test_a_function_from_elsewhere_is_refused_in_whatever_it_is_dressed(here, code, home):
    write(here / "model.py", code)
    with pytest.raises(LoadError, match=f"leads to an object of the module '{home}', which is not allowed"):
        factory("model.py:build", ["model.py"])


def test_a_function_that_claims_to_be_at_home_is_known_by_its_globals(package):
    write(Path("model.py"), "from made_up_pkg.models import build\nbuild.__module__ = __name__\n")
    with pytest.raises(LoadError, match=r"leads to an object of the module 'made_up_pkg.models'"):
        factory("model.py:build", ["model.py"])


@pytest.mark.parametrize(
    "code",
    [
        "import functools\ndef make(n): return n\nbuild = functools.partial(make, 3)",
        "import functools\n@functools.cache\ndef build(): return 3",
        "import torch\n@torch.no_grad()\ndef build(): return 3",
        "class Kit:\n    def build(self): return 3\nbuild = Kit().build",
        "class Kit:\n    @classmethod\n    def build(cls): return 3\nbuild = Kit.build",
        "class Kit:\n    def __call__(self): return 3\nbuild = Kit()",
        "build = lambda: 3",
        "def __getattr__(name): return lambda: 3",
    ],
)
def test_ways_to_write_a_function_of_ones_own(here, code):
    write(here / "model.py", code)
    assert factory("model.py:build", ["model.py"])() == 3


def test_a_module_that_another_imported_is_not_reached_into(here):
    """``os`` is there, and a lazy module would import what its attribute names."""
    write(here / "made_up_lazy.py", "def __getattr__(name): raise SystemExit(name)\n")
    write(here / "model.py", "import made_up_lazy\n")
    try:
        with pytest.raises(LoadError, match="leads to an object of the module 'made_up_lazy', which is not allowed"):
            factory("model.py:made_up_lazy.build", ["model.py"])
    finally:
        sys.modules.pop("made_up_lazy", None)


def test_an_attribute_that_cannot_be_read_is_told(here):
    write(here / "model.py", "class Kit:\n    @property\n    def build(self): return 1 / 0\nkit = Kit()\n")
    with pytest.raises(LoadError, match=r"model.py:kit.build: reading it raised ZeroDivisionError: division by zero"):
        factory("model.py:kit.build", ["model.py"])


@pytest.mark.parametrize("written", ["script.py:build", "made_up_script:build"])
def test_a_script_that_ends_the_program_does_not_end_the_audit(here, monkeypatch, written):
    """Exit code 0 would be a pass."""
    monkeypatch.syspath_prepend(str(here))
    write(here / written.replace("made_up_script:build", "made_up_script.py").partition(":")[0], "raise SystemExit(0)")
    with pytest.raises(LoadError, match="importing it raised SystemExit: 0"):
        factory(written, ["*.py"])


def test_a_link_to_code_outside_what_is_allowed_is_refused(here):
    write(here / "elsewhere" / "model.py", "raise SystemExit('this code ran')")
    (here / "models").mkdir()
    (here / "models" / "model.py").symlink_to(here / "elsewhere" / "model.py")
    with pytest.raises(LoadError, match=r"--allow-import 'elsewhere/model\.py'"):
        factory("models/model.py:build", ["models/**.py"])


def test_a_re_export_is_taken_where_its_home_is_allowed_too(package):
    write(Path("model.py"), "from made_up_pkg.models import build\n")
    with pytest.raises(LoadError, match=r"--allow-import 'made_up_pkg.models'"):
        factory("model.py:build", ["model.py"])
    assert factory("model.py:build", ["model.py", "made_up_pkg.models"])() == ("built", 3)


def test_a_glob_may_lead_out_of_the_directory_where_the_command_was_started(here, monkeypatch):
    (here / "bundle").mkdir()
    (here / "started").mkdir()
    (here / "shared.npz").write_bytes(b"x")
    write(here / "model.py")
    monkeypatch.chdir(here / "started")
    trust = Trust(("../model.py",), here / "started", ("../shared.npz",), bundle=here / "bundle")
    assert trust.opened(here / "shared.npz", "data").name == "shared.npz"
    assert trust.factory(resolve("model.py:build", base=here, role="model"))() == ("built", 3)
    with pytest.raises(LoadError, match="lies outside the rule file's folder"):
        trust.opened(here / "model.py", "data")


# --- who gives leave ----------------------------------------------------------------------------------


def test_leave_comes_from_the_caller_the_environment_and_pyproject(here, monkeypatch):
    for name in ("one", "two", "three", "four", "five"):
        write(here / f"{name}.py")
    monkeypatch.setenv("CNNAUDIT_ALLOW_IMPORT", " two.py, three.py\tfour.py")
    write(here / "pyproject.toml", '[tool.cnnaudit]\nallow-import = ["five.py"]\n')
    trust = Trust.here(["one.py"])
    assert trust.globs == ("one.py", "two.py", "three.py", "four.py", "five.py")
    for name in ("one", "two", "three", "four", "five"):
        assert trust.factory(resolve(f"{name}.py:build", base=here, role="data"))() == ("built", 3)


def test_the_pyproject_of_the_working_directory_counts_not_that_of_the_audited_file(here):
    write(here / "theirs" / "model.py")
    write(here / "theirs" / "pyproject.toml", '[tool.cnnaudit]\nallow-import = ["**.py", "model.py"]\n')
    with pytest.raises(LoadError, match="importing it is not allowed"):
        factory("model.py:build", base="theirs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.cnnaudit]\nallow-import = 'model.py'", "must be a list of text"),
        ("[tool.cnnaudit]\nallow-import = [1]", "must be a list of text"),
        ("[tool.cnnaudit", "pyproject.toml: "),
        ("\xff", "pyproject.toml: "),
        ("[tool]\ncnnaudit = 1", "must be a table of settings"),
        ("[tool.cnnaudit]\nallow-import = {}", "must be a list of text"),
    ],
)
def test_a_pyproject_that_cannot_be_read_is_an_error(here, text, message):
    (here / "pyproject.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(LoadError, match=message):
        Trust.here()


def test_a_pyproject_without_an_entry_allows_nothing(here):
    write(here / "pyproject.toml", "[project]\nname = 'x'\n")
    assert Trust.here().globs == ()


# --- modules by their files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("glob", ["lib/**", "lib/**.py", "lib/made_up_pkg/models/*.py", "{here}/**"])
def test_a_path_glob_covers_a_module_by_its_file(package, here, glob):
    build = factory("made_up_pkg.models.deep:build", [glob.format(here=here.as_posix())])
    assert build() == ("built", 3)


@pytest.mark.parametrize("glob", ["lib/made_up_pkg/*.py", "lib/other/**", "made_up_pkg/**"])
def test_a_path_glob_covers_no_other_module(package, glob):
    with pytest.raises(LoadError, match="is code, and importing it is not allowed"):
        factory("made_up_pkg.models.deep:build", [glob])


def test_a_package_goes_before_a_module_of_the_same_name_as_in_python(package, here):
    write(here / "lib" / "made_up_pkg" / "models.py")
    with pytest.raises(LoadError, match="is code, and importing it is not allowed"):
        factory("made_up_pkg.models:build", ["lib/made_up_pkg/*.py"])


@pytest.mark.parametrize("written", ["subprocess:call", "os.path:join", "json.tool:main"])
def test_a_glob_of_everything_does_not_cover_the_standard_library(here, written):
    with pytest.raises(LoadError, match="is code, and importing it is not allowed"):
        factory(written, ["/**"])


def test_what_is_installed_below_the_root_is_covered_only_by_its_name(here):
    write(here / "venv" / "site-packages" / "evil.py")
    with pytest.raises(LoadError, match="is code, and importing it is not allowed"):
        factory("venv/site-packages/evil.py:build", ["**"])
    assert factory("venv/site-packages/evil.py:build", ["venv/site-packages/*.py"])() == ("built", 3)


# --- files that are read ------------------------------------------------------------------------------------


@pytest.fixture
def bundle(here, monkeypatch):
    """A rule file's folder, beside the one where the command is started and another one."""
    for name in ("started", "bundle", "other/deep"):
        (here / name).mkdir(parents=True)
    for name in ("started/w.pt", "bundle/w.pt", "other/w.pt", "other/deep/w.pt"):
        (here / name).write_bytes(b"weights")
    monkeypatch.chdir(here / "started")
    return here


def reading(bundle, path, paths=(), **fields):
    trust = replace(Trust.here((), paths), bundle=bundle / "bundle", **fields)
    return trust.opened(bundle / path, "weights w.pt")


@pytest.mark.parametrize("path", ["bundle/w.pt", "started/w.pt", "bundle/../started/w.pt", "bundle", "started"])
def test_a_rule_file_opens_what_lies_beside_it_and_where_the_command_was_started(bundle, path):
    assert reading(bundle, path) == (bundle / path).resolve()


@pytest.mark.parametrize("path", ["other/w.pt", "bundle/../other/w.pt", "bundle-2", ".", "/etc/hostname"])
def test_a_rule_file_opens_nothing_else(bundle, path):
    with pytest.raises(LoadError, match=r"weights w.pt lies outside the rule file's folder and the one where"):
        reading(bundle, path)


def test_paths_that_no_rule_file_named_are_trusted(bundle):
    assert Trust.here().opened(bundle / "other" / "w.pt", "w") == bundle / "other" / "w.pt"


def test_the_flag_that_a_refusal_names_allows_the_file(bundle):
    with pytest.raises(LoadError) as refused:
        reading(bundle, "other/w.pt")
    assert str(refused.value) == (
        "weights w.pt lies outside the rule file's folder and the one where the command was started, in "
        f"{bundle}/other/w.pt. If it may be read, add --allow-path '{bundle}/other/w.pt', set CNNAUDIT_ALLOW_PATH, or "
        "list it in pyproject.toml under [tool.cnnaudit] allow-path"
    )
    assert reading(bundle, "other/w.pt", [f"{bundle}/other/w.pt"]) == bundle / "other" / "w.pt"


@pytest.mark.parametrize(
    ("glob", "allowed"),
    [
        ("{here}/other/*.pt", False),
        ("{here}/other/**.pt", True),
        ("{here}/other", True),  # a folder covers what lies below it
        ("{here}/other/", True),
        ("{here}/*/deep", True),
        ("{here}/oth", False),
        ("{here}/**", True),
        ("deep/w.pt", False),
    ],
)
def test_path_globs(bundle, glob, allowed):
    if allowed:
        assert reading(bundle, "other/deep/w.pt", [glob.format(here=bundle)])
    else:
        with pytest.raises(LoadError, match="lies outside"):
            reading(bundle, "other/deep/w.pt", [glob.format(here=bundle)])


def test_a_link_out_of_the_bundle_is_refused_and_one_into_it_is_not(bundle):
    (bundle / "bundle" / "link.pt").symlink_to(bundle / "other" / "w.pt")
    (bundle / "bundle" / "folder").symlink_to(bundle / "other")
    (bundle / "other" / "back.pt").symlink_to(bundle / "bundle" / "w.pt")
    for path in ("bundle/link.pt", "bundle/folder", "bundle/folder/deep/w.pt"):
        with pytest.raises(LoadError, match=r"lies outside .* in .*/other"):
            reading(bundle, path)
    assert reading(bundle, "other/back.pt") == bundle / "bundle" / "w.pt"


def test_leave_to_read_comes_from_the_caller_the_environment_and_pyproject(bundle, monkeypatch):
    monkeypatch.setenv("CNNAUDIT_ALLOW_PATH", "two/, three/*")
    write(Path("pyproject.toml"), '[tool.cnnaudit]\nallow-path = ["four/**"]\nallow-import = ["a.*"]\n')
    trust = Trust.here(["b"], ["one/"], trust_model=True)
    assert trust == Trust(("b", "a.*"), Path.cwd(), ("one/", "two/", "three/*", "four/**"), None, exported=True)
    assert Trust.here().exported is False


def test_a_pyproject_whose_paths_cannot_be_read_is_an_error(bundle):
    write(Path("pyproject.toml"), "[tool.cnnaudit]\nallow-path = 'x'\n")
    with pytest.raises(LoadError, match="allow-path must be a list of text"):
        Trust.here()


def test_what_is_no_file_is_refused(bundle):
    os.mkfifo(bundle / "bundle" / "pipe.pt")
    (bundle / "bundle" / "circle.pt").symlink_to("circle.pt")
    for path, message in [
        ("bundle/pipe.pt", "is a device, pipe or socket; name a file or a folder"),
        ("bundle/circle.pt", r"circle.pt cannot be opened|there is no file"),
        ("bundle/nothing.pt", "weights w.pt: there is no file .*nothing.pt"),
        ("bundle/w.pt/w.pt", "cannot be opened"),
        ("bundle/nul\0.pt", "cannot be opened"),
    ]:
        with pytest.raises(LoadError, match=message):
            reading(bundle, path)
    with pytest.raises(LoadError, match="is a device, pipe or socket; name a file or a folder"):
        Trust.here().opened(Path("/dev/zero"), "w")
