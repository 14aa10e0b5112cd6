"""Words -> masks: look-up against the dense computation, the head, chunks of classes, backgrounds, files."""

import copy

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.plain import to_dict
from pyramid_tokenizer.errors import TokenError
from pyramid_tokenizer.segmentation import scoring, segmenter
from pyramid_tokenizer.segmentation.head import build_head
from pyramid_tokenizer.segmentation.scoring import best_classes
from pyramid_tokenizer.text import TextEncoder, VocabularyEmbeddings
from tests.segmentation.conftest import NAMES, SIZE, WORDS


def embeddings_of(tok, tokens):
    """(B, D, h, w): every cell's places added up, level by level."""
    total = None
    for index, ids in enumerate(tokens.ids):
        level = tok.quantizer.level(index)
        own = torch.stack([level.text_weight * level.text_embeddings()[image] for image in ids]).permute(0, 3, 1, 2)
        if total is not None:
            ratio = own.shape[-1] // total.shape[-1]
            total = F.interpolate(total, scale_factor=ratio, mode="bilinear", align_corners=False)
        total = own if total is None else total + own
    return total


def class_scores_of(cells, names):
    """(B, N, h, w): the highest of a class's synonyms, per cell."""
    encoder = TextEncoder(PyramidTokenizer.from_backbone("toy").backbone)
    return torch.stack(
        [
            torch.stack([torch.einsum("bdhw,d->bhw", cells, row) for row in encoder.encode(name.split("|"))]).amax(0)
            for name in names
        ],
        1,
    )


def pixels_of(scores, stride, size):
    large = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    return large[..., : size[0], : size[1]]


def assert_best(found, scores):
    """The map has the best class's score everywhere, and names a class that reaches it."""
    top = scores.amax(1)
    torch.testing.assert_close(found.scores, top, rtol=0, atol=1e-5)
    reached = scores.gather(1, found.labels[:, None])[:, 0]
    torch.testing.assert_close(reached, top, rtol=0, atol=1e-5)


class TestLookUp:
    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_it_is_the_dense_computation(self, seg, images, levels):
        tokens = seg.tok.encode(images)[:levels]
        found = seg.segment(tokens, NAMES)
        cells = class_scores_of(embeddings_of(seg.tok, tokens), NAMES)
        assert_best(found, pixels_of(cells, (32, 16, 8)[levels - 1], SIZE))
        assert found.labels.shape == found.scores.shape == (2, *SIZE)
        assert (found.labels.dtype, found.scores.dtype) == (torch.int64, torch.float32)
        assert found.names == ("sky", "tree", "car", "road", "dog")
        assert len(found.labels.unique()) > 2

    def test_cells_are_the_finest_grid_of_the_tokens(self, seg, images):
        tokens = seg.tok.encode(images)
        for n in (1, 2, 3):
            found = seg.segment(tokens[:n], NAMES, resolution="cells")
            assert found.labels.shape == (2, *tokens.grids[n - 1])
            assert_best(found, class_scores_of(embeddings_of(seg.tok, tokens[:n]), NAMES))

    def test_a_model_without_a_head_looks_up(self, seg, images):
        assert torch.equal(seg.segment(images, NAMES).labels, seg.segment(images, NAMES, mode="lookup").labels)

    def test_an_image_has_the_same_map_in_a_batch(self, seg, images):
        together = seg.segment(images, NAMES)
        for i, image in enumerate(images):
            alone = seg.segment(image, NAMES)
            assert torch.equal(alone.labels[0], together.labels[i])
            assert torch.equal(alone.scores[0], together.scores[i])

    def test_scores_are_similarities(self, seg, images):
        scores = seg.segment(images, NAMES).scores
        assert -1 <= float(scores.min()) <= float(scores.max()) <= 1

    def test_a_refit_is_noticed(self, toy_tokenizer, images, smooth):
        own = Segmenter(copy.deepcopy(toy_tokenizer))
        before = own.segment(images, NAMES)
        own.tok.fit([smooth(16, seed=8)], keep_adapters=True)
        found, fresh = own.segment(images, NAMES), Segmenter(own.tok).segment(images, NAMES)
        assert torch.equal(found.scores, fresh.scores)
        assert not torch.equal(found.scores, before.scores)


