"""What captions say about a photo, read by rule: who does what and where, colours and numbers.

The rules know the plain sentences that people write under photos, and pass over what they do not
know: a fact that is missing costs a question, one that is wrong teaches a falsehood."""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from train.embedded.question_words import (
    ADJECTIVES,
    ARTICLES,
    CLOTHES,
    COLOURED,
    COLOURS,
    CROWD_WORDS,
    NOUN_FORMS,
    NUMBERS,
    OBJECT_VERBS,
    PARTICIPLES,
    PATTERNED,
    PEOPLE,
    PEOPLE_OR_ANIMALS,
    PEOPLE_WORDS,
    PLACES,
    PLURALS,
    POSSESSIVES,
    PREPOSITIONS,
    STOPS,
    VERBS,
)

KNOWN_AS = {"puppy": "dog", "kitten": "cat", **PEOPLE}
"""Singular nouns that are asked about by another one."""

SINGULARS = {plural: noun for noun, plural in PLURALS.items() if plural != noun}
HEADS = {noun: KNOWN_AS.get(noun, noun) for noun in PLURALS}
BASE_OF_ING = {form: base for base, form in VERBS.items()}
BASE_OF_S = {
    base + ("es" if base.endswith(("s", "x", "ch", "sh")) else "s"): base for base in VERBS
} | {"carries": "carry", "flies": "fly"}

MODIFIERS = ("in", "with", "wearing", "dressed", "on")
LONGEST_PHRASE = 5
LONGEST_MODIFIER = 9


@dataclass(frozen=True)
class Action:
    """Somebody does something.

    Args:
        who: singular or plural noun.
        verb: its base form.
        words: from its -ing form on.
        object: what it is done to, with its article; empty if there is none.
    """

    who: str
    verb: str
    words: tuple[str, ...]
    object: tuple[str, ...] = ()


@dataclass
class CaptionFacts:
    """What one caption says.

    Args:
        words: of the caption, lower case.
        who: noun that the caption is about, singular or plural; None if it is not a known one.
        phrase: of it, with articles, numbers and ages, such as `a little girl`.
        actions: what it does.
        places: where it is, such as `on the beach`.
        colours: colours of things, by noun; of clothes, by whose they are (`man's shirt`).
        numbers: how many there are, by plural noun.
    """

    words: list[str]
    who: str | None = None
    phrase: tuple[str, ...] = ()
    actions: list[Action] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    colours: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    numbers: list[tuple[str, int]] = field(default_factory=list)


def is_plural(noun: str) -> bool:
    """Whether a noun is one of the plurals that captions are about."""
    return noun in SINGULARS


def words_of(caption: str) -> list[str]:
    """Lower-case words and punctuation: `A t-shirt, grey.` -> `a t shirt , gray .`."""
    plain = caption.lower().replace("-", " ").replace(" 's", "'s").replace("grey", "gray")
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[,.;:]", plain)


def read_caption(caption: str) -> CaptionFacts:
    """The facts of one caption."""
    words = words_of(caption)
    facts = CaptionFacts(words)
    facts.colours = [*_coloured_things(words), *_coloured_clothes(words)]
    facts.numbers = _numbers(words)
    start = _skip_adjectives(words, 1 if words and words[0] in ARTICLES | NUMBERS.keys() else 0)
    noun = words[start] if start < len(words) else ""
    if noun not in HEADS and noun not in SINGULARS:
        return facts
    plural = noun in SINGULARS
    facts.who = PLURALS[HEADS[SINGULARS[noun]]] if plural else HEADS[noun]
    facts.phrase = (*_without_looks(words[:start]), noun)
    facts.places += _place(words, start + 1)
    verb = _find_verb(words, start + 1, plural)
    while verb is not None:
        verb = _read_action(words, facts.who, verb, facts)
    return facts


def _skip_adjectives(words: list[str], start: int) -> int:
    """The first word from `start` on that is not an adjective or an `and` between two colours."""
    for i in range(start, len(words)):
        joins = words[i] == "and" and words[i - 1] in COLOURS and words[i + 1 : i + 2] != []
        if words[i] not in ADJECTIVES and not (joins and words[i + 1] in COLOURS):
            return i
    return len(words)


