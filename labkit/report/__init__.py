"""The report: run the notebooks, render what they hold, compare two reports.

From the ground up: :mod:`chapter` reads an executed notebook, :mod:`markup` and :mod:`formulas` make safe HTML,
:mod:`render` a page a chapter, :mod:`index` the first page, :mod:`summary` the files for machines;
:mod:`run` executes notebooks, :mod:`publish` moves a finished report into place; :mod:`plan` checks everything
before the first notebook starts and :mod:`make` does the whole.
"""

SCHEMA = 1  # of summary.json, as reports write it and comparisons read it
