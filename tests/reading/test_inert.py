"""Plain data comes back, globals outside the table are refused, and the size of the program bounds the memory."""

from __future__ import annotations

import io
import pickle
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4c.reading.inert import Damaged, Rebuild, Refused, Stateful, load

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(min_size=1)
TREES = st.recursive(
    KEYS,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner) | inner.map(lambda x: [x, x, (x,)])
    ),
    max_leaves=30,
)
# Protocol 2 has no bytes of its own and writes them as a call.
CODECS = {"_codecs.encode": Rebuild(lambda text, codec: text.encode(codec))}


@given(tree=TREES, protocol=st.integers(2, 5))
def test_containers_come_back(tree: Any, protocol: int) -> None:
    """repr also tells 1 from True and shows the order of a dict."""
    assert repr(load(pickle.dumps(tree, protocol), CODECS)) == repr(tree)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_is_shared_stays_shared(protocol: int) -> None:
    inner = [1]
    first, second = load(pickle.dumps((inner, {"again": inner}), protocol), {})
    assert first is second["again"]


class Filled:
    """Made by a call, then filled by a state."""

    def __reduce__(self) -> Any:
        return Filled, (7,), {"second": [2]}


class Standin(Stateful):
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", [f"{__name__}.Filled", f"{__name__}.*", "*"])
def test_a_name_in_the_table_gives_its_standin(protocol: int, name: str) -> None:
    standin = load(pickle.dumps(Filled(), protocol), {name: Rebuild(Standin)})
    assert (type(standin), standin.arguments, standin.state) == (Standin, (7,), {"second": [2]})


def test_persistent_ids_resolve_only_where_the_reader_says_how() -> None:
    stream = io.BytesIO()
    pickler = type("P", (pickle.Pickler,), {"persistent_id": lambda _, x: ("id", 3) if x is Ellipsis else None})
    pickler(stream, 2).dump([1, ...])
    assert load(stream.getvalue(), {}, lambda identity: f"item {identity}") == [1, "item ('id', 3)"]
    with pytest.raises(Refused, match="BINPERSID"):
        load(stream.getvalue(), {})


NAMED = {
    "mentioned": b"\x80\x02cd4c_trap\nrun\n.",
    "called": b"\x80\x02cd4c_trap\nrun\n)R.",
    "made": b"\x80\x02cd4c_trap\nrun\n)\x81.",
    "from the stack": b"\x80\x04\x8c\x08d4c_trap\x8c\x03run\x93.",
    "INST": b"\x80\x02(id4c_trap\nrun\n.",
    "OBJ": b"\x80\x02(cd4c_trap\nrun\no.",
}


@pytest.mark.parametrize("program", NAMED.values(), ids=NAMED.keys())
def test_other_names_are_refused_and_never_imported(
    program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d4c_trap.py").write_text("def run(): pass")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match=r"d4c_trap\.run|instruction INST"):
        load(program, {"d4c_trap": Rebuild(list), "d4c_trap.running*": Rebuild(list)})
    assert "d4c_trap" not in sys.modules
    pickle.loads(NAMED["called"])
    assert sys.modules.pop("d4c_trap")


REFUSED = {
    "a call of a mention": b"\x80\x02cknown\nvalue\n)R.",
    "a call of text": b"\x80\x02U\x01a)R.",
    "a state for a list": b"\x80\x02]}b.",
    "a name of numbers": b"\x80\x04K\x01K\x02\x93.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a list of itself": b"\x80\x02]q\x00(h\x00h\x00e.",
    "a dict in itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "a list in its tuple": b"\x80\x02]q\x00h\x00\x85a.",
    "two lists in each other": b"\x80\x02]q\x000]q\x01h\x00a0h\x00h\x01a.",
    "an object in its state": b"\x80\x02cknown\nobject\n)Rq\x00}U\x01ah\x00sb.",
    "a tuple as a key": b"\x80\x02})K\x01s.",
    "pairs as a key, each twice the last": b"\x80\x02})" + b"q\x00h\x00\x86" * 200 + b"K\x01s.",
    "a deep tuple as a key": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
}


