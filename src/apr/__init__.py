"""`apr`: know that a model really starts from the weights you named."""

__version__ = "0.1.0"
