"""Whole datasets: images of any source -> Parquet shards of tokens, which survive whatever interrupts their making.

source ──images──▶ images, read ahead ──shards──▶ Parquet bytes ──state──▶ data/train-00000-of-00003.parquet
         keys, columns                  engines: who does it               manifest.json, errors.jsonl
"""

from pyramid_tokenizer.datasets.estimate import Estimate, estimate
from pyramid_tokenizer.datasets.options import TokenizeOptions
from pyramid_tokenizer.datasets.writer import TokenizeReport, tokenize

__all__ = ["Estimate", "TokenizeOptions", "TokenizeReport", "estimate", "tokenize"]