@pytest.mark.parametrize("program", REFUSED.values(), ids=REFUSED.keys())
def test_more_than_data_is_refused(program: bytes) -> None:
    with pytest.raises(Refused):
        load(program, {"known.value": 1, "known.object": Rebuild(Standin)})


def test_a_very_long_name_is_refused_before_it_is_looked_up() -> None:
    with pytest.raises(Refused, match="more than 1000 characters"):
        load(b"\x80\x02cknown\n" + b"a" * 1000 + b"\n.", {"known.*": 1})


DAMAGED = {
    "no program": b"",
    "nothing left": b"\x80\x02.",
    "two left": b"\x80\x02K\x01K\x02.",
    "a memo before it is set": b"\x80\x02h\x00.",
    "no mark": b"\x80\x02]K\x01e.",
    "a short tuple": b"\x80\x02K\x01\x87.",
    "an odd dict": b"\x80\x02}(K\x01u.",
    "items for a dict": b"\x80\x02}K\x01a.",
    "pairs for a list": b"\x80\x02]K\x01K\x02s.",
    "an unknown instruction": b"\x80\x02\xff.",
    "a length of 8 EiB": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
}


@pytest.mark.parametrize("program", DAMAGED.values(), ids=DAMAGED.keys())
def test_inconsistent_programs_are_damaged(program: bytes) -> None:
    with pytest.raises(Damaged):
        load(program, {})


@given(tree=TREES, protocol=st.integers(2, 5), data=st.data())
def test_a_truncated_program_is_damaged(tree: Any, protocol: int, data: st.DataObject) -> None:
    program = pickle.dumps(tree, protocol)
    with pytest.raises(Damaged) as error:
        load(program[: data.draw(st.integers(0, len(program) - 1))], CODECS)
    assert str(error.value)
    assert "\n" not in str(error.value)


def peak(program: bytes) -> int:
    """Peak number of bytes in use while a program is read, whether or not it is refused."""
    table = {"known.*": Rebuild(Standin), "known.value": 1}
    tracemalloc.start()
    try:
        load(program, table, lambda identity: identity)
    except (Refused, Damaged):
        pass
    finally:
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return size


LONG = b"X" + (500_000).to_bytes(4, "little") + b"a" * 500_000
AMPLIFIED = {
    "tuples of twice the last": b")" + b"q\x00h\x00\x86" * 10_000,
    "lists of twice the last": b"]q\x00" + b"0](h\x00h\x00eq\x00" * 10_000,
    "a list with itself": b"]q\x00" + b"h\x00a" * 10_000,
    "one text as all names": LONG + b"q\x000" + b"h\x00h\x00\x93" * 10_000,
    "one text in all calls": LONG + b"q\x000cknown\nx\nq\x010" + b"h\x01h\x00\x85R" * 10_000,
    "one dict as all states": b"}("
    + b"".join(b"M" + i.to_bytes(2, "little") + b"N" for i in range(20_000))
    + b"uq\x000"
    b"cknown\nx\nq\x010" + b"h\x01)Rh\x00b" * 10_000,
}


@pytest.mark.parametrize("program", AMPLIFIED.values(), ids=AMPLIFIED.keys())
def test_the_size_of_the_program_bounds_the_memory(program: bytes) -> None:
    """Each of these would take gigabytes if shared objects were copied."""
    assert peak(b"\x80\x04" + program + b".") < 10_000_000 + 20 * len(program)


@settings(max_examples=300)
@given(
    program=st.binary(max_size=80), start=st.sampled_from([b"", b"\x80\x02}(", b"\x80\x04]q\x00(h\x00", b"ca\nb\n("])
)
def test_any_bytes_give_an_object_or_one_error(program: bytes, start: bytes) -> None:
    try:
        load(start + program, {"a.b": Rebuild(OrderedDict)})
    except (Refused, Damaged) as error:
        sentence = str(error)
    else:
        sentence = "an object"
    assert sentence
    assert "\n" not in sentence
