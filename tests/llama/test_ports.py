"""Free ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.llama.ports import PortPool

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port, chosen by the kernel, with a listener."""
    with closing(socket.create_server((HOST, 0))) as listener:
        port: int = listener.getsockname()[1]
        yield port


def test_a_port_on_which_somebody_listens_is_stepped_over(taken: int) -> None:
    assert PortPool(HOST).take(taken) > taken


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_a_listener_on_all_addresses_is_seen(everywhere: str) -> None:
    family = socket.AF_INET6 if ":" in everywhere else socket.AF_INET
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    dual = family == socket.AF_INET6
    with closing(
        socket.create_server((everywhere, 0), family=family, dualstack_ipv6=dual)
    ) as listener:
        port = listener.getsockname()[1]
        assert PortPool(HOST).take(port) > port


def test_held_ports_are_not_given_out_twice_until_given_back(taken: int) -> None:
    pool = PortPool(HOST)
    first = pool.take(taken)
    second = pool.take(taken)
    assert second > first
    pool.give_back(first)
    assert pool.take(taken) == first
    pool.give_back(1)


def test_the_kernel_picks_with_base_0() -> None:
    pool = PortPool(HOST)
    ports = {pool.take(0) for _ in range(20)}
    assert len(ports) == 20


def test_ports_to_avoid_are_avoided(taken: int) -> None:
    first = PortPool(HOST).take(taken)
    assert PortPool(HOST).take(taken, avoid=frozenset({first})) > first


def test_an_exhausted_range_is_said_with_the_way_out() -> None:
    pool = PortPool(HOST)
    avoid = frozenset(range(65_500, 65_536))
    with pytest.raises(ModelLoadError, match="no free port from 65500 to 65535") as error:
        pool.take(65_500, avoid=avoid)
    assert "llama_server_base_port" in error.value.hint
