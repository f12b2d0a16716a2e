"""Writes the built-in model ``demo``: a small file for a real llama-server, made at the start.

Nothing is trained. The weights encode statistics of a short text by hand:

- a token's embedding is one-hot (its *state*), with a constant and a one-hot for its topic;
- each attention head looks exactly one, two or three tokens back (by a rotary phase) and copies the
  state there into the residual stream; the last head averages the topics of all tokens so far;
- the feed-forward layer is zero;
- the output matrix adds a score for the last token, for each of the three before it, and for the
  share of each topic.

So an answer is a walk through the text that picks up the subject of the question, differs between
seeds, is always the same at temperature 0, and ends on its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from cyber_inference_tui.files import read_file, replace_file
from cyber_inference_tui.gguf.demo_text import JSON_SAMPLES, TOPICS
from cyber_inference_tui.gguf.file_writer import (
    Row,
    Tensor,
    f32_vector,
    gguf_bytes,
    q8_0_matrix,
)

DEMO_ID = "demo"
_SIZE = 5_468_288
_SHA256 = "838550aab23c392ffdf368fb44776edd013f057186b154efd9387b8adb1c75ab"
"""The digest of the file. Size and digest change with its text."""

_UNKNOWN, _BOS, _END, _ASSISTANT = "<unk>", "<s>", "<|end|>", "<|assistant|>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_CONTROLS = (_UNKNOWN, _BOS, _END, _ASSISTANT, "<|system|>", "<|user|>", "<|tool|>")
_PIECES = re.compile(r" ?[A-Za-z]+|[^A-Za-z]")

_CONTEXT = 32768
_HEAD_LENGTH = 128
# A small base separates the phases of neighbouring positions: the positions beside the right one
# score about 3.8 (of 64) lower, and those further away even lower, times 19.
_ROPE_BASE = 100.0
_LOOK_BACK = 14.5
_FEED_FORWARD = 32

# By distance before the last token: the number of columns for the state there. There are more words
# than columns, so some words share one.
_LOOKS_BACK = {1: 256, 2: 128, 3: 128}
_HEADS = sum(_LOOKS_BACK.values()) // _HEAD_LENGTH + 1

# Scores in nats before the softmax. A token that never followed the last one has 0. A token that
# follows the last four tokens scores at least the margin above tokens that follow only the last
# one: the smaller the margin, the more an answer strays.
_FOLLOWS, _MARGIN, _STEP, _ROUNDS = 24.0, 2.5, 0.25, 40
# The end of a text has a larger margin. A tool call is the next likely token there, but too
# unlikely to be chosen unless the request rules the end out (llama-server drops tokens that are 20
# times less likely than the best).
_END_MARGIN, _CALL_BELOW_END = 4.5, 3.25
# It is multiplied by the topic's share of the context: about 5 to 20 % at the start of an answer.
_ON_TOPIC = 40.0
_NEVER = -30.0

CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|system|>You can call these tools, as <tool_call>{"name": ..., "arguments": \
{...}}</tool_call>:' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{%- endfor %}{{ '<|end|>' }}{%- endif %}
{%- for message in messages %}
{%- set role = message.role if message.role in ['user', 'assistant', 'tool'] else 'system' %}
{{- '<|' + role + '|>' }}
{%- if message.content is string %}{{ message.content }}
{%- elif message.content %}{% for part in message.content %}\
{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{%- endif %}
{%- if message.tool_calls %}{% for call in message.tool_calls %}\
{{ '\\n<tool_call>' + '{"name": ' + (call.function.name | tojson) + ', "arguments": ' \
+ (call.function.arguments | tojson) + '}</tool_call>' }}{% endfor %}{%- endif %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{%- endif %}"""


def write_demo(path: Path) -> None:
    """Write the demo model to ``path`` atomically (5 MB in about 0.2 s, always the same).

    If the file is this model already, nothing is written: that saves time, and the disk may be
    full.
    """
    with contextlib.suppress(OSError):
        if hashlib.sha256(read_file(path, _SIZE + 1)).hexdigest() == _SHA256:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, demo_bytes())


