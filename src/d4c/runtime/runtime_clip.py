"""`RuntimeCLIP`: a quantized CLIP in ONNX Runtime or OpenVINO, with NumPy arrays in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d4c.errors import ArtifactError, DataError, SettingError, reason_of, warn
from d4c.models.inputs.preprocess import pixels
from d4c.pictures import Picture
from d4c.runtime.exported import TOWERS, ExportedModel, read_export
from d4c.runtime.processor import saturates
from d4c.runtime.sessions import Execution, Graph, Provider, onnxruntime_graph, openvino_graph
from d4c.templates import PHOTO_TEMPLATES
from d4c.zeroshot.classification import classify
from d4c.zeroshot.flaws import flaw

DIFFERENT_PIXELS, DIFFERENT_PROMPTS = 0.1, 4
"""Mean difference of normalized pixels, and number of prompts, from which on one embedding for all is a fault."""


class RuntimeCLIP:
    """An export in a runtime, used like the PyTorch model that it was made from, by any number of threads.

    A pickle of it holds the path of the export, which is opened again where it is unpickled. It warns where the
    processor would cut off sums of 8-bit products (see `processor`).

    Args:
        folder: Folder that `d4c export` wrote.
        runtime: "onnxruntime" or "openvino".
        threads: Threads of one call; None for as many as the runtime takes by itself.
        providers: Execution providers of ONNX Runtime, the preferred one first, each a name or a name and options; what
            none of them can, the CPU computes.
        verify: Compare every file with the hashes in export.json.

    Raises:
        ArtifactError: The export is damaged, incomplete, changed since it was written or from a newer version.
        SettingError: The runtime is unknown, not installed or too old, lacks a provider, or would compute wrong values
            on this processor.
    """

    def __init__(
        self,
        folder: str | Path,
        runtime: str = "onnxruntime",
        *,
        threads: int | None = None,
        providers: Sequence[Provider] = (),
        verify: bool = True,
    ) -> None:
        if runtime not in ("onnxruntime", "openvino"):
            raise SettingError(
                f"The runtime {runtime!r} is neither 'onnxruntime' nor 'openvino', which execute exports; "
                "choose one of them."
            )
        if runtime == "openvino" and providers:
            raise SettingError(
                f"The runtime 'openvino' takes no execution providers such as {providers[0]!r}, which are those of "
                "ONNX Runtime; use runtime='onnxruntime', which may have OpenVINOExecutionProvider."
            )
        if isinstance(providers, str):
            raise SettingError(f"The providers are {providers!r}, expected a list of names; put it in brackets.")
        self._execution = Execution(threads, tuple(providers))
        self.exported = read_export(Path(folder), verify)
        self.runtime, self._verify = runtime, verify
        wide_sums = bool(self.exported.saturating) and saturates(runtime)
        if wide_sums:
            _warn_of_wide_sums(self.exported, runtime)
        convolutions = runtime == "openvino" and saturates(runtime)
        with ThreadPoolExecutor() as pool:
            opening = {
                tower: pool.submit(self._graph, f"{tower}.onnx", wide_sums, convolutions) for tower in self.towers
            }
            self._graphs = {tower: graph.result() for tower, graph in opening.items()}

    def _graph(self, file: str, wide_sums: bool, convolutions: bool) -> Graph:
        path, opset = self.exported.folder / file, self.exported.opset
        if self.runtime == "openvino":
            graph = openvino_graph(path, opset, self._execution.threads, convolutions=convolutions)
        else:
            graph = onnxruntime_graph(path, opset, wide_sums=wide_sums, execution=self._execution)

        def run(values: NDArray[Any]) -> NDArray[np.float32]:
            try:
                rows = graph(values)
            except Exception as error:  # the exceptions of runtimes share no base class
                raise ArtifactError(
                    f"{path} cannot be executed ({reason_of(error)}); the export is damaged, run d4c export again."
                ) from None
            if rows.shape != (len(values), self.exported.embed_dim):
                raise ArtifactError(
                    f"{path} gave embeddings of shape {list(rows.shape)}, expected "
                    f"{[len(values), self.exported.embed_dim]}; the export is damaged, run d4c export again."
                )
            return rows

        return run

    def __reduce__(self) -> tuple[Callable[..., RuntimeCLIP], tuple[Path, str]]:
        settings = {**vars(self._execution), "verify": self._verify}
        return partial(RuntimeCLIP, **settings), (self.exported.folder.absolute(), self.runtime)

    @property
    def name(self) -> str:
        """Label of the model."""
        return self.exported.name

    @property
    def origin(self) -> str | None:
        """Hash of the weights of the float model that it was made from, if the export knows it."""
        return self.exported.origin

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that there are."""
        return self.exported.towers

    def require(self, tower: str) -> None:
        """Raise SettingError if a tower is not there."""
        if tower not in self.towers:
            raise SettingError(
                f"The export {self.exported.folder} holds the {self.towers[0]} tower alone, expected the {tower} "
                "tower; use an export of a model that has it."
            )

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        self.require("image")
        return self.exported.image_size

    @property
    def logit_scale(self) -> float:
        """Factor from cosine to logit."""
        for tower in TOWERS:
            self.require(tower)
        assert self.exported.logit_scale is not None
        return self.exported.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """What is added to the logits of single pairs, whose sigmoid is a probability; None for a softmax."""
        return self.exported.logit_bias

    def preprocess(self, picture: Picture) -> NDArray[np.float32]:
        """Turn a picture of any size and mode into normalized pixels [3, S, S], the same as the PyTorch model's.

        Args:
            picture: A Pillow image, a path, an encoded file as bytes, an open file or an array (see `d4c.pictures`).

        Raises:
            DataError: The picture is empty or does not decode.
        """
        self.require("image")
        e = self.exported
        return pixels(picture, e.image_size, e.mean, e.std, e.resize, e.interpolation)

    def tokenize(self, texts: str | Sequence[str]) -> NDArray[np.int64]:
        """Turn prompts into token ids [N, context length], the same as the PyTorch model's."""
        self.require("text")
        assert self.exported.tokenizer is not None
        return self.exported.tokenizer.token_ids(texts)

    def encode_image(self, pixels: ArrayLike) -> NDArray[np.float32]:
        """Encode images.

        Args:
            pixels: Preprocessed pixels [N, 3, S, S].

        Returns:
            Embeddings [N, D], not of unit length.

        Raises:
            DataError: The pixels have another shape.
            ArtifactError: The embeddings are not finite, zero or the same for different pictures.
        """
        values = np.ascontiguousarray(pixels, np.float32)
        shape = 3, self.image_size, self.image_size
        if values.ndim != 4 or values.shape[1:] != shape:
            raise DataError(
                f"The pixels have shape {list(values.shape)}, expected [N, {', '.join(map(str, shape))}]; "
                "stack what `preprocess` gives."
            )
        return self._checked(values, "image") if len(values) else self._no_embeddings()

    def encode_text(self, tokens: ArrayLike) -> NDArray[np.float32]:
        """Encode prompts.

        Positions after the longest prompt are cut off where they do not reach the output: prompts are short.

        Args:
            tokens: Token ids [N, L] from `tokenize`.

        Returns:
            Embeddings [N, D], not of unit length.

        Raises:
            DataError: The tokens have another shape, are not integers or are not ids of the model.
            ArtifactError: The embeddings are not finite, zero or the same for different prompts.
        """
        self.require("text")
        ids = np.asarray(tokens)
        longest = self.exported.context_length
        shortest = longest if self.exported.every_position_counts else 1
        if ids.ndim != 2 or not shortest <= ids.shape[1] <= longest or not np.issubdtype(ids.dtype, np.integer):
            length = str(longest) if shortest == longest else f"1 to {longest}"
            raise DataError(
                f"The tokens are {ids.dtype} of shape {list(ids.shape)}, expected integers of shape "
                f"[N, {length}]; give what `tokenize` gives."
            )
        if not len(ids):
            return self._no_embeddings()
        largest = self.exported.vocab_size - 1
        if ids.min() < 0 or ids.max() > largest:
            raise DataError(
                f"The tokens range from {ids.min()} to {ids.max()}, expected ids from 0 to {largest}; give what "
                "`tokenize` gives."
            )
        begin = self.exported.begin_id
        if begin is not None and (ids[:, 0] != begin).any():
            raise DataError(
                f"A prompt begins with the token {ids[ids[:, 0] != begin][0, 0]}, expected {begin}, the begin of text; "
                "give what `tokenize` gives."
            )
        if not self.exported.every_position_counts:
            end = self.exported.eos_id
            marks = ids if end is None else ids == end
            ids = ids[:, : int(marks.argmax(1).max()) + 1]
        return self._checked(np.ascontiguousarray(ids, np.int64), "text")

    def classify(
        self, images: Sequence[Picture], labels: Sequence[str], templates: Sequence[str] = PHOTO_TEMPLATES
    ) -> NDArray[np.float32]:
        """Return the probabilities of labels for pictures; see `d4c.zeroshot.classification.classify`.

        Args:
            images: Paths, encoded bytes, open files, arrays or Pillow images.
            labels: Names to choose from.
            templates: Prompts with "{}" where a name goes.

        Returns:
            Probabilities [N, L].

        Raises:
            DataError: A picture does not decode, or the labels or templates cannot be used.
        """
        return classify(
            images,
            labels,
            templates=templates,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            embed_images=lambda pictures: self.encode_image([self.preprocess(picture) for picture in pictures]),
            tokenize=self.tokenize,
            embed_tokens=self.encode_text,
        )

    def _checked(self, inputs: NDArray[Any], tower: str) -> NDArray[np.float32]:
        """Embeddings, unless they show that the tower is damaged."""
        embeddings = self._graphs[tower](inputs)
        # One input may be to blame for one embedding, but not for all of them.
        sound = np.isfinite(embeddings).all(-1) & embeddings.any(-1)
        reason = None if sound.any() and not sound.all() else flaw(embeddings, different=True)
        if reason and not (sound.all() and not _differ_clearly(inputs)):
            raise ArtifactError(
                f"The {tower} tower of {self.exported.folder} is damaged: of its embeddings {reason}; quantize an "
                "undamaged checkpoint and export it again."
            )
        return embeddings

    def _no_embeddings(self) -> NDArray[np.float32]:
        return np.zeros((0, self.exported.embed_dim), np.float32)


def _differ_clearly(inputs: NDArray[Any]) -> bool:
    """Whether inputs are more than variants of one: pixels that are another picture, or four different prompts."""
    if np.issubdtype(inputs.dtype, np.integer):
        return len(np.unique(inputs, axis=0)) >= DIFFERENT_PROMPTS
    return bool(max(np.abs(inputs - inputs[0]).mean((1, 2, 3))) > DIFFERENT_PIXELS)


def _warn_of_wide_sums(exported: ExportedModel, runtime: str) -> None:
    """Warn that sums must be wider on this processor, or raise SettingError where a runtime has no such sums."""
    layers = exported.saturating
    which = layers[0] if len(layers) == 1 else f"{layers[0]} and {len(layers) - 1} more"
    problem = (
        f"The export {exported.folder} has 8-bit weights in full range ({which}), and this processor cuts off sums of "
        "their products, since it has no VNNI instructions"
    )
    if runtime == "openvino":
        raise SettingError(
            f"{problem}, which OpenVINO would not notice; use runtime='onnxruntime', or quantize without --full-range."
        )
    warn(f"{problem}: ONNX Runtime is told to use wider sums, which is exact but slower.", RuntimeWarning)