class TestEveryMode:
    @pytest.mark.parametrize("mode", ["lookup", "decoder"])
    def test_tokens_do_as_well_as_images(self, headed, images, mode):
        tokens = headed.tok.encode(images)
        for resolution in ("pixels", "cells"):
            options = {"mode": mode, "resolution": resolution}
            of_images, of_tokens = headed.segment(images, NAMES, **options), headed.segment(tokens, NAMES, **options)
            assert torch.equal(of_images.labels, of_tokens.labels)
            assert torch.equal(of_images.scores, of_tokens.scores)

    @pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
    def test_the_order_of_names_numbers_the_labels_and_no_more(self, headed, images, mode):
        order = [3, 0, 4, 2, 1]
        plain = headed.segment(images, NAMES, mode=mode)
        other = headed.segment(images, [NAMES[i] for i in order], mode=mode)
        assert torch.equal(torch.tensor(order)[other.labels], plain.labels)
        torch.testing.assert_close(other.scores, plain.scores)

    @pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
    @pytest.mark.parametrize("resolution", ["pixels", "cells"])
    def test_background_words_are_one_more_class(self, headed, images, mode, resolution):
        options = {"mode": mode, "resolution": resolution}
        found = headed.segment(images, NAMES, background=WORDS, **options)
        wanted = headed.segment(images, [*NAMES, "|".join(WORDS)], **options)
        assert torch.equal(found.labels, torch.where(wanted.labels == len(NAMES), -1, wanted.labels))
        assert torch.equal(found.scores, wanted.scores)
        assert found.names == wanted.names[:-1]
        if mode != "decoder" and resolution == "pixels":
            assert 0 < (found.labels == -1).float().mean() < 1

    @pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
    def test_a_threshold_takes_the_pixels_below_it(self, headed, images, mode):
        plain = headed.segment(images, NAMES, mode=mode)
        middle = float(plain.scores.median())
        found = headed.segment(images, NAMES, threshold=middle, mode=mode)
        assert torch.equal(found.labels, torch.where(plain.scores < middle, -1, plain.labels))
        assert torch.equal(found.scores, plain.scores)
        assert (plain.labels >= 0).all()
        assert (headed.segment(images, NAMES, threshold=2, mode=mode).labels == -1).all()

    @pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
    def test_scores_of_all_classes_have_the_map_as_their_maximum(self, headed, images, mode):
        scores, found = headed.class_scores(images, NAMES, mode=mode), headed.segment(images, NAMES, mode=mode)
        assert scores.shape == (2, 5, *SIZE)
        torch.testing.assert_close(scores.amax(1), found.scores)
        assert torch.equal(scores.argmax(1), found.labels)

    @pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
    @pytest.mark.parametrize("size", [(1, 1), (9, 70), (64, 32)])
    def test_maps_have_the_images_size(self, headed, smooth, mode, size):
        assert headed.segment(smooth(1, *size), NAMES, mode=mode).labels.shape == (1, *size)

    def test_size_resizes_images_first(self, headed, images):
        found = headed.segment(images, NAMES, size=64)
        assert torch.equal(found.labels, headed.segment(headed.tok.encode(images, size=64), NAMES).labels)
        assert found.labels.shape == (2, 64, 89)
        assert headed.segment(images, NAMES, size=64, mode="dense").labels.shape == (2, 64, 89)

    def test_a_size_for_tokens_is_ignored_with_a_warning(self, seg, images):
        tokens = seg.tok.encode(images)
        with pytest.warns(UserWarning, match="size=64 is ignored") as caught:
            found = seg.segment(tokens, NAMES, size=64)
        assert caught[0].filename == __file__
        assert torch.equal(found.labels, seg.segment(tokens, NAMES).labels)

    def test_nothing_records_gradients(self, headed, images):
        for mode in ("lookup", "decoder", "dense"):
            assert not headed.segment(images.clone().requires_grad_(True), NAMES, mode=mode).scores.requires_grad
        assert not any(parameter.requires_grad for parameter in headed.parameters())
        assert not headed.training


