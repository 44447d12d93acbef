"""Facts that are numbers: years, counts, units and dates."""

from __future__ import annotations

from typing import Final

from facetrm.data.desk.facts.kinds import FactKind, table

MEASURES: Final = (
    FactKind(
        "year",
        ("Can you tell me in which year {subject}?", "Do you know the year in which {subject}?"),
        "It was in {answer} that {subject}.",
        "The date is in every history book.",
        table(
            "the Berlin Wall fell = 1989; Columbus first reached the Americas = 1492; the First World War "
            "began = 1914; "
            "the Second World War ended = 1945; the Battle of Hastings took place = 1066; people first walked on the "
            "Moon = 1969; the French Revolution began = 1789; the Titanic sank = 1912; the Battle of Waterloo was "
            "fought = 1815; Mount Everest was first climbed = 1953; the American Declaration of Independence was "
            "signed = 1776; the Great Fire of London broke out = 1666; the Russian Revolution took place = 1917; "
            "the Chernobyl accident happened = 1986; the Euro came into use as cash = 2002; the first modern Olympic "
            "Games were held = 1896; John F. Kennedy was shot = 1963; the Wall Street Crash happened = 1929; Queen "
            "Victoria died = 1901; the Magna Carta was sealed = 1215"
        ),
    ),
    FactKind(
        "count",
        ("How many {subject}?", "My grandson wants to know: how many {subject}?"),
        "The answer is {answer}.",
        "You can count them yourself if you do not believe it.",
        table(
            "legs does a spider have = 8; legs does an insect have = 6; strings does a violin have = 4; sides does a "
            "hexagon have = 6; players of one team are on the field in football = 11; keys does a full-size piano "
            "have = 88; squares are on a chessboard = 64; cards are in a standard deck without jokers = 52; letters "
            "are in the English alphabet = 26; planets are in our solar system = 8; days are in a leap year = 366; "
            "hours are in a day = 24; teeth does a healthy adult have, wisdom teeth included = 32; sides does a "
            "triangle have = 3; sides does an octagon have = 8; states are in the USA = 50; colours are in the "
            "flag of France = 3; wheels does a tricycle have = 3; minutes are in three hours = 180; days are in "
            "April = 30; days are in October = 31; stripes are on the flag of the USA = 13; weeks are in a year, "
            "roughly = 52; faces does a cube have = 6; hearts does an octopus have = 3; players are in a volleyball "
            "team on the court = 6; months have 31 days = 7"
        ),
    ),
    FactKind(
        "unit",
        ("I have forgotten my units. How many {subject}?", "I am filling in a form. How many {subject}?"),
        "The number that you need is {answer}.",
        "Any table of units lists it.",
        table(
            "metres are in a kilometre = 1000; centimetres are in a metre = 100; grams are in a kilogram = 1000; "
            "inches are in a foot = 12; feet are in a yard = 3; ounces are in a pound = 16; minutes are in an "
            "hour = 60; "
            "seconds are in an hour = 3600; years are in a century = 100; years are in a decade = 10; millimetres are "
            "in a centimetre = 10; degrees are in a right angle = 90; degrees are in a full circle = 360; items are in "
            "a dozen = 12; days are in a fortnight = 14; bits are in a byte = 8; cents are in a US dollar = 100; "
            "kilograms are in a tonne = 1000; pounds are in a stone = 14; pints are in an imperial gallon = 8; "
            "sheets are in a ream of paper = 500"
        ),
    ),
    FactKind(
        "month",
        ("In which month is {subject}?", "I am filling in my calendar. In which month is {subject}?"),
        "Look in {answer} for {subject}.",
        "It is worth marking in the calendar.",
        table(
            "Christmas Day = December; Halloween = October; New Year's Day = January; Saint Patrick's Day = March; "
            "Valentine's Day = February; American Independence Day = July; Saint Nicholas' Day = December; "
            "the summer solstice in the northern hemisphere = June; Burns Night = January; April Fools' Day = April; "
            "Bastille Day = July; the feast of All Saints = November; American Thanksgiving = November; "
            "Guy Fawkes Night = November; the start of the school year in England = September"
        ),
    ),
)
