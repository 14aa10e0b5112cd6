"""`python -m pyramid_tokenizer.cli`."""

from pyramid_tokenizer.cli import main

if __name__ == "__main__":
    main()
