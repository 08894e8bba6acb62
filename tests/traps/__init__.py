"""The trap corpus: programs that do what misleads tracers, each with the truth about itself, and a test for each."""