def _without_looks(words: list[str]) -> list[str]:
    """An article or number and what says age or sex."""
    kept = ("young", "little", "old", "elderly", "older", "teenage", "small", "adult")
    return [word for word in words if word in ARTICLES or word in NUMBERS or word in kept]


def _verb_at(
    words: list[str], place: int, plural: bool, behind_noun: bool
) -> tuple[int, str] | None:
    """Place and base form of a verb that says what the subject does, after any `is` and adverb."""
    auxiliary = words[place : place + 1] in (["is"], ["are"])
    place += auxiliary
    while place < len(words) and words[place].endswith("ly") and words[place] != "fly":
        place += 1
    word = words[place] if place < len(words) else ""
    if word in BASE_OF_ING and (auxiliary or behind_noun):
        return place, BASE_OF_ING[word]
    if auxiliary:
        return None
    if not plural and word in BASE_OF_S and (behind_noun or word not in NOUN_FORMS):
        return place, BASE_OF_S[word]
    if plural and behind_noun and word in VERBS:
        return place, word
    return None


def _find_verb(words: list[str], place: int, plural: bool) -> tuple[int, str] | None:
    """The subject's verb, right behind it or behind what it wears, has or is on."""
    found = _verb_at(words, place, plural, behind_noun=True)
    if found or words[place : place + 1] == [] or words[place] not in MODIFIERS:
        return found
    for i in range(place + 1, min(place + LONGEST_MODIFIER, len(words))):
        word = words[i]
        if word in (",", "that", "who", "which", "while", "as") or _is_living(word):
            return None
        if word in BASE_OF_ING:
            return None
        if found := _verb_at(words, i, plural, behind_noun=False):
            return found
    return None


def _is_living(word: str) -> bool:
    return word in HEADS or word in SINGULARS


def _noun_phrase(words: list[str], start: int) -> tuple[str, ...]:
    """The words of a noun phrase that starts here; empty if there is none that can be relied on."""
    end = start
    while end < len(words) and words[end] not in STOPS | BASE_OF_ING.keys() | {".", "and"}:
        end += 1
    # `a black and white dog`
    if end + 1 < len(words) and words[end] == "and" and words[end - 1] in COLOURS:
        if words[end + 1] not in COLOURS:
            return ()
        rest = _noun_phrase(words, end + 1)
        return (*words[start:end], "and", *rest) if rest else ()
    phrase = tuple(words[start:end])
    bare = ARTICLES | POSSESSIVES | ADJECTIVES | {"another", "very", "two", "three"}
    if not phrase or phrase[-1] in bare or len(phrase) > LONGEST_PHRASE:
        return ()
    if phrase[-1] == "other" and phrase[0] != "each":
        return ()
    if re.search("(?<!.b|sl)ed$", phrase[-1]) or phrase[-1] in PARTICIPLES:
        return ()
    if any(word in BASE_OF_S and word not in NOUN_FORMS for word in phrase):
        return ()
    return phrase


def _has_article(phrase: tuple[str, ...]) -> bool:
    return phrase[0] in ARTICLES | POSSESSIVES


def _place(words: list[str], start: int) -> list[str]:
    """`on the beach`, if that is what stands here."""
    if words[start : start + 1] and words[start] in ("in", "on", "at"):
        phrase = _noun_phrase(words, start + 1)
        if phrase and phrase[-1] in PLACES and "of" not in phrase:
            return [" ".join((words[start], *phrase))]
    return []


