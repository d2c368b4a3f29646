"""What PyTorch saves comes back from its archives; what would run code is refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d4c.errors import CheckpointError
from d4c.models.clip import CLIP
from d4c.models.formats.archive import read_archive
from d4c.models.formats.identity import model_hash
from d4c.models.formats.load import demo_path, load
from d4c.models.formats.weights import read_weights

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def repacked(source: Path, target: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Copy an archive with some entries, named without the root folder, replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        root = old.namelist()[0].split("/")[0]
        entries = {name: old.read(name) for name in old.namelist()} | {f"{root}/{k}": v for k, v in changes.items()}
        for name, data in entries.items():
            new.writestr(name, data)
    return target


def pickled(target: Path, program: bytes) -> Path:
    """Write an archive around a pickle."""
    torch.save({"x": torch.zeros(3)}, target)
    return repacked(target, target.with_suffix(".forged"), {"data.pkl": program})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saved_tensors_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    base = torch.randint(0, 2, (4, 6)) if dtype == torch.bool else torch.randn(4, 6) * 50
    base = base.to(dtype)
    state = {"a": base, "transposed": base.T, "row": base[2], "steps": base[::2, 1::2], "scalar": base[0, 0]}
    state |= {"none": base[:0], "parameter": nn.Parameter(base.clone(), requires_grad=False)}
    torch.save(state, tmp_path / "x.pt")
    back = read_archive(tmp_path / "x.pt").tensors
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert back["row"].untyped_storage().data_ptr() == back["a"].untyped_storage().data_ptr()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_modules_state_dict_comes_back_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    torch.save(OrderedDict(epoch=1, state_dict=state, best=0.5), tmp_path / "x.pt", pickle_protocol=protocol)
    back = read_archive(tmp_path / "x.pt").tensors
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_big_endian_storages_are_swapped(tmp_path: Path) -> None:
    value = torch.randn(5)
    torch.save({"x": value}, tmp_path / "x.pt")
    swapped = value.numpy().byteswap().tobytes()
    big = repacked(tmp_path / "x.pt", tmp_path / "big.pt", {"byteorder": b"big", "data/0": swapped})
    assert torch.equal(read_archive(big).tensors["x"], value)


class Nest(nn.Module):
    """Modules in attributes, lists and half precision, as TorchScript checkpoints have them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.attention = nn.MultiheadAttention(8, 2)
        self.scale = nn.Parameter(torch.tensor(2.0).half())
        self.sizes = [1, 2, 3]
        self.names = {"a": 1.5}

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x) * self.scale * len(self.sizes) * self.names["a"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiler", ["script", "trace"])
def test_torchscript_comes_back_without_being_run(compiler: str, tmp_path: Path) -> None:
    model = Nest().eval()
    scripted = torch.jit.script(model) if compiler == "script" else torch.jit.trace(model, torch.randn(1, 3, 8, 8))
    scripted.save(tmp_path / "x.pt")
    back = read_archive(tmp_path / "x.pt").tensors
    expected = scripted.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[key], value) for key, value in expected.items())


class Holder(nn.Module):
    """A module without a forward pass, to hold parameters."""


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_clip_with_openais_names_loads(demo_rn: CLIP, tmp_path: Path) -> None:
    root = Holder()
    for name, value in read_weights(demo_path("demo-rn")).tensors.items():
        *path, last = name.split(".")
        owner: nn.Module = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, Holder())
            owner = owner.get_submodule(part)
        owner.register_buffer(last, value)
    torch.jit.script(root).save(tmp_path / "RN.pt")
    assert model_hash(load(tmp_path / "RN.pt")) == model_hash(demo_rn)


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    state = {"x": torch.zeros(2), "y": Bomb(f"touch {mark}")}
    torch.save(state, tmp_path / "bad.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"holds the global 'posix.system' in its pickle.*not executed"):
        load(tmp_path / "bad.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [nn.Linear(2, 2), {1, 2}, torch.eye(3).to_sparse(), slice(1)],
    ids=["module", "set", "sparse", "slice"],
)
def test_other_objects_are_refused_by_name(value: object, tmp_path: Path) -> None:
    torch.save({"x": value}, tmp_path / "x.pt")
    with pytest.raises(
        CheckpointError, match=r"holds (the (global|pickle instruction|state)|a ).* was not executed"
    ) as e:
        read_archive(tmp_path / "x.pt")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "build", [b"c__builtin__\neval\n(Vprint(1)\ntR.", b"cos\nsystem\n(Vls\no.", b"(Vls\nios\nsystem\n."]
)
def test_hand_made_calls_are_refused(build: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="was not executed"):
        read_archive(pickled(tmp_path / "x.pt", b"\x80\x02" + build))


