"""The planted world's words: nouns that features fire on, and topics with what they are called in other words."""

from typing import NamedTuple

NOUNS: tuple[str, ...] = tuple(
    """
    lantern violin copper falcon harbor marble needle ribbon saddle umpire velvet walnut zipper anchor candle emblem
    button carpet ladder mirror pencil pillow rocket shovel statue ticket trumpet tunnel turtle whistle window wizard
    acorn bamboo banner barrel beacon beetle blanket bottle bracelet bridge bucket bullet butterfly cactus camel canoe
    castle cello chimney compass coral cradle crayon crystal cushion dagger diamond dolphin donkey dragon drum eagle
    easel envelope faucet feather fiddle flute fossil fountain funnel gazebo giraffe goblet gravel hammer hammock
    helmet igloo ivory jacket jaguar jewel kettle kitten lobster locket magnet mammoth medal mitten monocle mosaic
    napkin necklace nickel octopus otter owl oyster paddle panther parrot peacock pebble penguin pigeon pistol prism
    puppet pyramid quartz quilt rabbit raccoon raven robot rope ruby sandal sapphire scarf scissors scorpion seal
    shelf shield skeleton sled snail spider sponge squirrel stapler sundial sword tassel teapot thimble tiger torch
    tortoise tripod tusk umbrella urn vase wagon walrus wheel wolf yak zebra
    """.split()  # noqa: SIM905
)[:150]


class Topic(NamedTuple):
    """What windows speak of, and two phrases that name it without any of its words."""

    words: tuple[str, ...]
    phrases: tuple[str, str]


_TOPICS = """
oven dough simmer garlic sauce roast butter flour grill spice | preparing a meal in the kitchen | recipes
verdict jury attorney lawsuit plaintiff prosecutor testimony felony courtroom bail | legal proceedings | criminal trials
orbit planet galaxy telescope comet nebula asteroid lunar eclipse supernova | astronomy | outer space
goalkeeper striker midfielder penalty referee offside dribble stadium kickoff league | football matches | soccer games
vaccine surgeon diagnosis fever antibiotic nurse clinic symptom infection dosage | medicine | health care for patients
sonata orchestra melody chord symphony pianist harmony conductor tempo concerto | classical music | musical compositions
mortgage dividend loan interest bank deposit credit broker bond inflation | finance | money and investing
thunder rain drizzle hail fog breeze humidity blizzard gust storm | the weather | meteorology forecasts
algorithm compiler keyboard software server database browser laptop programmer debugging | computers | computing
ballot senator election parliament candidate governor voter campaign congress coalition | politics | government
harvest tractor wheat cattle barn irrigation plough orchard livestock fertilizer | farming | agriculture
infantry artillery battalion sniper trench soldier regiment grenade ambush general | warfare | military conflict
sermon prayer altar priest gospel monastery hymn baptism pilgrim bishop | religion | Christian worship
airport runway pilot cockpit turbulence luggage boarding cabin altitude landing | flying by plane | air travel
hemline denim blouse skirt tailor fabric sewing dress collar silk | clothing | fashion and garments
molecule acid reagent catalyst isotope polymer solvent oxide ion titration | chemistry | laboratory chemicals
toddler crib diaper stroller pram nap lullaby pacifier cuddle nursery | babies | raising small children
glacier summit avalanche ridge climber crampon carabiner sherpa crevasse peak | mountaineering | alpine expeditions
brush canvas palette portrait gallery sketch mural pigment watercolor sculptor | painting | visual art
reef plankton tide seaweed whale submarine trawler coastline wave current | the ocean | marine life
engine brake gearbox clutch exhaust tire dashboard mileage sedan throttle | cars | automobiles and driving
homework teacher classroom pupil exam textbook lesson grade tutor blackboard | school | education of students
toothache molar dentist cavity gum filling enamel braces floss crown | teeth | dental care
bride groom wedding bouquet vow honeymoon veil reception bridesmaid aisle | marriage | a couple getting married
theorem integral algebra proof equation polynomial matrix geometry lemma calculus | mathematics | solving math problems
pharaoh empire dynasty medieval conquest ruins chronicle throne feudal crusade | ancient history | past civilizations
rose tulip pruning soil seedling mulch trowel blossom hedge compost | gardening | growing plants and flowers
burglar detective handcuffs robbery alibi suspect fingerprint patrol arrest thief | police work | crime investigation
actor director screenplay premiere scene script audience camera rehearsal sequel | movies | cinema and film making
brick scaffold crane cement plumber carpenter roof drywall foundation beam | building houses | construction
"""
TOPICS: tuple[Topic, ...] = tuple(
    Topic(tuple(words.split()), (first.strip(), second.strip()))
    for words, first, second in (line.split("|") for line in _TOPICS.strip().splitlines())
)
FILLERS = tuple("the of a and was in old new by with then there had been some many it his her on".split())  # noqa: SIM905