def _read_action(
    words: list[str], who: str, verb: tuple[int, str], facts: CaptionFacts
) -> tuple[int, str] | None:
    """Adds an action and where it is done; gives the verb of a second action, behind `and` or
    `while`, if there is one."""
    place, base = verb
    start = place + 1
    while start < len(words) and words[start].endswith("ly") and words[start] != "fly":
        start += 1
    end = start
    while end < len(words) and words[end] in PREPOSITIONS:
        end += 1
    prepositions = tuple(words[start:end])
    phrase = _noun_phrase(words, end)
    if base == "lay" and (prepositions or not phrase):
        base = "lie"
    if prepositions and not phrase:
        prepositions = prepositions if prepositions in (("up",), ("down",)) else ()
    # Of `jumping rope` and `jumping high`, the one is not told from the other.
    is_object = phrase and not prepositions and (_has_article(phrase) or base in OBJECT_VERBS)
    said = (VERBS[base], *prepositions, *phrase)
    action = Action(who, base, said, phrase if is_object else ())
    end += len(phrase)
    facts.actions.append(action)
    if prepositions:
        facts.places += _place(words, start) if base not in ("look", "watch", "point") else []
    elif base not in ("look", "watch", "point"):
        facts.places += _place(words, end)
    if words[end : end + 1] in (["and"], ["while"]) and words[end + 1 : end + 2] != []:
        following = words[end + 1]
        if following in BASE_OF_ING:
            return end + 1, BASE_OF_ING[following]
    return None


def _colours_before(words: list[str], noun: int) -> tuple[str, ...]:
    """The colours of the noun at a place, in order; empty if it has none."""
    start = noun
    while start > 0 and (
        words[start - 1] in ADJECTIVES
        or (words[start - 1] == "and" and start > 1 and words[start - 2] in COLOURS)
    ):
        start -= 1
    return tuple(dict.fromkeys(word for word in words[start:noun] if word in COLOURS))


