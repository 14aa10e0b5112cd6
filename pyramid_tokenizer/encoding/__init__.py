"""Images -> tokens: of any sizes (`by_size`), and as many tokens as an image needs (`by_content`)."""

from pyramid_tokenizer.config.budget import Budget
from pyramid_tokenizer.encoding.by_content import Kept, check_smallest
from pyramid_tokenizer.encoding.by_size import OnError, encode_by_size
from pyramid_tokenizer.encoding.encoder import Encoder, Images

__all__ = ["Budget", "Encoder", "Images", "Kept", "OnError", "check_smallest", "encode_by_size"]
