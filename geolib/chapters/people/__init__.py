"""A study of people: do the elements tell them what they tell the model?

The paper leaves human evaluation to future work (§6 of arXiv 2605.00912). ``material`` is what
they see, ``page`` where they answer, ``responses`` what they hand back (or what is generated, and
says so, where nobody has answered), and ``judging`` sets them beside the model and the true cues.
"""
