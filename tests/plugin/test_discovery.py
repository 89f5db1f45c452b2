"""Stock anomalib finds the plugin: installed as a wheel or editable, with the hook on, off, broken or gone.

Importing anomalib takes seconds, so each program below checks many things.
"""

import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from support.environments import Environments, altered, execute, make_environment
from support.places import ROOT

PARTS = ["_anomalib_nagl_hook.py", "anomalib_nagl.pth", "anomalib_nagl.start"]
PUBLIC = {
    "DrawnPictures",
    "EdgeError",
    "Nagl",
    "NaglEdge",
    "NaglHead",
    "NaglLoss",
    "NaglMaps",
    "NaglModel",
    "NearestReference",
    "Prediction",
    "ReferenceDataModule",
    "ReferencePostProcessor",
    "ReferenceSet",
    "ReferenceVisualizer",
    "__version__",
    "inspect",
    "register",
}

# The hook is on: everything resolves by its short name, and anomalib_nagl was never mentioned.
FOUND = """
import io, json, sys, warnings
from contextlib import redirect_stdout

warnings.simplefilter("error", RuntimeWarning)
import anomalib.data, anomalib.models
from anomalib.models import Nagl, get_model, list_models
from anomalib.cli.cli import AnomalibCLI

printed = io.StringIO()
try:
    with redirect_stdout(printed):
        AnomalibCLI(["train", "--model", "Nagl", "--model.backbone", "gabor", "--data", "DrawnPictures",
                     "--print_config"])
except SystemExit as stop:
    assert not stop.code, printed.getvalue()

import anomalib_nagl

specs = ["nagl", "Nagl", {"class_path": "Nagl"}, {"class_path": "anomalib_nagl.Nagl"}]
print(json.dumps({
    "home": anomalib_nagl.__file__,
    "version": anomalib_nagl.__version__,
    "listed": "nagl" in list_models(),
    "public": Nagl is anomalib_nagl.Nagl and "Nagl" in anomalib.models.__all__,
    "got": [type(get_model(spec, backbone="gabor")) is Nagl for spec in specs],
    "data": [getattr(anomalib.data, name) is getattr(anomalib_nagl, name) for name in
             ("ReferenceDataModule", "DrawnPictures")],
    "datamodule": type(anomalib.data.get_datamodule({"class_path": "DrawnPictures"})).__name__,
    "config": printed.getvalue(),
    "finders": [type(finder).__module__ for finder in sys.meta_path].count("_anomalib_nagl_hook"),
}))
"""

# The hook is off: anomalib is as it was, until the dotted path is used.
UNHOOKED = """
import io, json, sys, warnings
from contextlib import redirect_stdout

warnings.simplefilter("error", RuntimeWarning)
import anomalib.data, anomalib.models
from anomalib.models import list_models
from anomalib.cli.cli import AnomalibCLI

before = ["nagl" in list_models(), hasattr(anomalib.models, "Nagl"), hasattr(anomalib.data, "ReferenceDataModule"),
          "anomalib_nagl" in sys.modules]
printed = io.StringIO()
try:
    with redirect_stdout(printed):
        AnomalibCLI(["train", "--model", "anomalib_nagl.Nagl", "--model.backbone", "gabor", "--data", "DrawnPictures",
                     "--print_config"])
except SystemExit as stop:
    assert not stop.code, printed.getvalue()
after = ["nagl" in list_models(), hasattr(anomalib.models, "Nagl"), hasattr(anomalib.data, "ReferenceDataModule"),
         "anomalib_nagl" in sys.modules]
print(json.dumps({"before": before, "after": after, "config": printed.getvalue()}))
"""

# One of our own modules comes first and brings anomalib.models in; the hook fires while it is half imported.
INSIDE_OUT = """
import json, warnings

warnings.simplefilter("error", RuntimeWarning)
from anomalib_nagl.{module} import {name}
import anomalib.models, anomalib.data

print(json.dumps([hasattr(anomalib.models, "Nagl"), hasattr(anomalib.data, "DrawnPictures")]))
"""

