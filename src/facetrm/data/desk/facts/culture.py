"""Facts about books, music, art, inventions and history."""

from __future__ import annotations

from typing import Final

from facetrm.data.desk.facts.kinds import FactKind, table

CULTURE: Final = (
    FactKind(
        "author",
        (
            "Who wrote {subject}?",
            "Who is the author of {subject}?",
            "I saw {subject} in a shop window today. Who wrote it?",
        ),
        "The author of {subject} is {answer}.",
        "Most libraries have a copy of it.",
        table(
            "Hamlet = William Shakespeare; Pride and Prejudice = Jane Austen; Oliver Twist = Charles Dickens; "
            "War and Peace = Leo Tolstoy; Crime and Punishment = Fyodor Dostoevsky; Don Quixote = Miguel de Cervantes; "
            "Faust = Johann Wolfgang von Goethe; The Divine Comedy = Dante Alighieri; Moby-Dick = Herman Melville; "
            "Les Misérables = Victor Hugo; Madame Bovary = Gustave Flaubert; Frankenstein = Mary Shelley; "
            "Dracula = Bram Stoker; Jane Eyre = Charlotte Brontë; Wuthering Heights = Emily Brontë; "
            "Nineteen Eighty-Four = George Orwell; Brave New World = Aldous Huxley; Ulysses = James Joyce; "
            "The Metamorphosis = Franz Kafka; The Hobbit = J. R. R. Tolkien; The Great Gatsby = F. Scott Fitzgerald; "
            "To Kill a Mockingbird = Harper Lee; Robinson Crusoe = Daniel Defoe; Gulliver's Travels = Jonathan Swift; "
            "Treasure Island = Robert Louis Stevenson; Alice's Adventures in Wonderland = Lewis Carroll; "
            "The Picture of Dorian Gray = Oscar Wilde; The War of the Worlds = H. G. Wells; The Little Prince = "
            "Antoine de Saint-Exupéry; The Old Man and the Sea = Ernest Hemingway; Mrs Dalloway = Virginia Woolf; "
            "Pippi Longstocking = Astrid Lindgren; Around the World in Eighty Days = Jules Verne; "
            "The Adventures of Tom Sawyer = Mark Twain; One Hundred Years of Solitude = Gabriel García Márquez"
        ),
        {
            "William Shakespeare": ("Shakespeare",),
            "Jane Austen": ("Austen",),
            "Charles Dickens": ("Dickens",),
            "Leo Tolstoy": ("Tolstoy",),
            "Fyodor Dostoevsky": ("Dostoevsky", "Dostoyevsky"),
            "Miguel de Cervantes": ("Cervantes",),
            "Johann Wolfgang von Goethe": ("Goethe",),
            "Dante Alighieri": ("Dante",),
            "Herman Melville": ("Melville",),
            "Victor Hugo": ("Hugo",),
            "Gustave Flaubert": ("Flaubert",),
            "Mary Shelley": ("Shelley",),
            "Bram Stoker": ("Stoker",),
            "Charlotte Brontë": ("Charlotte Bronte",),
            "Emily Brontë": ("Emily Bronte",),
            "George Orwell": ("Orwell",),
            "Aldous Huxley": ("Huxley",),
            "James Joyce": ("Joyce",),
            "Franz Kafka": ("Kafka",),
            "J. R. R. Tolkien": ("Tolkien",),
            "F. Scott Fitzgerald": ("Fitzgerald",),
            "Daniel Defoe": ("Defoe",),
            "Jonathan Swift": ("Swift",),
            "Robert Louis Stevenson": ("Stevenson",),
            "Lewis Carroll": ("Carroll",),
            "Oscar Wilde": ("Wilde",),
            "H. G. Wells": ("Wells",),
            "Antoine de Saint-Exupéry": ("Saint-Exupéry", "Saint-Exupery"),
            "Ernest Hemingway": ("Hemingway",),
            "Virginia Woolf": ("Woolf",),
            "Astrid Lindgren": ("Lindgren",),
            "Jules Verne": ("Verne",),
            "Mark Twain": ("Twain",),
            "Gabriel García Márquez": ("García Márquez", "Garcia Marquez"),
        },
    ),
    FactKind(
        "painter",
        ("Who painted {subject}?", "Which artist painted {subject}?"),
        "The painter of {subject} is {answer}.",
        "Prints of it hang in many homes.",
        table(
            "the Mona Lisa = Leonardo da Vinci; The Starry Night = Vincent van Gogh; Guernica = Pablo Picasso; "
            "The Night Watch = Rembrandt; The Birth of Venus = Sandro Botticelli; The Scream = Edvard Munch; "
            "Girl with a Pearl Earring = Johannes Vermeer; The Kiss = Gustav Klimt; The Persistence of Memory = "
            "Salvador Dalí; Las Meninas = Diego Velázquez; Nighthawks = Edward Hopper; The Garden of Earthly "
            "Delights = "
            "Hieronymus Bosch; The School of Athens = Raphael; American Gothic = Grant Wood"
        ),
        {
            "Leonardo da Vinci": ("Leonardo", "da Vinci"),
            "Vincent van Gogh": ("van Gogh",),
            "Pablo Picasso": ("Picasso",),
            "Sandro Botticelli": ("Botticelli",),
            "Edvard Munch": ("Munch",),
            "Johannes Vermeer": ("Vermeer",),
            "Gustav Klimt": ("Klimt",),
            "Salvador Dalí": ("Dalí", "Dali"),
            "Diego Velázquez": ("Velázquez", "Velazquez"),
            "Edward Hopper": ("Hopper",),
            "Hieronymus Bosch": ("Bosch",),
        },
    ),
    FactKind(
        "composer",
        ("Who composed {subject}?", "Which composer wrote {subject}?"),
        "The composer of {subject} is {answer}.",
        "It is still played in concert halls today.",
        table(
            "The Magic Flute = Wolfgang Amadeus Mozart; The Four Seasons = Antonio Vivaldi; Swan Lake = "
            "Pyotr Tchaikovsky; Carmen = Georges Bizet; Aida = Giuseppe Verdi; the Brandenburg Concertos = "
            "Johann Sebastian Bach; the Moonlight Sonata = Ludwig van Beethoven; Messiah = George Frideric Handel; "
            "The Barber of Seville = Gioachino Rossini; Tosca = Giacomo Puccini; The Rite of Spring = Igor Stravinsky; "
            "Rhapsody in Blue = George Gershwin; Boléro = Maurice Ravel; The Planets = Gustav Holst"
        ),
        {
            "Wolfgang Amadeus Mozart": ("Mozart",),
            "Antonio Vivaldi": ("Vivaldi",),
            "Pyotr Tchaikovsky": ("Tchaikovsky",),
            "Georges Bizet": ("Bizet",),
            "Giuseppe Verdi": ("Verdi",),
            "Johann Sebastian Bach": ("Bach",),
            "Ludwig van Beethoven": ("Beethoven",),
            "George Frideric Handel": ("Handel",),
            "Gioachino Rossini": ("Rossini",),
            "Giacomo Puccini": ("Puccini",),
            "Igor Stravinsky": ("Stravinsky",),
            "George Gershwin": ("Gershwin",),
            "Maurice Ravel": ("Ravel",),
            "Gustav Holst": ("Holst",),
        },
    ),
    FactKind(
        "discovery",
        ("Which scientist is famous for {subject}?", "Which scientist do we link with {subject}?"),
        "The scientist who is famous for {subject} is {answer}.",
        "It is told in most books on the history of science.",
        table(
            "the theory of relativity = Albert Einstein; the three laws of motion = Isaac Newton; the theory of "
            "evolution by natural selection = Charles Darwin; the discovery of radium = Marie Curie; the discovery of "
            "penicillin = Alexander Fleming; the first periodic table = Dmitri Mendeleev; the discovery of X-rays = "
            "Wilhelm Röntgen; the laws of inheritance in peas = Gregor Mendel; the first vaccine against rabies = "
            "Louis Pasteur; the electric pile, the first battery = Alessandro Volta; the laws of planetary motion = "
            "Johannes Kepler; the invention of dynamite = Alfred Nobel"
        ),
        {
            "Albert Einstein": ("Einstein",),
            "Isaac Newton": ("Newton",),
            "Charles Darwin": ("Darwin",),
            "Marie Curie": ("Curie",),
            "Alexander Fleming": ("Fleming",),
            "Dmitri Mendeleev": ("Mendeleev", "Mendeleyev"),
            "Wilhelm Röntgen": ("Röntgen", "Roentgen", "Rontgen"),
            "Gregor Mendel": ("Mendel",),
            "Louis Pasteur": ("Pasteur",),
            "Alessandro Volta": ("Volta",),
            "Johannes Kepler": ("Kepler",),
            "Alfred Nobel": ("Nobel",),
        },
    ),
    FactKind(
        "sport",
        ("Which sport do you play with {subject}?", "In which sport do players use {subject}?"),
        "You use {subject} when you play {answer}.",
        "Most towns have a club that you can join.",
        table(
            "a puck = ice hockey; a shuttlecock = badminton; clubs and a small white ball on a course with 18 holes = "
            "golf; a wicket = cricket; pins and a heavy ball with three holes = bowling; a cue and coloured balls = "
            "snooker; a mallet on horseback = polo; a small plastic ball on a table with a net = table tennis"
        ),
        {"ice hockey": ("hockey",), "snooker": ("billiards", "pool"), "table tennis": ("ping-pong", "ping pong")},
    ),
)
