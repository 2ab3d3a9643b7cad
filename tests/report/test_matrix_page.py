"""The page of the cross-corpus matrix: every number in it, darker where it is better, nothing loaded from elsewhere."""
import re

import pytest

from framealign.report import matrix_page


def one(ua, own=False, eder=None, **more):
    """A cell as `evaluation.mean_scores` gives it."""
    return {"ua": ua, "interval_95": {"ua": [ua - 0.1, ua + 0.1]}, "num_utterances": 60, "interval_over": "6 speakers",
            "sides": 1 if own else 3, "own_corpus": own, "classes": ["neutral", "happy", "angry", "sad"],
            "left_out": {"labels": {}, "unlabelled": 0, "known": 0, "unreadable": {}}, "absent_classes": {}, "none": {},
            "degrade": "",
            "shared_classes": False, "same_speakers": {"speakers": [], "utterances": 0, "same_names": 0},
            "training_known": "utterances and speakers",
            "over_time": None if eder is None else {"eder": eder, "always_neutral": 0.7}} | more


@pytest.fixture
def matrix():
    cells = {"a<b": {"x": one(0.75, own=True, eder=0.2), "y": one(0.4)},
             "c": {"x": one(0.35, eder=0.6), "y": {"error": "y.tsv: no such file"}}}
    return {"rows": {"a<b": "runs/a<b", "c": "runs/c"}, "columns": {"x": "x.tsv", "y": "y.tsv"}, "cells": cells}


def shades(page):
    """How dark each cell is, by the number in it."""
    found = re.findall(r'rgba\(var\(--share\),([\d.]+)\)[^>]*>([\d.]+\*?)<', page)
    return {number: float(alpha) for alpha, number in found}


def test_every_number_is_there_and_the_better_is_darker(matrix):
    page = matrix_page.page(matrix)
    dark = shades(page)
    assert set(dark) == {"75.0*", "40.0", "35.0", "20.0*", "60.0"}
    assert dark["75.0*"] > dark["40.0"] > dark["35.0"] and dark["20.0*"] > dark["60.0"]
    assert "65.0 to 85.0; 60" in page and page.count("failed") == 2     # in its cell, and with its reason
    assert "c on y: failed: y.tsv: no such file" in page
    rows = re.findall(r"<tr>.*?</tr>", page)
    assert re.search(r"a&lt;b.*>40.0</td></tr>$", rows[1])      # the mean of others: x is its own
    assert re.search(r">c<.*>-</td></tr>$", rows[2])            # of x the truth about frames is known, y failed


def test_the_page_stands_alone(matrix):
    page = matrix_page.page(matrix)
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "a<b" not in page and "EmoBox" in page


def test_without_a_truth_there_is_no_eder(matrix):
    for of_row in matrix["cells"].values():
        of_row["x"]["over_time"] = None
    assert "EDER" not in matrix_page.page(matrix)


def test_where_every_cell_failed_the_page_says_so(matrix):
    cells = {name: {column: {"error": "gone"} for column in of_row} for name, of_row in matrix["cells"].items()}
    page = matrix_page.page(matrix | {"cells": cells})
    assert "all: failed: gone" in page and not shades(page)
