"""What the processes of a run tell each other."""

from __future__ import annotations

import concurrent.futures
import socket
import time

import pytest

from mtfrun.processes.address import Address
from mtfrun.processes.errors import DisagreementError, ProcessesError
from mtfrun.processes.hub import Hub
from mtfrun.processes.spoke import Spoke
from mtfrun.processes.timeouts import Timeouts
from tests.processes.threads import QUICK, Ends, free_address, in_all, join_all

NOBODY = Timeouts(join_secs=0.3, heartbeat_secs=0.05, silence_secs=1.0, failure_secs=0.3)


def test_values_are_gathered_in_the_order_of_processes() -> None:
    groups = join_all(3, Ends())
    values = in_all(groups, lambda group: group.gather("square", [group.index**2, "é"]))
    assert values == [[[0, "é"], [1, "é"], [4, "é"]]] * 3
    in_all(groups, lambda group: group.leave())


def test_every_process_receives_what_json_makes_of_a_value() -> None:
    groups = join_all(2, Ends())
    values = in_all(groups, lambda group: group.gather("x", (0.1, None, {"a": 1 << 60})))
    assert values == [[[0.1, None, {"a": 1 << 60}]] * 2] * 2


def test_leaving_is_no_loss() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    in_all(groups, lambda group: group.leave())
    time.sleep(2 * QUICK.heartbeat_secs)
    assert not ends.causes


def test_processes_that_ask_for_different_things_notice_it() -> None:
    groups = join_all(2, Ends())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: groups[1].gather("saved", 1))
        with pytest.raises(DisagreementError, match="'saved', the first process at 'due'"):
            groups[0].gather("due", 1)
        groups[0].fail("a defect", may_follow=False)
        groups[1]._hub._values.put({"name": "due", "value": []})  # type: ignore[attr-defined]
        with pytest.raises(DisagreementError):
            other.result()


def test_a_silent_process_ends_all_others() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    # As a stopped process: its connection stays, but says nothing.
    connection = groups[2]._hub  # type: ignore[attr-defined]
    connection._over.set()
    causes = ends.wait(2)
    assert sorted(causes) == [0, 1]
    for cause in causes.values():
        assert cause.startswith("process 2 of 3 (pid ")
        assert cause.endswith("has given no sign of life for 1 s")


def test_a_process_that_ends_without_a_message_ends_all_others() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    groups[1]._hub._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
    causes = ends.wait(3)
    assert "process 1 of 3" in causes[0] and causes[0] == causes[2]
    assert "ended without a message" in causes[0]


def test_the_loss_of_the_first_process_ends_all_others() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    for spoke in groups[0]._spokes.values():  # type: ignore[attr-defined]
        spoke.drop()
    causes = ends.wait(2)
    assert sorted(causes) == [1, 2]
    assert all("process 0 of 3" in cause for cause in causes.values())


@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_one_process_ends_the_others_and_names_it(index: int) -> None:
    ends = Ends()
    groups = join_all(3, ends)
    assert groups[index].fail("the disk is full", may_follow=False)
    causes = ends.wait(2)
    assert sorted(causes) == [i for i in range(3) if i != index]
    for cause in causes.values():
        assert cause.startswith(f"process {index} of 3 (pid ")
        assert cause.endswith("failed: the disk is full")


def test_an_error_of_all_processes_is_printed_by_the_first() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    printed = in_all(groups, lambda group: group.fail("no such file", may_follow=False))
    assert printed == [True, False, False]
    assert not ends.causes


@pytest.mark.parametrize("victim", [0, 1])
def test_a_consequence_waits_for_its_cause(victim: int) -> None:
    ends = Ends()
    groups = join_all(2, ends)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        failing = pool.submit(groups[victim].fail, "Connection reset", may_follow=True)
        time.sleep(0.2)
        groups[1 - victim].fail("the disk is full", may_follow=False)
        assert "the disk is full" in ends.wait(1)[victim]
        failing.result()


def test_a_process_that_never_comes_is_named() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Hub, 4, address, NOBODY, Ends().of(0))
        third = pool.submit(Spoke, 2, 4, address, NOBODY, Ends().of(2))
        message = r"processes 1, 3 of 4 have not come within 0.3 s: start 4 processes"
        for joining in (first, third):
            with pytest.raises(ProcessesError, match=message):
                joining.result()


def test_a_first_process_that_never_comes_is_named() -> None:
    with pytest.raises(ProcessesError, match="process 0 has not come: nothing answers at"):
        Spoke(1, 2, free_address(), NOBODY, Ends().of(1))


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (1, 3, "two processes were started with --process_id=1, the other one is pid"),
        (2, 4, "started with --num_processes=4, the first process with 3"),
    ],
)
def test_a_process_with_wrong_numbers_is_refused(index: int, count: int, message: str) -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ends = Ends()
        first = pool.submit(Hub, 3, address, QUICK, ends.of(0))
        second = pool.submit(Spoke, 1, 3, address, QUICK, ends.of(1))
        while not first.running() or not second.running():
            time.sleep(0.01)
        time.sleep(0.2)
        with pytest.raises(ProcessesError, match=message):
            Spoke(index, count, address, QUICK, ends.of(2))
        third = pool.submit(Spoke, 2, 3, address, QUICK, ends.of(2))
        in_all([joining.result() for joining in (first, second, third)], lambda g: g.leave())


def test_a_stranger_at_the_port_is_ignored() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Hub, 2, address, QUICK, Ends().of(0))
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"kind": "hello"}\n', b""):
            with address.connect(5.0) as stranger:
                stranger.sendall(text)
        second = pool.submit(Spoke, 1, 2, address, QUICK, Ends().of(1))
        in_all([first.result(), second.result()], lambda group: group.leave())


def test_a_port_in_use_is_an_error_of_the_first_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(ProcessesError, match=r"cannot listen at .*: Address already in use"):
            Hub(2, address, NOBODY, Ends().of(0))


@pytest.mark.parametrize("text", ["node0", "node0:", ":8476", "node0:99999", "node0:0"])
def test_an_address_needs_host_and_port(text: str) -> None:
    with pytest.raises(ProcessesError, match="is no host:port"):
        Address.parse(text)


def test_an_address_of_version_6_has_brackets() -> None:
    assert Address.parse("[::1]:8476") == Address("::1", 8476)
    assert str(Address("::1", 8476)) == "[::1]:8476"
