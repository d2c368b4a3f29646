"""A result replaces nothing but an earlier one of its kind, in a folder that holds nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from d4c.errors import ArtifactError, SettingError
from d4c.storage.outputs import (
    PAGE,
    check_output,
    check_output_file,
    is_empty,
    output_folder,
    reserved,
    unfinished_beside,
)


def write(folder: Path, content: str = "first", kind: str = "export") -> Path:
    with output_folder(folder, kind) as new:
        (new / "sub").mkdir()
        (new / "sub" / "a").write_text(content)
        (new / "README.md").write_text("a card")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["out", "deep/er", "*", "[a]", "a.b"])
def test_an_earlier_result_is_replaced(tmp_path: Path, name: str) -> None:
    for content in ("first", "second"):
        assert (write(tmp_path / name, content) / "sub" / "a").read_text() == content
    assert names(tmp_path / name) == ["README.md", "manifest.json", "sub", "sub/a"]


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda out: (out / "notes.txt").write_text("mine"), "holds notes.txt, which d4c did not write"),
    "a hidden file": (lambda out: (out / ".env").write_text("mine"), "holds .env, which d4c did not write"),
    "a file in a folder": (lambda out: (out / "sub" / "b").write_text("mine"), "holds sub/b, which d4c did not write"),
    "an empty folder": (lambda out: (out / "new").mkdir(), "holds new, which d4c did not write"),
    "a link to a folder": (lambda out: (out / "to").symlink_to(out.parent), "holds to, which d4c did not write"),
    "an edited card": (lambda out: (out / "README.md").write_text("my card"), "holds README.md, which was changed"),
    "no manifest": (lambda out: (out / "manifest.json").unlink(), "exists and is not an export"),
    "another manifest": (lambda out: (out / "manifest.json").write_text("{}"), "exists and is not an export"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_what_somebody_else_put_there_is_named_and_stays(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    out = write(tmp_path / "out")
    change(out)
    listing = names(tmp_path)
    for attempt in (lambda: check_output(out, "export"), lambda: write(out, "second")):
        with pytest.raises(ArtifactError, match=reason):
            attempt()
        assert names(tmp_path) == listing
    assert (out / "sub" / "a").read_text() == "first"


def test_what_arrives_during_the_work_stays(tmp_path: Path) -> None:
    out = write(tmp_path / "out")

    def work() -> None:
        with output_folder(out, "export") as new:
            (new / "a").write_text("second")
            (out / "notes.txt").write_text("mine")

    with pytest.raises(ArtifactError, match="holds notes"):
        work()
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "sub" / "a").read_text() == "first"


@pytest.mark.parametrize("name", ["export.json", "provenance.json", "inspection.json", "manifest.json"])
def test_a_folder_with_one_file_of_our_name_is_not_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / "p" / "src").mkdir(parents=True)
    (tmp_path / "p" / name).write_text("{}")
    (tmp_path / "p" / "src" / "thesis.txt").write_text("x")
    for kind in ("export", "calibration set", "inspection", "quantized model", "float model"):
        with pytest.raises(ArtifactError, match=f"exists and is not an? {kind}"):
            write(tmp_path / "p", kind=kind)
    assert names(tmp_path / "p") == sorted([name, "src", "src/thesis.txt"])


def test_a_result_of_another_kind_and_a_file_are_refused(tmp_path: Path) -> None:
    out = write(tmp_path / "out", kind="calibration set")
    (tmp_path / "file").write_text("x")
    for path in (out, tmp_path / "file"):
        with pytest.raises(ArtifactError, match="exists and is not a quantized model"):
            write(path, kind="quantized model")


def test_the_current_folder_and_those_above_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for path in (".", "..", "", str(tmp_path / "a"), "../a/."):
        with pytest.raises(ArtifactError, match="is or holds the current folder"):
            check_output(Path(path), "export")
    write(Path("b"))
    assert names(tmp_path) == ["a", "a/b", "a/b/README.md", "a/b/manifest.json", "a/b/sub", "a/b/sub/a"]


def test_a_mount_point_cannot_be_replaced() -> None:
    with pytest.raises(ArtifactError, match="/proc is a mount point"):
        check_output(Path("/proc"), "export")


def test_what_a_killed_process_left_makes_no_folder_occupied(tmp_path: Path) -> None:
    assert is_empty(tmp_path / "missing")
    assert is_empty(tmp_path)
    (tmp_path / ".config.json.0123abcd.d4c-new").mkdir()
    (tmp_path / ".d4c-lock").touch()
    (tmp_path / ".out.d4c-lock").touch()
    assert is_empty(tmp_path)
    for name in (".config.json.d4c-new", ".out.0123abcd.d4c-old"):
        (tmp_path / name).mkdir()
        assert not is_empty(tmp_path)
        (tmp_path / name).rmdir()


def test_a_folder_in_which_another_process_works_is_occupied(tmp_path: Path) -> None:
    with reserved(tmp_path / "out"):
        assert not is_empty(tmp_path)
    with output_folder(tmp_path / "out", "export"):
        assert not is_empty(tmp_path)
        with pytest.raises(ArtifactError, match="exists and is not an export"):
            check_output(tmp_path, "export")


def test_a_folder_is_reserved_until_its_process_is_gone(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from d4c.storage.outputs import reserved\n"
        "with reserved(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(SettingError, match="Another d4c is working in "),
            reserved(tmp_path / "out"),
        ):
            pass
        with reserved(tmp_path / "another"):
            pass
        other.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".out.d4c-lock"]
    with reserved(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unfinished_work_lies_beside_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    assert unfinished_beside(tmp_path / "link") == tmp_path / "disk" / "out.unfinished"


@pytest.mark.parametrize("content", ["<!doctype html>\n<title>Notes</title>", '{"dataset": 1}', "\x89PNG", " "])
def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(content)
    with pytest.raises(ArtifactError, match="holds something that this command did not write"):
        check_output_file(file, PAGE)


def test_an_earlier_page_an_empty_file_and_none_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for content in (None, "", '<!doctype html>\n<meta charset="utf-8">\n<meta name="generator" content="d4c 1">'):
        if content is not None:
            file.write_text(content)
        check_output_file(file, PAGE)


def test_a_device_is_not_replaced_by_a_file() -> None:
    with pytest.raises(ArtifactError, match="is a pipe or a device"):
        check_output_file(Path("/dev/null"), PAGE)
