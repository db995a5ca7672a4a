"""Questions about photos and their answers, made from captions by rule.

Each question with the answer yes is asked in the same words about another photo, of which the
captions say no; so the words of a question never tell its answer."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from train.embedded.caption_facts import PhotoFacts, is_plural
from train.embedded.captioned import read_captions
from train.embedded.question_words import (
    ALIKE_ACTIONS,
    ALIKE_COLOURS,
    ALWAYS_MANY,
    HUMANS,
    MASSES,
    MORE_THINGS,
    NAMES,
    NEEDS_OBJECT,
    NO_PLURAL,
    NOT_REAL,
    NUMBERS,
    OBJECT_VERBS,
    OFTEN_NOT_TOLD,
    PEOPLE,
    PLURALS,
    UNSURE,
    VERBS,
)
from vlm import cli
from vlm.data.records import read_records
from vlm.data.things import named_things
from vlm.errors import DataError
from vlm.files import write_rows

IS_THERE = (
    "Is there {a} in the picture?",
    "Is there {a} in this photo?",
    "Is there {a} in the image?",
    "Can you see {a}?",
    "Do you see {a} in the picture?",
    "Does the photo show {a}?",
)
ARE_THERE = (
    "Are there any {many} in the picture?",
    "Are there any {many}?",
    "Can you see any {many} in the image?",
    "Do you see any {many}?",
)
IS_THERE_ANY = ("Is there any {many} in the picture?", "Can you see {many}?", "Is there {many}?")
DOING = ("What {be} the {who} doing?", "What {be} the {who} doing in this picture?")
WHERE = ("Where {be} the {who}?", "Where {be} the {who} in the photo?")
COLOUR = ("What colour {be} the {what}?", "What color {be} the {what}?")
NUMBER = (
    "How many {many} are there?",
    "How many {many} are in the picture?",
    "How many {many} can you see?",
)
WHO = ("Who is in the picture?", "Who is in the photo?", "Who can you see?")

UNLIKE_ACTIONS = {
    verb: frozenset[str]().union(*(group for group in ALIKE_ACTIONS if ing in group))
    for verb, ing in VERBS.items()
    if verb not in OFTEN_NOT_TOLD and any(ing in group for group in ALIKE_ACTIONS)
}
"""The verbs that are asked with the answer no, each with the words that leave it open."""

THINGS_PER_PHOTO = 3
ACTIONS_PER_PHOTO = 2
COMMON = 0.15
"""Share of photos above which a thing is common: it is asked about in fewer of them."""

ONE = 0.2
"""Share of the photos of only one that are asked for their number, else mostly two."""

CANDIDATES = 32
"""Photos of which the one with the fewest questions so far is asked about."""


@dataclass(frozen=True)
class Answer:
    """The right answers to a question, the best first, and its kind."""

    answers: list[str]
    kind: str


@dataclass
class Photo:
    """A photo, what its captions say, and the questions about it.

    Args:
        image: its name.
        split: the part of the data set it belongs to, if any.
        facts: of its captions.
        named: how many captions name a thing.
        real: how many of them surely mean the thing itself.
        questions: by their text.
    """

    image: str
    split: str | None
    facts: PhotoFacts
    named: Counter[str] = field(default_factory=Counter)
    real: Counter[str] = field(default_factory=Counter)
    questions: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """Something true of one photo, and a question for it that can be asked about others as well.

    Args:
        text: of the question.
        key: what it asks; claims with the same key are false of the same photos.
        is_false: of a photo.
    """

    text: str
    key: tuple[str, ...]
    is_false: Callable[[Photo], bool]


def sentence(words: str) -> str:
    """`on the beach` -> `On the beach.`."""
    return f"{words[0].upper()}{words[1:]}."


def plural_of(noun: str) -> str:
    """`bus` -> `buses`."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def be(noun: str) -> str:
    """The form of `be` that goes with a noun."""
    return "are" if is_plural(noun) or noun.endswith(("shorts", "pants", "flowers")) else "is"


def things_in(caption: str, words: list[str]) -> set[str]:
    """The things that a caption names, among those of `UNSURE`."""
    spaced = f" {' '.join(words)} "
    more = {thing for thing, forms in MORE_THINGS.items() if any(f" {f} " in spaced for f in forms)}
    return (more | set(named_things(caption))) & UNSURE.keys()


def read_photo(image: str, captions: list[str], split: str | None) -> Photo:
    """A photo with the facts of its captions."""
    photo = Photo(image, split, PhotoFacts(captions))
    for caption, facts in zip(captions, photo.facts.captions, strict=True):
        things = things_in(caption, facts.words)
        photo.named.update(things)
        if not NOT_REAL & set(facts.words):
            photo.real.update(things)
    return photo


