"""The planted mistakes as a kernel of the builder."""
