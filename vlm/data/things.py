"""Things: which everyday object a photo mainly shows, read off its human captions. Training derives
names from it, evaluation the right answers; each for photos of its own."""

import re
from collections import Counter

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
