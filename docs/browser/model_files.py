"""The bundled model as the files that the browser loads: ONNX files of fewer bytes, and what words need beside them.

encode.onnx, decode.onnx   the exported ones, with each weight stored once, and as float16 where that holds it exactly
semantics.bin              float32 numbers: codes, their text read-outs, the map to image embeddings, embeddings of words
model.json                 facts of the model, the words, and where each array of semantics.bin begins
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.export.exporter import facts_of
from pyramid_tokenizer.images.labelled.class_names import CITYSCAPES_19, PASCAL_CONTEXT_59, VOC_20
from pyramid_tokenizer.images.synthetic import synthetic_images
from pyramid_tokenizer.tokens.palette import ABSENT_COLOUR, PALETTE, class_colour
from pyramid_tokenizer.visualize import common_words

NUM_WORDS = 1000
MOST_DIFFERENCE = 1e-5
"""How far the embedding of semantics.bin may be from the model's own."""
SMALLEST_SHRUNK = 256
"""Numbers of a weight that is worth another node in the graph."""


def choose_words(count: int = NUM_WORDS) -> list[str]:
    """Words to ask with, each once whatever its case.

    First come the words that the package describes codes with and the names of PASCAL VOC, PASCAL-Context and Cityscapes,
    then names of ImageNet's classes as open_clip lists them, those of few words and letters first.

    Args:
        count: How many.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    own = (*common_words(), *VOC_20, *PASCAL_CONTEXT_59, *CITYSCAPES_19)
    others = sorted(IMAGENET_CLASSNAMES, key=lambda name: (name.count(" "), len(name), name))
    words: dict[str, str] = {}
    for word in (*own, *others):
        words.setdefault(word.casefold(), word)
    return sorted(list(words.values())[:count], key=str.casefold)


def shrink_weights(source: Path, target: Path) -> None:
    """Writes an ONNX file whose float32 weights are stored once, and as float16 where that holds them exactly.

    A weight with the numbers of an earlier one, in another shape, or transposed and negated, is made of that one. The graph
    computes with the same numbers.

    Args:
        source: The file.
        target: The file to write.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph, kept, nodes = model.graph, [], []
    stored: dict[bytes, tuple[str, tuple[int, ...]]] = {}
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST_SHRUNK:
            kept.append(tensor)
        elif (twin := stored.get(values.tobytes())) is not None:
            shape = numpy_helper.from_array(np.array(values.shape, np.int64), f"{tensor.name}_shape")
            kept.append(shape)
            nodes.append(helper.make_node("Reshape", [twin[0], shape.name], [tensor.name]))
        elif (twin := stored.get((-values.T).tobytes())) is not None and twin[1] == values.T.shape:
            # Distances to the entries of a codebook are computed with the entries turned and negated.
            nodes.append(helper.make_node("Transpose", [twin[0]], [f"{tensor.name}_turned"]))
            nodes.append(helper.make_node("Neg", [f"{tensor.name}_turned"], [tensor.name]))
        else:
            stored[values.tobytes()] = (tensor.name, values.shape)
            if is_half(values):
                name = f"{tensor.name}_half"
                kept.append(numpy_helper.from_array(values.astype(np.float16), name))
                nodes.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
            else:
                kept.append(tensor)
    for field, items in ((graph.initializer, kept), (graph.node, [*nodes, *graph.node])):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del field[:]
        field.extend(copies)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def is_half(values: NDArray[np.float32]) -> bool:
    """Whether float16 holds all of the values exactly."""
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def semantic_arrays(tok: PyramidTokenizer, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """What words.js computes with, by name.

    Args:
        tok: A fitted tokenizer.
        words: N words, which its text network embeds in the library's default prompts.

    Returns:
        For each level l but the detail levels `codes.l` (K, d), `text.l.weight` (D, d) and `text.l.bias` (D,), which make text
        embeddings of codes, weighted as the level counts; for each image token m its entries `image.m` (K, D);
        `to_embedding.weight` (D, D) and `to_embedding.bias` (D,); and `words` (N, D) of unit norm.

    Raises:
        ValueError: They do not give the model's own embeddings, so that words.js must be adapted.
    """
    quantizer = tok.quantizer
    arrays: dict[str, torch.Tensor] = {}
    for index in range(quantizer.base_levels):
        level = quantizer.level(index)
        arrays[f"codes.{index}"] = level.codebook
        arrays[f"text.{index}.weight"] = level.text_weight * level.text_readout.weight
        arrays[f"text.{index}.bias"] = level.text_weight * level.text_readout.bias
    for number, codebook in enumerate(quantizer.image.codebooks):
        arrays[f"image.{number}"] = codebook
    arrays["to_embedding.weight"], arrays["to_embedding.bias"] = (
        quantizer.to_embedding.weight,
        quantizer.to_embedding.bias,
    )
    arrays["words"] = tok.text.encode_names(words).embeddings
    found = {name: tensor.detach().numpy().astype(np.float32) for name, tensor in arrays.items()}
    tokens = tok.encode(torch.from_numpy(synthetic_images(2, 64, 96)))
    ids = [level.numpy() for level in tokens.ids]
    difference = float(np.abs(embed(found, ids, tokens.image_ids.numpy()) - tok.embedding(tokens).numpy()).max())
    if not difference <= MOST_DIFFERENCE:
        raise ValueError(
            f"expected the embeddings that the model gives, got some that differ by {difference:.1e}: words.js and "
            "model_files.py compute them in another way than the model; adapt both"
        )
    return found


def embed(
    arrays: dict[str, NDArray[np.float32]], ids: Sequence[NDArray[np.int64]], image_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Image embeddings (B, D) of unit norm of ids (B, h_l, w_l) and of image tokens (B, M), as words.js computes them."""
    mean = np.zeros((len(ids[0]), len(arrays["to_embedding.bias"])), np.float32)
    for index, own in enumerate(ids):
        rows = arrays[f"codes.{index}"] @ arrays[f"text.{index}.weight"].T + arrays[f"text.{index}.bias"]
        mean += rows[own].mean((1, 2))
    found = mean @ arrays["to_embedding.weight"].T + arrays["to_embedding.bias"]
    for number in range(image_ids.shape[1]):
        found += arrays[f"image.{number}"][image_ids[:, number]]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write_semantics(path: Path, arrays: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
    """Writes arrays one behind the other, little-endian, and gives the place and the shape of each, JSON-ready."""
    places, offset = {}, 0
    with path.open("wb") as file:
        for name, array in arrays.items():
            places[name] = {"offset": offset, "shape": list(array.shape)}
            offset += file.write(np.ascontiguousarray(array, "<f4").tobytes())
    return places


def write_model(tok: PyramidTokenizer, exported: Path, target: Path, facts: dict[str, Any]) -> None:
    """Writes all files of the model into `target`/model.

    Args:
        tok: The model.
        exported: The folder of its encode.onnx and decode.onnx, for images of all sizes.
        target: The page's folder. What is in it already is listed by the model's facts.
        facts: Further facts, JSON-ready.
    """
    folder = target / "model"
    folder.mkdir()
    for part in ("encode", "decode"):
        shrink_weights(exported / f"{part}.onnx", folder / f"{part}.onnx")
    words = choose_words()
    places = write_semantics(folder / "semantics.bin", semantic_arrays(tok, words))
    loaded = [*sorted(folder.iterdir()), *sorted(target.glob("ort/*.wasm"))]
    own = facts_of(tok, "encode", None)
    names = (
        "fingerprint",
        "image_recipe",
        "codebook_sizes",
        "image_codebook_sizes",
        "strides",
        "base_levels",
        "multiple_px",
        "embedding_dim",
        "made_with",
    )
    described = (
        {name: own[name] for name in names}
        | facts
        | {
            "palette": [class_colour(index) for index in range(len(PALETTE))],
            "absent_colour": ABSENT_COLOUR,
            "words": words,
            "arrays": places,
            "files": {path.relative_to(target).as_posix(): path.stat().st_size for path in loaded},
        }
    )
    (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")
