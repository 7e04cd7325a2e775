"""Every registered sink in memory, by the common suite; test_<name>.py runs the suite on the sink's server."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest

from include.bootstrap import SINKS
from include.errors import ConfigurationError
from include.memory_servers import MemoryServers
from tests.contract.probes import MemoryProbe
from tests.contract.sink_suite import ServerSinkSuite, SinkSuite, Subject


class TestInMemory(SinkSuite):
    """The adapters that a dry run uses."""

    @pytest.fixture(params=SINKS)
    def subject(self, request: pytest.FixtureRequest, unique: str) -> Iterator[Subject]:
        """Each registered sink on a memory:// address, empty."""
        name: str = request.param
        spec, servers = SINKS[name], MemoryServers()
        with closing(servers.open_sink(name, spec.needs, spec.needs_vectors)) as sink:
            yield Subject(sink, MemoryProbe(lambda: servers.rows(name)), unique, spec)


@pytest.mark.parametrize("name", SINKS)
def test_every_sink_is_tested_on_its_server(name: str) -> None:
    """A registered sink has test_<name>.py next to this file, with the suite on a real server."""
    assert Path(__file__).with_name(f"test_{name}.py").exists()
    module = import_module(f"tests.contract.test_{name}")
    suites = [each for _, each in inspect.getmembers(module, inspect.isclass) if issubclass(each, ServerSinkSuite)]
    assert [suite for suite in suites if suite is not ServerSinkSuite]


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_is_called_like_its_registration(name: str) -> None:
    """The name in the registry, the module and the adapter's own name are the same."""
    module = import_module(f"include.sinks.{name}")
    classes = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    assert [getattr(each, "name", None) for each in classes if each.__name__.endswith("Sink")] == [name]


def test_an_unknown_sink_is_an_error() -> None:
    """The error names the sink and lists the registered ones; no other sink takes its place."""
    from include.bootstrap import open_sink
    from include.settings import EnvironmentSettings

    with pytest.raises(ConfigurationError, match=rf"unknown sink 'kafka'; .*: {', '.join(SINKS)}$"):
        open_sink("kafka", EnvironmentSettings({}))
