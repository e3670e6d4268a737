"""Short stories in plain English, with questions about them that only their own words answer."""

from __future__ import annotations

from random import Random

from exchange import Exchange

NAMES = {
    "she": ("Anna", "Lucy", "Mia", "Clara", "Rosa", "Nina", "Ella", "Maya", "Lily", "Sara"),
    "he": ("Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Paul", "Oscar", "Finn", "Hugo"),
}
HEROES = (
    "fox", "cat", "dog", "bear", "rabbit", "mouse", "owl", "frog", "horse", "duck", "hedgehog", "wolf", "squirrel",
    "turtle", "elephant", "lion", "girl", "boy", "farmer", "robot", "dragon", "king", "queen", "sailor", "bird", "pirate",
)  # fmt: skip
HELPERS = ("an old owl", "a kind farmer", "a small bird", "a clever fox", "a friendly dog", "a wise turtle", "a young girl",
           "a tall boy", "a busy bee", "a gentle horse")  # fmt: skip
PLACES = (
    "in a small village", "near a deep forest", "by the sea", "in a green valley", "on a high mountain", "beside a river",
    "in a quiet town", "on a farm", "in an old house", "at the edge of a lake", "in a big city", "on a small island",
)  # fmt: skip
WEATHER = (
    ("It was a sunny morning", "the sky was blue"), ("It was raining", "the ground was wet"),
    ("It was a cold winter day", "snow covered the trees"), ("The wind was strong", "the leaves were flying"),
    ("It was a warm summer evening", "the stars were coming out"), ("It was a foggy morning", "nobody could see far"),
)  # fmt: skip
TROUBLES = (  # what happened; how it felt; what the helper did; what came of it
    ("lost {his} red hat", "sad", "found the hat under a bush", "put on the hat and smiled"),
    ("could not find the way home", "afraid", "showed {him} the path", "came home before dark"),
    ("fell into a cold stream", "wet and cold", "pulled {him} out with a long branch", "sat by a warm fire and drank tea"),
    ("broke {his} favourite toy", "unhappy", "mended the toy with string and glue", "played until the evening"),
    ("had nothing to eat", "very hungry", "shared some bread and cheese", "ate until {he} was full"),
    ("heard a strange noise at night", "scared", "looked outside and found only a cat", "slept well until morning"),
    ("wanted to cross the river but had no boat", "worried", "built a small raft", "reached the other side safely"),
    ("lost a golden key", "upset", "saw the key shining in the grass", "opened the old door and found a garden"),
    ("had no one to play with", "lonely", "asked {him} to join a game", "had a new friend"),
    ("wanted to bake a cake but had no flour", "disappointed", "brought a bag of flour", "baked the best cake of all"),
)  # fmt: skip
LESSONS = (
    "From that day on, they were good friends.", "After that, {name} always helped others too.",
    "{name} learned that it is good to ask for help.", "That night, {name} was happy and slept well.",
    "They laughed together and walked home.", "{name} never forgot that day.",
)  # fmt: skip
MORE = (
    "The next day, {name} visited {helper} again. They had breakfast together and talked about the day before.",
    "A week later, {name} came back with a small gift for {helper}. They were both very glad.",
    "Some time later, {helper} needed help as well. {name} came at once, because friends help each other.",
    "In the spring, {name} and {helper} planted a tree to remember that day. It grew tall and strong.",
)  # fmt: skip
ASK = (
    "Tell me a story about a {hero}.", "tell me a story about a {hero}", "Can you tell me a story about a {hero}?",
    "Write a short story about a {hero}.", "write a story about a {hero}", "I would like to hear a story about a {hero}.",
    "a story about a {hero} please", "Please tell me a short story about a {hero}!", "story about a {hero}",
    "Do you know a story about a {hero}?", "could you write a little story about a {hero}",
)  # fmt: skip
ASK_ANY = ("Tell me a story.", "tell me a story", "Can you tell me a story?", "I want to hear a story.", "a story please",
           "Write a short story.", "tell me a bedtime story", "Tell me a short story, please.")  # fmt: skip
