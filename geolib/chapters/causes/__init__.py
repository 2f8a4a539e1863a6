"""Causal effect of every object of a scene, and whether explanations find the causes.

Photographs cannot tell what a prediction rests on. Scenes can: any of their objects can be left
out, or take another country's look, with everything else equal to the pixel.
"""
