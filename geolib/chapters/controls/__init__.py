"""The controls a referee asks for."""
