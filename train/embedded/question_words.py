"""The words by which captions are read to make questions of them (see caption_facts.py and
questions.py), for captions such as those of Flickr8k and COCO."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


COLOURS = words(
    "black white brown tan red blue green yellow orange pink purple gray grey silver golden beige "
    "turquoise maroon teal"
)

# Two people call the same thing either: the one is never the wrong answer where the other is right.
ALIKE_COLOURS = (
    frozenset({"brown", "tan", "beige", "golden", "orange", "yellow", "red", "maroon"}),
    frozenset({"gray", "silver", "white"}),
    frozenset({"gray", "silver", "black"}),
    frozenset({"gray", "silver", "blue"}),
    frozenset({"black", "blue"}),
    frozenset({"white", "beige", "tan", "golden", "yellow", "silver"}),
    frozenset({"blue", "green", "turquoise", "teal", "purple"}),
    frozenset({"red", "pink", "purple", "maroon", "orange"}),
)

NUMBERS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}

ARTICLES = frozenset({"a", "an", "the", "one", "some"})
POSSESSIVES = frozenset({"his", "her", "its", "their"})

AGES = frozenset({"young", "little", "old", "older", "elderly", "adult", "teenage", "small"})

ADJECTIVES = (
    COLOURS
    | AGES
    | words(
        "large big tiny huge tall short long fluffy furry shaggy hairy wet dry dirty muddy spotted "
        "striped multicolored colorful bright dark light skinny fat bald bearded shirtless blond "
        "blonde haired smiling happy lone single female male asian african american "
        "hooded barefoot cute playful brindle medium sized curly muzzled snowy grassy wooden "
        "plaid plain checkered outdoor indoor knit leather solid neon smaller larger brightly"
    )
)

PLURALS = {
    "man": "men",
    "woman": "women",
    "boy": "boys",
    "girl": "girls",
    "child": "children",
    "kid": "kids",
    "toddler": "toddlers",
    "baby": "babies",
    "person": "people",
    "lady": "ladies",
    "guy": "guys",
    "dog": "dogs",
    "puppy": "puppies",
    "cat": "cats",
    "kitten": "kittens",
    "horse": "horses",
    "bird": "birds",
    "cow": "cows",
    "sheep": "sheep",
    "elephant": "elephants",
    "zebra": "zebras",
    "giraffe": "giraffes",
    "bear": "bears",
}
"""Who does something, and the plural."""

PEOPLE = {
    **{one: one for one in ("man", "woman", "boy", "girl", "child", "toddler", "baby", "person")},
    "kid": "child",
    "lady": "woman",
    "guy": "man",
}
"""Words for one human, and what to ask about them by."""

PEOPLE_WORDS = words(
    "person persons people man men woman women boy boys girl girls child children kid kids "
    "toddler toddlers baby babies infant infants lady ladies guy guys gentleman gentlemen teen "
    "teens teenager teenagers youth youths someone somebody anyone everyone crowd crowds audience "
    "spectator spectators onlooker onlookers player players rider riders biker bikers cyclist "
    "cyclists bicyclist bicyclists motorcyclist motorcyclists driver drivers skier skiers "
    "snowboarder snowboarders skateboarder skateboarders skater skaters surfer surfers jogger "
    "joggers climber climbers hiker hikers golfer golfers gymnast gymnasts cheerleader "
    "cheerleaders dancer dancers performer performers musician musicians singer singers guitarist "
    "drummer artist artists actor actors clown clowns worker workers policeman policemen officer "
    "officers cop cops soldier soldiers fireman firemen firefighter firefighters cowboy cowboys "
    "cowgirl bride groom tourist tourists student students teacher teachers grandmother "
    "grandfather husband wife boyfriend girlfriend handler kayaker kayakers canoer rower rowers "
    "sailor fisherman fishermen hunter farmer vendor chef waiter waitress pedestrian pedestrians "
    "passenger passengers commuter commuters individual individuals human humans batter goalie "
    "goalkeeper referee umpire quarterback wakeboarder waterskier windsurfer parasailer "
    "paraglider parachuter skydiver rollerblader bmxer cyclers cycler protesters protestor "
    "photographer photographers cameraman monk monks nun priest princess athlete athletes "
    "stuntman shopper shoppers customer customers patron patrons diner doctor nurse bystanders "
    "mob marchers classmates"
)
"""Any of them says that there are people, whoever they are."""

PEOPLE_OR_ANIMALS = words(
    "male males female females adult adults group groups team teams family families couple "
    "couples pair friend friends fan fans swimmer swimmers diver divers runner runners racer "
    "racers boxer boxers wrestler wrestlers police mother mom dad father parent parents son "
    "daughter brother brothers sister sisters sibling siblings owner owners trainer cook catcher "
    "pitcher speaker model models santa king queen competitors competitor contestant teammates "
    "teammate opponent opponents crew member members band jockey homeless hipster"
)
"""Who may be people, but dogs as well."""

PEOPLE_SIGNS = words(
    "biker's hand hands arm arms finger fingers leg legs feet foot human's person's man's woman's "
    "boy's girl's child's baby's face faces he she hockey football basketball baseball soccer "
    "rugby volleyball wheelchair teenaged elderly class wakeboarding surfing skiing snowboarding "
    "skateboarding biking cycling parasailing windsurfing kayaking canoeing rafting climbing "
    "hiking sledding sled rollerblading paddling rowing rappelling scuba paragliding bungee "
    "waterskiing kneeboarding tubing gliding"
)
"""Parts and doings of people: somebody may be there, or nobody."""

HUMANS = frozenset({"people", "man", "woman", "boy", "girl", "child", "baby"})
"""The things of `MORE_THINGS` that are people."""

CROWD_WORDS = words(
    "group groups crowd several many some others another other few team teams bunch more herd pack "
    "second third both each couple couples pair family lots multiple row line various flock all "
    "numerous half everyone audience spectators players friends adults kids pairs dozens trio "
    "onlookers duo band class parade league"
)
"""Words that say that there is more than one of something, perhaps not how many."""

# base -> -ing form; other forms are made by rule.
VERBS = {
    **{base: f"{base}ing" for base in (
        *("jump", "walk", "play", "climb", "hold", "sleep", "eat", "drink", "read", "kick"),
        *("throw", "catch", "carry", "look", "stand", "pull", "push", "surf", "ski", "fly", "rest"),
        *("cook", "work", "talk", "hang", "lean", "crawl", "float", "kneel", "fish", "bark"),
        *("sniff", "lick", "chew", "fight", "paint", "pour", "sail", "row", "snowboard", "kayak"),
        *("yawn", "perform", "sing", "watch", "touch", "stretch", "splash", "brush", "wash"),
        *("laugh", "cross", "kiss", "wait", "leap", "fetch", "swing", "feed"),
    )},
    "run": "running",
    "swim": "swimming",
    "sit": "sitting",
    "ride": "riding",
    "chase": "chasing",
    "dance": "dancing",
    "drive": "driving",
    "lie": "lying",
    "lay": "laying",
    "skate": "skating",
    "slide": "sliding",
    "race": "racing",
    "bite": "biting",
    "smile": "smiling",
    "pose": "posing",
    "paddle": "paddling",
    "hike": "hiking",
    "jog": "jogging",
    "wade": "wading",
    "dive": "diving",
    "bike": "biking",
    "smoke": "smoking",
    "crouch": "crouching",
    "dig": "digging",
    "hit": "hitting",
    "hug": "hugging",
    "sled": "sledding",
    "wrestle": "wrestling",
    "graze": "grazing",
    "retrieve": "retrieving",
    "shake": "shaking",
    "wave": "waving",
    "skateboard": "skateboarding",
    "rollerblade": "rollerblading",
    "balance": "balancing",
    "point": "pointing",
    "roll": "rolling",
    "draw": "drawing",
    "write": "writing",
    "blow": "blowing",
    "make": "making",
}  # fmt: skip

NOUN_FORMS = words(
    "skates waves drinks stands swings slides paddles points skis rows balls works plays looks "
    "smiles kisses hangs rests watches paints rolls draws poses floats smokes bites dives fishes "
    "flies races brushes kicks laughs jogs bikes makes talks leans fights sails skateboards "
    "snowboards kayaks sleds"
)
"""Forms in -s that are nouns as well: verbs only right behind the one who does it."""

NEEDS_OBJECT = words(
    "hold throw catch carry ride hit kick push pull feed hug fetch retrieve wash brush touch "
    "pour chase cross watch make lick bite"
)

OBJECT_VERBS = words(
    "ride hold carry chase catch throw eat drink play climb push pull read kick hit feed hug wash "
    "chew"
)
"""`What is the man ...ing?` has the object as its answer."""

OFTEN_NOT_TOLD = words(
    "look watch hold carry wear smile pose touch point wave make talk wait hang lean shake balance "
    "draw write blow stand pull push catch throw feed kick hit work perform play cross roll laugh "
    "splash brush rest stretch bite lick sniff bark fetch retrieve fight chew float"
)
"""What may well be happening where no caption says so: never asked where the answer is no."""

# Verbs and nouns that are close to one another: where a caption has one, none of the others is
# asked with the answer no.
ALIKE_ACTIONS = tuple(
    words(text)
    for text in (
        "run running ran runs race races racing jog jogging jogs chase chasing chases walk walking "
        "walks fetch fetching play playing plays game catch leap leaping leaps jump jumping jumps "
        "bound bounds bounding sprint sprints sprinting trot trots trotting retrieve retrieving "
        "step steps stepping stroll strolls strolling hike hiking march crossing crosses player "
        "players frolic frolics romp romps romping wander wanders roam trek heads across through "
        "over exercise competes moving going goes midair mid air",
        "jump jumping jumps jumped leap leaping leaps leapt bounce bouncing dive diving dives "
        "trick tricks air midair airborne flip flips flipping stunt hurdle hurdles trampoline "
        "flies flying bounding bounds bound high handstand cartwheel hop hops hopping skateboarder "
        "snowboarder gymnast agility skips kicks dunk catches catch",
        "sit sits sitting seated lie lies lying lay lays laying rest rests resting relax relaxes "
        "relaxing sleep sleeps sleeping asleep nap naps napping crouch crouches crouching kneel "
        "kneels kneeling squat squats squatting perched lean leans leaning lounging lounges lounge "
        "bench chair couch sofa bed ride rides riding swing swings swinging drive drives driving "
        "boat canoe kayak slide sliding table lap eating eat eats rock rocks meditate read reads "
        "reading reclines sled tube sledding rolling rolls row rowing paddling",
        "swim swims swimming swam wade wades wading water pool float floats floating dive dives "
        "diving paddle paddles paddling splash splashes splashing lake river ocean pond surf surfs "
        "surfing surfer swimmer underwater snorkel wet stream creek sea waves wave sail boat raft "
        "beach kayak canoe",
        "eat eats eating food meal dinner lunch breakfast bite bites biting chew chews chewing "
        "lick licks licking drink drinks drinking mouth restaurant snack sandwich pizza cake fruit "
        "ice graze grazes grazing apple feeds feed feeding picnic cook cooks cooking table dining "
        "cup bottle beer coffee beverage glass straw sip sips soda water hydrant fountain plate",
        "climb climbs climbing climber scale scales scaling rock rocks cliff hike hikes hiking "
        "mountain ladder rappel rappels rappelling rope tree ascends wall up hill",
        "ride rides riding rider bike bikes biking biker bicycle bicycles cycle cycles cycling "
        "cyclist bicyclist motorcycle motorbike motorcyclist motocross horse horseback atv scooter "
        "skateboard skateboards skateboarding skateboarder surfboard surf surfing surfer wave "
        "waves sled sledding swing roller coaster carousel drive drives driving bmx wheelie "
        "wheeler vehicle car carriage train bus boat dirt quad jet tube bull rodeo jockey cart "
        "tricycle ramp trick tricks stunt track race racing races racer",
        "ski skis skiing skier snowboard snowboards snowboarding snowboarder slope slopes sled "
        "sledding sleds snow downhill",
        "skate skates skating skater skateboard skateboards skateboarding skateboarder rollerblade "
        "rollerblades rollerblading rollerskates rink ramp hockey inline board rail grind grinds",
        "surf surfs surfing surfer surfboard wave waves wakeboard wakeboarding windsurfing boogie "
        "board ocean waterskiing",
        "read reads reading book books newspaper magazine paper write writes writing draw draws "
        "look looks looking map menu letter studying",
        "dance dances dancing dancer dancers perform performs performing performance stage costume "
        "ballet parade party pose poses posing jump jumps air arms wedding concert band",
        "sing sings singing singer microphone stage perform performs performing song band music "
        "guitar speak speaks concert karaoke mouth",
        "swing swings swinging rope tire playground bat hang hangs hanging",
        "slide slides sliding playground skid skids snow sled sledding sleds slip base hill",
        "dig digs digging sand hole shovel dirt snow plays play playing beach",
        "kneel kneels kneeling crouch crouches crouching squat squats squatting bend bends bending "
        "sit sits sitting crawl crawls crawling ground knees down lean leans",
        "kayak kayaks kayaking canoe paddle paddles paddling row rows rowing boat raft rafting "
        "sail sails sailing river lake ocean water rapids fish fishing",
        "wrestle wrestles wrestling fight fights fighting tackle tackles play plays playing "
        "martial karate judo box boxing boxer football rugby roll rolls",
        "kiss kisses kissing hug hugs hugging embrace embraces embracing",
        "smoke smokes smoking cigarette cigar pipe mouth",
        "cook cooks cooking kitchen grill grills grilling barbecue bbq stove food chef pan meal "
        "prepare prepares preparing fire making makes",
        "paint paints painting painted artist easel draw draws drawing brush art",
        "drive drives driving car truck vehicle jeep atv cart race racing driver wheel boat "
        "tractor bus ride rides riding motorcycle sled",
        "yawn yawns yawning mouth",
        "crawl crawls crawling tunnel knees floor",
    )
)

PREPOSITIONS = words(
    "in on at of into onto through over under across along down up off out around near by beside "
    "behind against toward towards from with for between above below past inside outside after "
    "before during underneath beneath atop amongst among alongside upon about as like to without "
    "next above away back together"
)

STOPS = (
    PREPOSITIONS - {"of", "next", "back", "like"}
    | words(
        ", ; : while and that who which whose is are was were being has have as or but whilst his "
        "wearing dressed when where it he she they outdoors indoors outside there this each so "
        "her's very looks appears overlooking containing facing covering surrounding nearby who's "
        "what then to"
    )
    - POSSESSIVES
)
"""Words at which a noun phrase is over."""

PLACES = words(
    "beach snow water grass field street park pool yard backyard road sidewalk forest woods "
    "kitchen bathroom restaurant lake river ocean sea couch sofa bed bench swing mountain hill "
    "sand stage boat playground room bedroom table chair path trail trampoline mud dirt lawn "
    "garden pond stream creek city desert gym court stadium rock rocks ground floor wall ledge "
    "cliff bridge dock pier deck porch balcony stairs steps staircase horse bike bicycle "
    "motorcycle skateboard surfboard ramp track shore shoreline hillside meadow alley market store "
    "train bus car truck office crosswalk corner boardwalk canoe kayak raft sled slope driveway "
    "pasture zoo cage crib bathtub tub sink basket box tree tent fountain puddle leaves rug carpet "
    "blanket window windowsill counter desk toilet log area slide rope wave waves hammock arena "
    "enclosure barn trees gravel pavement mountains hilltop station platform plate bowl shelf "
    "suitcase pillow ice rink parking intersection runway harbor airport sky branch"
)
"""Last words of what answers a question for where something is."""

CLOTHES = words(
    "shirt jacket coat hat dress sweater vest helmet cap shorts pants uniform suit hoodie swimsuit "
    "bikini skirt scarf sweatshirt"
)

PARTICIPLES = words("driven worn held thrown taken made seen built hung upside")
"""Last words of what was not a noun phrase after all."""

COLOURED = words(
    "ball car truck bus frisbee bike bicycle motorcycle boat train umbrella couch bench kite toy "
    "surfboard skateboard canoe kayak van jeep airplane plane tent bird horse cow cat kitten dog "
    "puppy flower flowers wall raft sled balloon vase toilet chair towel rope hydrant"
)
"""Things of which one can ask the colour; the others' colours are told in passing."""

