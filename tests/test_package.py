"""What is shipped: the wheel, the public names, the typing."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import baton


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    root = Path(__file__).resolve().parent.parent
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile, repository: Path) -> None:
    files = {
        str(path.relative_to(repository))
        for path in (repository / "baton").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert shipped == files


@pytest.mark.parametrize(
    "pattern",
    [
        "baton/py.typed",
        "baton/migrations/0001_*.py",
        "baton/management/commands/baton_sweep.py",
        "baton/templates/*.html",
        "baton/static/*.css",
    ],
)
def test_wheel_holds_more_than_modules(wheel: zipfile.ZipFile, pattern: str) -> None:
    assert fnmatch.filter(wheel.namelist(), pattern)


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
