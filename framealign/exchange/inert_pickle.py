"""Pickles read as data: nothing that a pickle names is ever imported, built or called.

A pickle is a program for a small stack machine. Python's own machine imports what the program names (GLOBAL) and calls
what it imported (REDUCE), which is how a "model file" runs `os.system`. The machine here runs the same opcodes of
protocols 0 to 5, decoded by the standard library's `pickletools`, but a name stays a `Name` and a call becomes an
`Inert` record of what the program asked for. The reader picks the arrays or tensors it understands out of that record.

Time and memory are bounded: every opcode costs one of `max_steps`, none allocates more than the file holds, sets are
lists and odd dictionary keys are compared by identity (so that crafted keys cannot collide).

Left out, and refused: the extension registry (EXT1, EXT2, EXT4) and out-of-band buffers.
"""
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap

_VALUES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8"))                   # the opcode's argument is the value
_CONSTANTS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
              "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": list}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}      # what protocols below 3 call these modules
_INT_BITS = 4096                                    # a longer whole number in a model file is an attack on arithmetic
_LINE_BYTES = 1 << 24                               # of one value that protocol 0 writes as text
_NAME_CHARACTERS = 400


class Name(str):
    """What a pickle refers to, "module.name": never imported."""


@dataclass(eq=False, repr=False)
class Inert:
    """One object as its pickle describes it; it was never built."""
    name: str                                       # of the class or function, "module.name"
    args: tuple = ()                                # what it was to be called with
    state: object = None                            # what it was to be restored from
    items: list = field(default_factory=list)       # what was to be appended; (key, value) pairs for a mapping
    payload: object = None                          # for the reader: bytes that follow the object in the file


class Cursor:
    """A place in `data`; reading moves it and gives at most what is left, whatever length is asked for."""

    def __init__(self, data: bytes | mmap, position: int = 0):
        self.data = data
        self.position = position

    def read(self, count: int) -> bytes:
        start = self.position
        self.position = min(len(self.data), start + count)
        return self.data[start:self.position]

    def readline(self) -> bytes:
        newline = self.data.find(b"\n", self.position, self.position + _LINE_BYTES)
        return self.read(newline + 1 - self.position if newline >= 0 else _LINE_BYTES)