PATTERNED = words(
    "spots spotted markings multi multicolored colored tri patches patched striped stripes brindle "
    "spot tricolor colors mixed mix dalmatian plaid"
)
"""Where captions have one of them, an animal or thing has more than one colour."""

NOT_REAL = words(
    "statue sculpture painting mural drawing mannequin poster cartoon fake stuffed toy toys "
    "costume costumes costumed mask shaped dressed figurine logo picture plastic tattoo inflatable "
    "print printed game model video photograph like pretend advertisement sign"
)
"""Where captions have one of them, what they name may be no more than a likeness."""

MORE_THINGS: dict[str, tuple[str, ...]] = {
    "snow": ("snow",),
    "beach": ("beach", "seashore", "beaches"),
    "swimming pool": ("pool", "swimming pool", "pools"),
    "guitar": ("guitar", "guitars"),
    "trampoline": ("trampoline",),
    "tent": ("tent", "tents"),
    "bridge": ("bridge",),
    "microphone": ("microphone",),
    "stick": ("stick", "sticks"),
    "canoe or kayak": ("canoe", "kayak", "canoes", "kayaks"),
    "sled": ("sled", "sleds"),
    "crowd": ("crowd", "crowds"),
    "baby": ("baby", "infant", "babies", "infants"),
    "man": ("man", "men", "guy", "guys", "gentleman", "gentlemen"),
    "woman": ("woman", "women", "lady", "ladies"),
    "boy": ("boy", "boys"),
    "girl": ("girl", "girls"),
    "child": (
        *("child", "children", "kid", "kids", "toddler", "toddlers", "little girl", "little boy"),
        *("little boys", "little girls", "baby", "infant", "babies"),
    ),
    "people": tuple(sorted(PEOPLE_WORDS)),
}
"""Things to ask for beside those of `vlm.data.things`, with the words that name them."""

