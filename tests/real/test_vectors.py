"""Models for embeddings and for ranking, with no settings at all, on a real llama-server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.gguf.synthetic import Synthetic, bert, dense, with_noise, with_ranks
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess

pytestmark = pytest.mark.real

CONTEXT = 2048


def small_bert() -> Synthetic:
    return bert(layers=2, width=64, feed_forward=128, vocabulary=400)


@pytest.fixture(scope="module")
def service(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    one = Starter(tmp_path_factory.mktemp("vectors"), demo_gguf)
    folder = tmp_path_factory.mktemp("models")
    with_noise(small_bert()).write(folder / "encoder.gguf")
    with_noise(with_ranks(small_bert())).write(folder / "ranker.gguf")
    decoder = dense(
        "qwen3",
        layers=2,
        width=64,
        feed_forward=128,
        vocabulary=400,
        extra={"pooling_type": 3, "context_length": CONTEXT},
    )
    with_noise(decoder).write(folder / "decoder.gguf")
    yield one.real(llama_server, {"model_dirs": [str(folder)]}, ())
    one.end()


@pytest.fixture(scope="module")
def client(service: ServiceProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["encoder", "decoder"])
def test_embeddings_of_several_and_of_long_inputs(client: OpenAI, model: str) -> None:
    texts = ["one", "another", *("x" * length for length in (511, 513, CONTEXT - 2))]
    # One request with all of them, as programs that index documents send.
    result = client.embeddings.create(model=model, input=texts)
    vectors = [item.embedding for item in result.data]
    assert {len(vector) for vector in vectors} == {64}
    assert vectors[0] != vectors[1]
    again = client.embeddings.create(model=model, input="another").data[0].embedding
    assert again == pytest.approx(vectors[1], abs=1e-3)


def test_ranks(service: ServiceProcess) -> None:
    body = {"model": "ranker", "query": "a question", "documents": ["short", "long " * 150]}
    answer = service.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    assert {item["index"] for item in answer.json()["results"]} == {0, 1}


def test_a_model_for_text_refuses_them_in_its_servers_own_words(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="demo", input="text")
    assert caught.value.status_code == 501
    assert "--embeddings" in caught.value.message


def test_their_records_tell(service: ServiceProcess) -> None:
    records = {record["id"]: record for record in service.get("/admin/models").json()}
    assert {model: record["embedding"] for model, record in records.items()} == {
        "demo": False,
        "encoder": True,
        "decoder": True,
        "ranker": True,
    }


@pytest.mark.parametrize("model", ["encoder", "ranker", "decoder"])
def test_they_take_what_was_expected(service: ServiceProcess, model: str) -> None:
    before = {record["id"]: record for record in service.get("/admin/models").json()}
    if before[model]["status"] == "loaded":
        service.post(f"/admin/models/{model}/unload")
    record = service.post(f"/admin/models/{model}/load").json()
    assert record["memory_bytes"] == pytest.approx(record["memory_estimate_bytes"], rel=0.1)


@pytest.mark.parametrize("model", ["encoder", "ranker", "decoder"])
def test_the_context_is_told_before_and_after_a_load(service: ServiceProcess, model: str) -> None:
    assert service.post(f"/admin/models/{model}/unload", json={}).status_code == 200
    assert service.model(model)["context_length"] == CONTEXT
    assert service.post(f"/admin/models/{model}/load", json={}).status_code == 200
    assert service.model(model)["context_length"] == CONTEXT
    props = service.upstream(model, "/props")
    assert props["default_generation_settings"]["n_ctx"] == CONTEXT
