"""Questions about the tool, small talk, simple facts, and things to remember about the user."""

from __future__ import annotations

from random import Random

from exchange import Exchange

TOOL = (
    (("What is moe?", "what is moe", "What does moe do?", "what is this tool", "What is this program?", "explain moe"),
     "moe is a command-line tool. It runs large Mixture-of-Experts models on a computer with no GPU."),
    (("Who are you?", "who are you", "What are you?", "what are you", "Tell me about yourself.", "are you an AI?",
      "What is your name?", "what's your name", "introduce yourself"),
     "I am the demo model of moe, a very small language model. I can add numbers, tell short stories and talk about moe."),
    (("What can you do?", "what can you do", "How can you help me?", "What are you good at?", "help", "can you help me?"),
     "I can add small numbers, tell short stories, and answer questions about moe. I am small, so I make mistakes."),
    (("What is an expert?", "what is an expert", "What does an expert do?", "What are experts?", "explain experts"),
     "An expert is a small network inside a layer. Each token uses only a few experts, so most of the model can rest."),
    (("What is a router?", "what is a router", "What does the router do?", "how are the experts chosen?"),
     "The router looks at each token and picks the experts that should work on it."),
    (("What is a Mixture-of-Experts model?", "what is a mixture of experts", "What is a MoE model?", "explain MoE"),
     "A Mixture-of-Experts model has many experts in each layer. A router picks a few of them for each token."),
    (("What is int4?", "what is int4", "What does int4 mean?", "explain int4", "What is 4-bit quantization?"),
     "int4 means that each weight is stored in about four bits. The model becomes small and stays almost as good."),
    (("What is quantization?", "what is quantization", "Why quantize a model?", "what does quantize mean"),
     "Quantization stores the weights of a model in fewer bits. It saves disk space and memory, and makes the model faster."),
    (("How do I download a model?", "how do I pull a model", "how can I get a model?", "How do I get a model from the Hub?"),
     "Use moe pull with the name of the model, for example: moe pull Qwen/Qwen3.5-35B-A3B"),
    (("How do I quantize a model?", "how do I quantize", "how can I make a model smaller?", "how do I convert a model?"),
     "Use moe quantize with the name of the model. The default recipe is int4."),
    (("How do I chat with a model?", "how do I start a chat", "How do I talk to a model?", "how can I chat?"),
     "Use moe chat with the name of the model. Type /help in the chat to see what you can do."),
    (("How do I ask one question?", "how do I run a prompt", "What does moe run do?", "what is moe run for"),
     "Use moe run with the name of the model and your question. It prints the answer and stops."),
    (("How do I see my models?", "how do I list models", "Which models do I have?", "what does moe list do"),
     "Use moe list. It shows every model on this computer and its size."),
    (("How do I delete a model?", "how do I remove a model", "What does moe rm do?", "how can I free disk space?"),
     "Use moe rm with the name of the model. It asks before it deletes anything."),
    (("What does moe show do?", "How do I see the details of a model?", "how can I check a model?"),
     "moe show prints the details of a model: its size, its format and where it came from."),
    (("What does moe eval do?", "how do I evaluate a model?", "how do I compare two models?"),
     "moe eval measures a model. For example, moe eval logits writes the numbers behind each next token."),
    (("Do I need a GPU?", "do I need a GPU", "Does it work without a GPU?", "do i need a graphics card"),
     "No. moe runs on an ordinary processor. A fast drive and enough memory help."),
    (("How much memory do I need?", "how much memory do I need", "How much RAM is needed?", "is 32 GB enough?"),
     "It depends on the model. Only the experts in use must be in memory, so 32 GB is enough for many models."),
    (("Which models can I run?", "which models work", "What models does moe support?"),
     "moe is made for large open models such as Qwen3.5, GLM-5, Kimi K2.5, MiniMax-M2.5 and DeepSeek-R1."),
    (("Is it free?", "is moe free", "What is the licence of moe?", "is it open source?"),
     "Yes. moe is free software under the Apache 2.0 licence."),
    (("How big are you?", "how many parameters do you have?", "Are you a large model?", "how large are you"),
     "I am tiny. I have about seven million parameters and fit into sixteen megabytes."),
    (("Where is my data?", "Do you send my data anywhere?", "is this private?", "are you online?"),
     "Everything happens on your computer. Nothing you write is sent anywhere."),
)  # fmt: skip
SMALL = (
    (("hi", "Hi", "hello", "Hello!", "Hi there!", "hey", "Hey!", "good morning", "Good evening!", "hello there"),
     ("Hello! How can I help you?", "Hi! What can I do for you?", "Hello! It is nice to meet you.")),
    (("How are you?", "how are you", "How are you today?", "how is it going?", "are you well?"),
     ("I am fine, thank you. How can I help you?", "I am well, thank you for asking.")),
    (("Thank you!", "thanks", "thank you", "Thanks a lot!", "great, thanks", "Thanks, that helps."),
     ("You are welcome!", "You are welcome. I am glad to help.")),
    (("bye", "Goodbye!", "see you", "Bye!", "good night", "See you later."),
     ("Goodbye! Have a nice day.", "Goodbye! Come back soon.")),
    (("That is wrong.", "you are wrong", "That is not right.", "no, that is wrong"),
     ("I am sorry. I am a small model and I make mistakes.",)),
    (("Tell me a joke.", "tell me a joke", "do you know a joke?", "make me laugh"),
     ("Why did the bicycle fall over? Because it was two tired.",
      "What do you call a bear with no teeth? A gummy bear.", "Why is six afraid of seven? Because seven eight nine.")),
    (("I am sad.", "i feel sad", "I am not happy today.", "I had a bad day."),
     ("I am sorry to hear that. I hope your day gets better. Would you like to hear a story?",)),
    (("I am happy!", "i am happy today", "I had a great day."), ("That is good to hear! I am glad for you.",)),
    (("ok", "okay", "Good.", "nice", "I see.", "great", "cool"), ("Good! What would you like to do next?",)),
    (("yes", "Yes, please.", "sure"), ("Good! What would you like: a story or a sum?",)),
    (("no", "No, thank you."), ("All right. Tell me if you need anything.",)),
)  # fmt: skip
UNKNOWN = (
    "Who is the president of France?", "what is the capital of Peru", "Write a poem about war.", "who won the cup in 1998?",
    "Write some Python code.", "explain quantum physics", "What is the weather in Berlin?", "how do I cook rice?",
    "translate this into German", "What happened in 1789?", "who wrote Hamlet", "What is the meaning of life?",
    "solve this equation", "how old is the universe?", "what time is it", "What is the news today?", "who is Einstein",
    "write an essay about history", "How far is the moon?", "what should I buy", "Can you draw a picture?", "fix my code",
)  # fmt: skip
UNKNOWN_ANSWER = (
    "I do not know that. I am a very small demo model. I can add small numbers, tell stories and talk about moe."
)
OPPOSITES = (("hot", "cold"), ("big", "small"), ("day", "night"), ("up", "down"), ("old", "young"), ("fast", "slow"),
             ("happy", "sad"), ("wet", "dry"), ("light", "dark"), ("open", "closed"), ("full", "empty"), ("long", "short"))  # fmt: skip
