from __future__ import annotations

import importlib
import sys

import pytest

from baton import registry, step
from baton.exceptions import UnknownStepError
from tests import steps


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    for name in ("_steps", "_duplicates", "_failures"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Write modules that can be imported; they are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(name: str, text: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(name)
        importlib.invalidate_caches()

    yield write
    for name in [known for known in sys.modules if any(known == name.split(".")[0] for name in written)] + written:
        sys.modules.pop(name, None)


STEP = "from baton import step\n\n@step\ndef body(ctx):\n    return 1\n"


def test_steps_of_installed_apps_are_known_without_an_import():
    assert registry.find_step("tests.steps.nothing") is steps.nothing
    assert steps.nothing in registry.all_steps()


def test_step_elsewhere_is_imported_by_its_dotted_name_when_it_is_asked_for(modules):
    modules("baton_elsewhere.jobs", STEP)

    found = registry.find_step("baton_elsewhere.jobs.body")

    assert found.function(None) == 1


def test_step_in_a_class_is_found_by_its_qualified_name(modules):
    modules("baton_elsewhere", "class Jobs:\n    " + STEP.replace("\n", "\n    "))

    assert registry.find_step("baton_elsewhere.Jobs.body").function(None) == 1


def test_step_with_a_name_of_its_own_is_found_through_its_module(modules):
    modules("baton_elsewhere", "from baton import step\n\n@step(name='short')\ndef body(ctx):\n    return 3\n")

    assert registry.find_step("short", module="baton_elsewhere").function(None) == 3


@pytest.mark.parametrize("name", ["nowhere", "nowhere.at.all", "tests.steps.nope", "", ".", "a..b", "os.path"])
def test_unknown_name_is_told_with_what_to_do(name):
    with pytest.raises(UnknownStepError) as refusal:
        registry.find_step(name)

    assert refusal.value.name == name
    assert "keep the old name with @step(name=...)" in str(refusal.value)


def test_error_of_the_module_is_told(modules):
    modules("baton_broken", "raise OSError('no disk')\n")

    with pytest.raises(UnknownStepError, match="importing baton_broken raised OSError: no disk"):
        registry.find_step("baton_broken.body")


def test_two_functions_of_one_name_are_noted_with_their_places():
    @step(name="same")
    def one(ctx):
        pass

    @step(name="same")
    def two(ctx):
        pass

    assert registry.duplicates() == {"same": [one.path, two.path]}


def test_module_that_is_imported_again_replaces_its_own_steps(modules):
    modules("baton_elsewhere", STEP)
    first = importlib.import_module("baton_elsewhere").body
    del sys.modules["baton_elsewhere"]

    second = importlib.import_module("baton_elsewhere").body

    assert second is not first
    assert registry.find_step("baton_elsewhere.body") is second
    assert registry.duplicates() == {}


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit", "import nowhere_at_all", "def"])
def test_steps_module_of_an_app_that_fails_is_noted_and_harms_no_other(modules, monkeypatch, fault, caplog):
    from django.apps import AppConfig, apps

    modules("baton_faulty_app.__init__", "")
    modules("baton_faulty_app.steps", f"{fault}\n")
    modules("baton_good_app.__init__", "")
    modules("baton_good_app.steps", STEP)
    configs = [AppConfig.create("baton_faulty_app"), AppConfig.create("baton_good_app")]
    monkeypatch.setattr(apps, "app_configs", {config.label: config for config in configs})

    registry.autodiscover()

    assert list(registry.import_failures()) == ["baton_faulty_app.steps"]
    assert "baton_good_app.steps.body" in {each.name for each in registry.all_steps()}
    assert "baton_faulty_app.steps could not be imported" in caplog.text
