"""Importers: one folder a framework, each of which turns a model into a :class:`tilewright.graph.Graph`."""