class TestDecoder:
    def test_it_scores_what_the_head_makes_of_look_up_and_fused_maps(self, headed, images):
        tokens = headed.tok.encode(images)
        trunk = headed.head.trunk or headed.tok.trunk
        with torch.no_grad():
            fused = trunk(headed.tok.codes(tokens))
            cells = headed.head(embeddings_of(headed.tok, tokens), fused, headed.tok.embedding(tokens))
        found = headed.segment(tokens, NAMES)
        scores = pixels_of(class_scores_of(cells, NAMES), 8, SIZE)
        probabilities = torch.sigmoid(headed.head.log_scale.exp() * scores + headed.head.bias)
        assert_best(found, probabilities)
        assert not torch.equal(found.labels, headed.segment(tokens, NAMES, mode="lookup").labels)

    def test_it_needs_the_image_tokens(self, headed, images):
        tokens = headed.tok.encode(images)
        without = headed.tok.tokens(tokens.ids, image_size=tokens.image_size)
        with pytest.raises(TokenError, match="image tokens"):
            headed.segment(without, NAMES)
        assert headed.segment(without, NAMES, mode="lookup").labels.shape == (len(images), *SIZE)

    def test_a_fresh_head_gives_the_labels_of_the_look_up(self, headed, images):
        fresh = Segmenter(
            headed.tok, build_head(headed.tok.trunk, embedding_dim=16, **to_dict(headed.tok.config.segmentation))
        )
        found, wanted = fresh.segment(images, NAMES), fresh.segment(images, NAMES, mode="lookup")
        assert torch.equal(found.labels, wanted.labels)
        assert torch.equal(
            fresh.guidance(fresh.tok.encode(images)).refined, fresh.guidance(fresh.tok.encode(images)).lookup
        )

    def test_an_image_has_nearly_the_same_map_in_a_batch(self, headed, images):
        together = headed.segment(images, NAMES)
        for i, image in enumerate(images):
            alone = headed.segment(image, NAMES)
            torch.testing.assert_close(alone.scores[0], together.scores[i], rtol=0, atol=1e-5)
            assert (alone.labels[0] != together.labels[i]).float().mean() < 0.001

    def test_a_prefix_is_refined_on_the_finest_grid(self, headed, images):
        tokens = headed.tok.encode(images)
        for n in (1, 2, 3):
            assert headed.segment(tokens[:n], NAMES).labels.shape == (2, *SIZE)
            assert headed.segment(tokens[:n], NAMES, resolution="cells").labels.shape == (2, *tokens.grids[-1])

    def test_the_head_follows_the_tokenizers_dtype(self, headed, images):
        exact = headed.segment(images, NAMES, mode="decoder")
        cast = copy.deepcopy(headed).to(torch.bfloat16)
        late = Segmenter(cast.tok, copy.deepcopy(headed.head))
        tokens = headed.tok.encode(images)
        for coarse in (cast, late):
            found = coarse.segment(tokens, NAMES)
            assert found.scores.dtype == torch.float32
            assert (found.labels == exact.labels).float().mean() > 0.95
            torch.testing.assert_close(found.scores, exact.scores, rtol=0.1, atol=0.01)


def test_dense_is_the_backbones_own_map(seg, images):
    padded = F.pad(images, (0, 64 - SIZE[1], 0, 64 - SIZE[0]), mode="replicate")
    dense = F.normalize(seg.tok.backbone.dense(padded), dim=1)
    cells = class_scores_of(dense, NAMES)
    assert_best(seg.segment(images, NAMES, mode="dense"), pixels_of(cells, 32, SIZE))
    assert_best(seg.segment(images, NAMES, mode="dense", resolution="cells"), cells)