MASSES = frozenset({"snow", "broccoli"})
"""Things without an article."""

ALWAYS_MANY = frozenset({"people", "skis", "scissors"})
"""Things that have no singular."""

NO_PLURAL = frozenset({"canoe or kayak", "crowd", "beach"})
"""Things that are asked for in the singular."""

NAMES = {
    "sports ball": "ball",
    "cell phone": "phone",
    "tv": "television",
    "crowd": "crowd of people",
}
"""What a thing is called in a question, if it is not its own name."""

_PEOPLE_OF_ANY_KIND = (
    "person persons people someone somebody anyone everyone crowd crowds group groups team teams "
    "family families couple couples pair friend friends audience spectator spectators onlookers "
    "fans player players rider riders biker bikers cyclist cyclists bicyclist motorcyclist driver "
    "skier skiers snowboarder skateboarder skater surfer swimmer runner runners racer climber "
    "hiker hikers dancer dancers performer performers musician musicians worker workers police "
    "officer soldiers firefighter students parents passengers individual individuals human humans "
    "others hand hands band street city market restaurant adult adults teen teens teenager "
    "teenagers youth youths persons members pedestrians shoppers tourists siblings catcher pitcher "
    "batter goalie parade party stadium game match race crew wedding store shop mall station "
    "airport class"
)
_INDOORS = (
    "kitchen table room restaurant counter food meal eat eats eating dinner lunch plate plates bar "
    "desk indoor indoors inside home house party drink drinks drinking cook cooks cooking store "
    "cafe office bedroom living bathroom sits sitting seated floor tray dish dishes computer couch "
    "bed laying lying sleeping shop dining hotel shelf"
)
_STREET = (
    "street streets road roads city traffic parking parked urban town intersection crosswalk "
    "sidewalk downtown lot vehicle vehicles highway driveway curb police race racing racetrack "
    "busy building buildings garage neighborhood toy toys drive drives driving jeep van tow "
    "wheels wheeled rally alley market crowd crowded"
)
_ANIMAL = "animal animals pet pets creature creatures zoo farm cattle livestock herd mammal beast"
_FIELD = "field pasture meadow farm grazing graze grazes rural country rodeo"
_SPORT = (
    "soccer football basketball baseball softball tennis volleyball rugby golf hockey cricket "
    "lacrosse polo game games match sport sports goal goalie toy toys catch catches catching play "
    "plays playing fetch fetching fetches bat bats batter pitcher racket racquet player players "
    "throw throws throwing team teams kick kicks court mouth object something bowling dribbles "
    "juggling juggles pool gym"
)
_WINTER = (
    "snow snowy ski skis skiing skier skiers snowboard snowboarder snowboarding sled sledding ice "
    "icy frozen winter slope slopes white mountain mountains snowball snowmobile snowshoe cold "
    "peak snowsuit snowman glacier hill"
)
_WATER = (
    "beach sand sandy ocean sea shore shoreline coast wave waves surf surfer surfing surfboard "
    "water lake bay island dune dunes boardwalk pier bikini swim swimming river tide dune seagull "
    "desert cliff volleyball"
)