ASK_NAMED = ("Tell me a story about a {hero} called {name}.", "Write a story about a {hero} named {name}.",
             "tell me a story about a {hero} named {name}", "a story about {name} the {hero}, please")  # fmt: skip


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def story(random: Random) -> list[Exchange]:
    """A story on request, and perhaps some talk about it."""
    pronoun = random.choice(("she", "he"))
    him, his = ("her", "her") if pronoun == "she" else ("him", "his")
    name, hero, place = random.choice(NAMES[pronoun]), random.choice(HEROES), random.choice(PLACES)
    if hero in ("girl", "queen"):
        pronoun, him, his, name = "she", "her", "her", random.choice(NAMES["she"])
    elif hero in ("boy", "king"):
        pronoun, him, his, name = "he", "him", "his", random.choice(NAMES["he"])
    helper = random.choice([h for h in HELPERS if not h.endswith(hero)])
    the_helper = "the " + helper.split(" ", 1)[1]
    words = {"name": name, "hero": hero, "he": pronoun, "him": him, "his": his, "helper": the_helper}
    trouble, feeling, help_given, ending = (part.format(**words) for part in random.choice(TROUBLES))
    sky, detail = random.choice(WEATHER)
    adjective = random.choice(("little", "young", "brave", "kind", "curious", "clever"))
    opening = random.choice((
        f"Once upon a time, {_article(adjective)} {hero} called {name} lived {place}.",
        f"There was once {_article(adjective)} {hero} named {name} who lived {place}.",
        f"{_capital(place)} lived {_article(adjective)} {hero}. {_capital(his)} name was {name}.",
    ))  # fmt: skip
    middle = random.choice((
        f"{sky} and {detail}. That day, {name} {trouble}. {_capital(pronoun)} was {feeling}.",
        f"One day, {name} {trouble}. {sky} and {detail}. {name} was {feeling}.",
    ))  # fmt: skip
    meeting = random.choice((
        f"Then {helper} came by and asked, \"What is wrong?\" {name} told {the_helper} everything.",
        f"Soon {name} met {helper}. \"Can you help me?\" {pronoun} asked. \"Of course,\" said {the_helper}.",
    ))  # fmt: skip
    end = f"{_capital(the_helper)} {help_given}. In the end, {name} {ending}."
    lesson = random.choice(LESSONS).format(**words)
    text = " ".join((opening, middle, meeting, end, lesson))
    kind = random.random()
    asks = ASK if kind < 0.6 else ASK_NAMED if kind < 0.85 else ASK_ANY
    ask = random.choice(asks).format(**words).replace(f" a {hero}", f" {_article(hero)}")
    subject = {ASK: _article(hero), ASK_NAMED: f"{_article(hero)} called {name}"}.get(asks, "anything")
    thought = f"The user wants a story about {subject}. I write about {name} the {hero}."
    exchanges = [Exchange(ask, thought, text)]
    questions = [
        (random.choice(("What was the name of the {hero}?", "what was the {hero} called?", "What is the {hero}'s name?")),
         f"The {hero} is called {name}.", f"The {hero}'s name was {name}."),
        (random.choice(("Where did {name} live?", "where did {he} live?", "Where does the story happen?")),
         f"{name} lived {place}.", f"{name} lived {place}."),
        (random.choice(("Who helped {name}?", "who helped {him}?", "Who came to help?")),
         f"{_capital(the_helper)} helped.", f"{_capital(the_helper)} helped {name}."),
        (random.choice(("Why was {name} {feeling}?", "why was {he} {feeling}?")).replace("{feeling}", feeling),
         f"{name} {trouble}.", f"{name} was {feeling} because {pronoun} {trouble}."),
        (random.choice(("How did it end?", "how did the story end", "What happened in the end?")),
         f"{name} {ending}.", f"In the end, {name} {ending}."),
        (random.choice(("Tell me more.", "tell me more", "What happened next?", "and then?", "go on", "Continue.")),
         f"I tell what {name} did later.", random.choice(MORE).format(**words)),
    ]  # fmt: skip
    random.shuffle(questions)
    for question, thought, answer in questions[: random.choice((0, 0, 0, 1, 1, 2, 3))]:
        exchanges.append(Exchange(question.format(**words), thought, answer))
    return exchanges
