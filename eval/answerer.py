"""Who answers: a model of this project, the same without photos, or one answer to everything."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from PIL import Image

import vlm
from eval.question import Question
from vlm.errors import ImageError


@dataclass(frozen=True)
class Answer:
    """An answer, or why there is none.

    Attributes:
        text: the answer; "" if there is none.
        error: None if there is one.
    """

    text: str
    error: str | None = None


class Answerer(Protocol):
    """Whose answers are scored."""

    def answer(self, questions: Sequence[Question], max_tokens: int) -> list[Answer]:
        """An answer to each question, in their order.

        Args:
            questions: neighbours may be about the same image.
            max_tokens: longest answer.
        """
        ...


class ModelAnswerer:
    """A model of this project, greedy or by beams. The questions of one call are one batch.

    Args:
        model: a loaded model.
        beams: width of the search; 1 is greedy.
    """

    def __init__(self, model: "vlm.VisionLanguageModel", beams: int = 1) -> None:
        self.model = model
        self.beams = beams

    def answer(self, questions: Sequence[Question], max_tokens: int) -> list[Answer]:
        """See `Answerer`. A photo that cannot be read is an error of its questions."""
        answers = [Answer("")] * len(questions)
        places, pairs = [], []
        # Neighbours share a loaded photo, by which the model sees that it is the same.
        for _, neighbours in groupby(enumerate(questions), key=lambda each: each[1].image):
            about = dict(neighbours)
            try:
                photo = self.look(next(iter(about.values())))
            except ImageError as error:
                for place in about:
                    answers[place] = Answer("", str(error))
                continue
            places += about
            pairs += [(photo, question.text) for question in about.values()]
        texts = self.model.batch(
            pairs, batch_size=max(1, len(pairs)), max_tokens=max_tokens, beams=self.beams
        )
        for place, text in zip(places, texts, strict=True):
            answers[place] = Answer(text)
        return answers

    def look(self, question: Question) -> Image.Image:
        """What the model is shown.

        Raises:
            ImageError: it cannot be read.
        """
        return question.photo()


class BlindAnswerer(ModelAnswerer):
    """The same model shown the mean image, one of the colour that the tower takes for nothing,
    whatever the question is about: what it can guess from the question alone. With one image for
    all, the same words need to be asked only once."""

    def __init__(self, model: "vlm.VisionLanguageModel", beams: int = 1) -> None:
        super().__init__(model, beams)
        preprocessing = model.vision.preprocessing
        colour = tuple(round(255 * channel) for channel in preprocessing.mean)
        self.mean = Image.new("RGB", (preprocessing.size, preprocessing.size), colour)
        self.known: dict[tuple[str, int], Answer] = {}

    def answer(self, questions: Sequence[Question], max_tokens: int) -> list[Answer]:
        """See `Answerer`."""
        new = {q.text: q for q in questions if (q.text, max_tokens) not in self.known}
        for text, answer in zip(new, super().answer([*new.values()], max_tokens), strict=True):
            self.known[text, max_tokens] = answer
        return [self.known[question.text, max_tokens] for question in questions]

    def look(self, question: Question) -> Image.Image:
        """The mean image."""
        return self.mean


class MajorityAnswerer:
    """Always the answer that is right most often among the questions asked.

    Args:
        questions: all that will be asked.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        counts = Counter(answer for question in questions for answer in set(question.answers))
        ((self.text, _),) = counts.most_common(1)

    def answer(self, questions: Sequence[Question], max_tokens: int) -> list[Answer]:
        """See `Answerer`."""
        return [Answer(self.text)] * len(questions)