BROKEN = """
import json, warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import anomalib.models
messages = [str(w.message) for w in caught if w.category is RuntimeWarning and "anomalib_nagl" in str(w.message)]
print(json.dumps([messages, "padim" in anomalib.models.list_models(), "nagl" in anomalib.models.list_models()]))
"""


@pytest.fixture
def wheel(environments: Environments) -> Path:
    return environments.wheel()


def test_the_wheel_holds_the_hook_and_nothing_foreign(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {*PARTS, "anomalib_nagl"} == {name for name in top if not name.endswith(".dist-info")}
    wanted = ("py.typed", "configs/own_parts.yaml", "encoders/weights/builtin-1.safetensors")
    assert {f"anomalib_nagl/{name}" for name in wanted} <= set(names)
    for text in ("LICENSE", "NOTICE"):
        assert any(name.endswith(f".dist-info/licenses/{text}") for name in names)


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = execute(build, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), [("wheel", ["-I"]), ("editable", [])])
def test_everything_resolves_by_its_short_name(environments: Environments, kind: str, options: list[str]) -> None:
    environment = environments[kind]
    report = environment.report(FOUND, *options)
    assert Path(report["home"]).parent == environment.package
    assert re.fullmatch(r"\d+\.\d+\.\d+", report["version"])
    assert report["listed"]
    assert report["public"]
    assert report["got"] == [True] * 4
    assert report["data"] == [True] * 2
    assert report["datamodule"] == "DrawnPictures"
    assert re.search(r"class_path: anomalib_nagl\S*\.Nagl\b", report["config"])
    assert re.search(r"class_path: anomalib_nagl\S*\.DrawnPictures\b", report["config"])
    assert report["finders"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "value"), [("wheel", "0"), ("editable", "Off")])
