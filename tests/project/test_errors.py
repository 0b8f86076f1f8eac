"""The text of errors."""

from __future__ import annotations

import inspect
import pickle

import pytest

from tilewright import errors
from tilewright.errors import CheckFailed, ModelFileError, TilewrightError, UnsupportedError

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, TilewrightError) and value is not TilewrightError
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_documented_and_has_an_exit_code(kind):
    assert inspect.getdoc(kind)
    assert kind.exit_code == (1 if kind is CheckFailed else 2)
    error = kind("something is wrong")
    assert str(error) == "something is wrong"
    assert isinstance(error, TilewrightError)


def test_location_and_hint_follow_the_message():
    error = ModelFileError("the file is empty", location="a.onnx", hint="export it again")
    assert str(error) == "the file is empty\n  at: a.onnx\n  hint: export it again"


def test_unsupported_things_are_listed_between_message_and_hint():
    error = UnsupportedError("2 things are not supported", ["Foo (3 nodes)", "Bar (1 node)"], hint="see ops")
    assert str(error).splitlines() == [
        "2 things are not supported",
        "  - Foo (3 nodes)",
        "  - Bar (1 node)",
        "  hint: see ops",
    ]


def test_errors_survive_a_trip_between_processes():
    error = ModelFileError("the file is empty", location="a.onnx", hint="export it again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
