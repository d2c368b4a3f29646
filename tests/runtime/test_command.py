"""d4c search: what is printed, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from d4c import cli


def test_matches_go_to_stdout_and_skipped_files_to_stderr(exported: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "bro[ken].jpg").write_bytes(b"x")
    page = tmp_path / "page.html"
    words = ["search", str(exported), str(pictures), "a face", "--top", "3", "--html", str(page)]
    shown = CliRunner().invoke(cli.app, words)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    scores = [float(line.split("  ")[0]) for line in lines]
    assert len(lines) == 3
    assert scores == sorted(scores, reverse=True)
    for line in lines:
        assert (pictures / line.split("  ")[1]).is_file()
    count, reason = shown.stderr.splitlines()[-2:]
    assert count == "1 picture was skipped:"
    assert reason.startswith("bro[ken].jpg does not decode as an image")
    assert page.read_text().count("<li>") == 3


def test_json_holds_the_same(exported: Path, pictures: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.npz"
    words = ["search", str(exported), str(pictures), "a face", "--embeddings", str(kept)]
    plain = CliRunner().invoke(cli.app, words).stdout.splitlines()
    found = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    (result,) = found["results"]
    assert result["query"] == "a face"
    assert [f"{match['score']:.3f}  {match['path']}" for match in result["matches"]] == plain
    assert (found["embedded"], found["skipped"]) == (0, {})
    assert kept.is_file()


def test_each_query_has_matches_of_its_own(exported: Path, pictures: Path) -> None:
    like = next(pictures.glob("*.png"))
    words = ["search", str(exported), str(pictures), "a face", "a tree", "--like", str(like), "--top", "2"]
    lines = CliRunner().invoke(cli.app, words).stdout.splitlines()
    assert [lines[i] for i in (0, 3, 6)] == ["a face:", "a tree:", f"{like}:"]
    alone = CliRunner().invoke(cli.app, [*words[:3], "a tree", "--top", "2"]).stdout.splitlines()
    assert alone == lines[4:6]
    assert lines[7] == f"1.000  {like.name}"


def test_a_search_for_nothing_is_wrong_usage(exported: Path, pictures: Path) -> None:
    failed = CliRunner().invoke(cli.app, ["search", str(exported), str(pictures)])
    assert failed.exit_code == 2
    assert "give words, or a picture with --like" in failed.stderr


def test_a_watch_searches_again_when_pictures_come(
    exported: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come() -> None:
        if (pictures / "new.jpg").exists():
            raise KeyboardInterrupt
        Image.new("RGB", (30, 20), "red").save(pictures / "new.jpg")

    monkeypatch.setattr("time.sleep", lambda _: come())
    words = ["search", str(exported), str(pictures), "a face", "--watch", "--json", "--quiet"]
    lines = CliRunner().invoke(cli.app, words).stdout.splitlines()
    assert [json.loads(line)["embedded"] for line in lines if line.startswith("{")] == [10, 1]


def test_pytorch_does_not_execute_a_search(exported: Path, pictures: Path) -> None:
    failed = CliRunner().invoke(cli.app, ["search", str(exported), str(pictures), "x", "--runtime", "torch"])
    assert failed.exit_code == 2
    assert "'torch' is not one of 'onnxruntime', 'openvino'" in failed.stderr


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_export_can_be_evaluated(runtime: str, exported: Path) -> None:
    words = ["evaluate", str(exported), "--runtime", runtime, "--limit", "20", "--json"]
    done = CliRunner().invoke(cli.app, words)
    assert json.loads(done.stdout)["count"] == 20
