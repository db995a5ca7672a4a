"""Scorers: predictions and references -> scores, without a model. Each benchmark's own definition,
quirks included; a file for each."""
