"""Metrics: predictions and references -> scores, without a model, each by its own definition,
quirks included. Others import them (`vqa.vqa_accuracy`, `anls.anls`, `choice.read_choice`,
`mme.score_mme`): they keep their names and places."""