class Machine:
    """Runs pickles from a stream; see the module's docstring.

    `admit(name)` raises ValueError for a name that the kind of file cannot hold. A format with more in it than pickles
    is a subclass with its own `built`.
    """

    def __init__(self, stream: Cursor, admit: Callable[[str], None], max_steps: int = 100_000):
        self.stream = stream
        self.admit = admit
        self.max_steps = max_steps
        self.steps_left = max_steps
        self.persistent: list[Inert] = []           # every persistent id met, in order
        self.stack: list = []
        self.marks: list[list] = []                 # the stacks below each MARK
        self.memo: dict = {}

    def built(self, inert: Inert) -> None:
        """Called after each BUILD, when `inert` is complete: here an override may read `stream` or `load` again."""

    def load(self) -> object:
        """The object of the next pickle in the stream, which is left behind it.

        Raises ValueError for anything but a well-formed pickle of admitted names, or one of too many steps.
        """
        outer = self.stack, self.marks, self.memo
        self.stack, self.marks, self.memo = [], [], {}
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                self.steps_left -= 1
                if self.steps_left < 0:
                    raise ValueError(f"its pickle takes more than {self.max_steps} steps")
                self._step(opcode.name, argument)
            return self.stack.pop()
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error,
                UnicodeError) as error:
            raise ValueError(f"not a well-formed pickle ({type(error).__name__})") from None
        finally:
            self.stack, self.marks, self.memo = outer

    def _step(self, name: str, argument: object) -> None:
        """Run one opcode."""
        if name in _VALUES:
            if type(argument) is int and argument.bit_length() > _INT_BITS:
                raise ValueError(f"its pickle holds a whole number of more than {_INT_BITS} bits")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self._pop(int(name[-1]))))
        elif name in _OPCODES:
            _OPCODES[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle uses {name}, which no model file needs")

    def _pop(self, count: int) -> list:
        """The top `count` values of the stack, removed."""
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        values = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return values

    def _pop_mark(self) -> list:
        """The values above the last MARK, removed with it."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def _mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop_one(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_mark()                        # POP of a MARK

    def _discard(self, _: object) -> None:
        self._pop_mark()

    def _duplicate(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self, _: object) -> None:
        values = self._pop_mark()
        self.stack.append(tuple(values))

    def _list(self, _: object) -> None:
        values = self._pop_mark()
        self.stack.append(values)

    def _dict(self, _: object) -> None:
        values = self._pop_mark()
        self.stack.append({})
        self._put_items(values)

    def _append(self, _: object) -> None:
        self._extend(self._pop(1))

    def _appends(self, _: object) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, (list, Inert)):
            raise TypeError("append to neither list nor object")
        (target.items if isinstance(target, Inert) else target).extend(values)

    def _set_item(self, _: object) -> None:
        self._put_items(self._pop(2))

    def _set_items(self, _: object) -> None:
        self._put_items(self._pop_mark())

    def _put_items(self, values: list) -> None:
        if len(values) % 2:
            raise IndexError("a key without a value")
        target = self.stack[-1]
        pairs = zip(values[::2], values[1::2])
        if isinstance(target, Inert):
            target.items.extend(pairs)
        elif type(target) is dict:
            target.update((_key(key), value) for key, value in pairs)
        else:
            raise TypeError("items for neither mapping nor object")

    def _name(self, module: str, name: str) -> Name:
        """What a pickle refers to, if it is admitted."""
        if len(module) + len(name) > _NAME_CHARACTERS:
            raise ValueError(f"its pickle holds a name of more than {_NAME_CHARACTERS} characters")
        path = Name(f"{_PYTHON_2.get(module, module)}.{name}")
        self.admit(path)
        return path

    def _global(self, argument: str) -> None:
        self.stack.append(self._name(*argument.split(" ", 1)))

    def _stack_global(self, _: object) -> None:
        module, name = self._pop(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name that is not text")
        self.stack.append(self._name(module, name))

    def _call(self, function: object, args: object) -> None:
        """Push the record of a call."""
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise ValueError("its pickle calls something other than a name it gave")
        if function == "copyreg._reconstructor" and args and isinstance(args[0], Name):
            function, args = args[0], ()            # object.__reduce__ below protocol 2
        self.stack.append(Inert(str(function), args))

    def _reduce(self, _: object) -> None:
        self._call(*self._pop(2))

    def _new_with_keywords(self, _: object) -> None:
        function, args, _ = self._pop(3)            # the keywords are dropped: no reader needs them
        self._call(function, args)

    def _instance(self, argument: str) -> None:
        args = tuple(self._pop_mark())
        self._call(self._name(*argument.split(" ", 1)), args)

    def _object(self, _: object) -> None:
        function, *args = self._pop_mark()
        self._call(function, tuple(args))

    def _build(self, _: object) -> None:
        state = self._pop(1)[0]
        target = self.stack[-1]
        if not isinstance(target, Inert):
            raise TypeError("a state for something that is not an object")
        target.state = state
        self.built(target)

    def _persistent(self, argument: object) -> None:
        """A reference out of the pickle (torch: to a storage)."""
        self.stack.append(Inert("persistent", (argument,)))
        self.persistent.append(self.stack[-1])

    def _persistent_binary(self, _: object) -> None:
        self._persistent(self._pop(1)[0])


_OPCODES = {
    "MARK": Machine._mark, "POP": Machine._pop_one, "POP_MARK": Machine._discard,
    "DUP": Machine._duplicate, "MEMOIZE": Machine._memoize, "TUPLE": Machine._tuple, "LIST": Machine._list,
    "FROZENSET": Machine._list, "DICT": Machine._dict, "APPEND": Machine._append, "APPENDS": Machine._appends,
    "ADDITEMS": Machine._appends, "SETITEM": Machine._set_item, "SETITEMS": Machine._set_items,
    "GLOBAL": Machine._global, "STACK_GLOBAL": Machine._stack_global, "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce, "NEWOBJ_EX": Machine._new_with_keywords, "INST": Machine._instance,
    "OBJ": Machine._object, "BUILD": Machine._build, "PERSID": Machine._persistent,
    "BINPERSID": Machine._persistent_binary}


def _key(key: object) -> object:
    """`key` if its hash is cheap and collides with few others, else a stand-in that only equals itself."""
    is_small = type(key) is int and abs(key) < 1 << 60
    is_plain = key is None or is_small or type(key) in (str, bytes, bool, float)
    return key if is_plain else Inert("key", (key,))


def mapping(value: object) -> dict:
    """A dictionary that was pickled as dict, OrderedDict or defaultdict, as dict; of anything else, an empty one."""
    if isinstance(value, Inert) and value.name in ("collections.OrderedDict", "collections.defaultdict"):
        pairs = value.items
        if value.args and isinstance(value.args[0], list):          # OrderedDict([[key, value], ...]) of Python 2
            pairs = [tuple(pair) for pair in value.args[0] if isinstance(pair, list) and len(pair) == 2]
        return {_key(key): item for key, item in pairs}
    return value if type(value) is dict else {}
