"""Other names of the kinds that detectors give, as data: one entry a line, an indented line goes on
with the one before.
"""

from __future__ import annotations

# Names of one thing, said for each other both ways; the first is the most usual.
SAME = """
person, human, human being, somebody, someone, anybody, anyone, pedestrian
bicycle, bike, push bike
car, automobile, motor car, passenger car
motorcycle, motorbike, motor bike
airplane, aeroplane, plane, aircraft
bus, omnibus
train, railway train
truck, lorry
traffic light, traffic signal, stoplight
fire hydrant, hydrant
cow, cattle
teddy bear, teddy, stuffed bear
backpack, rucksack, knapsack, school bag, book bag
umbrella, parasol
handbag, purse, shoulder bag
tie, necktie
suitcase, travel bag, trolley case
frisbee, flying disc, frisbee disc
skis, pair of skis
sports ball, sport ball
baseball bat, bat
baseball glove, baseball mitt
surfboard, surf board
tennis racket, tennis racquet, racket, racquet
wine glass, goblet
cup, coffee cup, tea cup, drinking cup
mug, coffee mug, tea mug
donut, doughnut
chair, seat
armchair, easy chair
office chair, desk chair, swivel chair, computer chair
couch, sofa, settee, loveseat
potted plant, pot plant, house plant, indoor plant
plant, green plant
dining table, dinner table, kitchen & dining room table
desk, writing desk, office desk, computer desk, work desk
coffee table, cocktail table
bedside table, nightstand, night table
bed, cot
toilet, lavatory, loo
tv, television, telly, tv set, television set, flat screen tv, smart tv, tv screen
tv, tvmonitor, tv monitor
monitor, computer monitor, pc monitor, computer screen, pc screen, computer display, lcd,
  lcd monitor, flat screen monitor, tvmonitor, tv monitor
screen, display, flat screen
laptop, notebook computer, laptop computer, portable computer
mouse, computer mouse, pc mouse
remote, remote control, tv remote
game controller, gamepad, game pad, joystick
keyboard, computer keyboard, pc keyboard
cell phone, mobile phone, smartphone, mobile, cellular phone, cellular telephone, mobile telephone
telephone, phone
tablet, tablet computer
microwave, microwave oven
oven, stove, cooker
sink, wash basin, basin
refrigerator, fridge, fridge freezer
watch, wristwatch
vase, flower vase
scissors, pair of scissors, shears
hair drier, hair dryer, blow dryer
cabinet, cupboard, cabinetry
shelf, shelving, rack
bookcase, bookshelf
dresser, chest of drawers, commode
wardrobe, closet, armoire
lamp, light, light fixture
curtain, drape
pillow, cushion
carpet, rug
trash can, waste container, garbage can, rubbish bin, dustbin, bin, trash bin, waste bin,
  waste basket, garbage bin, wastebin
box, carton, cardboard box
picture, painting, picture frame, framed picture
whiteboard
blackboard, chalkboard
loudspeaker, speaker
headphones, headset, earphones
pen, ballpoint pen
paper, sheet of paper, piece of paper
stool, bar stool
ottoman, footstool, pouf
bathtub
washing machine, washer
kettle, tea kettle, electric kettle
coffee maker, coffee machine
faucet, tap, water tap
pan, frying pan
pot, cooking pot, saucepan
plate, dinner plate
radiator, heater
fan, electric fan
air conditioner, air conditioning
stairs, staircase, stairway
socket, power socket, outlet, power outlet, power plugs and sockets
ball, sphere
barrel, drum, keg
shoe, footwear
desktop computer, desktop pc
computer, pc
"""

# A name, and the kinds that such things are given as by detectors without a kind of that name.
GIVEN_AS = """
table: dining table
monitor: tv, screen
screen: tv, monitor
tv: monitor, screen
plant: potted plant
potted plant: plant
bookcase: shelf
ball: sports ball
sports ball: ball
"""

# The same of things that are often not given at all: that none is seen proves nothing.
OFTEN_GIVEN_AS = """
desk: table, dining table
"""

# A name of many sorts. What is of one of these kinds is one; that none is seen proves nothing.
SORTS = """
person: man, woman, boy, girl
bag: handbag, backpack, suitcase, luggage and bags
luggage: suitcase, backpack, luggage and bags
computer: laptop, desktop computer
animal: bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe
pet: cat, dog
telephone: cell phone
vehicle: bicycle, car, motorcycle, airplane, bus, train, truck, boat
fruit: banana, apple, orange
vegetable: broccoli, carrot
food: banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake
cutlery: fork, knife, spoon
crockery: cup, bowl, plate, mug
dish: bowl, plate
glass: wine glass, drinking glass
appliance: microwave, oven, toaster, refrigerator, dishwasher, washing machine, home appliance
kitchen appliance: microwave, oven, toaster, refrigerator, dishwasher
electronic: tv, laptop, mouse, remote, keyboard, cell phone, monitor, tablet
electronic device: tv, laptop, mouse, remote, keyboard, cell phone, monitor, tablet
device: tv, laptop, mouse, remote, keyboard, cell phone, monitor, tablet
gadget: tv, laptop, mouse, remote, keyboard, cell phone, monitor, tablet
toy: teddy bear, doll
stuffed animal: teddy bear
seating: chair, couch, bench, stool, armchair
container: bottle, cup, bowl, vase, box
"""

# Some of the things of a kind: without one of the kind there is none, with one it is not told.
SOME_OF = """
man: person
woman: person
boy: person
girl: person
child: person
kid: person
baby: person
adult: person
student: person
worker: person
lady: person
puppy: dog
kitten: cat
football: sports ball, ball
soccer ball: sports ball, ball
basketball: sports ball, ball
tennis ball: sports ball, ball
mug: cup
novel: book
textbook: book
armchair: chair, couch
"""

# Compounds that are not what their last word says, and words that take back the noun behind them.
NOT_THEIR_HEAD = """
hot dog, teddy bear, stuffed bear, stuffed animal, traffic light, sea lion, guinea pig, koala bear,
gummy bear, toilet seat, car seat, bicycle seat, phone book, pencil case, computer case, flower bed,
truck bed, river bed, parking meter, bow tie, cable tie, zip tie, power plant,
water plant, touch screen, projector screen, projection screen, folding screen, sun screen,
piano keyboard, music keyboard, rocking horse, clothes horse, sea horse, dog bed, cat bed,
boxing glove, oven glove, magnifying glass, looking glass, pin cushion, tail light, paper plane
"""
TAKES_BACK = """
toy model fake miniature stuffed plastic paper inflatable former drawn painted photographed missing
imaginary virtual pretend invisible lego origami chocolate
"""
