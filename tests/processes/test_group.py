"""What the processes of a run tell each other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mtfrun.errors import InputError
from mtfrun.processes.connection import Address, MalformedError, ProcessesError, Timeouts, decode
from mtfrun.processes.group import Coordinator, DisagreementError, Worker
from tests.processes.threads import QUICK, Ends, free_address, in_all, join_all

NOBODY = Timeouts(join_secs=0.3, heartbeat_secs=0.05, silence_secs=1.0, failure_secs=0.3)


def test_processes_gather_what_json_makes_of_values_and_leave() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    values = in_all(groups, lambda group: group.gather("square", (group.index**2, "é", 1 << 60)))
    assert values == [[[0, "é", 1 << 60], [1, "é", 1 << 60], [4, "é", 1 << 60]]] * 3
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
        groups[1]._coordinator._values.put({"name": "due", "value": []})  # type: ignore[attr-defined]
        with pytest.raises(DisagreementError):
            other.result()


def test_a_process_that_ends_without_a_message_ends_all_others() -> None:
    ends = Ends()
    groups = join_all(3, ends)
    groups[1]._coordinator._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
    causes = ends.wait(3)
    assert "process 1 of 3" in causes[0] and causes[0] == causes[2]
    assert "ended without a message" in causes[0]


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), 1])
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


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_consequence_waits_for_its_cause(victim: int) -> None:
    ends = Ends()
    groups = join_all(2, ends)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        failing = pool.submit(groups[victim].fail, "Connection reset", may_follow=True)
        time.sleep(0.2)
        groups[1 - victim].fail("the disk is full", may_follow=False)
        assert "the disk is full" in ends.wait(1)[victim]
        groups[victim]._verdict.set()  # type: ignore[attr-defined]  # a process would be over
        failing.result()


def test_a_process_that_never_comes_is_named() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Coordinator, 4, address, NOBODY, Ends().of(0))
        third = pool.submit(Worker, 2, 4, address, NOBODY, Ends().of(2))
        message = r"processes 1, 3 of 4 have not come within 0.3 s: start 4 processes"
        for joining in (first, third):
            with pytest.raises(ProcessesError, match=message):
                joining.result()


def test_a_first_process_that_never_comes_is_named() -> None:
    with pytest.raises(ProcessesError, match="process 0 has not come: nothing answers at"):
        Worker(1, 2, free_address(), NOBODY, Ends().of(1))


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (1, 3, "two processes were started with --process_id=1, the other one is pid"),
        (2, 4, "started with --num_processes=4, the first process with 3"),
        (3, 3, "there is no process 3 besides process 0 of 3"),
        (0, 3, "there is no process 0 besides process 0 of 3"),
    ],
)
def test_a_process_with_wrong_numbers_is_refused(index: int, count: int, message: str) -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        ends = Ends()
        first = pool.submit(Coordinator, 3, address, QUICK, ends.of(0))
        second = pool.submit(Worker, 1, 3, address, QUICK, ends.of(1))
        while not first.running() or not second.running():
            time.sleep(0.01)
        time.sleep(0.2)
        for _ in range(10):  # the refusal arrives before the end of the connection
            with pytest.raises(InputError, match=message):
                Worker(index, count, address, QUICK, ends.of(2))
        third = pool.submit(Worker, 2, 3, address, QUICK, ends.of(2))
        in_all([joining.result() for joining in (first, second, third)], lambda g: g.leave())


HELLO = {"kind": "hello", "index": 1, "count": 2, "place": "", "token": ""}
BAD_FIELDS: dict[str, list[object]] = {
    "index": [[1], {"a": 1}, 7, 0, -1, "1", 1.0, True, None, float("nan"), 10**400],
    "count": [3, "2", 2.0, None],
    "place": [1, None, ["x"]],
    "token": ["guess", 1, None, "\ud800"],
    "kind": ["failed", "value", "welcome", "other", None, ["hello"], {}],
    "extra": [1],
}
STRANGERS = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a list": b"[1]",
    "nothing": b"",
    "bytes": b"\xff\xfe",
    "deep JSON": b'{"kind": "hello", "index": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "too much": b"x" * 100_000,
    **{
        f"{field} {value!r}": json.dumps({**HELLO, field: value}).encode()
        for field, values in BAD_FIELDS.items()
        for value in values
    },
    "fields missing": b'{"kind": "hello"}',
}


def test_a_stranger_never_takes_the_place_of_a_process() -> None:
    address = free_address()
    ends = Ends()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Coordinator, 2, address, QUICK, ends.of(0), "secret")
        for text in STRANGERS.values():
            with address.connect(5.0) as stranger, contextlib.suppress(OSError):
                stranger.sendall(text.replace(b'"token": ""', b'"token": "secret"') + b"\n")
        second = pool.submit(Worker, 1, 2, address, QUICK, ends.of(1), "secret")
        in_all([first.result(), second.result()], lambda group: group.leave())
    assert not ends.causes


def test_a_process_with_another_token_is_refused() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Coordinator, 2, address, QUICK, Ends().of(0), "secret")
        for token in ("", "secrets"):
            with pytest.raises(
                InputError, match=r"its token differs from .* the same MTFRUN_TOKEN"
            ):
                Worker(1, 2, address, QUICK, Ends().of(1), token)
        second = pool.submit(Worker, 1, 2, address, QUICK, Ends().of(1), "secret")
        in_all([first.result(), second.result()], lambda group: group.leave())


@contextlib.contextmanager
def _slow_stranger(address: Address) -> Iterator[None]:
    """Sends a byte now and then, and ends no line."""
    is_over = threading.Event()

    def drip() -> None:
        with address.connect(5.0) as stranger, contextlib.suppress(OSError):
            while not is_over.wait(0.02):
                stranger.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    yield
    is_over.set()
    thread.join()


def test_slow_strangers_do_not_keep_processes_from_joining() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as stack:
        first = pool.submit(Coordinator, 2, address, QUICK, Ends().of(0))
        for _ in range(5):
            stack.enter_context(_slow_stranger(address))
        time.sleep(0.2)
        second = pool.submit(Worker, 1, 2, address, QUICK, Ends().of(1))
        in_all([first.result(), second.result()], lambda group: group.leave())


def test_a_slow_stranger_does_not_prolong_the_wait() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        first = pool.submit(Coordinator, 2, address, NOBODY, Ends().of(0))
        with _slow_stranger(address), pytest.raises(ProcessesError, match="has not come within"):
            first.result()
        assert time.monotonic() - start < 2.0


@pytest.mark.parametrize("is_slow", [False, True], ids=["a web server", "a slow stranger"])
def test_another_program_in_the_place_of_the_first_process_is_not_waited_for(is_slow: bool) -> None:
    address = free_address()
    with address.listen() as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        joining = pool.submit(Worker, 1, 2, address, NOBODY, Ends().of(1))
        answering, _ = server.accept()
        with answering, pytest.raises(ProcessesError, match="if it is another program that"):
            while is_slow and not joining.done():
                answering.sendall(b"x")
                time.sleep(0.05)
            if not is_slow:
                answering.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            joining.result()


MALFORMED = {
    "failed without a line": b'{"kind": "failed"}',
    "failed with a list": b'{"kind": "failed", "line": [1], "may_follow": false}',
    "failed with a number": b'{"kind": "failed", "line": "x", "may_follow": 0}',
    "a value without a name": b'{"kind": "value", "value": 1}',
    "deep JSON": b'{"kind": "value", "name": "x", "value": '
    + b"[" * 200_000
    + b"]" * 200_000
    + b"}",
    "no JSON": b"\xff",
    "no object": b"[]",
    "a kind that is a list": b'{"kind": ["failed"]}',
    "an unknown kind": b'{"kind": "else"}',
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_of_a_process_ends_the_run(line: bytes) -> None:
    ends = Ends()
    groups = join_all(3, ends)
    groups[1]._coordinator._socket.sendall(line + b"\n")  # type: ignore[attr-defined]
    causes = ends.wait(2)
    for index in (0, 2):
        assert causes[index].startswith("process 1 of 3 (pid ")
        assert " has sent " in causes[index] and "\n" not in causes[index]


def test_a_stranger_that_only_says_hello_is_not_waited_for() -> None:
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Coordinator, 2, address, NOBODY, Ends().of(0))
        pool.submit(Worker, 1, 2, address, NOBODY, Ends().of(1)).result()
        with pytest.raises(ProcessesError, match=r"has joined, but says nothing within 0\.3 s"):
            first.result().gather("command", None)


@pytest.mark.slow
def test_a_message_that_never_ends_ends_the_run() -> None:
    ends = Ends()
    groups = join_all(2, ends)
    connection = groups[1]._coordinator  # type: ignore[attr-defined]
    with connection._sending:
        while 0 not in ends.causes:
            with contextlib.suppress(OSError):
                connection._socket.sendall(b"x")
            time.sleep(0.05)
    assert ends.causes[0].endswith("has sent no heartbeat for 0.8 s")


def test_texts_of_other_processes_have_no_control_characters() -> None:
    line = json.dumps({"kind": "refused", "line": "a\x1b[31m\nb\ud800"}).encode()
    assert decode(line)["line"] == "a\\x1b[31m\\nb\\ud800"
    with pytest.raises(MalformedError, match="not a message"):
        decode(b"{}")


def test_a_host_name_without_an_address_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mtfrun.processes.connection._NAME_SECS", 0.2)
    for join in (
        lambda: Worker(1, 2, Address("no..such.host", 1), QUICK, Ends().of(1)),
        lambda: Coordinator(2, Address("nosuchhost.invalid", 1), QUICK, Ends().of(0)),
    ):
        with pytest.raises(InputError, match=r"--coordinator=n.*: the host is unknown here"):
            join()


def test_a_port_in_use_is_an_error_of_the_first_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(InputError, match=r"cannot listen at .*: Address already in use"):
            Coordinator(2, address, NOBODY, Ends().of(0))


@pytest.mark.parametrize("text", ["node0", "node0:", ":8476", "node0:99999", "node0:0"])
def test_an_address_needs_host_and_port(text: str) -> None:
    with pytest.raises(InputError, match="is not a host:port"):
        Address.parse(text)
    assert Address.parse("[::1]:8476") == Address("::1", 8476)
    assert str(Address("::1", 8476)) == "[::1]:8476"
