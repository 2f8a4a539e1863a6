"""A study of people: do the elements tell them what they tell the model?

The paper leaves human evaluation to future work (§6 of arXiv 2605.00912). ``material.prepare``
builds the pictures and who sees what, ``page.write`` the page that people answer on,
``responses.read_answers`` reads what they hand back, and ``judging`` sets people beside the model
and the true cues. ``responses.simulate`` stands in where nobody has answered yet; its answers say
so wherever they go.
"""
