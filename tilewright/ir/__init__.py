"""The expression and statement IR."""
