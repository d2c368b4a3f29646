"""A server answers as the library does, and everything else with one sentence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from PIL import Image

from d4c.runtime.gallery import Gallery
from d4c.runtime.queries import picture_query, word_query
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.serving.limits import LABELS, Limits


def close_to(values: Any) -> Any:
    """Numbers of JSON are those of Python; what differs is the order of sums in another thread."""
    return pytest.approx(values, abs=1e-5)


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    stream = BytesIO()
    picture.save(stream, format)
    return stream.getvalue()


@pytest.fixture(scope="module")
def picture(emoji: dict[str, Image.Image]) -> bytes:
    return encoded(next(iter(emoji.values())))


def test_embeddings_are_those_of_the_library(client: Any, model: RuntimeCLIP, picture: bytes) -> None:
    reply = client("POST", "/embed/image", picture)
    assert reply.status == 200
    assert reply.content["embeddings"][0] == close_to(model.encode_image([model.preprocess(picture)])[0])
    texts = ["a face", "größe"]
    reply = client("POST", "/embed/text", json.dumps({"texts": texts}).encode())
    for row, expected in zip(reply.content["embeddings"], model.encode_text(model.tokenize(texts)), strict=True):
        assert row == close_to(expected)


@pytest.mark.parametrize("templates", [(), ("a drawing of a {}.",)])
def test_probabilities_are_those_of_the_library(
    templates: tuple[str, ...], client: Any, model: RuntimeCLIP, picture: bytes
) -> None:
    labels = ["face", "tree", "green book"]
    pairs = [("label", label) for label in labels] + [("template", template) for template in templates]
    for _ in range(2):  # the second time with prompts that are kept
        reply = client("POST", "/classify?" + urlencode(pairs), picture)
        assert list(reply.content["probabilities"]) == labels
        expected = model.classify([picture], labels, *([templates] if templates else []))[0]
        assert list(reply.content["probabilities"].values()) == close_to(expected)


def test_matches_are_those_of_the_library(
    client: Any, model: RuntimeCLIP, served_gallery: Gallery, picture: bytes
) -> None:
    for reply, query in (
        (client("GET", "/search?words=a+face&top=3"), word_query(model, "a face")),
        (client("POST", "/search?top=3", picture), picture_query(model, picture, "x")),
    ):
        expected = served_gallery.search(query, 3)
        assert [match["path"] for match in reply.content["matches"]] == [match.path for match in expected]
        assert [match["score"] for match in reply.content["matches"]] == close_to([match.score for match in expected])


def test_thumbnails_are_of_the_pictures_and_of_nothing_else(client: Any, served_folder: Path) -> None:
    name = next(served_folder.glob("*.png")).name
    reply = client("GET", "/thumbnail?path=" + quote(name))
    assert Image.open(BytesIO(reply.content)).format == "JPEG"
    for path in ("../secret.png", str(served_folder / name), "", ".d4c-search.npz", "a\x00b"):
        reply = client("GET", "/thumbnail?path=" + quote(path, safe=""))
        assert (reply.status, list(reply.content)) == (404, ["error"])


FRAMES = encoded(Image.new("RGB", (8100, 8100)))
REFUSALS: dict[str, tuple[str, str, bytes, int, str]] = {
    "no picture": ("POST", "/embed/image", b"", 400, "The body is empty"),
    "text for a picture": ("POST", "/embed/image", b"hello", 400, "The picture does not decode"),
    "program for a picture": ("POST", "/classify?label=a", b"%!PS", 400, "PostScript"),
    "too many pixels": ("POST", "/embed/image", FRAMES, 400, "8100 x 8100 pixels, expected at most 64,000,000"),
    "no JSON": ("POST", "/embed/text", b"\xff", 400, "The body is not JSON"),
    "no list": ("POST", "/embed/text", b'{"texts": "a"}', 400, "expected a list"),
    "no texts": ("POST", "/embed/text", b'{"texts": []}', 400, "expected a list of 1 to 256"),
    "a long text": ("POST", "/embed/text", json.dumps({"texts": ["a" * 9999]}).encode(), 400, "at most 2000"),
    "half a letter": ("POST", "/embed/text", b'{"texts": ["\\ud800"]}', 400, "UTF-8"),
    "deep JSON": ("POST", "/embed/text", b"[" * 100_000, 400, "The body is"),
    "no labels": ("POST", "/classify", encoded(Image.new("RGB", (9, 9))), 400, "labels"),
    "many labels": ("POST", "/classify?" + "label=a&" * (LABELS + 1), b"x", 400, "expected at most 1000"),
    "a long label": ("POST", "/classify?label=" + "a" * 2001, b"x", 400, "expected at most 2000"),
    "equal labels": ("POST", "/classify?label=a&label=A", encoded(Image.new("RGB", (9, 9))), 400, "the same"),
    "a template without a place": ("POST", "/classify?label=a&template=b", encoded(Image.new("L", (9, 9))), 400, "{}"),
    "no words": ("GET", "/search", b"", 400, "The query is empty"),
    "top of none": ("GET", "/search?words=a&top=0", b"", 400, "a whole number from 1 to 1000"),
    "top in another script": ("GET", "/search?words=a&top=%D9%A3", b"", 400, "a whole number"),
    "nowhere": ("GET", "/../etc/passwd", b"", 404, "nothing at this address"),
    "another method": ("GET", "/embed/image", b"", 405, "does not take GET, expected POST"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_answered_is_one_sentence(case: str, client: Any) -> None:
    method, address, body, status, reason = REFUSALS[case]
    reply = client(method, address, body)
    assert reply.status == status
    assert list(reply.content) == ["error"]
    sentence = reply.content["error"]
    assert reason in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "/tmp" not in sentence


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "[", ""])
def test_pages_of_others_cannot_ask_through_a_name_of_theirs(host: str, client: Any) -> None:
    reply = client("GET", "/search?words=a", Host=host)
    assert (reply.status, list(reply.content)) == (421, ["error"])
    assert client("GET", "/health", Host="localhost:1").status == 200


def test_a_server_without_pictures_says_so(start: Callable[..., Any]) -> None:
    client = start()
    for address in ("/search?words=a", "/thumbnail?path=a"):
        reply = client("GET", address)
        assert (reply.status, reply.content["error"].split(";")[0]) == (404, "This server has no pictures to search")
    assert client("GET", "/health").content["pictures"] is None


def test_a_large_body_is_refused_before_it_is_read_whole(start: Callable[..., Any]) -> None:
    client = start(Limits(megabytes=1))
    reply = client("POST", "/embed/image", b"x" * 1_000_001)
    assert (reply.status, reply.content["error"]) == (
        413,
        "The body has more than 1 MB, which is the limit; send a smaller one.",
    )


class Slow:
    """The model, whose text tower waits until it may go on."""

    def __init__(self, model: RuntimeCLIP) -> None:
        self.model, self.may_go_on, self.waiting = model, threading.Event(), threading.Semaphore(0)

    def encode_text(self, tokens: Any) -> Any:
        self.waiting.release()
        assert self.may_go_on.wait(30)
        return self.model.encode_text(tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


TEXT = b'{"texts": ["a"]}'


def test_a_full_queue_turns_requests_away_and_loses_none(start: Callable[..., Any], model: RuntimeCLIP) -> None:
    slow = Slow(model)
    client = start(Limits(queue=3, workers=2), served=slow)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(client("POST", "/embed/text", TEXT).status)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert slow.waiting.acquire(timeout=30)
    while b"d4c_pending 3" not in client("GET", "/metrics").content:
        time.sleep(0.01)
    reply = client("POST", "/embed/text", TEXT)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.content["error"] == "The server is busy with 3 requests; try again later."
    slow.may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert statuses == [200] * 3
    assert client("POST", "/embed/text", TEXT).status == 200


def test_what_takes_too_long_holds_its_place_until_it_is_done(start: Callable[..., Any], model: RuntimeCLIP) -> None:
    slow = Slow(model)
    client = start(Limits(queue=1, workers=1, seconds=0.2), served=slow)
    reply = client("POST", "/embed/text", TEXT)
    assert (reply.status, reply.content["error"].split(";")[0]) == (
        504,
        "The request was not answered within 0.2 seconds",
    )
    assert client("POST", "/embed/text", TEXT).status == 503
    slow.may_go_on.set()
    while b"d4c_pending 0" not in client("GET", "/metrics").content:
        time.sleep(0.01)
    assert b'd4c_requests_total{path="/embed/text",status="503"} 1.0' in client("GET", "/metrics").content


def test_a_body_that_does_not_come_ends_the_request(start: Callable[..., Any]) -> None:
    client = start(Limits(queue=1, seconds=0.2))
    reply = client("POST", "/embed/text", b"", **{"Content-Length": "9"})
    assert (reply.status, reply.content["error"].split(";")[0]) == (
        408,
        "The request was not received within 0.2 seconds",
    )


def test_an_error_of_our_own_is_a_sentence_and_is_logged(
    start: Callable[..., Any], model: RuntimeCLIP, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Slow):
        def encode_text(self, tokens: Any) -> Any:
            raise RuntimeError("secret")

    reply = start(served=Broken(model))("POST", "/embed/text", TEXT)
    assert (reply.status, reply.content) == (500, {"error": "The server failed at this request; its log says why."})
    ends = time.monotonic() + 30
    while "RuntimeError: secret" not in caplog.text and time.monotonic() < ends:
        time.sleep(0.01)  # the log comes after the response
    assert "RuntimeError: secret" in caplog.text


def test_paths_that_are_not_there_are_counted_as_one(client: Any) -> None:
    client("GET", "/a")
    client("GET", "/b")
    text = client("GET", "/metrics").content.decode()
    assert 'd4c_requests_total{path="other",status="404"}' in text
    assert "/a" not in text


def test_the_page_runs_only_what_is_its_own(client: Any) -> None:
    reply = client("GET", "/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert b"http" not in reply.content
    assert b"innerHTML" not in reply.content
