"""Code generators, one folder a backend."""
