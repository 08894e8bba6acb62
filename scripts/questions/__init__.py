"""Ten questions about recorded events, asked of two databases."""