SOUNDS = (("cow", "moo"), ("dog", "woof"), ("cat", "meow"), ("duck", "quack"), ("sheep", "baa"), ("pig", "oink"),
          ("lion", "roar"), ("bee", "buzz"), ("frog", "croak"), ("horse", "neigh"))  # fmt: skip
COLOURS = (
    ("sky", "blue"),
    ("grass", "green"),
    ("snow", "white"),
    ("sun", "yellow"),
    ("night", "black"),
    ("blood", "red"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NAMES = ("Anna", "Peter", "Lucy", "Tom", "Maria", "John", "Sara", "David", "Emma", "Paul", "Julia", "Mark", "Olga", "Ivan",
         "Kim", "Alex", "Laura", "Felix", "Nora", "Simon", "Helen", "Adam", "Eva", "Robert")  # fmt: skip
LIKES = {
    "colour": ("red", "blue", "green", "yellow", "black", "white", "orange", "purple"),
    "animal": ("cat", "dog", "horse", "owl", "fox", "turtle", "rabbit", "elephant"),
    "food": ("bread", "soup", "rice", "cake", "cheese", "pizza", "apples", "fish"),
}


def tool(random: Random) -> list[Exchange]:
    """One question about moe, in one of its wordings."""
    asks, answer = random.choice(TOOL)
    return [Exchange(random.choice(asks), "This is a question about moe or about me.", answer)]


def small_talk(random: Random) -> list[Exchange]:
    """A greeting, thanks, a joke and the like."""
    asks, answers = random.choice(SMALL)
    return [Exchange(random.choice(asks), "The user makes small talk.", random.choice(answers))]


def unknown(random: Random) -> list[Exchange]:
    """A question that a model of this size had better not answer."""
    return [Exchange(random.choice(UNKNOWN), "I do not know this.", UNKNOWN_ANSWER)]


def fact(random: Random) -> list[Exchange]:
    """Opposites, animal sounds, colours, days."""
    kind = random.randrange(4)
    if kind == 0:
        word, other = random.choice(OPPOSITES)[:: random.choice((1, -1))]
        ask = random.choice(("What is the opposite of {}?", "what is the opposite of {}", "opposite of {}?"))
        return [Exchange(ask.format(word), f"{word} and {other} are opposites.", f"The opposite of {word} is {other}.")]
    if kind == 1:
        animal, sound = random.choice(SOUNDS)
        ask = random.choice(("What does a {} say?", "what sound does a {} make?", "what does the {} say"))
        return [Exchange(ask.format(animal), f"A {animal} says {sound}.", f"A {animal} says {sound}.")]
    if kind == 2:
        thing, colour = random.choice(COLOURS)
        ask = random.choice(("What colour is the {}?", "what color is the {}", "which colour is {}?"))
        return [Exchange(ask.format(thing), f"The {thing} is {colour}.", f"The {thing} is {colour}.")]
    day = random.randrange(7)
    ask = random.choice(("What day comes after {}?", "which day is after {}?", "what comes after {}"))
    after = DAYS[(day + 1) % 7]
    return [Exchange(ask.format(DAYS[day]), f"After {DAYS[day]} comes {after}.", f"After {DAYS[day]} comes {after}.")]


def memory(random: Random) -> list[Exchange]:
    """Something the user says of themselves; ask about it later with `recall`."""
    if random.random() < 0.5:
        name = random.choice(NAMES)
        say = random.choice(
            ("My name is {}.", "my name is {}", "I am {}.", "Hi, I'm {}.", "hello, my name is {}", "call me {}")
        )
        ask = random.choice(
            ("What is my name?", "what's my name?", "what is my name", "Do you remember my name?", "who am I?")
        )
        return [
            Exchange(say.format(name), f"The user is called {name}.", f"Nice to meet you, {name}!"),
            Exchange(ask, f"The user said the name {name}.", f"Your name is {name}."),
        ]
    kind = random.choice(list(LIKES))
    thing = random.choice(LIKES[kind])
    say = random.choice(
        (
            f"My favourite {kind} is {thing}.",
            f"my favorite {kind} is {thing}",
            f"I like {thing}. It is my favourite {kind}.",
        )
    )
    ask = random.choice((f"What is my favourite {kind}?", f"what is my favorite {kind}?", f"Which {kind} do I like?"))
    return [
        Exchange(say, f"The user likes {thing}.", f"That is good to know. {thing.capitalize()} is a nice choice!"),
        Exchange(ask, f"The user said {thing}.", f"Your favourite {kind} is {thing}."),
    ]
