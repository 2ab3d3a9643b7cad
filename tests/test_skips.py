"""What `--no-unexpected-skips` makes of tests that are skipped."""
import torch

pytest_plugins = ["pytester"]

TESTS = """
import pytest
import torch

@pytest.mark.gpu
def test_on_a_gpu():
    torch.ones(1, device="cuda")

def test_on_sample_data():
    pytest.skip("no sample data in /shared")

def test_against_a_peer():
    pytest.importorskip("no_such_package")

@pytest.mark.skipif(True, reason="no browser")
def test_in_a_browser():
    pass

@pytest.mark.xfail
def test_that_is_known_to_fail():
    assert False
"""


def test_only_a_missing_gpu_and_missing_sample_data_may_be_skipped_for(pytester, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pytester.makeconftest("from skips import *")
    pytester.makepyfile(TESTS)
    assert pytester.runpytest().parseoutcomes() == {"skipped": 4, "xfailed": 1}
    strictly = pytester.runpytest("--no-unexpected-skips")
    assert strictly.parseoutcomes() == {"skipped": 2, "failed": 1, "errors": 1, "xfailed": 1}
    strictly.stdout.fnmatch_lines(["*skipped, which was not expected: no browser*"])


def test_a_file_that_is_skipped_as_a_whole_counts_too(pytester):
    pytester.makeconftest("from skips import *")
    pytester.makepyfile("import pytest\npytest.importorskip('no_such_package')\ndef test_nothing():\n    pass")
    assert pytester.runpytest().parseoutcomes() == {"skipped": 1}
    assert pytester.runpytest("--no-unexpected-skips").parseoutcomes() == {"errors": 1}
