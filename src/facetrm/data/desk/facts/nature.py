"""Facts about nature."""

from __future__ import annotations

from typing import Final

from facetrm.data.desk.facts.kinds import FactKind, table

NATURE: Final = (
    FactKind(
        "chemical symbol",
        (
            "What is the chemical symbol for {subject}?",
            "Which symbol does {subject} have in the periodic table?",
            "I have a chemistry test tomorrow. What is the symbol of {subject}?",
        ),
        'The chemical symbol for {subject} is "{answer}".',
        "Every element has a symbol of one or two letters.",
        table(
            "gold = Au; silver = Ag; iron = Fe; copper = Cu; lead = Pb; tin = Sn; sodium = Na; potassium = K; "
            "mercury = Hg; tungsten = W; hydrogen = H; helium = He; oxygen = O; nitrogen = N; carbon = C; neon = Ne; "
            "zinc = Zn; calcium = Ca; magnesium = Mg; chlorine = Cl; silicon = Si; sulfur = S; phosphorus = P; "
            "nickel = Ni; lithium = Li; aluminium = Al; uranium = U; platinum = Pt; argon = Ar; cobalt = Co"
        ),
    ),
    FactKind(
        "young animal",
        (
            "What do you call a young {subject}?",
            "What is the name for a baby {subject}?",
            "My son asks what a young {subject} is called. Do you know?",
        ),
        "A young {subject} is called a {answer}.",
        "Many animals have a special name while they are young.",
        table(
            "dog = puppy; cat = kitten; cow = calf; horse = foal; sheep = lamb; goat = kid; pig = piglet; hen = chick; "
            "duck = duckling; goose = gosling; swan = cygnet; frog = tadpole; kangaroo = joey; lion = cub; "
            "deer = fawn; "
            "owl = owlet; eagle = eaglet; hare = leveret; butterfly = caterpillar"
        ),
        {"puppy": ("pup",), "piglet": ("pigling",), "tadpole": ("froglet",)},
    ),
    FactKind(
        "animal class",
        (
            "Is {subject} a mammal, a bird, a reptile, an amphibian, a fish or an insect?",
            "Which group of animals does {subject} belong to: mammals, birds, reptiles, amphibians, fish or insects?",
        ),
        "In biology, {subject} counts as {answer}.",
        "Biologists sort animals by how they are built.",
        table(
            "a whale = a mammal; a dolphin = a mammal; a bat = a mammal; a hedgehog = a mammal; a seal = a mammal; "
            "a penguin = a bird; an ostrich = a bird; an owl = a bird; a sparrow = a bird; a tortoise = a reptile; "
            "a crocodile = a reptile; a gecko = a reptile; a cobra = a reptile; a frog = an amphibian; "
            "a newt = an amphibian; a toad = an amphibian; a salamander = an amphibian; a shark = a fish; "
            "a salmon = a fish; a seahorse = a fish; an eel = a fish; an ant = an insect; a bee = an insect; "
            "a beetle = an insect; a moth = an insect"
        ),
        {
            "a mammal": ("mammal", "mammals"),
            "a bird": ("bird", "birds"),
            "a reptile": ("reptile", "reptiles"),
            "an amphibian": ("amphibian", "amphibians"),
            "a fish": ("fish",),
            "an insect": ("insect", "insects"),
        },
    ),
    FactKind(
        "body",
        (
            "Which organ of the body {subject}?",
            "For a quiz: which organ in the human body {subject}?",
        ),
        "The right answer is the {answer}.",
        "Every organ has its own work to do.",
        table(
            "pumps the blood = heart; takes in oxygen from the air = lungs; does the thinking = brain; "
            "produces bile = liver; produces insulin = pancreas; stores urine = bladder; lets us see = eye; "
            "lets us hear = ear; produces stomach acid = stomach"
        ),
        {"lungs": ("lung",), "eye": ("eyes",), "ear": ("ears",)},
    ),
    FactKind(
        "planet",
        (
            "Which planet of our solar system {subject}?",
            "I am helping with a school project. Which planet {subject}?",
        ),
        "The planet that {subject} is {answer}.",
        "There are several planets in our solar system.",
        table(
            "is closest to the Sun = Mercury; is the largest = Jupiter; is known as the Red Planet = Mars; "
            "has the most famous rings = Saturn; is farthest from the Sun = Neptune; is the hottest = Venus; "
            "is home to all of us = Earth; rotates on its side = Uranus"
        ),
    ),
)
