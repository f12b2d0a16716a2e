"""Beginnings of texts that a measured model continues.

A draft is accepted where the answer can be foreseen, as in what people ask for. So the prompts end
with stories, explanations and programs.
"""

from __future__ import annotations

from typing import Final

STORY: Final = """\
A small ship left the harbour before sunrise, with four people and food for a week on board. The \
captain had sailed this coast for thirty years, and she knew that the wind would turn in the \
afternoon. Until then they could follow the shore to the north, past the lighthouse and the two \
islands where the seals lie on the rocks. The youngest of the crew wrote down the depth of the \
water every half hour: 12 m, 15 m, 21 m, 18 m. At noon they ate bread and cheese, and the cook \
explained how to keep a fire in the rain. When the clouds came, the captain took the map, drew a \
line across the bay, and said:"""

BEGINNINGS: Final = (
    STORY,
    """\
# How bread rises

Bread rises because yeast eats the sugar in the dough and makes gas from it. The gluten of the flour
holds the bubbles, so that the dough grows and becomes soft. Warm dough rises faster than cold
dough, but a slow night in the refrigerator gives it more taste. This is how to bake a simple loaf:

1. Mix 500 g of flour, 350 g of water, 10 g of salt and 5 g of yeast in a large bowl.
2. Knead the dough for ten minutes, until it is smooth and does not stick to the table.
3.""",
    '''\
def mean(values: list[float]) -> float:
    """Return the mean of the values, or raise ValueError if there are none."""
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)


def variance(values: list[float]) -> float:
    """Return the variance of the values, or raise ValueError if there are none."""
    middle = mean(values)
    return mean([(value - middle) ** 2 for value in values])


def median(values: list[float]) -> float:
    """Return''',
    """\
Question: Why is the sky blue during the day, and red in the evening?
Answer: Sunlight has all colours. The molecules of the air scatter blue light much more than red \
light, so blue comes from every part of the sky. In the evening the light goes through much more \
air before it reaches us. Most of the blue is lost on the way, and the red is left.

Question: Why do we see the lightning before we hear the thunder, and how far away is it?
Answer:""",
)
