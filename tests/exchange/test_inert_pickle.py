"""The machine that reads pickles as data: equal to Python's own on plain data, inert and bounded on everything else."""
import pickle
import random
import time

import pytest
from foreign_files import Call

from framealign.exchange.inert_pickle import Cursor, Inert, Machine, Name, mapping


def admit_all(name: str) -> None:
    """Any name may stand in the pickle: it stays inert."""


def load(data: bytes, **options) -> object:
    return Machine(Cursor(data), admit_all, **options).load()


PLAIN = {"none": None, "flags": [True, False], "whole": [0, -1, 255, 65_536, -2 ** 31, 2 ** 200, -2 ** 70],
         "floats": [0.0, -1.5, 1e300], "text": "ä€\n\\ü" * 50, "bytes": b"\x00\xff" * 200, "long": "x" * 70_000,
         "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "nested": [{"a": [{}]}] * 3, 3: 4, True: 5, None: 6}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_equals_pythons_own_reader(protocol):
    """Protocols below 3 write bytes as a call of _codecs.encode, which stays inert."""
    plain = {key: value for key, value in PLAIN.items() if key != "bytes" or protocol > 2}
    assert load(pickle.dumps(plain, protocol)) == plain


@pytest.mark.parametrize("protocol", (0, 1))
def test_text_protocols(protocol):
    plain = {key: value for key, value in PLAIN.items() if key != "bytes"}
    assert load(pickle.dumps(plain, protocol)) == plain


def test_one_pickle_after_another():
    cursor = Cursor(pickle.dumps([1]) + pickle.dumps({"a": 2}) + b"rest")
    machine = Machine(cursor, admit_all)
    assert [machine.load(), machine.load()] == [[1], {"a": 2}]
    assert cursor.read(100) == b"rest" and cursor.read(100) == b""


@pytest.mark.parametrize("protocol", range(6))
def test_objects_stay_inert(protocol):
    """Class, arguments, state and items of an object are kept by name; the class is not imported."""
    import collections
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    assert mapping(load(pickle.dumps(ordered, protocol))) == ordered
    assert mapping(load(pickle.dumps(collections.defaultdict(list, {"a": [1]}), protocol))) == {"a": [1]}
    import argparse
    found = load(pickle.dumps(argparse.Namespace(x=1), protocol))
    assert isinstance(found, Inert) and found.name == "argparse.Namespace" and found.state == {"x": 1}
    assert load(pickle.dumps(print, protocol)) == Name("builtins.print") and mapping(3) == {}


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_called(protocol, tmp_path):
    import os
    marker = tmp_path / "executed"
    for call in (Call(os.mkdir, str(marker)), Call(eval, f"__import__('os').mkdir({str(marker)!r})"),
                 Call(getattr, Call(os.mkdir, str(marker)), "x")):
        found = load(pickle.dumps(call, protocol))
        assert isinstance(found, Inert) and found.name.split(".")[-1] in ("mkdir", "eval", "getattr")
    assert not marker.exists()


HOSTILE = {
    "empty": b"", "no STOP": b"\x80\x04]", "unknown opcode": b"\x00.", "stack underflow": b"R.", "no MARK": b"t.",
    "memo that is not there": b"h\x05.", "append to a number": b"K\x01K\x02a.", "odd items": b"}(K\x01u.",
    "calling a number": b"K\x01)R.", "calling a call": b"cm\nn\n)R)R.", "arguments that are no tuple": b"cm\nn\n]R.",
    "state for a list": b"]}b.", "name from numbers": b"K\x01K\x02\x93.", "extension registry": b"\x82\x01.",
    "out-of-band buffer": b"\x97.", "long name": b"c" + b"m" * 500 + b"\nn\n.", "name of one word": b"cm",
    "whole number of 4 MB": b"\x8b\x00\x00\x40\x00" + b"\x7f" * (4 << 20) + b".",
    "8 EiB announced": b"\x8e" + b"\xff" * 7 + b"\x7f" + b"x.", "2 GiB announced": b"T\xff\xff\xff\x7fx.",
    "digits": b"I" + b"9" * 100_000 + b"\n.", "1e6 marks": b"(" * 1_000_000, "1e6 dicts": b"}" * 1_000_000}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_streams_are_refused_at_once(name):
    start = time.monotonic()
    with pytest.raises(ValueError):
        load(HOSTILE[name])
    assert time.monotonic() - start < 2


def test_depth_shared_structure_and_crafted_keys_cost_nothing():
    """50,000 nested lists; 2^500 leaves by reference as a key; 20,000 whole numbers that all hash alike."""
    start = time.monotonic()
    assert load(b"]" * 40_000 + b"a" * 39_999 + b".") != []
    doubling = b"K\x01" + b"2\x86" * 500           # DUP, TUPLE2
    assert load(b"}" + doubling + b"K\x01s.")
    colliding = b"".join(b"\x8a\x20" + ((2 ** 61 - 1) * i).to_bytes(32, "little") + b"N" for i in range(1, 20_000))
    assert len(load(b"}(" + colliding + b"u.")) == 19_999
    assert time.monotonic() - start < 2


def test_mutated_pickles_give_a_value_or_a_value_error():
    generator = random.Random(0)
    originals = [pickle.dumps(PLAIN, protocol) for protocol in range(6)]
    originals += [pickle.dumps([Call(print, 1), {"a": Call(eval, "1")}], protocol) for protocol in range(6)]
    for turn in range(600):
        data = bytearray(originals[turn % len(originals)])
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            load(bytes(data[:generator.randint(1, len(data))] if turn % 3 == 0 else data))
        except ValueError:
            pass