def test_switched_off_it_needs_the_dotted_path(environments: Environments, kind: str, value: str) -> None:
    report = environments[kind].report(UNHOOKED, ANOMALIB_NAGL_AUTOLOAD=value)
    assert report["before"] == [False] * 4
    assert report["after"] == [True] * 4
    assert re.search(r"class_path: anomalib_nagl\S*\.Nagl\b", report["config"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [("plugin.visualizer", "ReferenceVisualizer"), ("plugin.lightning_model", "Nagl")],
)
def test_registration_waits_for_a_half_imported_module(environments: Environments, module: str, name: str) -> None:
    assert environments["wheel"].report(INSIDE_OUT.format(module=module, name=name)) == [True, True]


@pytest.mark.slow
def test_a_broken_plugin_costs_anomalib_one_warning_and_others_nothing(environments: Environments) -> None:
    environment = environments["wheel"]
    with altered(environment.package / "plugin/lightning_model.py", "def nonsense(:\n"):
        messages, stock, ours = environment.report(BROKEN)
        other = environment.run("import json, decimal")
    assert len(messages) == 1
    assert "SyntaxError" in messages[0]
    assert (stock, ours) == (True, False)
    assert (other.returncode, other.stdout, other.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("text", [None, "def nonsense(:\n", "raise OSError('no disk')\n", "install = None\n"])
def test_a_broken_or_missing_hook_is_silent(environments: Environments, kind: str, text: str | None) -> None:
    environment = environments[kind]
    # Python reads the path files of a virtual environment twice: a hook among the borrowed packages would step in.
    borrowed = altered(environment.site / "zz_borrowed.pth", None)
    with borrowed, altered(environment.site / "_anomalib_nagl_hook.py", text):
        done = environment.run("import json, sys; print(any('nagl' in repr(f) for f in sys.meta_path))", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_a_missing_plugin_is_silent(environments: Environments) -> None:
    """The hook outlives the package, as after removing it by hand or deleting the checkout of an editable install."""
    code = "import _anomalib_nagl_hook as hook; hook.PLUGIN = 'anomalib_nagl_gone'; hook._register()"
    done = environments["wheel"].run(code, "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_hook_survives_a_look_up_and_a_failed_import(tmp_path: Path) -> None:
    """Asking for the spec of ``anomalib.models``, or an import that raises, must not use the hook up."""
    (tmp_path / "anomalib").mkdir()
    (tmp_path / "anomalib" / "__init__.py").touch()
    (tmp_path / "anomalib" / "models.py").write_text("import os\nif 'FAIL' in os.environ: raise OSError\n")
    (tmp_path / "anomalib_nagl.py").write_text("def register():\n    print('registered')\n")
    shutil.copy(ROOT / "autoload" / "_anomalib_nagl_hook.py", tmp_path)
    code = """
import importlib.util, os, sys
import _anomalib_nagl_hook as hook
hook.install(); hook.install()
importlib.util.find_spec("anomalib.models")
os.environ["FAIL"] = "1"
try:
    import anomalib.models
except OSError:
    print("failed")
del os.environ["FAIL"]
import anomalib.models
print([type(finder).__name__ for finder in sys.meta_path].count("_Finder"))
print("exec_module" in vars(anomalib.models.__loader__))
"""
    done = execute([sys.executable, "-S", "-c", code], cwd=tmp_path, PYTHONSAFEPATH="")
    assert (done.stdout, done.stderr) == ("failed\nregistered\n0\nFalse\n", "")


def test_the_hook_costs_less_than_a_millisecond(environments: Environments) -> None:
    """Import and call together; the best of several programs, because the machine is shared and files must be warm."""
    code = """
import sys, time
import _anomalib_nagl_hook as hook
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, hook._Finder)]
start = time.perf_counter()
hook.install()
print(1e6 * (time.perf_counter() - start))
"""
    runs = [environments["wheel"].run(code, "-X", "importtime") for _ in range(9)]
    imports = [re.search(r"\| +(\d+) \| +_anomalib_nagl_hook$", run.stderr, re.MULTILINE) for run in runs]
    microseconds = [float(line[1]) + float(run.stdout) for line, run in zip(imports, runs, strict=True) if line]
    assert min(microseconds) < 1000, microseconds


def test_the_hook_imports_nothing_but_itself(environments: Environments) -> None:
    code = "import sys; print(__import__('json').dumps(sorted(sys.modules)))"
    environment = environments["wheel"]
    with altered(environment.site / "_anomalib_nagl_hook.py", "def install(): pass\n"):
        without = environment.report(code)
    assert environment.report(code) == without


@pytest.mark.parametrize("value", ["0", "false", "No", " OFF "])
def test_the_switch(environments: Environments, value: str) -> None:
    code = "import json, sys; print(json.dumps([type(finder).__name__ for finder in sys.meta_path]))"
    environment = environments["wheel"]
    assert "_Finder" not in environment.report(code, ANOMALIB_NAGL_AUTOLOAD=value)
    assert "_Finder" in environment.report(code, ANOMALIB_NAGL_AUTOLOAD="1")


def test_importing_the_package_imports_nothing_heavy(environments: Environments) -> None:
    code = """
import json, sys
import anomalib_nagl
heavy = [name for name in ("torch", "anomalib", "lightning", "numpy", "openvino") if name in sys.modules]
try:
    anomalib_nagl.nonsense
except AttributeError as error:
    message = str(error)
print(json.dumps([heavy, anomalib_nagl.__all__, sorted(anomalib_nagl._HOMES), dir(anomalib_nagl), message]))
"""
    heavy, public, lazy, listed, message = environments["wheel"].report(code)
    assert heavy == []
    assert set(public) == PUBLIC == {*lazy, "__version__", "register"}
    assert set(listed) >= PUBLIC
    assert message == "module 'anomalib_nagl' has no attribute 'nonsense'"


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing(environments: Environments, tmp_path: Path, kind: str) -> None:
    environment = make_environment(tmp_path / kind, environments.requirement(kind))
    assert all((environment.site / part).exists() for part in PARTS)
    environment.run("import _anomalib_nagl_hook")  # leaves a compiled copy behind
    environment.pip("uninstall", "--yes", "--quiet", "anomalib-nagl")
    left = {path.name for path in environment.site.rglob("*") if path.is_file()}
    assert left == {"zz_borrowed.pth"}
