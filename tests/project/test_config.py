"""Options: defaults, environment, overrides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tilewright import config
from tilewright.config import Options
from tilewright.errors import OptionError


def test_environment_overrides_defaults_and_arguments_override_both():
    environ = {"TILEWRIGHT_JOBS": "3", "TILEWRIGHT_CACHE_DIR": "/somewhere", "TILEWRIGHT_DEBUG": "yes"}
    options = Options.from_environment(environ)
    assert (options.jobs, options.cache_dir, options.debug, options.cache) == (
        3,
        Path("/somewhere"),
        True,
        True,
    )
    assert Options.from_environment(environ, jobs=5, debug=False).jobs == 5
    assert Options.from_environment(environ, jobs=None, debug=False).debug is False
    assert Options.from_environment({"TILEWRIGHT_CACHE": "0"}).cache is False
    assert Options.from_environment({}).jobs >= 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TILEWRIGHT_JOBS", "0"),
        ("TILEWRIGHT_JOBS", "many"),
        ("TILEWRIGHT_DEBUG", "perhaps"),
        ("TILEWRIGHT_CACHE_DIR", " "),
    ],
)
def test_bad_values_name_the_variable(variable, value):
    with pytest.raises(OptionError, match=variable):
        Options.from_environment({variable: value})


def test_unknown_overrides_are_refused():
    with pytest.raises(OptionError, match="unknown options: speed"):
        Options.from_environment({}, speed=11)


def test_a_child_process_gets_the_same_options():
    options = Options(cache_dir=Path("/x"), jobs=7, cache=False, debug=True)
    assert Options.from_environment(options.environment()) == options


def test_every_option_is_documented_and_has_a_flag_and_a_variable():
    fields = dataclasses.fields(Options)
    assert len(Options.flags()) == len(fields)
    for field in fields:
        assert field.metadata["help"].endswith(".")
        assert field.metadata["env"].startswith("TILEWRIGHT_")
        assert f"{field.name}:" in (Options.__doc__ or "")


def test_overriding_ends_with_its_block():
    before = config.options()

    def fails_inside():
        with config.overriding(jobs=99):
            assert config.options().jobs == 99
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_inside()
    assert config.options() == before


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.options().jobs = 2  # type: ignore[misc]
