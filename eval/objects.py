"""`vlm eval objects`: does the model name the main thing of an everyday photo?

What a photo shows is read off its human captions, see `main_thing`."""

import re
from collections import Counter
from dataclasses import asdict, astuple, dataclass
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import vlm
from eval.captions import QUESTION, Answerer, answer_all
from vlm.captions import CaptionedImage, read_captions, write_records
from vlm.errors import DataError

# 77 of the 80 COCO categories (Lin et al. 2014), each with the words that name it: synonyms, young,
# male or female animals, and kinds that everybody would call by the category. A phrase that ends in
# one of the words (park bench) needs no entry. Kinds of food never stand for another food, and an
# activity (surfing) does not name its equipment. Left out are person and dining table, which are
# the background of most photos, and orange, which is a colour in most captions.
THINGS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bicycle", "bike", "tricycle"),
    "car": ("car", "automobile", "taxi", "cab", "sedan", "suv", "convertible"),
    "motorcycle": (
        *("motorcycle", "motor cycle", "motorbike", "motor bike", "moped", "scooter", "dirt bike"),
    ),
    "airplane": (
        *("airplane", "aeroplane", "plane", "aircraft", "jet", "airliner", "jetliner", "biplane"),
        "warplane",
    ),
    "bus": ("bus", "double decker", "minibus", "trolleybus"),
    "train": ("train", "locomotive", "tram", "streetcar", "trolley car"),
    "truck": ("truck", "lorry", "pickup", "pick up truck", "firetruck", "fire engine"),
    "boat": (
        *("boat", "ship", "sailboat", "rowboat", "motorboat", "speedboat", "canoe", "kayak"),
        *("ferry", "yacht", "gondola"),
    ),
    "traffic light": ("traffic light", "traffic signal", "stoplight", "stop light"),
    "fire hydrant": ("hydrant",),
    "stop sign": ("stop sign",),
    "parking meter": ("parking meter", "meter"),
    "bench": ("bench",),
    "bird": (
        *("bird", "gull", "seagull", "duck", "goose", "geese", "swan", "pigeon", "parrot", "owl"),
        *("hawk", "eagle", "crow", "heron", "egret", "pelican", "flamingo", "hummingbird", "robin"),
        *("sparrow", "finch", "macaw", "stork", "ostrich", "peacock", "penguin", "rooster"),
    ),
    "cat": ("cat", "kitten", "kitty", "tabby"),
    "dog": (
        *("dog", "puppy", "pup", "retriever", "terrier", "spaniel", "hound", "greyhound"),
        *("poodle", "bulldog", "sheepdog", "sheep dog", "german shepherd", "husky", "collie"),
        *("corgi", "labrador", "chihuahua", "dachshund", "beagle", "pug", "dalmatian"),
        "rottweiler",
    ),
    "horse": ("horse", "pony", "foal", "stallion", "mare"),
    "sheep": ("sheep", "lamb", "ram", "ewe"),
    "cow": ("cow", "cattle", "calf", "calves", "bull", "ox", "oxen"),
    "elephant": ("elephant",),
    "bear": ("bear", "grizzly"),
    "zebra": ("zebra",),
    "giraffe": ("giraffe",),
    "backpack": ("backpack", "back pack", "rucksack", "knapsack"),
    "umbrella": ("umbrella", "parasol"),
    "handbag": ("handbag", "hand bag", "purse"),
    "tie": ("tie", "necktie", "bowtie"),
    "suitcase": ("suitcase", "suit case", "luggage", "baggage"),
    "frisbee": ("frisbee", "flying disc", "flying disk"),
    "skis": ("skis",),
    "snowboard": ("snowboard", "snow board"),
    "sports ball": ("ball",),
    "kite": ("kite",),
    "baseball bat": ("bat",),
    "baseball glove": ("baseball glove", "mitt"),
    "skateboard": ("skateboard", "skate board"),
    "surfboard": ("surfboard", "surf board"),
    "tennis racket": ("racket", "racquet"),
    "bottle": ("bottle",),
    "wine glass": ("wine glass", "wineglass", "glass of wine", "glasses of wine"),
    "cup": ("cup", "mug", "teacup"),
    "fork": ("fork",),
    "knife": ("knife", "knives"),
    "spoon": ("spoon",),
    "bowl": ("bowl",),
    "banana": ("banana",),
    "apple": ("apple",),
    "sandwich": ("sandwich",),
    "broccoli": ("broccoli",),
    "carrot": ("carrot",),
    "hot dog": ("hot dog", "hotdog", "chili dog"),
    "pizza": ("pizza",),
    "donut": ("donut", "doughnut"),
    "cake": ("cake", "cupcake"),
    "chair": ("chair", "armchair", "recliner"),
    "couch": ("couch", "sofa", "loveseat", "love seat"),
    "potted plant": ("potted plant", "house plant", "houseplant"),
    "bed": ("bed",),
    "toilet": ("toilet", "toilet seat", "toilet bowl", "urinal"),
    "tv": ("tv", "television", "monitor", "computer screen", "flat screen"),
    "laptop": ("laptop", "lap top", "notebook computer"),
    "mouse": ("mouse", "mice"),
    "remote": ("remote", "remote control", "game controller", "wii controller"),
    "keyboard": ("keyboard",),
    "cell phone": ("cell phone", "cellphone", "phone", "smartphone", "iphone"),
    "microwave": ("microwave", "microwave oven"),
    "oven": ("oven", "stove"),
    "toaster": ("toaster", "toaster oven"),
    "sink": ("sink", "washbasin", "wash basin"),
    "refrigerator": ("refrigerator", "fridge"),
    "book": ("book",),
    "clock": ("clock",),
    "vase": ("vase",),
    "scissors": ("scissors",),
    "teddy bear": ("teddy bear", "teddy", "stuffed bear", "toy bear"),
    "hair drier": ("hair drier", "hair dryer", "hairdryer", "blow dryer"),
    "toothbrush": ("toothbrush", "tooth brush"),
}

