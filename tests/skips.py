"""Tests that are skipped: those marked `gpu` where there is none.

With `--no-unexpected-skips` a skip for want of what could be installed is a failure.

These are pytest's hooks; conftest.py takes them in.
"""
from collections.abc import Iterator

import pytest
import torch

EXPECTED = ("no CUDA device", "no sample data in ")     # how the reasons of expected skips begin


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-unexpected-skips", action="store_true",
                     help="a skip is a failure, unless a GPU or the sample data are missing: nothing else may be")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    return fail_unexpected_skip(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    return fail_unexpected_skip(report, collector.config)


def fail_unexpected_skip(report, config: pytest.Config):
    """The report of a test or of a whole file; of a skip that is not expected, if that was asked for, a failure."""
    if not config.getoption("no_unexpected_skips") or not report.skipped or hasattr(report, "wasxfail"):
        return report
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(EXPECTED):
        report.outcome, report.longrepr = "failed", f"{path}:{line}: skipped, which was not expected: {reason}"
    return report
