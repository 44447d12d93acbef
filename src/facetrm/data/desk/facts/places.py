"""Facts about places."""

from __future__ import annotations

from typing import Final

from facetrm.data.desk.facts.kinds import FactKind, table

PLACES_AND_MONEY: Final = (
    FactKind(
        "capital",
        (
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "I am doing a crossword. What is the capital city of {subject}?",
        ),
        "The capital of {subject} is {answer}.",
        "The capital is where most governments have their seat.",
        table(
            "France = Paris; Germany = Berlin; Italy = Rome; Spain = Madrid; Portugal = Lisbon; Austria = Vienna; "
            "Hungary = Budapest; Poland = Warsaw; Greece = Athens; Norway = Oslo; Sweden = Stockholm; Finland "
            "= Helsinki; "
            "Denmark = Copenhagen; Iceland = Reykjavik; Ireland = Dublin; Romania = Bucharest; Bulgaria = Sofia; "
            "Croatia = Zagreb; Serbia = Belgrade; Estonia = Tallinn; Latvia = Riga; Lithuania = Vilnius; "
            "Albania = Tirana; "
            "Turkey = Ankara; Egypt = Cairo; Kenya = Nairobi; Ethiopia = Addis Ababa; Ghana = Accra; Senegal = Dakar; "
            "Morocco = Rabat; Tunisia = Tunis; Uganda = Kampala; Japan = Tokyo; China = Beijing; South Korea = Seoul; "
            "Thailand = Bangkok; Vietnam = Hanoi; the Philippines = Manila; India = New Delhi; Nepal = Kathmandu; "
            "Bangladesh = Dhaka; Pakistan = Islamabad; Iran = Tehran; Iraq = Baghdad; Jordan = Amman; Lebanon "
            "= Beirut; "
            "Canada = Ottawa; Cuba = Havana; Jamaica = Kingston; Peru = Lima; Chile = Santiago; Argentina = "
            "Buenos Aires; "
            "Uruguay = Montevideo; Ecuador = Quito; Colombia = Bogotá; Venezuela = Caracas; Australia = Canberra; "
            "New Zealand = Wellington; Mongolia = Ulaanbaatar; Cambodia = Phnom Penh"
        ),
        {
            "New Delhi": ("Delhi",),
            "Bogotá": ("Bogota",),
            "Ulaanbaatar": ("Ulan Bator",),
            "Reykjavik": ("Reykjavík",),
            "Santiago": ("Santiago de Chile",),
        },
    ),
    FactKind(
        "state capital",
        (
            "What is the capital of the US state of {subject}?",
            "Which city is the state capital of {subject}?",
            "My daughter is learning the American states. What is the capital of {subject}, USA?",
        ),
        "The state capital of {subject} is {answer}.",
        "A state capital is not always the largest city of its state.",
        table(
            "Texas = Austin; California = Sacramento; Colorado = Denver; Arizona = Phoenix; Hawaii = Honolulu; "
            "Massachusetts = Boston; Georgia = Atlanta; Tennessee = Nashville; Ohio = Columbus; Alaska = Juneau; "
            "Oregon = Salem; Florida = Tallahassee; Illinois = Springfield; New York = Albany; Nevada = Carson City; "
            "Utah = Salt Lake City; Virginia = Richmond; Wisconsin = Madison; Minnesota = Saint Paul; Iowa = "
            "Des Moines; "
            "Maine = Augusta; Vermont = Montpelier; Michigan = Lansing; Alabama = Montgomery; Montana = Helena"
        ),
        {"Saint Paul": ("St. Paul", "St Paul")},
    ),
    FactKind(
        "currency",
        (
            "What is the currency of {subject} called?",
            "Which currency do people pay with in {subject}?",
            "I am travelling to {subject}. What is the money there called?",
        ),
        "The currency of {subject} is the {answer}.",
        "Banks and exchange offices can tell you the rate of the day.",
        table(
            "Japan = yen; India = rupee; China = yuan; Switzerland = franc; Russia = rouble; Mexico = peso; "
            "Brazil = real; Poland = zloty; Hungary = forint; South Korea = won; Thailand = baht; Israel = shekel; "
            "South Africa = rand; Turkey = lira; Vietnam = dong; Sweden = krona; the United Kingdom = pound; "
            "Canada = dollar"
        ),
        {"rouble": ("ruble",), "yuan": ("renminbi",), "zloty": ("złoty",), "pound": ("pound sterling", "sterling")},
    ),
    FactKind(
        "continent",
        (
            "On which continent is {subject}?",
            "Which continent is {subject} part of?",
            "We are looking at a globe. On what continent do I find {subject}?",
        ),
        "You find {subject} on the continent of {answer}.",
        "A globe or an atlas shows this at a glance.",
        table(
            "Kenya = Africa; Nigeria = Africa; Zambia = Africa; Mali = Africa; Botswana = Africa; Peru = South "
            "America; "
            "Bolivia = South America; Chile = South America; Paraguay = South America; Norway = Europe; "
            "Portugal = Europe; Belgium = Europe; Slovenia = Europe; Nepal = Asia; Vietnam = Asia; Mongolia = Asia; "
            "Japan = Asia; Laos = Asia; Canada = North America; Mexico = North America; the Sahara = Africa; "
            "the Gobi Desert = Asia; the Amazon River = South America; the Danube = Europe; the Mississippi = "
            "North America"
        ),
    ),
    FactKind(
        "landmark",
        (
            "In which city is {subject}?",
            "Which city would I have to visit to see {subject}?",
            "Where is {subject}? I only need the city.",
        ),
        "To see {subject}, you have to go to {answer}.",
        "It attracts a great many visitors every year.",
        table(
            "the Eiffel Tower = Paris; the Colosseum = Rome; Big Ben = London; the Brandenburg Gate = Berlin; "
            "the Statue of Liberty = New York; the Golden Gate Bridge = San Francisco; the Sagrada Família = "
            "Barcelona; "
            "the Parthenon = Athens; Red Square = Moscow; the Burj Khalifa = Dubai; the Forbidden City = Beijing; "
            "the Charles Bridge = Prague; the Sydney Opera House = Sydney; the Prado Museum = Madrid; "
            "the Uffizi Gallery = Florence; the Little Mermaid statue = Copenhagen; the Atomium = Brussels; "
            "the Hagia Sophia = Istanbul; the Rijksmuseum = Amsterdam; the CN Tower = Toronto; the Space "
            "Needle = Seattle; "
            "the Schönbrunn Palace = Vienna; the Gateway Arch = St. Louis"
        ),
        {"New York": ("New York City", "NYC"), "St. Louis": ("Saint Louis", "St Louis")},
    ),
)