# Phrases that hold one of those words and are about something else.
OTHER = (
    *("train station", "train track", "bus stop", "bus station", "car park", "jet ski"),
    *("truck bed", "flower bed", "bird house", "bird cage", "bird bath", "dog house", "bike rack"),
    *("toilet paper", "pizza oven", "pizza cutter", "pizza box", "oven mitt", "book bag"),
    *("phone booth", "phone call", "rocking horse", "mickey mouse", "cup holder", "carrot cake"),
)

QUESTIONS = ("What is this?", QUESTION)


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeo":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


_THING_OF = {
    form: thing
    for thing, words in THINGS.items()
    for word in words
    for form in (word, _plural(word))
}
_OTHER = {form for phrase in OTHER for form in (phrase, _plural(phrase))}
# Longest first, so that a hot dog is no dog and a teddy bear no bear.
_PHRASES = sorted({*_THING_OF, *_OTHER}, key=len, reverse=True)
_PHRASE = re.compile(r"\b(?:" + "|".join(map(re.escape, _PHRASES)) + r")\b")


def named_things(text: str) -> list[str]:
    """The things that a text names, each once, in the order of their first mention."""
    plain = re.sub(r"[-\s]+", " ", text.lower())
    found = (_THING_OF.get(phrase) for phrase in _PHRASE.findall(plain))
    return list(dict.fromkeys(thing for thing in found if thing))


def main_thing(captions: list[str]) -> str | None:
    """The main thing of a photo, by its human captions.

    It is the thing that most captions name; of equals, the one that more captions name first.

    Returns:
        A key of `THINGS`; None if no thing is named in more than half of the captions, or if two
        are equal in both counts.
    """
    things = [named_things(caption) for caption in captions]
    named = Counter(thing for caption in things for thing in caption)
    first = Counter(caption[0] for caption in things if caption)
    ranks = sorted(((named[thing], first[thing], thing) for thing in named), reverse=True)
    if not ranks or 2 * ranks[0][0] <= len(captions):
        return None
    if len(ranks) > 1 and ranks[0][:2] == ranks[1][:2]:
        return None
    return ranks[0][2]


@dataclass(frozen=True)
class Miss:
    """A photo whose main thing the answer did not name."""

    image: str
    thing: str
    question: str
    answer: str


@dataclass(frozen=True)
class ObjectReport:
    """How often a model names the main thing.

    Args:
        accuracy: share of right answers for each question, 0 to 1.
        overall: share of right answers over all questions, 0 to 1.
        photos: number of photos with a main thing.
        things: number of photos for each main thing.
        misses: the wrong answers.
    """

    accuracy: dict[str, float]
    overall: float
    photos: int
    things: dict[str, int]
    misses: list[Miss]


def evaluate_objects(
    model: Answerer, items: list[CaptionedImage], questions: tuple[str, ...], batch_size: int
) -> ObjectReport:
    """Ask a model about the photos that have a main thing; an answer that names it is right.

    Args:
        model: a loaded model.
        items: photos with human captions.
        questions: each is asked of every photo.
        batch_size: photos answered at a time.

    Raises:
        DataError: no question, or no photo has a main thing.
        ImageError: a photo cannot be read.
    """
    if not questions:
        raise DataError("no question to ask: give at least one")
    pairs = [(item.image, thing) for item in items if (thing := main_thing(item.captions))]
    if not pairs:
        raise DataError(f"none of {len(items)} photos has a main thing that its captions agree on")
    images = [image for image, _ in pairs]
    accuracy, misses = {}, []
    for question in questions:
        answers = answer_all(model, images, question, batch_size, question)
        wrong = [
            Miss(image.name, thing, question, answer)
            for (image, thing), answer in zip(pairs, answers, strict=True)
            if thing not in named_things(answer)
        ]
        accuracy[question] = 1 - len(wrong) / len(pairs)
        misses += wrong
    overall = sum(accuracy.values()) / len(accuracy)
    things = dict(Counter(thing for _, thing in pairs).most_common())
    return ObjectReport(accuracy, overall, len(pairs), things, misses)


def main(
    data: Path,
    model: str = "embedded",
    splits: tuple[str, ...] = ("val", "test"),
    questions: tuple[str, ...] = QUESTIONS,
    batch_size: int = 16,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Score how often a model names the main thing of a photo.

    Args:
        data: folder with `captions.jsonl` and the photos.
        model: what to evaluate: `embedded`, or a checkpoint folder.
        splits: the splits to look at.
        questions: each is asked of every photo.
        batch_size: photos answered at a time.
        output: folder for `misses.jsonl`; none is written without it.
        json: print JSON instead of a table.
    """
    items = [item for split in splits for item in read_captions(data / "captions.jsonl", split)]
    report = evaluate_objects(vlm.load(model), items, questions, batch_size)
    if output is not None:
        write_records(output / "misses.jsonl", (asdict(miss) for miss in report.misses))
    if json:
        print(dumps(asdict(report)))
        return
    console = Console()
    table = Table("question", "accuracy", title=f"{report.photos} photos, {', '.join(splits)}")
    for question, share in {**report.accuracy, "overall": report.overall}.items():
        table.add_row(escape(question), f"{share:.1%}")
    console.print(table)
    misses = Table("image", "thing", "question", "answer", title="misses")
    for miss in report.misses:
        misses.add_row(*map(escape, astuple(miss)))
    console.print(misses)
