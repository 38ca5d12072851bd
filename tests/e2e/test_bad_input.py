"""What a person can do wrong: one clear line, an exit code, no traceback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.agent import COMMAND
from tests.e2e.command_runs import CONFIG, FAILURE, USAGE, refused, run, without, write


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "agent.yaml"


@pytest.mark.parametrize("command", ["agent", "validate"])
@pytest.mark.parametrize(
    ("receivers", "said"),
    [
        (
            "flows: {max_flow: 1000}",
            "receivers.flows.max_flow: unknown key ({config}:2). "
            "Did you mean 'receivers.flows.max_flows'?",
        ),
        (
            "flows: {max_flows: many}",
            "receivers.flows.max_flows: 'many' given, expected a valid integer, "
            "unable to parse string as an integer ({config}:2)",
        ),
        (
            "flow: {}",
            "receivers.flow: there is no receiver of type 'flow' ({config}:2). "
            "Did you mean 'flows'?",
        ),
        (
            "flows: {max_flows: '${env:NO_SUCH_LIMIT}'}",
            "receivers.flows.max_flows: {config}:2: environment variable NO_SUCH_LIMIT is not set. "
            "Set NO_SUCH_LIMIT, or give a default: ${env:NO_SUCH_LIMIT:-value}.",
        ),
        (
            "flows: {max_flows: ${env:NO_SUCH_LIMIT}}",
            "{config} is not valid YAML: line 2, column 33: expected ',' or '}', but got '{'. "
            "Inside { } or [ ], put quotes around ${env:NAME}.",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_key_and_line(
    config: Path, command: str, receivers: str, said: str
) -> None:
    write(config, receivers=receivers)
    line = refused(command, "--config", str(config), code=CONFIG)
    assert line == said.replace("{config}", str(config))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "service: required, but not set ({config}). Set service."),
        (b"7", "{config} holds a number, expected a mapping. Its keys are "
         "receivers, processors, exporters, extensions and service."),
        (b"\xff\xfe\x00", "{config} is not UTF-8 text. Save it as UTF-8."),
        (b"a: [1\n", "{config} is not valid YAML: line 2, column 1: expected ',' or ']', but got "
         "'<stream end>'. Check indentation and quotes there."),
        (b"[" * 5000, "{config} is nested too deeply. Flatten it."),
    ],
    ids=["empty", "a number", "not text", "not YAML", "nested"],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_told_as_such(
    config: Path, content: bytes, said: str
) -> None:
    config.write_bytes(content)
    line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == said.replace("{config}", str(config))


def test_a_file_that_cannot_be_read_is_named(config: Path, tmp_path: Path) -> None:
    remedy = "Check the path and its permissions."
    line = refused("agent", "--config", str(config), code=CONFIG)
    assert line == f"{config} can't be read: no such file or directory. {remedy}"
    line = refused("agent", "--config", str(tmp_path), code=CONFIG)
    assert line == f"{tmp_path} can't be read: is a directory. {remedy}"
    write(config).chmod(0)
    around = without("dac_override", "dac_read_search")
    line = refused("agent", "--config", str(config), around=around, code=CONFIG)
    assert line == f"{config} can't be read: permission denied. {remedy}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agnet"], "Error: No such command 'agnet'. Did you mean 'agent'?"),
        (["agent", "--confg", "x"], "Error: No such option '--confg'. Did you mean '--config'?"),
        (["demo", "--duration", "soon"], "Error: --duration: 'soon' is not a duration: "
         'write number and unit, as "15s" or "500ms"'),
        (["version", "now"], "Error: Got unexpected extra argument (now)"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_gets_the_nearest_name(arguments: list[str], said: str) -> None:
    assert run(*arguments, code=USAGE)[-1] == said


@pytest.mark.parametrize("command", ["schema", "version", "components", "--help"])
def test_output_that_cannot_be_written_is_one_line(command: str) -> None:
    line = refused(command, around=["sh", "-c", '"$@" > /dev/full', "sh"], code=FAILURE)
    assert line == ("No space left on device. `retina-otel --verbose COMMAND` shows what failed.")


def test_an_unforeseen_error_is_one_line_and_a_traceback_only_when_asked_for() -> None:
    # A descriptor that is no terminal, no file and no pipe to write to: stdout closed for writing.
    around = ["sh", "-c", '"$@" 1< /dev/null', "sh"]
    line = refused("schema", around=around, code=FAILURE)
    assert line == "Bad file descriptor. `retina-otel --verbose COMMAND` shows what failed."
    done = subprocess.run(
        [*around, COMMAND, "--verbose", "schema"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.startswith("Traceback")) == (FAILURE, True)