def true_things(photo: Photo) -> list[str]:
    """Things that are surely in a photo: two captions name them; of people, whom one caption takes
    for a girl and another for a woman, more than half of them."""
    captions = len(photo.facts.captions)
    return [
        thing
        for thing, count in sorted(photo.real.items())
        if count >= photo.facts.enough and (thing not in HUMANS or 2 * count > captions)
    ]


def is_absent(thing: str, photo: Photo) -> bool:
    """Whether a thing is surely not in a photo."""
    return not photo.named[thing] and not photo.facts.words & UNSURE[thing]


def ask_thing(thing: str, generator: random.Random) -> str:
    """A question for whether something is in a photo."""
    name = NAMES.get(thing, thing)
    if thing in MASSES:
        return generator.choice(IS_THERE_ANY).format(many=name)
    if thing in ALWAYS_MANY:
        return generator.choice(ARE_THERE).format(many=name)
    templates = IS_THERE if thing in NO_PLURAL else IS_THERE + ARE_THERE
    article = "an" if name[0] in "aeiou" else "a"
    return generator.choice(templates).format(a=f"{article} {name}", many=plural_of(name))


def thing_claims(
    photo: Photo, frequency: dict[str, float], generator: random.Random
) -> Iterator[Claim]:
    """A few of the things in a photo. The more common ones are passed over more often, by the root
    of their frequency, as words are in word2vec (Mikolov et al. 2013).

    Args:
        photo: of one split.
        frequency: of things in it, 0 to 1.
        generator: draws things and wordings.
    """
    things = [
        thing
        for thing in true_things(photo)
        if generator.random() < (COMMON / frequency[thing]) ** 0.5
    ]
    generator.shuffle(things)
    for thing in things[:THINGS_PER_PHOTO]:
        yield Claim(ask_thing(thing, generator), ("thing", thing), partial(is_absent, thing))


def action_claims(photo: Photo) -> Iterator[Claim]:
    """A few things that the one that a photo is about does."""
    facts = photo.facts
    who = facts.subject
    if who is None or is_plural(who):
        return
    asked: set[str] = set()
    for action in facts.actions(who):
        bare = action.verb in NEEDS_OBJECT and not action.object
        if bare or action.verb in asked or action.verb not in UNLIKE_ACTIONS:
            continue
        asked.add(action.verb)
        doing = " ".join((VERBS[action.verb], *action.object))
        key = (who, action.verb, action.object[-1] if action.object else "")
        yield Claim(f"Is the {who} {doing}?", ("action", *key), partial(does_not, *key))
        if len(asked) == ACTIONS_PER_PHOTO:
            return


def does_not(who: str, verb: str, head: str, photo: Photo) -> bool:
    """Whether a photo is about the same one, who surely does something else.

    Args:
        who: singular noun.
        verb: its base form.
        head: noun of what it is done to, or nothing.
        photo: what is asked about.
    """
    facts = photo.facts
    if facts.subject != who or facts.words & (UNLIKE_ACTIONS[verb] | {head, verb, VERBS[verb]}):
        return False
    return max(facts.verbs(who).values(), default=0) >= facts.enough


def colour_claims(photo: Photo, generator: random.Random) -> Iterator[Claim]:
    """The one colour of something in a photo."""
    plain = [(noun, of[0]) for noun, of in photo.facts.colours.items() if len(of) == 1]
    if plain:
        noun, colour = generator.choice(plain)
        key = (noun, colour)
        text = f"{be(noun).capitalize()} the {noun} {colour}?"
        yield Claim(text, ("colour", *key), partial(has_other_colour, *key))


def has_other_colour(noun: str, colour: str, photo: Photo) -> bool:
    """Whether a thing is in a photo, in colours that nobody would call by this one."""
    alike = {colour}.union(*(group for group in ALIKE_COLOURS if colour in group))
    colours = photo.facts.colours.get(noun)
    return colours is not None and not alike & set(colours)


