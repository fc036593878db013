"""The guest's side of the lab tier: a pytest plugin that writes each report as a JSON line to a descriptor.

Lines: {"start": nodeid}, {"report": pytest's own serialization}, {"finish": nodeid}. Standard output and
error stay the tests' and pytest's own.
"""

from __future__ import annotations

import json
import os

import pytest

DESCRIPTOR = 3


class Reporter:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stream = os.fdopen(os.dup(DESCRIPTOR), "w", encoding="utf-8")    # dup: close-on-exec

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write(finish=nodeid)

    def pytest_unconfigure(self) -> None:
        self._stream.close()

    def _write(self, **message: object) -> None:
        # default=repr: user properties and the like may hold what JSON has no form for
        self._stream.write(json.dumps(message, default=repr) + "\n")
        self._stream.flush()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reporter(config), "lab-reporter")
