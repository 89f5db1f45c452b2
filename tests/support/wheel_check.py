"""A wheel looked at before it is given away, and the commands of the README run with nothing but that wheel.

``PYTHONPATH=tests python -m support.wheel_check dist/*.whl`` says what is wrong, and ends with 1 then. It makes a
virtual environment, installs the wheel with all that it requires (from a network, or pip's cache), and works in
a folder that knows nothing of a clone; trainings there take the backbone that is in the wheel.
"""

from __future__ import annotations

import email
import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

from support.places import ROOT

LARGEST = 4_000_000  # bytes of the wheel
ENDINGS = (".py", ".typed", ".yaml", ".csv", ".safetensors", ".pth", ".start", ".html", ".css", ".js", ".json", ".svg")
TOP = ("anomalib_nagl/", "_anomalib_nagl_hook.py", "anomalib_nagl.pth", "anomalib_nagl.start")
HEADERS = ("Name", "Version", "Summary", "Requires-Python", "License-Expression", "Description-Content-Type")
FILES = ("py.typed", "cli.py", "configs/own_parts.yaml", "configs/evaluate/real_small.yaml")
# Of the README's commands, those that need no data set and no other clone.
COMMANDS = r"anomalib-nagl (inspect|train|references) |anomalib (train|predict|export) "


def problems(wheel: Path) -> Iterator[str]:
    """What is wrong with a wheel: contents, metadata, licences of what is bundled, size."""
    if (size := wheel.stat().st_size) > LARGEST:
        yield f"it has {size} bytes, expected at most {LARGEST}"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        own = [name for name in names if ".dist-info/" not in name]
        yield from (f"it holds {name}, which nothing reads" for name in own if not name.endswith(ENDINGS))
        yield from (f"it holds {name} outside the package" for name in own if not name.startswith(TOP))
        yield from (f"it lacks anomalib_nagl/{name}" for name in FILES if f"anomalib_nagl/{name}" not in names)
        there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "anomalib_nagl").rglob("*.py")}
        yield from (f"it lacks {name}" for name in sorted(there - set(names)))
        texts = {name.rpartition("/")[2]: archive.read(name).decode() for name in names if ".dist-info/" in name}
        yield from _metadata_problems(texts["METADATA"])
        for name in ("LICENSE", "NOTICE"):
            if texts.get(name) != (ROOT / name).read_text(encoding="utf-8"):
                yield f"its {name} is not that of the repository"
        for name in own:
            if name.endswith(".safetensors") and name not in texts.get("NOTICE", ""):
                yield f"it holds the weights {name}, of which NOTICE does not say whence they are"


def _metadata_problems(text: str) -> Iterator[str]:
    found = email.message_from_string(text)
    yield from (f"its metadata have no {name}" for name in HEADERS if not found.get(name))
    if found["License-Expression"] != "Apache-2.0":
        yield f"its licence is {found['License-Expression']}, expected Apache-2.0"
    needed = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
    if not any(re.fullmatch(r"anomalib\[openvino\]\s*<2\.8,>=2\.7", line) for line in needed):
        yield f"it requires {', '.join(needed)}, expected anomalib[openvino]>=2.7,<2.8 among them"
    extras = set(found.get_all("Provides-Extra", []))
    yield from (f"it has no extra {name}" for name in {"cluster", "docs", "test"} - extras)


def readme_commands() -> list[list[str]]:
    """Commands of the README's blocks that a person with their own pictures types, without comments."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(COMMANDS, line)]


def lay_out(python: Path, folder: Path) -> None:
    """Draw what the README speaks of, with the package itself: ``my_part`` and ``new_pictures``."""
    code = """
import shutil
from pathlib import Path
from anomalib_nagl.rendered.render import render_category
render_category(Path("drawn"), "plug", 0)
plug = Path("drawn/plug")
for place in ("my_part/good", "my_part/defects", "my_part/masks", "new_pictures"):
    Path(place).mkdir(parents=True)
for path in sorted((plug / "train/good").iterdir())[:4]:
    shutil.copy(path, "my_part/good")
shutil.copy(plug / "test/spot/000.png", "my_part/defects/spot.png")
shutil.copy(plug / "ground_truth/spot/000_mask.png", "my_part/masks/spot.png")
for kind in ("good", "spot"):
    shutil.copy(plug / f"test/{kind}/001.png", f"new_pictures/{kind}.png")
"""
    subprocess.run([python, "-c", code], cwd=folder, check=True, env=_alone())


def _alone() -> dict[str, str]:
    """The environment without paths to a clone."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run_readme(scripts: Path, folder: Path) -> Iterator[str]:
    """Run the README's commands with the programs in ``scripts``; yields those that fail, with what they said."""
    lay_out(scripts / "python", folder)
    place = "import anomalib_nagl, pathlib; print(pathlib.Path(anomalib_nagl.__file__).parent / 'configs')"
    said = {"cwd": folder, "capture_output": True, "text": True, "env": _alone()}
    configs = subprocess.run([scripts / "python", "-c", place], check=True, **said)
    for words in readme_commands():
        # Configurations lie in the package; a clone has them in a folder.
        words = [re.sub(r"^configs(?=/\w+\.yaml$)", configs.stdout.strip(), word) for word in words]
        words += ["--model.backbone", "builtin"] if "train" in words else []  # the only one that is in the wheel
        done = subprocess.run([scripts / words[0], *words[1:]], check=False, **said)
        print(f"{' '.join(words)}: {done.returncode}", flush=True)
        if done.returncode:
            yield f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}"


def main(wheel: Path) -> int:
    """Check a wheel, install it alone, and run the README's commands; returns 1 where something is wrong."""
    found = list(problems(wheel))
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel], capture_output=True, text=True)
    found += [done.stdout + done.stderr] if done.returncode else []
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {len(found)} problems: {found}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
        subprocess.run([scripts / "python", "-m", "pip", "install", "-q", wheel.resolve()], check=True)
        work = Path(folder) / "work"
        work.mkdir()
        found += run_readme(scripts, work)
    for problem in found:
        print(f"{wheel.name}: {problem}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
