"""What the set-up of the tests promises: no packet leaves, seeds and threads are fixed, our warnings are errors."""

from __future__ import annotations

import os
import random
import socket
import warnings

import numpy as np
import pytest
import torch

from network import NetworkForbiddenError, is_loopback

# Addresses that are reserved for documentation (RFC 5737, RFC 3849): nobody answers there.
ELSEWHERE = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]


@pytest.mark.parametrize(("family", "host"), ELSEWHERE)
def test_no_connection_leaves_the_machine(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        with pytest.raises(NetworkForbiddenError, match=host):
            client.connect((host, 80))
        with pytest.raises(NetworkForbiddenError, match=host):
            client.connect_ex((host, 80))


def test_no_datagram_and_no_look_up_leaves_the_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, pytest.raises(NetworkForbiddenError):
        client.sendto(b"x", ("192.0.2.1", 53))
    with pytest.raises(NetworkForbiddenError, match=r"example\.org"):
        socket.create_connection(("example.org", 80), timeout=1)


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port), timeout=5) as client, server.accept()[0] as accepted:
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("", True), ("10.0.0.1", False), ("localhost.x", False)],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_seeds_and_threads_are_fixed() -> None:
    expected = (random.Random(0).random(), np.random.RandomState(0).rand())
    assert (random.random(), np.random.rand()) == expected
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_warnings_of_our_own_code_are_errors_and_others_are_not() -> None:
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn_explicit("ours", UserWarning, "ridge.py", 1, module="facetrm.fit.heads.ridge")
    with pytest.warns(UserWarning, match="theirs"):
        warnings.warn_explicit("theirs", UserWarning, "base.py", 1, module="sklearn.base")
