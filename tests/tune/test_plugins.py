"""Parts of the tuner from files."""

from __future__ import annotations

import pytest

from tests.tune.stored import TARGET
from tilewright.errors import OptionError
from tilewright.records import open_store
from tilewright.tune.models import Ignorance
from tilewright.tune.plugins import MODELS, find_strategy, load_plugin, make_measurer, make_model
from tilewright.tune.strategy import strategy_names

FILE = """
import numpy as np

from tilewright.cost.model import Prediction
from tilewright.tune import Proposal, register_measurer, register_model, register_strategy


@register_strategy("first-{n}")
class First:
    def propose(self, space, model, history, count, rng, threads):
        return [Proposal(p, "user") for p in history.fresh(space.sample(4 * count, rng), count)]


class Favourite:
    name = "favourite"

    def predict(self, sketch, rows, threads):
        return Prediction(np.zeros(len(rows)), np.ones(len(rows)))


@register_model("favourite-{n}")
def favourite(target, threads, store):
    return Favourite()


@register_measurer("fake-{n}")
def fake(target, threads):
    return "a measurer"
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace("{n}", tmp_path.name))
    return path


def test_a_file_brings_a_strategy_a_model_and_a_measurer(plugin, tmp_path):
    found = load_plugin(plugin)
    name = tmp_path.name
    assert (found.strategies, found.models, found.measurers) == (
        (f"first-{name}",),
        (f"favourite-{name}",),
        (f"fake-{name}",),
    )
    assert load_plugin(str(plugin)) is found
    assert f"first-{name}" in strategy_names()
    with open_store(tmp_path / "r.sqlite") as store:
        assert make_model(str(plugin), TARGET, 1, store).name == "favourite"
        assert make_model(f"favourite-{name}", TARGET, 1, store).name == "favourite"
    assert make_measurer(str(plugin), TARGET, 1) == "a measurer"
    assert type(find_strategy(str(plugin))).__name__ == "First"


def test_a_plugin_that_is_not_there():
    with pytest.raises(OptionError, match="there is no such plugin"):
        load_plugin("/nowhere/plugin.py")


def test_a_plugin_that_fails_says_how(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(OptionError, match="ZeroDivisionError: division by zero"):
        load_plugin(path)


def test_a_plugin_without_what_is_asked_of_it(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(OptionError, match="registers no strategy"):
        find_strategy(str(path))


def test_names_that_there_are_not(tmp_path):
    with (
        open_store(tmp_path / "r.sqlite") as store,
        pytest.raises(OptionError, match="no cost model 'oracle'"),
    ):
        make_model("oracle", TARGET, 1, store)
    with pytest.raises(OptionError, match="no measurer 'cloud'"):
        make_measurer("cloud", TARGET, 1)
    with pytest.raises(OptionError, match="no strategy 'luck'"):
        find_strategy("luck")


def test_a_name_is_given_once():
    with pytest.raises(OptionError, match="a cost model 'none' already"):
        MODELS.register("none")(lambda target, threads, store: Ignorance())