class TestManyClasses:
    """Compared some at a time."""

    @pytest.mark.parametrize(
        ("mode", "resolution", "background", "at_once"),
        [
            ("lookup", "pixels", None, 3),
            ("lookup", "cells", WORDS, 1),
            ("decoder", "pixels", WORDS, 3),
            ("decoder", "cells", None, 1),
            ("dense", "pixels", WORDS, 1),
            ("dense", "cells", None, 3),
        ],
    )
    def test_chunks_change_nothing(self, headed, images, monkeypatch, mode, resolution, background, at_once):
        options = {"mode": mode, "resolution": resolution, "background": background}
        names = [*NAMES, *(f"thing {i}|object {i}" for i in range(4))]
        whole = headed.segment(images, names, **options)
        cells = 2 * (4 if mode == "dense" else 64) * (1 if resolution == "cells" else 1024 if mode == "dense" else 64)
        monkeypatch.setattr(scoring, "CHUNK_FLOATS", at_once * cells)
        for kept in (2**26, 0):
            monkeypatch.setattr(segmenter, "KEPT_TABLE_FLOATS", kept)
            found = headed.segment(images, names, **options)
            assert torch.equal(found.labels, whole.labels)
            torch.testing.assert_close(found.scores, whole.scores, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("floats", [2**24, 1])
    def test_of_equally_good_classes_the_first_wins_across_chunks(self, monkeypatch, floats):
        monkeypatch.setattr(scoring, "CHUNK_FLOATS", floats)
        words = VocabularyEmbeddings(
            names=tuple("abcd"), embeddings=torch.zeros(6, 16), owner=torch.tensor([0, 1, 1, 2, 3, -1])
        )
        scores = torch.tensor([0.1, 0.3, 0.4, 0.4, 0.2, 0.4]).view(1, 6, 1, 1).expand(1, 6, 2, 3)
        options = {"grid": (1, 2, 3), "image_size": None, "stride": 8}
        labels, best = best_classes(lambda part: scores[:, part], words, **options)
        assert (labels == 1).all()
        assert torch.equal(best, torch.full((1, 2, 3), 0.4))

    @pytest.mark.parametrize(
        ("resolution", "kept", "size"),
        [
            pytest.param("pixels", 2**26, (96, 128), marks=pytest.mark.slow),
            ("pixels", 0, (1, 1)),
            ("cells", 0, (96, 128)),
            ("cells", 2**26, (1, 1)),
        ],
    )
    def test_a_thousand_names_need_no_more_memory_than_a_chunk(
        self, toy_tokenizer, smooth, monkeypatch, resolution, kept, size
    ):
        own, largest = Segmenter(toy_tokenizer), []

        def recording(function):
            def call(*args):
                result = function(*args)
                largest.append(result.numel())
                return result

            return call

        for module, name in ((segmenter, "gather_rows"), (scoring, "enlarge")):
            monkeypatch.setattr(module, name, recording(getattr(module, name)))
        limit = 2**16
        monkeypatch.setattr(scoring, "CHUNK_FLOATS", limit)
        monkeypatch.setattr(segmenter, "KEPT_TABLE_FLOATS", kept)
        names = [f"thing {i}|object {i}" if i % 3 == 0 else f"thing {i}" for i in range(1250)]
        found = own.segment(smooth(2, *size), names, resolution=resolution)
        assert limit / 4 < max(largest) <= limit
        assert len(found.names) == 1250
        assert int(found.labels.max()) < 1250

    def test_tables_of_the_last_words_are_kept_while_they_are_small(self, toy_tokenizer, images, monkeypatch):
        own, made = Segmenter(toy_tokenizer), []
        text_embeddings = type(toy_tokenizer.quantizer).weighted_text_embeddings
        monkeypatch.setattr(
            type(toy_tokenizer.quantizer),
            "weighted_text_embeddings",
            lambda self: made.append(1) or text_embeddings(self),
        )
        tokens = own.tok.encode(images)
        for names, times in ((NAMES, 1), (NAMES, 1), (NAMES[:2], 2), (NAMES, 3)):
            own.segment(tokens, names)
            assert len(made) == times
        monkeypatch.setattr(segmenter, "KEPT_TABLE_FLOATS", (8 + 16 + 64) * 8 - 1)  # NAMES has 8 phrases
        own.segment(tokens, NAMES)
        own.segment(tokens, NAMES)
        assert len(made) == 5


class TestGuidance:
    def test_it_has_places_in_the_text_space_and_the_trunks_maps(self, headed, images):
        tokens = headed.tok.encode(images)
        found = headed.guidance(tokens)
        torch.testing.assert_close(found.lookup, embeddings_of(headed.tok, tokens))
        assert found.refined.shape == found.lookup.shape == (2, 16, 8, 8)
        assert not torch.equal(found.refined, found.lookup)
        assert len(found.fused) == 3
        assert all(torch.equal(a, b) for a, b in zip(found.fused, headed.tok.fused(tokens), strict=True))
        scores = torch.einsum("bdhw,d->bhw", found.refined, headed.text.encode(["sky"])[0])
        torch.testing.assert_close(
            headed.segment(tokens, ["sky"], resolution="cells").scores, headed.head.to_logits(scores).sigmoid()
        )

    def test_a_prefix_has_maps_of_all_grids(self, seg, images):
        tokens = seg.tok.encode(images)
        for n in (1, 2, 3):
            found = seg.guidance(tokens[:n])
            assert found.refined is None
            coarse = embeddings_of(seg.tok, tokens[:n])
            torch.testing.assert_close(found.lookup, pixels_of(coarse, (4, 2, 1)[n - 1], (8, 8)))
            assert [tuple(level.shape) for level in found.fused] == [(2, 8, 2, 2), (2, 8, 4, 4), (2, 8, 8, 8)]
