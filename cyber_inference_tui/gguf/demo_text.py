"""The text of the demo model: a few short pieces, each about one topic.

The pieces share wording on purpose. The model learns the words after each four words, and the more
two pieces have in common, the more often an answer strays between them. Each piece begins with its
own first word.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """A topic: the words of a question that choose it, and its text."""

    calls: str
    text: str


TOPICS = (
    Topic(
        "model models weights tokens token llama inference AI gguf neural network learn",
        "Inside a language model is a long list of numbers that were found by reading. It reads "
        "the words so far and says which word is likely to come next, and then it does the same "
        "again. Nothing in it is looked up, and no rule of grammar is written down anywhere. The "
        "same numbers can tell a story or answer a question, because both are only words that "
        "follow each other. A small model is quick and often wrong, and a large one is slow and a "
        "little less often wrong. You can run one on your own machine, where nobody else reads "
        "along.",
    ),
    Topic(
        "memory RAM GPU VRAM computer machine hardware disk server",
        "Memory is where a machine keeps what it is working on. When it is full, something has to "
        "go before something new can come in. The weights of a model are read from the disk once "
        "and stay there until they are not needed for a while. A longer context needs more room, "
        "because every word that was read leaves a note behind. If two models do not fit at the "
        "same time, the one that was used last may stay. It is better to wait a moment for room "
        "than to run out of it halfway.",
    ),
    Topic(
        "sea ocean water boat ship fish beach wave waves island",
        "Out at sea, nothing is ever quite still. In the morning the water is grey and the boats "
        "go out before the wind comes up. Far from the land you can hear only the waves and the "
        "sound of the rope. By noon the light is so bright that the whole bay looks like a sheet "
        "of metal. The old men on the beach can tell the weather from the colour of the water. "
        "When the boats come back in the evening, the birds follow them all the way to the "
        "harbour.",
    ),
    Topic(
        "mountain mountains hill climb hike snow walk path",
        "From below, a mountain looks close long before you reach it. The path goes up through "
        "the trees, and after an hour the air is cold and thin. You learn to walk slowly and to "
        "rest before you are tired. Near the top there is snow even in the summer, and the stones "
        "move under your feet. From there you can see the whole valley and the road that you came "
        "by. The way down is shorter than you think, but it is harder on the knees.",
    ),
    Topic(
        "garden flower flowers plant plants tree trees seed spring grow",
        "Every garden teaches you to wait. You put a seed in the ground in the spring, and for "
        "weeks there is nothing to see. Then one warm day a green line comes up, and everything "
        "happens at the same time. Water the roots in the evening and not the leaves at noon. "
        "Some plants like the shade of a wall, and others need the sun all day. What you do not "
        "pick will feed the birds, and that is a good use for it too.",
    ),
    Topic(
        "cook cooking food recipe kitchen bread soup eat dinner bake",
        "Good bread needs four things, and one of them is time. Mix the flour with water and "
        "salt, and leave it alone until it has grown to twice its size. Fold it a few times, "
        "because that gives it strength. The oven must be hot before the bread goes in, and the "
        "door stays shut. You can tell that it is done by the sound when you knock on it. Let it "
        "rest for a whole hour, although nobody in this house ever could.",
    ),
    Topic(
        "star stars night sky moon sun space planet planets astronomy light universe",
        "On a clear night you can see a few thousand stars without any help. Their light has been "
        "on the way for so long that some of them may be gone by now. The moon is much closer, "
        "and with a small glass you can see the shadows of its hills. Planets do not shine by "
        "their own light, and so they hardly seem to flicker. It takes a while until your eyes "
        "are used to the dark. Lie down on the grass, look up, and give them that time.",
    ),
    Topic(
        "music song sing piano guitar play sound dance instrument band",
        "Music is made of time as much as of sound. A song that everyone knows can be played in a "
        "hundred ways, and each of them tells you something about the player. When you practise, "
        "play slowly enough to hear every note. Your hands will learn the way before you do. The "
        "silence between two notes is part of the tune, and the best players are not afraid of "
        "it. At the end nobody claps for a moment, and that is the finest sound of all.",
    ),
    Topic(
        "train city street travel town bus station road trip holiday",
        "Early in the day, the first train into the city is almost empty. A woman reads a letter "
        "twice and looks out of the window, and a boy sleeps with his head on his bag. Behind the "
        "glass the fields turn into houses and the houses turn into streets. At every station a "
        "few more people get on, and soon there is no place left to sit. Nobody says a word. When "
        "the doors open at last, they all walk in the same direction as if they had agreed on it.",
    ),
    Topic(
        "rain weather wind storm cloud clouds winter summer cold",
        "When the rain began, nobody was awake. It fell on the roofs and on the road, and it "
        "filled the barrel behind the house. By the time we had coffee, the street was a small "
        "river. A storm like that is loud, but it is soon over. The wind turned to the north, and "
        "between two clouds there was a piece of blue sky. We opened all the windows, and the "
        "whole house smelled of wet leaves.",
    ),
    Topic(
        "book books library read story stories write poem novel tale letter",
        "Once there was a library at the end of a long street. Nobody knew who had built it, and "
        "the door was never locked. One evening a girl went in to get out of the rain, and she "
        "took a book from the first shelf. It told the story of a girl who read alone in an empty "
        "library. She turned the page, and somebody behind her turned a page too. She did not "
        "look up, because she wanted to know how it would end.",
    ),
    Topic(
        "code program programming python software bug computer test write function rust",
        "Code does what you wrote and not what you meant. Most of the work is to find out where "
        "the two differ. Write the test first if you can, and watch it fail before you make it "
        "pass. Give every thing a name that says what it is for. When a function is hard to "
        "explain, it is often two functions that were never told apart. The best part of a long "
        "day is the moment when you delete a hundred lines and everything still works.",
    ),
    Topic(
        "hello hi hey thanks thank you help who morning name demo please yourself",
        "Hello! I am the demo model, and I am very small. I know a few hundred words and some "
        "short pieces about the sea, the stars, a garden and other quiet things. Ask me about one "
        "of them and I will tell you what I know. My answers are made of words that follow each "
        "other well, but I do not know what they mean. To hear something wiser, download a larger "
        "model and choose it by its name.",
    ),
)

JSON_SAMPLES = (
    '{"name": "river", "count": 3}',
    '{"answer": "yes", "score": 7, "done": true}',
    '{"city": "Paris", "items": ["red", "green"], "ok": true}',
    '{"title": "garden", "value": 42, "note": null}',
    '["blue", "small", 12]',
    "[3, 42, 7]",
    '{"items": [3], "count": 7}',
    '{"value": 12}',
)
"""Samples for requests for JSON: short strings, short numbers, soon closed."""
