"""Whole datasets: images of any source -> Parquet shards of tokens, which survive whatever interrupts their making, and back.

source ──images──▶ images, read ahead ──shards──▶ Parquet bytes ──state──▶ data/train-00000-of-00003.parquet
         keys, columns                  engines: who does it               manifest.json, errors.jsonl

one image ──transform──▶ tokens, inside a dataset of one's own

Parquet ──arrow_copy──▶ mapped file ──reader──▶ rows ──sampler──▶ the rows of a rank
                                                     ──search──▶ rows that suit words or an image
                                                     ──sequences──▶ integers for a language model ──megatron──▶ .bin, .idx
"""

from pyramid_tokenizer.datasets.collate import collate_by_size
from pyramid_tokenizer.datasets.estimate import Estimate, estimate
from pyramid_tokenizer.datasets.megatron import to_megatron
from pyramid_tokenizer.datasets.options import TokenizeOptions
from pyramid_tokenizer.datasets.reader import TokenDataset
from pyramid_tokenizer.datasets.rows import Rows, TokenBatch, TokenRow
from pyramid_tokenizer.datasets.sampler import RowSampler
from pyramid_tokenizer.datasets.search import Match
from pyramid_tokenizer.datasets.sequences import PackedSequence, TokenSequences
from pyramid_tokenizer.datasets.transform import ToTokens
from pyramid_tokenizer.datasets.writer import TokenizeReport, tokenize

__all__ = [
    "Estimate",
    "Match",
    "PackedSequence",
    "RowSampler",
    "Rows",
    "ToTokens",
    "TokenBatch",
    "TokenDataset",
    "TokenRow",
    "TokenSequences",
    "TokenizeOptions",
    "TokenizeReport",
    "collate_by_size",
    "estimate",
    "to_megatron",
    "tokenize",
]
