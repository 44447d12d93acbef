"""Topics of advice: words that show the topic, and concrete tips with the words that show each tip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Topic:
    """Something that people ask advice about.

    Attributes:
        aim: What they want to do, as in "How can I ...?".
        words: Stems that show that a text is about it.
        tips: Concrete tips: a sentence, and stems of which one text has to hold all (alternatives by ``/``).
    """

    aim: str
    words: tuple[str, ...]
    tips: tuple[tuple[str, tuple[str, ...]], ...]


_TEXT: Final = """
sleep better at night @ sleep bed bedtime insomnia
- Go to bed at the same time every evening. # bed same/regular/consistent
- Switch off your phone and other screens an hour before bedtime. # screen/phone/device bed/before/evening
- Do not drink coffee or strong tea in the afternoon. # coffee/caffeine
- Keep the bedroom dark, quiet and cool. # dark/cool/quiet bedroom/room
learn a new language @ language vocabular* grammar
- Practise for fifteen minutes every day instead of once a week. # day/daily practi/minutes
- Find a partner and talk, even if you make mistakes. # partner/native/tandem
- Learn new words with flash cards. # flash/cards
- Watch films in the language with subtitles. # film/movie/series/podcast/music
save more money each month @ save saving savings money budget
- Write down everything that you spend for a month. # write/track/record spend/expens
- Move a fixed sum to a savings account on payday. # payday/automatic/transfer/move account/saving
- Cancel subscriptions that you no longer use. # subscription
- Make a shopping list and buy nothing else. # list shop/buy/grocer
prepare for a job interview @ interview
- Read about the company and its products beforehand. # company
- Practise your answers aloud with a friend. # practi/rehears answer/question
- Prepare two questions that you would like to ask yourself. # prepare/think/have question
- Plan your journey and arrive ten minutes early. # early/on_time/punctual
start running as a beginner @ run jog
- Begin by taking turns between walking and running. # walk
- Buy a pair of good shoes that fit you. # shoe
- Take a day of rest between two runs. # rest/recover day/between
- Keep so slow that you can still talk. # slow/pace/talk
keep house plants alive @ plant leaf leaves
- Water them only when the soil feels dry. # water soil/dry/over
- Put them near a window with enough light. # window/light/sun
- Use pots with holes in the bottom. # pot/drain hole/drain
- Feed them with fertiliser once a month in summer. # fertili/feed
make friends in a new town @ friend town
- Join a sports club or a choir. # club/choir/group/class
- Invite your neighbours for coffee. # neighbour/neighbor
- Help as a volunteer once a week. # volunteer
- Say yes when colleagues go out after work. # colleague/coworker/co-worker
pack for a week's holiday @ pack suitcase luggage holiday
- Write a packing list a few days before. # list
- Roll your clothes to save space. # roll
- Put medicine and documents into your hand luggage. # medicine/medication/document/passport hand/carry
- Leave out anything that you would wear only once. # leave/only_once/less/light
cook healthy meals quickly @ cook meal recipe food
- Cook twice as much and freeze half of it. # freez/batch
- Keep chopped frozen vegetables at home. # frozen/vegetable
- Plan the meals of the week on Sunday. # plan
- Choose recipes that need only one pan. # one_pan/one-pan/one_pot/one-pot/sheet
be less nervous before a speech @ speech nervous audience presentation
- Practise the speech aloud several times. # practi/rehears
- Breathe slowly and deeply before you begin. # breath
- Write a few key words on small cards. # card/note/key_word
- Look at a friendly face in the audience. # face/eye
study for an exam @ exam study studying revis*
- Make a timetable with a small goal for each day. # timetable/schedule/plan
- Test yourself with old exam papers. # old/past/practice papers/exam/test
- Take a short break after every hour. # break
- Explain the subject to somebody else. # explain/teach
look after my bicycle @ bicycle bike chain tyre
- Oil the chain every few weeks. # oil/lubric chain
- Check the air in the tyres before you ride. # air/pump/pressure tyre/tire
- Clean off the dirt after wet rides. # clean/wipe/wash
- Let a workshop look at the brakes once a year. # brake
get along with my flatmate @ flatmate roommate flat
- Agree on a rota for cleaning. # rota/chore/cleaning/schedule
- Talk about problems early and calmly. # talk/speak/discuss early/calm/open/honest
- Share the cost of basic food fairly. # share/split cost/bill/food
- Respect each other's quiet hours. # quiet/noise
write a better application letter @ application letter cover
- Keep it to one page. # one_page/short/concise
- Say why you want to work for this company. # why company/firm/employer
- Give an example of something that you have done well. # example/achiev
- Ask somebody to check the spelling. # spelling/proofread/typo/grammar
use less electricity at home @ electric* energy power
- Change old light bulbs for LED lamps. # led/bulb
- Unplug chargers and switch off machines on standby. # unplug/standby/switch_off/turn_off
- Wash clothes at thirty degrees. # wash degree/cold/cool
- Defrost the freezer twice a year. # defrost/freezer/fridge
train a young dog @ dog puppy
- Reward good behaviour with a small treat at once. # reward/treat/praise
- Keep the lessons short, about five minutes. # short/minute
- Always use the same word for the same command. # same/consistent command/word
- Let it meet other dogs and people early. # meet/sociali
take better photos with my phone @ photo picture camera
- Clean the lens before you start. # clean/wipe lens
- Use the light of the morning or the evening. # light morning/evening/natural/sun/golden
- Move closer instead of using the zoom. # closer/zoom
- Turn on the grid and place things off the centre. # grid/thirds
grow tomatoes on a balcony @ tomato tomatoes balcony
- Give the plants at least six hours of sun. # sun
- Water them every day, close to the soil. # water
- Tie them to a stick as they grow. # stick/stake/tie/cane
- Pinch out the small side shoots. # pinch/shoot/prune
drink more water during the day @ water drink
- Keep a full bottle on your desk. # bottle
- Drink a glass before every meal. # glass meal/before/morning/wake
- Set a reminder on your phone. # remind/alarm
- Add a slice of lemon or cucumber for the taste. # lemon/cucumber/mint/fruit
tidy up a messy garage @ garage
- Sort everything into keep, give away and throw out. # sort/keep/categor give/donat/throw
- Put up shelves along the walls. # shel
- Label every box. # label
- Do one corner at a time. # corner/at_a_time/section
calm a crying baby @ baby babies cry crying
- Check whether it is hungry or needs a new nappy. # hungry/feed/nappy/diaper
- Carry it around and rock it gently. # carry/rock/hold
- Sing or hum a quiet song. # sing/hum/song/lullaby
- Take it for a walk in the pram. # walk/pram/stroller
choose a used car @ car
- Ask for the service book and the papers. # service/papers/history
- Take it for a long test drive. # test_drive/drive
- Let a mechanic look at it before you pay. # mechanic/garage/inspect
- Compare prices of the same model online. # compare/price
read more books @ read book
- Read ten pages every evening before you sleep. # pages/minutes every/day/evening/bed/sleep
- Always carry a book in your bag. # carry/bag
- Join a reading group or a library. # group/club/library
- Stop reading a book that bores you. # stop/bore/give_up/put_down
deal with a noisy neighbour @ neighbour neighbor noise noisy
- Ring the bell and explain the problem in a friendly way. # friendly/polite/bell/talk
- Write down the dates and times of the noise. # write/log/record/diary date/time
- Ask the landlord for help. # landlord/manager
- Wear ear plugs at night. # ear/plug
remember people's names @ name remember
- Repeat the name aloud when you hear it. # repeat/say
- Link it to a picture in your mind. # link/picture/associat/image
- Write it down soon afterwards. # write/note
- Use it once when you say goodbye. # use goodbye/conversation
organise a birthday party for a child @ birthday party
- Invite only as many children as the child is years old. # invite/guest as_many/few/number/list
- Plan three or four short games. # game
- Ask the parents about allergies. # allerg
- Choose a theme that the child loves. # theme
fall in love with my job again @ job
- Talk to your boss about new tasks. # boss/manager/supervisor
- Write a list of what you like and what you don't. # list/write like/enjoy
- Take a course and learn something new. # course/learn/skill/train
- Go home on time at least three days a week. # on_time/balance/home
stop biting my nails @ nail bite biting
- Keep them short with a good file. # short/trim/file/cut
- Put on a bitter-tasting polish. # bitter/polish
- Hold something in your hand, such as a small ball. # hold/ball/fidget/hand
- Notice what makes you nervous. # nervous/trigger/stress
write a diary regularly @ diary journal
- Choose a fixed time of the day for it. # time/evening/morning fixed/same/set/day
- Start with three lines only. # three/few/short line/sentence/minute
- Keep the notebook beside your bed. # notebook/bed
- Note one good thing from every day. # good/grateful day/thing/for
move house without stress @ move moving house box
- Start packing the things that you rarely use four weeks before. # start/early/week pack
- Write the room on every box. # label/write/mark box
- Book the van or the movers early. # van/mover/truck
- Tell the post office your new address. # address/post
"""


def _read(text: str) -> tuple[Topic, ...]:
    topics = []
    for part in re.split(r"\n(?!- )", text.strip()):
        head, *lines = part.split("\n- ")
        aim, words = head.split(" @ ")
        tips = []
        for line in lines:
            tip, stems = line.split(" # ")
            tips.append((tip, tuple(group.replace("_", " ") for group in stems.split())))
        topics.append(Topic(aim, tuple(words.split()), tuple(tips)))
    return tuple(topics)


ADVICE_TOPICS: Final = _read(_TEXT)
