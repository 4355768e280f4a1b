"""labkit and its peers on the same work, in one run, in turn. ``make bench`` runs all of it."""
