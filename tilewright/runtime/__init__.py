"""Loading and running compiled models. Imports nothing of the compiler.

:class:`~tilewright.runtime.artifact.Artifact` is a compiled model,
:class:`~tilewright.runtime.model.Executable` runs it.
"""
