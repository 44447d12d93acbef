"""Subjects of short texts, with sentences about each and the words that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Subject:
    """Something to write about.

    Attributes:
        name: Name, as in "Write about ...".
        words: Stems that show that a text is about it.
        sentences: True, plain sentences about it, each of which shows it.
    """

    name: str
    words: tuple[str, ...]
    sentences: tuple[str, ...]


def _read(text: str) -> tuple[Subject, ...]:
    found = []
    for part in text.strip().split("\n\n"):
        head, *sentences = part.split("\n")
        name, words = head.split(" @ ")
        found.append(Subject(name, tuple(words.split()), tuple(sentences)))
    return tuple(found)


TEXT_SUBJECTS: Final = _read("""
the sea @ sea wave tide shore
The sea changes its colour with the light of the day.
At low tide you can walk far out on the sand.
The waves break on the rocks with a deep sound.
Many people go to the shore to think in peace.
The sea is home to more animals than we know.
A storm at sea can last for several days.
On a clear night the moon shines on the waves.

autumn @ autumn leaves leaf
In autumn the leaves of the trees turn red and gold.
The mornings of autumn are cold and full of mist.
Children play with the leaves that lie in the park.
In autumn the farmers bring in the last of the harvest.
Many birds fly to the south when autumn comes.
A walk through fallen leaves is a pleasure in October.
The first storms of autumn shake the old trees.

bread @ bread loaf dough bake
The smell of fresh bread fills the whole of the house.
Bread is made from flour and water with a little salt.
The baker puts the first loaf in the oven at four.
A good loaf has a dark crust and a soft middle.
The dough has to rest in a warm place for hours.
Old bread can be used for soup or for a pudding.
People in many countries eat bread with every meal.

trains @ train rail platform
The train leaves the platform at six in the morning.
From the window of a train you see the land go by.
A long train with coal and timber passes in the night.
Children like to stand on the bridge and count the trains.
The rails run along the river for many miles.
On a train you can read or talk to a stranger.
The old railway line to the coast was closed years ago.

cats @ cat kitten purr
A cat spends most of the day in a warm place.
The cat next door comes to the kitchen for milk.
Cats can hear a mouse in the grass from far away.
A kitten plays with a ball of wool for an hour.
Cats wash their fur with great care after a meal.
At night the cats of the street meet on the wall.
A happy cat will purr and close its eyes.

the library @ library librar book shelf shelves
The library opens its doors at nine in the morning.
You can borrow a book for a month and read it at home.
The shelves of the library reach up to the ceiling.
Children listen to a story in a corner of the library.
The librarian knows where to find the oldest of the books.
It is so quiet in the library that you hear the clock.
Students sit in the library with a pile of papers.

winter @ winter snow ice frost
In winter the lake is covered with a layer of ice.
The snow makes the streets of the town quiet.
Children pull their sledge to the top of the hill.
The frost paints flowers on the glass in winter.
On a winter evening the family sits by the fire.
The birds look for seeds under the snow.
After a long winter everybody waits for the sun.

gardens @ garden flower bed seed
In the garden the first flowers open in March.
A garden needs water and a little work every day.
The beds are full of herbs for the kitchen.
Bees fly from flower to flower in the garden.
A bench under the tree is the best place in a garden.
The seeds are sown in rows in the spring.
Neighbours exchange plants from their gardens over the fence.

rivers @ river stream bank bridge
The river begins as a small stream in the hills.
A bridge of stone crosses the river near the mill.
Boats with sand and gravel go down the river.
On the banks there are meadows and old willows.
In spring the river rises and floods the fields.
The water of the river drives the wheel of a mill.
People from the town swim in the river in July.

tea @ tea cup pot leaf leaves
Tea is grown on the slopes of high mountains.
The leaves are picked by hand and dried in the sun.
A pot of tea stands on the table in the afternoon.
Some people take their tea with milk and sugar.
A cup of tea is a comfort on a cold day.
Green tea and black tea come from the same plant.
You should pour the water on the tea at once.

school @ school teacher class pupil lesson
The school stands at the end of a long street.
In the first lesson the pupils read a poem aloud.
The teacher writes the date on the board in chalk.
At ten the whole school goes out into the yard.
A new pupil came to the class in the spring.
The school has a choir and a small orchestra.
After the last lesson the pupils run to the bus.

music @ music song piano concert
There is music in the square on Saturday evenings.
She plays the piano for an hour before breakfast.
A song can bring back a summer of long ago.
The concert in the church begins at eight.
He learned to read music from his grandfather.
Music makes the work in the kitchen easier.
The song that she wrote is known in the village.

the moon @ moon
The moon goes around the earth in about a month.
The light of the moon is the light of the sun.
When the moon is full the nights are bright.
The moon has mountains and wide plains of dust.
Sailors watch the moon because it moves the tides.
From the earth we see only one side of the moon.
There is no wind and no rain on the moon.

horses @ horse foal stable pony
A horse can sleep while it stands in the field.
The foal follows the mare to the end of the meadow.
The horses in the stable get hay in the evening.
A horse knows the voice of the person who feeds it.
In former times horses pulled the carts of the farmers.
The pony carries the child along the beach.
The horse lifts its head and looks to the gate.

markets @ market stall
The market opens before the sun is up.
On the stalls there are apples and jars of honey.
The people of the village meet at the market on Friday.
A farmer sells eggs and cheese from a stall.
The market smells of fish and of fresh herbs.
At noon the stalls are taken down for the day.
You can still bargain a little at the market.

mountains @ mountain summit peak hill
The path to the summit leads through a forest.
The mountains are covered with snow until the end of May.
From the peak you see the lakes of three countries.
The air in the mountains is thin and clear.
A hut near the summit offers soup and a bed.
The weather in the mountains can change in an hour.
Goats live on the steep sides of the mountain.
""")
