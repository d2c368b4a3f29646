"""Changes to files: bytes anywhere, values inside JSON, entries of zip and tar files, headers of safetensors files."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

EVIL: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 77, 255, 2**31, 2**63, 2**64, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "x", "0", "-1", "\ud800", "\x1b[2J", "\x00", "a" * 5000, "../../etc"),
    *([], {}, [None], [[]], {"": {}}, {"a": [1, {"b": None}]}, [0] * 1000, ["x"] * 3, [float("nan")] * 3),
    *("image.*", "(.*.*)*x", "{a,b}", "W4A8", "W99A99", "quick_gelu", "vit", "deployable", "int", "channel"),
)


def bytes_anywhere(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, repeat, insert or overwrite, one to four times."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + rng.randrange(1, 64)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randrange(1, 16))
            case 4:
                changed[at:at] = changed[at : at + rng.randrange(1, 256)]
            case 5:
                changed[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x80" * 8, b"\x7f" + b"\xff" * 7))
            case _ if changed:
                changed[at % len(changed)] = rng.randrange(256)
    return bytes(changed)


def json_values(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove, rename, copy or exchange values of a JSON document."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        tree = change_tree(tree, rng)
    return json.dumps(tree).encode()


def change_tree(tree: Any, rng: random.Random) -> Any:
    """One change at a random place of a tree of dictionaries and lists."""
    places = _places(tree)
    if not places or rng.random() < 0.02:
        return evil(rng)
    container, key = rng.choice(places)
    match rng.randrange(6):
        case 0 | 1 | 2:
            container[key] = evil(rng)
        case 3:
            del container[key]
        case 4:
            other, name = rng.choice(places)
            container[key] = deepcopy(other[name])
        case _ if isinstance(container, dict):
            container[rng.choice(("x", "", key + "x", "\ud800"))] = container.pop(key)
        case _:
            container[key:key] = [evil(rng)]
    return tree


def evil(rng: random.Random) -> Any:
    """A value that some reader was once surprised by."""
    return deepcopy(rng.choice(EVIL))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container with every key or index in it; of long lists, the first few."""
    found: list[tuple[Any, Any]] = []
    todo = [tree] if isinstance(tree, dict | list) else []
    while todo:
        item = todo.pop()
        keys = list(item) if isinstance(item, dict) else list(range(min(len(item), 8)))
        found.extend((item, key) for key in keys)
        todo.extend(item[key] for key in keys if isinstance(item[key], dict | list))
    return found


def deep_json(_data: bytes, rng: random.Random) -> bytes:
    """Nested brackets, closed or not, of a random depth up to 200,000."""
    depth = int(10 ** rng.uniform(1, 5.3))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return opening * depth + b"0" + closing * (depth if rng.random() < 0.5 else 0)


def zip_entries(data: bytes, rng: random.Random) -> bytes:
    """Change the content, the name or the compression of an entry, and write the archive again."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            how, label = zipfile.ZIP_STORED, name
            if name == chosen:
                match rng.randrange(6):
                    case 0 | 1 | 2:
                        content = bytes_anywhere(content, rng)
                    case 3:
                        how = zipfile.ZIP_DEFLATED
                    case 4:
                        label = name + "x"
                    case _:
                        continue
            new.writestr(label, content, how)
    return target.getvalue()


def tar_members(data: bytes, rng: random.Random) -> bytes:
    """Change the content, the name, the kind or the size of a member of a tar file, with a checksum that fits."""
    target = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=target, mode="w") as new:
        members = old.getmembers()
        chosen = rng.choice(members)
        for member in members:
            stream = old.extractfile(member)
            content = b"" if stream is None else stream.read()
            if member is chosen:
                match rng.randrange(6):
                    case 0 | 1:
                        content = bytes_anywhere(content, rng)
                        member.size = len(content)
                    case 2:
                        member.name = rng.choice(("../../a.jpg", "/etc/a.cls", "a" * 5000 + ".cls", "\x00", "a", ""))
                    case 3:
                        member.type = rng.choice((*tarfile.SUPPORTED_TYPES, b"Z"))
                    case 4:
                        member.pax_headers = {
                            rng.choice(("size", "path", "GNU.sparse.size")): rng.choice(("-1", "9" * 30))
                        }
                    case _:
                        continue
            new.addfile(member, io.BytesIO(content))
    return target.getvalue()


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """Change values in the header of a safetensors file and put its right length before it."""
    size = int.from_bytes(data[:8], "little")
    header = json_values(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


OPCODES = b"(.012FIJKLMNRSTUVXabcdeghijlopqrstu}]){\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8d\x90\x92\x93\x94\x95"


def pickle_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Insert or overwrite with instructions of pickles."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        code = rng.choice(OPCODES)
        if rng.random() < 0.5:
            changed[at:at] = bytes([code])
        elif at < len(changed):
            changed[at] = code
    return bytes(changed)
