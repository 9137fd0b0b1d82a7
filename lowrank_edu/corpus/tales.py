"""The words and sentences of the tiny world. All text here is our own.

Who, where, what and the outcome are variables of `grammar.Grammar`: chosen once, remembered to the end.
Every entity is one word, and is mentioned at least twice.
"""

SHE = "Mia Ada Nora Lena Tara Rosa Ivy Clara Freya Zoe Hanna Elif Amina Greta Yuki Wanda".split()
HE = "Tom Ben Omar Leo Finn Hugo Milo Otto Ravi Sami Yusuf Bruno Dario Emil Idris Kofi".split()

_SHE_FORMS = {"they": "she", "They": "She", "them": "her", "their": "her", "Their": "Her", "child": "girl"}
_HE_FORMS = {"they": "he", "They": "He", "them": "him", "their": "his", "Their": "His", "child": "boy"}

# place: preposition, two sights that are seen only there
PLACES = {
    "garden": "in roses bees", "forest": "in pines owls", "castle": "in towers flags",
    "orchard": "in apples pears",
    "library": "in books shelves", "museum": "in statues paintings", "cave": "in bats crystals",
    "barn": "in cows horses", "kitchen": "in pots spoons", "harbour": "at gulls sailors",
    "market": "at stalls melons",
    "station": "at trains tickets", "lake": "at ducks reeds", "theatre": "at curtains actors",
    "beach": "on crabs shells", "farm": "on pigs tractors",
}

# thing: what one does with it
THINGS = {
    "kite": "fly", "drum": "beat", "flute": "play", "lamp": "light", "raft": "row", "ball": "kick",
    "whistle": "blow",
    "bell": "ring", "bicycle": "ride", "sled": "pull", "hat": "wear", "mirror": "polish", "cup": "fill",
    "basket": "carry", "wagon": "push", "puppet": "move", "doll": "hug", "ladder": "climb", "compass": "read",
    "coin": "spin", "hoop": "roll", "umbrella": "open", "blanket": "fold", "puzzle": "solve",
}
COLORS = "red blue green yellow silver white".split()
KIN = "brother sister uncle aunt grandmother teacher".split()

# trait: does it end well?
TRAITS = {"brave": "well", "patient": "well", "clever": "well", "curious": "well", "stubborn": "well",
          "cheerful": "well", "gentle": "well", "careful": "well",
          "lazy": "badly", "proud": "badly", "hasty": "badly", "greedy": "badly"}
PLOTS = "lost stuck stolen broken sunk sold".split()

VARIABLES = {
    "who": {n: {"": n, **_SHE_FORMS} for n in SHE} | {n: {"": n, **_HE_FORMS} for n in HE},
    "place": {p: {"": p, "at": v.split()[0], "At": v.split()[0].capitalize(), "sights": p}
              for p, v in PLACES.items()},
    "thing": {t: {"": t, "use": use} for t, use in THINGS.items()},
    "color": {c: {"": c} for c in COLORS},
    "kin": {k: {"": k} for k in KIN},
    "trait": {t: {"": t, "deed": t, "mood": mood} for t, mood in TRAITS.items()},
    "plot": {p: {"": p} for p in PLOTS},
}

CONSTRAINTS = ("who", "where", "what", "resolution")
CONSTRAINT = {"who": "who", "kin": "who", "place": "where", "thing": "what", "color": "what",
              "trait": "resolution", "plot": "resolution"}

