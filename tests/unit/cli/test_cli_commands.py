"""The commands that need no kernel: what they print, how they end, what they do not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from retina_otel import __version__
from retina_otel.cli import app
from retina_otel.cli.exit_codes import MEANING, ExitCode, exit_code
from retina_otel.errors import ConfigError, DeliveryError, KernelError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app.command, list(arguments), prog_name=app.PROGRAM)


def ends(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the real command."""
    done = subprocess.run(
        [sys.executable, "-m", "retina_otel", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_version_is_one_line_or_json() -> None:
    assert invoke("version").output == f"retina-otel {__version__}\n"
    assert invoke("--version").output == f"retina-otel {__version__}\n"
    assert json.loads(invoke("version", "--json").output)["version"] == __version__


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['retina-otel', 'version']\n"
        "from retina_otel.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pydantic', 'yaml', 'rich', 'opentelemetry', 'urllib3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_validate_imports_no_component_that_is_not_named(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(
        "receivers: {interfaces: {}}\nexporters: {debug: {}}\n"
        "service: {pipelines: {metrics: {receivers: [interfaces], exporters: [debug]}}}\n"
    )
    code = (
        f"import sys; sys.argv = ['retina-otel', 'validate', '--config', {str(config)!r}]\n"
        "from retina_otel.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "print(sorted(m for m in sys.modules if m.startswith(('retina_otel.receivers.',\n"
        "    'retina_otel.exporters.', 'retina_otel.kernel', 'opentelemetry'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{config} is valid (pipelines: metrics)",
        "0",
        "['retina_otel.exporters.debug', 'retina_otel.receivers.interfaces']",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agnt"], "No such command 'agnt'. Did you mean 'agent'?"),
        (["xyz"], "No such command 'xyz'. Commands: agent, validate, components,"),
        (["agent", "--confg", "x"], "Did you mean '--config'?"),
        (["validate", "--set"], "Option '--set' requires an argument."),
        (["validate", "agent.yaml"], "Got unexpected extra argument (agent.yaml). Files are given "
         "by --config."),
        (["version", "now"], "Got unexpected extra argument (now)\n"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'."),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2_and_a_hint(arguments: list[str], said: str) -> None:
    code, error = ends(*arguments)
    assert code == ExitCode.USAGE
    assert said in error


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert re.search(rf"^ +(sudo |[A-Z_]+=\S+ |source <\()?retina-otel {name}", result.output, re.M)


def test_list_of_commands_says_what_each_does() -> None:
    output = invoke("--help").output
    for name, (_, brief) in app.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(brief)}$", output, re.M)


def test_validate_without_a_file_checks_the_built_in_default() -> None:
    result = invoke("validate")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("built-in default is valid")


def test_built_in_default_pushes_otlp_only_when_an_endpoint_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from retina_otel.config.load import load
    from retina_otel.config.registry import Registry

    registry = Registry.installed()
    bare = load(registry, path=None, environment={})
    assert list(bare.exporters) == ["prometheus"]
    assert bare.exporters["prometheus"].settings.model_dump()["endpoint"] == "127.0.0.1:10093"
    assert sorted(bare.receivers) == ["drops", "flows", "interfaces"]
    assert list(bare.service.pipelines) == ["metrics"]
    pushed = load(registry, path=None, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
    assert sorted(pushed.exporters) == ["otlp_http", "prometheus"]
    assert pushed.service.pipelines["metrics"].processors == ["identity"]
    assert pushed.service.pipelines["logs"].exporters == ["otlp_http"]


@pytest.mark.parametrize("signal", ["metrics", "logs"])
def test_built_in_default_pushes_only_the_signal_whose_endpoint_is_named(signal: str) -> None:
    from retina_otel.config.load import load
    from retina_otel.config.registry import Registry

    variables = {f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT": "http://c:4318/x"}
    pipelines = load(Registry.installed(), path=None, environment=variables).service.pipelines
    expected = {"metrics": ["prometheus"]}
    expected[signal] = [*expected.get(signal, []), "otlp_http"]
    assert {name: one.exporters for name, one in pipelines.items()} == expected


def test_schema_is_json() -> None:
    assert json.loads(invoke("schema").output)["title"] == "Configuration of retina-otel"


@pytest.mark.parametrize("shell", ["zsh", "fish", "bash"])
def test_completion_is_a_script_for_the_shell(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert f"_RETINA_OTEL_COMPLETE={shell}_complete" in result.output


def test_completion_offers_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from retina_otel.cli import main; main()"],
        env={
            "_RETINA_OTEL_COMPLETE": "bash_complete",
            "COMP_WORDS": "retina-otel va",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,validate\n"


def test_each_error_has_its_exit_code() -> None:
    assert exit_code(ConfigError("x")) is ExitCode.CONFIG
    assert exit_code(KernelError("bpf", 1)) is ExitCode.KERNEL
    assert exit_code(KernelError("bpf", 12)) is ExitCode.FAILURE
    assert exit_code(DeliveryError("x")) is ExitCode.FAILURE
    assert set(MEANING) == set(ExitCode)


def test_colours_are_for_terminals_only() -> None:
    assert "\x1b" not in invoke("components").output
    assert "\x1b" not in ends("validate", "--config", "/nowhere")[1]
