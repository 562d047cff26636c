"""elmanctl: build, verify, size, train and compare minimal recurrences."""

__version__ = "0.1.0"