def demo_bytes() -> bytes:
    """Return the demo model's GGUF file."""
    return _Demo().file()


class _Demo:
    """The vocabulary and statistics of the text, and the weights that follow from them.

    The columns of the residual stream are: a constant, the token's own topic, the mean topics of
    the context, the last token's state, and the states before it, by distance. Each kind has its
    own blocks, because 32 columns share a scale.
    """

    def __init__(self) -> None:
        self.texts = pieces = [_PIECES.findall(topic.text) for topic in TOPICS]
        samples = [_PIECES.findall(sample) for sample in JSON_SAMPLES]
        # A question may contain a word in either form.
        calls = [
            {form for word in topic.calls.split() for form in (word, f" {word}")}
            for topic in TOPICS
        ]
        learned = {piece for text in pieces + samples for piece in text if len(piece) > 1}
        words = sorted(learned.union(*calls) | {_CALL, _CALL_END})
        self.tokens = [*_CONTROLS, *map(chr, range(256)), *words]
        self.id_of = {token: index for index, token in enumerate(self.tokens)}

        spoken = sorted(
            {piece for text in pieces + samples for piece in text}
            | {_END, _ASSISTANT, _CALL, _CALL_END}
        )
        # State 0 is for all tokens that are not in the text.
        self.state_of = {piece: index for index, piece in enumerate(spoken, start=1)}
        self.topic_of = {word: topic for topic, called in enumerate(calls) for word in called}
        self.scores = _learned([[_END, _ASSISTANT, *text, _END] for text in pieces], self._features)
        for sample in samples:
            self._learn_json(sample)

    def _learn_json(self, pieces: list[str]) -> None:
        for last, piece in pairwise(pieces):
            # Low if the token is in prose as well: for JSON, a grammar excludes prose.
            prose = any(last in text for text in self.texts)
            score = 8.0 if prose else _FOLLOWS
            if last == '"' and len(piece) == 1:  # avoid empty strings
                score = _FOLLOWS - 8.0
            if piece in "]}":  # close brackets soon
                score += 1.0
            self.scores.setdefault(piece, {}).setdefault(self._last(self.state_of[last]), score)

    @cached_property
    def _states(self) -> int:
        return _up_to_block(len(self.state_of) + 1)

    @cached_property
    def _topics_width(self) -> int:
        return _up_to_block(len(TOPICS) + 1)

    @cached_property
    def _width(self) -> int:
        return self._back(max(_LOOKS_BACK) + 1, 0)

    def _topic(self, topic: int) -> int:
        return 32 + topic

    def _context_topic(self, topic: int) -> int:
        return 32 + self._topics_width + topic

    def _last(self, state: int) -> int:
        return 32 + 2 * self._topics_width + state

    def _back(self, distance: int, column: int) -> int:
        nearer = sum(size for back, size in _LOOKS_BACK.items() if back < distance)
        return self._last(self._states) + nearer + column

    def _features(self, context: Sequence[str]) -> list[int]:
        """Return the columns that are 1 after ``context``, which ends with the last token."""
        columns = [self._last(self.state_of[context[-1]])]
        for distance, size in _LOOKS_BACK.items():
            if distance < len(context):
                columns.append(self._back(distance, self.state_of[context[-1 - distance]] % size))
        return columns

    def file(self) -> bytes:
        tensors = [
            q8_0_matrix("token_embd.weight", self._embedding(), self._width),
            # The norms keep a one-hot at 1: the mean square of the stream is known.
            self._norm("blk.0.attn_norm", ones=3),
            *self._attention(),
            self._norm("blk.0.ffn_norm", ones=3 + len(_LOOKS_BACK)),
            *self._no_feed_forward(),
            self._norm("output_norm", ones=3 + len(_LOOKS_BACK)),
            q8_0_matrix("output.weight", self._output(), self._width),
        ]
        return gguf_bytes(self._metadata(), tensors)

    def _norm(self, name: str, *, ones: int) -> Tensor:
        return f32_vector(f"{name}.weight", [math.sqrt(ones / self._width)] * self._width)

    def _embedding(self) -> list[Row]:
        no_topic = len(TOPICS)
        return [
            {
                0: 1.0,
                self._topic(self.topic_of.get(token, no_topic)): 1.0,
                self._last(self.state_of.get(token, 0)): 1.0,
            }
            for token in self.tokens
        ]

    def _attention(self) -> list[Tensor]:
        heads = [
            (distance, first)
            for distance, size in _LOOKS_BACK.items()
            for first in range(0, size, _HEAD_LENGTH)
        ]
        copied = len(heads) * _HEAD_LENGTH
        queries: list[Row] = []
        keys: list[Row] = []
        values: list[dict[int, float]] = [{} for _ in range(copied + _HEAD_LENGTH)]
        merged: list[dict[int, float]] = [{} for _ in range(self._width)]
        for head, (distance, first) in enumerate(heads):
            for pair in range(_HEAD_LENGTH // 2):
                # q at position i and k at j score cos(f * (i - j - distance)), summed over f.
                frequency = _ROPE_BASE ** -(2 * pair / _HEAD_LENGTH)
                queries.append({0: _LOOK_BACK * math.cos(frequency * distance)})
                queries.append({0: -_LOOK_BACK * math.sin(frequency * distance)})
                keys += [{0: _LOOK_BACK}, {}]
            for state in range(self._states):
                column = state % _LOOKS_BACK[distance] - first
                if 0 <= column < _HEAD_LENGTH:
                    values[head * _HEAD_LENGTH + column][self._last(state)] = 1.0
            for column in range(_HEAD_LENGTH):
                merged[self._back(distance, first + column)][head * _HEAD_LENGTH + column] = 1.0
        # The last head's queries are zero, so it averages all positions.
        queries += [{}] * _HEAD_LENGTH
        keys += [{}] * _HEAD_LENGTH
        for topic in range(len(TOPICS)):
            values[copied + topic] = {self._topic(topic): 1.0}
            merged[self._context_topic(topic)][copied + topic] = 1.0
        return [
            q8_0_matrix("blk.0.attn_q.weight", queries, self._width),
            q8_0_matrix("blk.0.attn_k.weight", keys, self._width),
            q8_0_matrix("blk.0.attn_v.weight", values, self._width),
            q8_0_matrix("blk.0.attn_output.weight", merged, len(values)),
        ]

    def _no_feed_forward(self) -> list[Tensor]:
        narrow: list[Row] = [{} for _ in range(_FEED_FORWARD)]
        wide: list[Row] = [{} for _ in range(self._width)]
        return [
            q8_0_matrix("blk.0.ffn_gate.weight", narrow, self._width),
            q8_0_matrix("blk.0.ffn_up.weight", narrow, self._width),
            q8_0_matrix("blk.0.ffn_down.weight", wide, _FEED_FORWARD),
        ]

    def _output(self) -> Sequence[Row]:
        rows: list[dict[int, float]] = [{} for _ in self.tokens]
        for token, row in zip(self.tokens, rows, strict=True):
            if token not in self.state_of:
                row[0] = _NEVER if token in _CONTROLS or not token.isprintable() else -4.0
        for piece, scores in self.scores.items():
            rows[self.id_of[piece]].update(scores)
        call = dict(rows[self.id_of[_END]])
        call[self._last(self.state_of["."])] -= _CALL_BELOW_END
        rows[self.id_of[_CALL]] = call
        rows[self.id_of[_CALL_END]][self._last(self.state_of["}"])] = _FOLLOWS
        rows[self.id_of[_END]][self._last(self.state_of[_CALL_END])] = _FOLLOWS
        for topic, text in enumerate(self.texts):
            # Each text has its own first word: it chooses the topic, and the text continues.
            rows[self.id_of[text[0]]][self._context_topic(topic)] = _ON_TOPIC
        # Without a known topic, it introduces itself.
        rows[self.id_of["Hello"]][self._last(self.state_of[_ASSISTANT])] += 0.5
        rows[self.id_of[_ASSISTANT]] = {0: _NEVER}
        # After an unknown word, continue a sentence if nothing else fits.
        for piece, score in ((" and", 3.0), (" is", 4.0), (".", 3.0), (",", 2.0)):
            rows[self.id_of[piece]][self._last(0)] = _FOLLOWS + score
        return rows

    def _metadata(self) -> dict[str, object]:
        # The "rwkv" tokenizer of llama.cpp takes the longest known token at each place. Any word
        # list works: with all 256 bytes added, every text survives the round trip.
        return {
            "general.architecture": "llama",
            "general.name": "Demo",
            "general.description": "Built in: counts of a short text, spelled out as weights",
            "general.file_type": 7,
            "general.alignment": 32,
            "llama.vocab_size": len(self.tokens),
            "llama.context_length": _CONTEXT,
            "llama.embedding_length": self._width,
            "llama.block_count": 1,
            "llama.feed_forward_length": _FEED_FORWARD,
            "llama.attention.head_count": _HEADS,
            "llama.attention.head_count_kv": _HEADS,
            "llama.attention.key_length": _HEAD_LENGTH,
            "llama.attention.value_length": _HEAD_LENGTH,
            "llama.attention.layer_norm_rms_epsilon": 1e-6,
            "llama.rope.dimension_count": _HEAD_LENGTH,
            "llama.rope.freq_base": _ROPE_BASE,
            "tokenizer.ggml.model": "rwkv",
            "tokenizer.ggml.tokens": [
                token if token in _CONTROLS else _escaped(token) for token in self.tokens
            ],
            "tokenizer.ggml.token_type": [
                2 if token == _UNKNOWN else 3 if token in _CONTROLS else 1 for token in self.tokens
            ],
            "tokenizer.ggml.unknown_token_id": self.id_of[_UNKNOWN],
            "tokenizer.ggml.bos_token_id": self.id_of[_BOS],
            "tokenizer.ggml.eos_token_id": self.id_of[_END],
            "tokenizer.ggml.eot_token_id": self.id_of[_END],
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": CHAT_TEMPLATE,
        }


def _learned(
    sequences: list[list[str]], features: Callable[[Sequence[str]], list[int]]
) -> dict[str, dict[int, float]]:
    """Return for each token a score for each column; their sum predicts the next token.

    A perceptron with a margin: every step is a multiple of 1/4, so the result is the same on every
    machine.
    """
    follows: dict[str, dict[str, None]] = {}
    right: dict[tuple[str, ...], set[str]] = {}
    places: list[tuple[tuple[str, ...], str]] = []
    for pieces in sequences:
        for index in range(1, len(pieces)):
            context = tuple(pieces[max(0, index - 1 - max(_LOOKS_BACK)) : index])
            follows.setdefault(context[-1], {})[pieces[index]] = None
            right.setdefault(context, set()).add(pieces[index])
            places.append((context, pieces[index]))
    scores: dict[str, dict[int, float]] = {piece: {} for pieces in sequences for piece in pieces}
    undecided = []
    for context, piece in places:
        columns = features(context)
        scores[piece][columns[0]] = _FOLLOWS
        margin = _END_MARGIN if piece == _END else _MARGIN
        wrong = [scores[other] for other in follows[context[-1]] if other not in right[context]]
        if wrong:
            undecided.append((columns, margin, scores[piece], wrong))
    for _ in range(_ROUNDS):
        settled = True
        for columns, margin, own, wrong in undecided:
            for theirs in wrong:
                lead = 0.0
                for column in columns:
                    lead += own.get(column, 0.0) - theirs.get(column, 0.0)
                if lead < margin:
                    settled = False
                    for column in columns:
                        own[column] = own.get(column, 0.0) + _STEP
                        theirs[column] = theirs.get(column, 0.0) - _STEP
        if settled:
            break
    return scores


def _up_to_block(columns: int) -> int:
    return -(-columns // 32) * 32


def _escaped(token: str) -> str:
    r"""Return a token in the "rwkv" spelling: other bytes than printable ASCII as ``\xNN``."""
    return "".join(
        "\\\\" if char == "\\" else char if " " <= char <= "~" else f"\\x{ord(char):02x}"
        for char in token
    )
