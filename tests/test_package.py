"""What is shipped: the wheel, the public names, the typing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import baton

ROOT = Path(__file__).resolve().parent.parent

PLANTED = (
    "baton/templates/baton/planted.html",
    "baton/static/baton/css/planted.css",
    "baton/static/baton/js/planted.js",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel is built from, with a file of each kind that a build could forget."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "baton", tree / "baton", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    for name in PLANTED:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path) -> zipfile.ZipFile:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=tree,
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile, tree: Path) -> None:
    files = {str(path.relative_to(tree)) for path in (tree / "baton").rglob("*") if path.is_file()}

    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert shipped == files


@pytest.mark.parametrize(
    "name",
    ["baton/py.typed", "baton/migrations/0001_initial.py", "baton/management/commands/baton_sweep.py", *PLANTED],
)
def test_wheel_holds_more_than_the_modules(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_wheel_names_its_licence_and_its_two_requirements(wheel: zipfile.ZipFile) -> None:
    (metadata_name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))

    metadata = wheel.read(metadata_name).decode().splitlines()

    assert "Name: baton-workflows" in metadata
    assert f"Version: {baton.__version__}" in metadata
    assert "License-Expression: MIT" in metadata
    required = [line for line in metadata if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required == ["Requires-Dist: django-q2>=1.11", "Requires-Dist: django>=5.2"]


@pytest.mark.parametrize("name", baton.__all__)
def test_public_name_resolves(name: str) -> None:
    found = getattr(baton, name)

    assert found.__module__.startswith("baton.")
    assert getattr(import_module(found.__module__), name) is found


def test_public_names_are_listed() -> None:
    assert set(baton.__all__) <= set(dir(baton))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        baton.nonsense  # noqa: B018

    assert str(caught.value) == "module 'baton' has no attribute 'nonsense'"


def test_package_imports_before_django_is_set_up(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, baton; print(baton.__version__, 'django' in sys.modules)"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
        env={},
    )

    assert done.stdout.split() == [baton.__version__, "False"]
