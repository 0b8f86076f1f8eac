"""What the documents say is there."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from benchmarks import zoo
from tilewright.cli.app import app
from tilewright.config import Options

ROOT = Path(__file__).parents[2]
CLI = (ROOT / "docs" / "cli.md").read_text()
#: Flags that are left out of a command's row because the text below explains them or their name says it all.
SHORT = {"--help", "--output", "--locate", "--cache"}


def test_every_command_and_its_flags_are_documented():
    rows = {row.split()[1].strip("`"): row for row in CLI.splitlines() if row.startswith("| `")}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
        for flag in flags - SHORT:
            assert flag in rows[name], f"{name} {flag}"


def test_every_option_is_documented_with_its_variable():
    for flag, field in Options.flags().items():
        row = next(row for row in CLI.splitlines() if row.startswith(f"| `{flag}"))
        assert field.metadata["env"] in row


def test_every_zoo_model_is_documented_with_its_shapes():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for key, model in zoo.MODELS.items():
        row = next(row for row in text.splitlines() if row.startswith(f"| `{key}`"))
        assert f"{model.wheel.name} {model.wheel.version}" in row
        for shapes in model.shapes:
            for name, shape in shapes.items():
                assert f"`{name}={','.join(map(str, shape))}`" in row


def test_links_between_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
