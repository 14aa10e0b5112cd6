"""Pictures for people: sheets of many pictures with titles and captions."""

from pyramid_tokenizer.visualize.sheets import contact_sheet

__all__ = ["contact_sheet"]