UNSURE: dict[str, frozenset[str]] = {
    thing: words(unsure)
    for thing, unsure in {
        "people": " ".join(sorted(PEOPLE_OR_ANIMALS | PEOPLE_SIGNS)),
        "man": f"{_PEOPLE_OF_ANY_KIND} male males father dad husband groom boy boys policeman "
        "cowboy",
        "woman": f"{_PEOPLE_OF_ANY_KIND} female females mother mom wife bride girl girls "
        "grandmother",
        "boy": f"{_PEOPLE_OF_ANY_KIND} male males child children kid kids toddler toddlers baby "
        "babies infant young little son brother brothers small guy guys teenage",
        "girl": f"{_PEOPLE_OF_ANY_KIND} female females child children kid kids toddler toddlers "
        "baby babies infant young little daughter sister sisters small lady ladies teenage woman "
        "women",
        "child": f"{_PEOPLE_OF_ANY_KIND} boy boys girl girls young little small son daughter "
        "teenage brother brothers sister sisters school",
        "baby": f"{_PEOPLE_OF_ANY_KIND} child children kid kids toddler toddlers son daughter "
        "stroller little small",
        "crowd": f"{_PEOPLE_OF_ANY_KIND} men women children boys girls concert event fair carnival "
        "many several stage rodeo",
        "bicycle": f"{_STREET} bike biker bikers biking cycle cycles cycling cyclist cyclists "
        "bicyclist bicyclists bmx motorcycle motorbike motocross rider riders ride rides riding "
        "wheelie motorcyclist tricycle racer ramp trick scooter moped",
        "motorcycle": f"{_STREET} bike bikes biker bikers biking motocross motorcyclist "
        "motorcyclists rider riders ride rides riding wheelie atv bicycle cycle racer motorized "
        "quad",
        "car": f"{_STREET} truck trucks bus",
        "truck": f"{_STREET} car cars fire construction",
        "bus": f"{_STREET} train stop",
        "train": f"{_STREET} track tracks station rail railroad subway railway",
        "airplane": "sky air airport flying flies jet wing wings runway parachute helicopter "
        "glider pilot skydive skydiving flight formation kite hangar aerial",
        "boat": "water ocean sea lake river harbor dock pier marina bay canoe kayak raft rafting "
        "sail sails sailing rowing paddle paddles paddling vessel shore beach ski waterskiing "
        "wakeboarding wakeboarder wakeboard cruise coast float floating fishing canal rapids",
        "traffic light": f"{_STREET} light lights signal signals pole",
        "fire hydrant": f"{_STREET} hydrant",
        "stop sign": f"{_STREET} sign signs",
        "bench": f"{_STREET} park sits sit sitting seated outside seat seats picnic garden "
        "bleachers rest rests resting station playground path",
        "bird": f"{_ANIMAL} sky feather feathers wings nest beach pond duck chicken flamingos "
        "flock pigeons fly flies flying ocean lake turkey hen",
        "cat": f"{_ANIMAL} kittens feline tiger lion leopard",
        "dog": f"{_ANIMAL} lab labs pitbull pit canine canines boxer boxers mutt doberman shepherd "
        "doodle setter wolf fox coyote rottweilers leash hound hounds russell pomeranian schnauzer "
        "dachshunds bloodhound newfoundland akita mastiff dane puppies greyhounds puppy whippet "
        "malamute borzoi pug chow",
        "horse": f"{_ANIMAL} {_FIELD} horseback jockey polo cowboy carriage donkey mule saddle "
        "pony ponies equestrian jumps hurdle rider riders rides riding bronco bull",
        "sheep": f"{_ANIMAL} {_FIELD} goat goats wool",
        "cow": f"{_ANIMAL} {_FIELD} buffalo steer cattle bison cowboy",
        "elephant": _ANIMAL,
        "bear": f"{_ANIMAL} teddy stuffed cub",
        "zebra": _ANIMAL,
        "giraffe": _ANIMAL,
        "umbrella": f"{_STREET} rain raining rainy beach sun shade parasol patio cafe",
        "suitcase": f"{_STREET} luggage bag bags airport travel station",
        "frisbee": f"{_SPORT} disc disk discs toys",
        "skis": _WINTER,
        "snowboard": f"{_WINTER} board",
        "sports ball": _SPORT,
        "kite": "sky fly flies flying wind windy beach parachute string parasail air parasailing "
        "kiteboarding",
        "baseball bat": "baseball softball batter ball cricket catcher pitcher game swing swings "
        "swinging stick player",
        "skateboard": "skate skates skating skater skaters skateboarder skateboarders "
        "skateboarding ramp board rail trick tricks boarder grind grinds stunt jump jumps halfpipe "
        "stairs steps",
        "surfboard": "surf surfs surfing surfer surfers wave waves board ocean beach wakeboard "
        "wakeboarding boogie windsurf windsurfing paddle sail water boarder surfs",
        "tennis racket": "tennis badminton squash player court ball game racquetball",
        "wine glass": f"{_INDOORS} wine glass glasses toast champagne",
        "banana": f"{_INDOORS} fruit fruits",
        "apple": f"{_INDOORS} fruit fruits",
        "sandwich": f"{_INDOORS} burger hamburger bread picnic sub lunch toast",
        "broccoli": f"{_INDOORS} vegetable vegetables salad",
        "carrot": f"{_INDOORS} vegetable vegetables salad",
        "hot dog": f"{_INDOORS} sausage bun",
        "pizza": f"{_INDOORS} slice",
        "donut": f"{_INDOORS} pastry pastries dessert bakery",
        "cake": f"{_INDOORS} dessert birthday wedding pastry pastries bakery frosting",
        "couch": f"{_INDOORS} sits sit chair seat furniture pillow cushion cushions",
        "bed": f"{_INDOORS} blanket blankets pillow pillows sleep sleeps mattress crib covers "
        "sheets",
        "toilet": f"{_INDOORS} restroom",
        "tv": f"{_INDOORS} screen video game computer wii",
        "laptop": f"{_INDOORS} keyboard screen notebook",
        "keyboard": f"{_INDOORS} laptop piano band music",
        "cell phone": "phone phones cell cellphone talking talks talk call texting text camera "
        "electronic device mobile ear",
        "microwave": _INDOORS,
        "oven": _INDOORS,
        "toaster": _INDOORS,
        "sink": f"{_INDOORS} wash washing water faucet",
        "refrigerator": f"{_INDOORS} freezer magnets",
        "scissors": f"{_INDOORS} cut cuts cutting hair paper craft",
        "teddy bear": "teddy bear bears stuffed animal animals toy toys doll plush child baby bed",
        "snow": _WINTER,
        "beach": _WATER,
        "swimming pool": "swim swims swimming swimmer water splash splashes splashing dive dives "
        "diving inflatable wet swimsuit bathing float floating tub slide goggles underwater "
        "backyard hose trunks bikini pond lake fountain shallow raft",
        "guitar": "band music musical instrument instruments musician musicians perform performs "
        "performing performer stage concert playing plays bass sing singing singer song",
        "trampoline": "jump jumps jumping bounce bounces bouncing air net flip flips backyard",
        "tent": "camp camping campsite campground canopy event fair festival market shelter "
        "mountain outdoor backpack hikers circus tarp snow crowd",
        "bridge": "river water walkway overpass track canal railing stream creek overlooking "
        "boardwalk ravine path dock pier city train rope",
        "microphone": "sing sings singing singer stage speak speaks speaking speech perform "
        "performs performing performer band music concert karaoke musician guitar talking reporter "
        "interview",
        "stick": "log branch branches twig wood wooden mouth object something carry carries "
        "carrying fetch fetches fetching retrieve retrieves toy woods tree play plays playing pole "
        "hockey bat holding holds lacrosse bone ski poles forest",
        "canoe or kayak": "boat boats water river lake ocean raft rafting paddle paddles paddling "
        "rowing rapids paddler",
        "sled": f"{_WINTER} slides sliding tube",
    }.items()
}
"""For each thing that is asked for, words that leave it open whether it is there, although no
caption names it; with them, no question has the answer no. A thing that is not here is not
asked."""