def _coloured_things(words: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Colours of animals and things."""
    return [
        (KNOWN_AS.get(word, word), _colours_before(words, i))
        for i, word in enumerate(words)
        # The ball in `ball pit` is none.
        if word in COLOURED and (i + 1 == len(words) or not _continues(words[i + 1]))
    ]


def _continues(word: str) -> bool:
    """Whether a noun in front of this word may be only the first part of a compound."""
    known = STOPS | PREPOSITIONS | BASE_OF_ING.keys() | BASE_OF_S.keys() | VERBS.keys()
    return word not in known | ARTICLES | NUMBERS.keys() | {".", "and"}


def _coloured_clothes(words: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Colours of what somebody wears: `a man in a red shirt` -> `man's shirt`: red."""
    found = []
    for i, word in enumerate(words):
        if HEADS.get(word) not in PEOPLE.values():
            continue
        start = i + 1
        start += words[start : start + 1] in (["is"], ["dressed"])
        if words[start : start + 1] not in (["in"], ["wearing"], ["wears"]):
            continue
        start += 1
        start += words[start : start + 1] != [] and words[start] in ARTICLES | POSSESSIVES
        end = _skip_adjectives(words, start)
        if end < len(words) and words[end] in CLOTHES and (colours := _colours_before(words, end)):
            found.append((f"{HEADS[word]}'s {words[end]}", colours))
    return found


def _numbers(words: list[str]) -> list[tuple[str, int]]:
    """How many of whom: `two black dogs` -> `dogs`: 2."""
    found = []
    for i, word in enumerate(words):
        if word in NUMBERS:
            noun = _skip_adjectives(words, i + 1)
            if noun < len(words) and words[noun] in SINGULARS:
                found.append((PLURALS[HEADS[SINGULARS[words[noun]]]], NUMBERS[word]))
    return found


class PhotoFacts:
    """What all captions of a photo say together; facts on which they do not agree are left out.

    Args:
        captions: one or more.
    """

    def __init__(self, captions: list[str]) -> None:
        self.captions = [read_caption(caption) for caption in captions]
        self.words = {word for caption in self.captions for word in caption.words}
        self.enough = min(2, len(captions))

    def is_single(self, noun: str) -> bool:
        """Whether captions speak of only one dog, one man, and never of more."""
        names = {name for name, head in HEADS.items() if head == noun} or {noun}
        plurals = {PLURALS.get(name, f"{name}s") for name in names}
        if self.words & (CROWD_WORDS | NUMBERS.keys() | plurals):
            return False
        return all(sum(word in names for word in caption.words) <= 1 for caption in self.captions)

    @cached_property
    def subject(self) -> str | None:
        """The noun that most captions are about, if at least two are and it is clear how many of
        them there are."""
        counts = Counter(caption.who for caption in self.captions if caption.who)
        for who, count in counts.most_common():
            if count < self.enough:
                break
            if who in SINGULARS and self.words & {SINGULARS[who]}:
                continue
            if who in SINGULARS or self.is_single(who):
                return who
        return None

    def actions(self, who: str) -> list[Action]:
        """What a subject does; first what most captions say, then the shortest that says more
        than the verb."""
        actions = [a for caption in self.captions for a in caption.actions if a.who == who]
        by_verb = Counter(action.verb for action in actions)
        first = sorted(
            actions,
            key=lambda action: (
                -by_verb[action.verb],
                len(action.words) == 1,
                not action.object or not _has_article(action.object),
                len(action.words),
            ),
        )
        return list(dict.fromkeys(first))

    def verbs(self, who: str) -> Counter[str]:
        """In how many captions a subject does what."""
        return Counter(
            verb
            for caption in self.captions
            for verb in {action.verb for action in caption.actions if action.who == who}
        )

    def places(self, who: str) -> list[str]:
        """Where a subject is; first the place that most captions say."""
        places = [p for caption in self.captions if caption.who == who for p in caption.places]
        heads = Counter(place.rsplit(" ", 1)[-1] for place in places)
        first = sorted(places, key=lambda place: (-heads[place.rsplit(" ", 1)[-1]], len(place)))
        return list(dict.fromkeys(first))

    @cached_property
    def colours(self) -> dict[str, tuple[str, ...]]:
        """Colours of what there is one of, where two captions say the same and none another."""
        told: dict[str, list[tuple[str, ...]]] = {}
        for caption in self.captions:
            for noun, colours in caption.colours:
                if colours:
                    told.setdefault(noun, []).append(colours)
        if self.words & PATTERNED:
            told = {noun: colours for noun, colours in told.items() if "'s " in noun}
        return {
            noun: colours[0]
            for noun, colours in told.items()
            if len(colours) >= self.enough
            and len({frozenset(one) for one in colours}) == 1
            and self.is_single(noun.split("'s ")[0])
        }

    @cached_property
    def numbers(self) -> dict[str, int]:
        """How many there are of whom, where two captions say the same and none another."""
        if self.words & (CROWD_WORDS - {"another", "other", "both", "each"}):
            return {}
        told: dict[str, list[int]] = {}
        for caption in self.captions:
            for noun, number in caption.numbers:
                told.setdefault(noun, []).append(number)
        return {
            noun: numbers[0]
            for noun, numbers in told.items()
            if len(numbers) >= self.enough and len(set(numbers)) == 1
        }

    def people(self) -> list[str]:
        """Who is in the photo, such as `a little girl`; first what most captions say. Empty if
        there is anybody whom a caption names beside its subject."""
        phrases: Counter[str] = Counter()
        numbers = set()
        for caption in self.captions:
            told = [word for word in caption.words if word in PEOPLE_WORDS | PEOPLE_OR_ANIMALS]
            if told and (caption.who is None or told != [caption.phrase[-1]]):
                return []
            if not told or len(caption.phrase) < 2:
                continue
            first, *rest = caption.phrase
            if first in NUMBERS:
                numbers.add(NUMBERS[first])
                phrases[" ".join(caption.phrase)] += 1
            elif first in ARTICLES and not is_plural(caption.phrase[-1]):
                numbers.add(1)
                phrases[" ".join(("an" if rest[0][0] in "aeiou" else "a", *rest))] += 1
        others = self.words & (CROWD_WORDS - {"couple", "friends"})
        if others or len(numbers) > 1 or phrases.total() < self.enough:
            return []
        vague = ("person", "people")
        return sorted(phrases, key=lambda phrase: (phrase.endswith(vague), -phrases[phrase]))
