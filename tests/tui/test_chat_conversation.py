"""A conversation without a screen: its turns, its messages and its sampling options."""

from __future__ import annotations

import pytest

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records import Fit, ModelStatus
from cyber_inference_tui.tui.pages.chat import conversation
from cyber_inference_tui.tui.pages.chat.conversation import Conversation, Turn, TurnState
from cyber_inference_tui.tui.pages.chat.model_choice import chat_models, invitation
from cyber_inference_tui.tui.pages.chat.sampling import Sampling, read_sampling, sampling_text
from tests.tui.world import model


def turn(**changes: object) -> Turn:
    return Turn(**{"question": "why", "model": "m", "began": 10.0, **changes})  # type: ignore[arg-type]


def test_an_answer_is_timed_from_sending_to_its_first_text() -> None:
    one = turn()
    one.take(ChatDelta(waiting="loading m 40%"), 11.0)
    assert (one.waiting, one.first_seconds, one.rate) == ("loading m 40%", None, None)
    one.take(ChatDelta(thinking="hm"), 12.5)
    assert (one.waiting, one.first_seconds, one.thought_pieces) == ("", 2.5, 1)
    for at in (13.0, 13.5, 14.5):
        one.take(ChatDelta(text="word "), at)
    assert one.answer == "word word word "
    assert one.tokens == 4
    assert one.rate == pytest.approx(1.5)


def test_the_figures_of_the_server_win_over_own_counts() -> None:
    one = turn()
    one.take(ChatDelta(text="a"), 11.0)
    one.take(ChatDelta(text="b"), 12.0)
    one.take(
        ChatDelta(finish_reason="length", tokens_in=5, tokens_out=9, tokens_per_second=7.5), 13.0
    )
    assert (one.tokens, one.rate, one.finish_reason) == (9, 7.5, "length")
    one.take(ChatDelta(), 14.0)
    assert (one.tokens, one.rate, one.finish_reason) == (9, 7.5, "length")


def test_one_piece_has_no_rate() -> None:
    one = turn()
    one.take(ChatDelta(text="a"), 11.0)
    assert one.rate is None


def test_an_answer_without_end_is_ended() -> None:
    one = turn()
    for _ in range(conversation.ANSWER_CHARACTERS // 1000 + 1):
        one.take(ChatDelta(text="x" * 1000), 11.0)
    assert one.state is TurnState.STOPPED
    assert one.finish_reason == "too long"


def test_an_answer_ends_once() -> None:
    one = turn()
    one.end(TurnState.FAILED, "No\x1b[2J room.\nSee the log.")
    one.end(TurnState.STOPPED)
    assert one.state is TurnState.FAILED
    assert one.error == "No room. See the log."


def test_the_messages_are_the_answers_that_came_and_the_last_question() -> None:
    talk = Conversation()
    first = talk.begin("one", "m", 0)
    first.take(ChatDelta(text="1"), 1)
    first.end(TurnState.DONE)
    talk.begin("two", "m", 2).end(TurnState.FAILED, "no")
    stopped = talk.begin("three", "m", 2)
    stopped.take(ChatDelta(text="3…"), 3)
    stopped.end(TurnState.STOPPED)
    talk.begin("four", "m", 4)
    assert talk.messages("be short") == [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "3…"},
        {"role": "user", "content": "four"},
    ]
    assert talk.messages("  ")[0]["role"] == "user"


def test_asking_again_forgets_the_answer() -> None:
    talk = Conversation()
    assert talk.retry("m", 0) is None
    talk.begin("one", "m", 0).take(ChatDelta(text="1"), 1)
    again = talk.retry("other", 5)
    assert again is not None
    assert (again.question, again.answer, again.model, again.began) == ("one", "", "other", 5)
    assert talk.turns == [again]


def test_a_conversation_is_bounded() -> None:
    talk = Conversation()
    for number in range(conversation.TURNS_KEPT + 5):
        talk.begin(f"{number}", "m", 0)
    assert len(talk.turns) == conversation.TURNS_KEPT
    assert talk.dropped == 5
    talk.clear()
    for _ in range(8):
        talk.begin("x" * (conversation.CHARACTERS_KEPT // 4), "m", 0)
    assert len(talk.turns) == 4
    assert talk.dropped == 4


def test_the_values_as_typed() -> None:
    typed = {"temperature": " 0.2 ", "top_p": "", "max_tokens": "64", "seed": "7"}
    sampling = read_sampling(" be short ", typed)
    assert sampling == Sampling(system="be short", temperature=0.2, max_tokens=64, seed=7)
    assert sampling.values() == {"temperature": 0.2, "max_tokens": 64, "seed": 7}
    assert (
        sampling_text(sampling, "·") == "system prompt · temperature 0.2 · max_tokens 64 · seed 7"
    )
    assert sampling_text(Sampling(), "·") == ""


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("temperature", "warm", "a number such as"),
        ("temperature", "nan", "0 to 2"),
        ("temperature", "-1", "0 to 2"),
        ("top_p", "1.5", "0 to 1"),
        ("max_tokens", "0", "1 to 1,000,000"),
        ("max_tokens", "1.5", "a whole number"),
        ("seed", str(2**32), "0 to 4,294,967,295"),
    ],
)
def test_values_that_mean_nothing_are_refused(name: str, text: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        read_sampling("", {name: text})
    assert caught.value.param == name


def test_loaded_models_come_first_and_embedding_models_are_left_out() -> None:
    models = [
        model("a-too-big", fits=Fit.NEVER),
        model("b-asleep"),
        model("c-vectors", status=ModelStatus.LOADED, embedding=True),
        model("d-loading", status=ModelStatus.LOADING),
        model("e-failed", status=ModelStatus.FAILED),
    ]
    ids = [one.id for one in chat_models(models)]
    assert ids == ["d-loading", "b-asleep", "a-too-big", "e-failed"]


def test_an_empty_page_says_what_a_message_would_do() -> None:
    url = "http://127.0.0.1:8337"
    assert "Hub" in invitation(None, url)
    assert "answers at once" in invitation(model("m", status=ModelStatus.LOADED), url)
    assert "loads it" in invitation(model("m"), url)
    assert "out of memory" in invitation(
        model("m", status=ModelStatus.FAILED, error="It is out of memory."), url
    )
    assert "too big" in invitation(model("m", fits=Fit.NEVER, fits_reason="needs 20 GiB"), url)
    assert f"{url}/v1" in invitation(model("m"), url)


def test_the_tabs_of_code_stay_to_be_copied() -> None:
    one = turn()
    one.take(ChatDelta(text="all:\n\tcc\x1b[2J\n"), 11.0)
    assert one.answer == "all:\n\tcc\n"