def open_questions(photo: Photo, generator: random.Random) -> Iterator[tuple[str, Answer]]:
    """Questions for what, where, how many and who."""
    facts = photo.facts

    def ask(templates: tuple[str, ...], **words: str) -> str:
        return generator.choice(templates).format(**words)

    def answer(phrases: list[str], kind: str) -> Answer:
        return Answer([sentence(phrase) for phrase in dict.fromkeys(phrases)], kind)

    who = facts.subject
    if who is not None:
        actions = [a for a in facts.actions(who) if a.object or a.verb not in NEEDS_OBJECT]
        if actions:
            phrases = [" ".join(action.words) for action in actions]
            yield ask(DOING, who=who, be=be(who)), answer(phrases, "action")
        if places := facts.places(who):
            yield ask(WHERE, who=who, be=be(who)), answer(places, "where")
        verbs = [a.verb for a in actions if a.object and a.verb in OBJECT_VERBS]
        if verbs:
            objects = [" ".join(a.object) for a in actions if a.object and a.verb == verbs[0]]
            yield f"What {be(who)} the {who} {VERBS[verbs[0]]}?", answer(objects, "object")
    for noun, colours in facts.colours.items():
        text = ask(COLOUR, what=noun, be=be(noun))
        yield text, answer([" and ".join(colours)], "colour")
    for noun, number in facts.numbers.items():
        word = next(word for word, value in NUMBERS.items() if value == number)
        yield ask(NUMBER, many=noun), answer([word], "number")
    people = facts.people()
    if people:
        yield ask(WHO), answer(people, "who")
    alone = who is not None and not is_plural(who) and (people or who not in PEOPLE.values())
    if alone and generator.random() < ONE:
        many = "people" if people else PLURALS[who]
        yield ask(NUMBER, many=many), answer(["one"], "number")


def ask_claims(photos: list[Photo], generator: random.Random) -> None:
    """Ask yes/no questions: each about a photo of which it is true and about one of which it is
    false, in the same words; what is false of no photo is not asked.

    Args:
        photos: of one split.
        generator: draws things, wordings and photos.
    """
    counts = Counter(thing for photo in photos for thing in true_things(photo))
    frequency = {thing: count / len(photos) for thing, count in counts.items()}
    claims = [
        (photo, claim)
        for photo in photos
        for claim in (
            *thing_claims(photo, frequency, generator),
            *action_claims(photo),
            *colour_claims(photo, generator),
        )
    ]
    generator.shuffle(claims)
    false_of: dict[tuple[str, ...], list[Photo]] = {}
    for photo, claim in claims:
        if claim.key not in false_of:
            false_of[claim.key] = [other for other in photos if claim.is_false(other)]
        others = false_of[claim.key]
        drawn = generator.sample(others, min(CANDIDATES, len(others)))
        free = [other for other in drawn if claim.text not in other.questions]
        if free and claim.text not in photo.questions:
            other = min(free, key=lambda other: len(other.questions))
            photo.questions[claim.text] = Answer(["Yes."], "yes/no")
            other.questions[claim.text] = Answer(["No."], "yes/no")


def question_records(file: Path, seed: int) -> list[dict[str, Any]]:
    """The questions about all photos of a captions file, in its order.

    Args:
        file: as `read_captions` reads it.
        seed: of wordings, of what is asked, and of the photos with the answer no.

    Raises:
        DataError: captions that cannot be read, or that give no question.
    """
    items = list(zip(read_records(file, ("image", "captions")), read_captions(file), strict=True))
    photos = [
        read_photo(record.content["image"], photo.captions, record.split)
        for record, photo in track(items, "reading captions", console=Console(stderr=True))
    ]
    generator = random.Random(seed)
    for photo in photos:
        photo.questions.update(open_questions(photo, generator))
    for split in dict.fromkeys(photo.split for photo in photos):
        ask_claims([photo for photo in photos if photo.split == split], generator)
    records = []
    for photo in photos:
        questions = list(photo.questions.items())
        # They were found in an order that tells the answers: first all that are affirmed.
        generator.shuffle(questions)
        split = {} if photo.split is None else {"split": photo.split}
        records += [
            {"image": photo.image, "question": text, **asdict(answer), **split}
            for text, answer in questions
        ]
    if not records:
        raise DataError(f"{file}: no question can be made of the captions of {len(photos)} photos")
    return records


def main(captions: list[str], seed: int = 0) -> None:
    """Write `questions.jsonl` beside captions files: questions that the captions answer.

    Args:
        captions: JSON-lines files with `image`, `captions` and optionally `split`.
        seed: of wordings, of what is asked, and of the photos with the answer no.
    """
    for name in captions:
        file = Path(name)
        records = question_records(file, seed)
        write_rows(file.with_name("questions.jsonl"), records)
        kinds = Counter(record["kind"] for record in records)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        Console(stderr=True).print(f"{escape(name)}: {len(records)} questions: {counts}")


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.questions", main)))