class Storage:
    def __init__(self, numel: int) -> None:
        self.identity = ("storage", torch.FloatStorage, "0", "cpu", numel)


class Window:
    """A tensor that views storage 0 in any way."""

    def __init__(self, numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments: tuple[Any, ...] = (Storage(numel), offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


def tensor_program(**windows: Window) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> Any:
            return value.identity if isinstance(value, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump(windows)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("numel", "offset", "size", "stride"),
    [
        (3, 1, (3,), (1,)),
        (3, 0, (2, 2), (2, 1)),
        (3, 0, (100_000, 100_000), (0, 0)),
        (9, 0, (9,), (1,)),
        (3, -1, (2,), (1,)),
        (3, 0, (0, 1 << 63), (1, 1)),
        (3, 0, (1,) * 65, (1,) * 65),
    ],
    ids=[
        "after the end",
        "strides after the end",
        "expanded",
        "storage too short",
        "before the start",
        "huge",
        "65 d",
    ],
)
def test_windows_beyond_their_storage_are_refused(
    numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"holds a (tensor|storage)"):
        read_archive(pickled(tmp_path / "x.pt", tensor_program(x=Window(numel, offset, size, stride))))


def test_a_window_within_its_storage_is_read(tmp_path: Path) -> None:
    back = read_archive(pickled(tmp_path / "x.pt", tensor_program(x=Window(3, 1, (2,), (1,))))).tensors
    assert torch.equal(back["x"], torch.zeros(2))


def test_one_storage_under_many_lengths_is_refused(tmp_path: Path) -> None:
    """Each length would be read as a separate copy."""
    program = tensor_program(**{f"x{n}": Window(50_000 - n, 0, (1,), (1,)) for n in range(2)})
    file = pickled(tmp_path / "x.pt", program)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_archive(repacked(file, tmp_path / "y.pt", {"data/0": bytes(200_000)}))


def test_a_name_that_makes_every_name_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a name of more than 1000 characters"):
        read_archive(pickled(tmp_path / "x.pt", tensor_program(**{"x" * 1001: Window(3, 0, (1,), (1,))})))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1000)}, tmp_path / "x.pt")
    bomb = repacked(tmp_path / "x.pt", tmp_path / "y.pt", {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed entries"):
        read_archive(bomb)


def test_the_format_from_before_zip_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"a bare pickle.*convert it to safetensors"):
        load(tmp_path / "old.pt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("archive") / "x.pt"
    torch.save({"a": torch.arange(5.0), "b": {"c": torch.arange(3)}, "d": [1, 2.5, "e"]}, file)
    return file


def outcome(path: Path) -> str:
    """Return "" for an archive that gives tensors, or the sentence that refuses it."""
    try:
        assert all(isinstance(value, Tensor) for value in read_archive(path).tensors.values())
    except CheckpointError as error:
        return str(error)
    return ""


def is_fine(sentence: str) -> bool:
    return not sentence or (sentence.endswith(".") and "\n" not in sentence)


@given(data=st.data())
def test_a_damaged_archive_gives_its_tensors_or_one_sentence(data: st.DataObject, saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    target = saved.with_name("damaged.pt")
    target.write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    assert is_fine(outcome(target))


@settings(max_examples=300)
@given(
    program=st.binary(max_size=60),
    start=st.sampled_from([b"", b"\x80\x02}", b"\x80\x04(]", b"\x80\x02ccollections\nOrderedDict\n("]),
)
def test_any_pickle_gives_tensors_or_one_sentence(program: bytes, start: bytes, saved: Path) -> None:
    target = repacked(saved, saved.with_name("forged.pt"), {"data.pkl": start + program})
    assert is_fine(outcome(target))