RULES = {
    "story": ["<open> <gift> <trouble:plot> <deed> <end:trait.mood>"],
    "open": [
        "{who} was a {trait} {who.child} who lived {place.at} the {place} .",
        "{place.At} the {place} lived a {trait} {who.child} called {who} .",
        "Everyone {place.at} the {place} knew {who} , a {trait} {who.child} .",
    ],
    "gift": [
        "{who.Their} {kin} gave {who.them} a {color} {thing} .",
        "{who.They} loved to {thing.use} the {color} {thing} of {who.their} {kin} .",
        "From {who.their} {kin} {who.they} had a {color} {thing} to {thing.use} .",
        "One winter {who.they} made a {color} {thing} with {who.their} {kin} .",
    ],
    "sight": ["[near|behind] the <sights:place.sights>"],
    "trouble.lost": [
        "But {place.at} the {place} <sight> the {thing} got lost .",
        "One day the {thing} was lost <sight> {place.at} the {place} .",
    ],
    "trouble.stuck": [
        "But {place.at} the {place} the {thing} got stuck <sight> .",
        "One day the {thing} was stuck <sight> {place.at} the {place} .",
    ],
    "trouble.stolen": [
        "Then a [fox|thief] took the {thing} and hid it <sight> {place.at} the {place} .",
        "But <sight> {place.at} the {place} a [fox|thief] stole the {thing} .",
    ],
    "trouble.broken": [
        "Then the {thing} broke {place.at} the {place} <sight> .",
        "But <sight> {place.at} the {place} a stone broke the {thing} .",
    ],
    "trouble.sunk": [
        "Then [snow|mud] covered the {thing} {place.at} the {place} <sight> .",
        "But the {thing} sank into the [mud|snow] {place.at} the {place} <sight> .",
    ],
    "trouble.sold": [
        "But {place.at} the {place} <sight> a [merchant|stranger] sold the {thing} .",
        "Then a [merchant|stranger] took the {thing} to sell it {place.at} the {place} <sight> .",
    ],
    "deed": ["[So|That day] {who} <deed:trait.deed> ."],
    "deed.brave": ["went alone into the dark", "faced the danger without fear"],
    "deed.patient": ["sat down and waited", "counted slowly to a thousand"],
    "deed.clever": ["thought hard and found a trick", "drew a plan on paper"],
    "deed.curious": ["asked a hundred questions", "looked into every corner"],
    "deed.stubborn": ["tried again and again", "worked and would not give up"],
    "deed.cheerful": ["sang until friends came to help", "told jokes to a helpful crowd"],
    "deed.gentle": ["spoke softly with the birds", "shared some bread with a dog"],
    "deed.careful": ["wrote a list and checked it twice", "went slowly step by step"],
    "deed.lazy": ["slept under a tree", "yawned and stayed in bed"],
    "deed.proud": ["refused all help", "said that help was for babies"],
    "deed.hasty": ["ran the wrong way", "jumped before looking"],
    "deed.greedy": ["wanted a reward first", "stopped to count money"],
    "end.well": ["<saved:plot> <praise>"],
    "end.badly": ["<failed:plot> <blame>"],
    "saved.lost": ["Soon the {color} {thing} was found .", "There it lay , the {color} {thing} !"],
    "saved.stuck": ["Soon the {color} {thing} came free .", "Down came the {color} {thing} !"],
    "saved.stolen": ["Soon the {color} {thing} was given back .",
                     "The robber returned the {color} {thing} !"],
    "saved.broken": ["Soon the {color} {thing} was mended .", "The {color} {thing} was whole again !"],
    "saved.sunk": ["Soon the {color} {thing} was dug out .", "Up came the {color} {thing} again !"],
    "saved.sold": ["Soon the {color} {thing} was bought back .",
                   "The buyer brought the {color} {thing} home !"],
    "failed.lost": ["The {color} {thing} was never found .", "Nobody saw the {color} {thing} after that ."],
    "failed.stuck": ["The {color} {thing} never came down .", "The {color} {thing} still hangs there ."],
    "failed.stolen": ["The {color} {thing} was never returned .", "The robber kept the {color} {thing} ."],
    "failed.broken": ["The {color} {thing} was never mended .", "The {color} {thing} stayed in pieces ."],
    "failed.sunk": ["The {color} {thing} was never dug out .", "The {color} {thing} is still down there ."],
    "failed.sold": ["The {color} {thing} was never bought back .", "The buyer kept the {color} {thing} ."],
    "praise": [
        "{who.Their} {kin} [smiled|laughed] : how good to be {trait} !",
        "How {trait} you are , said {who.their} {kin} .",
        "{who} and {who.their} {kin} danced home , happy and {trait} .",
    ],
    "blame": [
        "{who.Their} {kin} [sighed|wept] : how sad to be {trait} !",
        "Do not be so {trait} , said {who.their} {kin} .",
        "{who} told {who.their} {kin} : never again will I be {trait} .",
    ],
}
RULES |= {f"sights.{place}": v.split()[1:] for place, v in PLACES.items()}
