"""The parsers of names, held against the messages that others make, and against what nobody should make."""
