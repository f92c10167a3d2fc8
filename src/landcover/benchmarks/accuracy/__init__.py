"""Honest accuracy by one command: ``python -m landcover.benchmarks.accuracy``; see ``docs/accuracy.md``.

``protocols`` says what is trained on and scored, ``contenders`` and ``recipes`` who takes part, ``plan`` what
is done already, ``process`` how a training runs apart, ``scores`` what a model gets, ``summary`` and
``tables`` what all that comes to.
"""
