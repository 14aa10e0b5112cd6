"""The sentences and tables of the page, as HTML; what comes from files or was typed is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pyramid_tokenizer.app.views import Decoded, FoundImage, Masks, Place
from pyramid_tokenizer.app.workbench import Opened, Workbench
from pyramid_tokenizer.tokens.summary import level_counts

STYLE = """
.pt-note { color: var(--body-text-color); opacity: 0.72; font-size: 0.95em; line-height: 1.4; }
.pt-error { color: #8f1010; background: #fdeaea; border-left: 4px solid #c62828; border-radius: 4px; padding: 8px 12px;
  line-height: 1.4; overflow-wrap: anywhere; }
.pt-head { display: flex; align-items: baseline; gap: 16px; flex-wrap: wrap; }
.pt-head b { font-size: 1.4em; font-weight: 600; }
table.pt { border-collapse: collapse; border: 0 !important; margin-top: 4px; }
table.pt th, table.pt td { padding: 4px 28px 4px 0; border: 0 !important; text-align: left; vertical-align: top; }
table.pt tr { border: 0; border-bottom: 1px solid var(--border-color-primary); }
table.pt th { font-weight: 600; opacity: 0.72; }
table.pt .number { text-align: right; font-variant-numeric: tabular-nums; }
.pt-image img { object-fit: contain !important; max-height: 560px; }
.pt-click img { cursor: crosshair; }
footer { display: none !important; }
"""
"""The style sheet of the page."""


def heading(bench: Workbench) -> str:
    """The head of the page: what it is, and which model it shows."""
    tok = bench.tok
    sizes = " + ".join(f"{size:,}" for size in tok.quantizer.codebook_sizes)
    strides = ", ".join(map(str, tok.quantizer.strides))
    model = (
        f"model <code>{escape(bench.title)}</code>: {bench.num_levels} levels of {sizes} codes, strides {strides} px"
    )
    return f'<div class="pt-head"><b>pyramid-tokenizer</b><span class="pt-note">{model}</span></div>'


def error_line(error: Exception, uploaded: Path | None = None) -> str:
    """An error as a line of the page; the folder of an uploaded file, which says nothing to its owner, is left out."""
    message = str(error) if uploaded is None else str(error).replace(str(uploaded), uploaded.name)
    return f'<div class="pt-error" role="alert">{escape(message)}</div>'


def limits_line(bench: Workbench) -> str:
    """What happens to large photos, and where files go."""
    return note(
        f"A photo whose short side is longer than {bench.size} px is shrunk to that. Files stay on the machine that runs "
        "this page."
    )


def dataset_line(bench: Workbench) -> str:
    """What can be searched, or how to search something."""
    if bench.dataset is None:
        how = "pyramid-tokenizer app --dataset FOLDER"
        return note(f"There is no token dataset to search: start the page with {how}, where tokenize wrote FOLDER.")
    return note(f"{len(bench.dataset):,} images are searched by their tokens alone.")


def note(text: str) -> str:
    """A sentence in a quieter colour."""
    return f'<div class="pt-note">{escape(text)}</div>'


def opened_line(opened: Opened) -> str:
    """What was opened, and what a reader should know about it."""
    height, width = opened.tokens.image_size
    return note(" ".join([f"{opened.name}: {width} x {height} px.", *opened.notes]))


def decoded_line(decoded: Decoded) -> str:
    """Tokens, rate and PSNR of a prefix, e.g. "64 + 256 tokens, 0.062 bits per pixel, PSNR 20.14 dB"."""
    counts = [f"{count:,}" for count in level_counts(decoded.tokens)[:, 0].tolist()]
    parts = [f"{' + '.join(counts)} tokens", f"{decoded.tokens.bits_per_pixel:.3f} bits per pixel"]
    if decoded.psnr is not None:
        parts.append(f"PSNR {decoded.psnr:.2f} dB")
    return note(", ".join(parts))


def decoded_title(levels: int) -> str:
    """The title of what the first levels decode to."""
    return "Decoded from level 0" if levels == 1 else f"Decoded from levels 0 to {levels - 1}"


def place_table(place: Place) -> str:
    """The tokens at a place as a table with a row for each level."""
    head = (
        '<th class="number">level</th><th class="number">id</th><th class="number">row</th><th class="number">column</th>'
        "<th>in this image</th><th>nearest words</th>"
    )
    rows = "".join(
        f'<tr><td class="number">{one.level}</td><td class="number">{one.id}</td><td class="number">{one.row}</td>'
        f'<td class="number">{one.column}</td><td>{_times(len(one.cells))}</td><td>{escape(words)}</td></tr>'
        for one, words in zip(place.tokens, place.words, strict=True)
    )
    title = note(f"Tokens at column {place.x}, row {place.y}, and where else in this image they are")
    return f'{title}<table class="pt"><tr>{head}</tr>{rows}</table>'


def masks_line(masks: Masks) -> str:
    """The words that no pixel has, if any."""
    present = set(masks.labels.unique().tolist())
    missing = [name for index, name in enumerate(masks.names) if index not in present]
    return note(f"Nowhere the best word: {', '.join(missing)}.") if missing else ""


def found_line(found: Sequence[FoundImage], total: int) -> str:
    """How many images a search shows."""
    return note(f"The {len(found)} best of {total:,} images, decoded from their tokens. Click one to open it.")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
