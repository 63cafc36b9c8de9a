"""Objects under one root, a folder or S3: whole or not at all, and never where they should not be."""

import multiprocessing
import os
import re
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from throttling import ThrottledS3

from cryptomon_lib.errors import StorageError
from cryptomon_lib.lake import S3_PATIENCE
from cryptomon_lib.schedule import load_schedule
from cryptomon_lib.storage import S3_CLIENT, S3_TRIES, Object, Storage


@pytest.fixture
def storage(place):
    return Storage(place.root, place.endpoint_url)


def test_what_is_put_is_read_back_and_put_again_replaces_it(storage):
    for body in (b"one", b"", bytes(range(256)) * 1000):
        storage.put("a/b.bin", body)
        assert storage.get("a/b.bin") == body
    assert storage.exists("a/b.bin") and not storage.exists("a/c.bin") and not storage.exists("a")


def test_create_writes_only_where_nothing_is_yet(storage):
    assert storage.create("ingest/x.gz", b"first") is True
    assert storage.create("ingest/x.gz", b"second") is False
    assert storage.get("ingest/x.gz") == b"first"
    storage.delete("ingest/x.gz")
    assert storage.create("ingest/x.gz", b"third") is True


def test_of_threads_that_create_the_same_object_exactly_one_succeeds(place):
    gate, won = threading.Barrier(8), []

    def create(number):
        mine = Storage(place.root, place.endpoint_url)
        mine.exists("warm")
        gate.wait(90)
        if mine.create("slot.gz", str(number).encode() * 10_000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert Storage(place.root, place.endpoint_url).get("slot.gz") == str(won[0]).encode() * 10_000


def test_objects_lists_what_is_below_a_prefix_with_size_and_time(storage):
    started = datetime.now(UTC) - timedelta(seconds=2)
    for key in ("a/2026-07-27/x.gz", "a/2026-07-26/y.gz", "ab/z.gz", "a/deep/er/w.gz"):
        storage.put(key, key.encode())
    found = storage.objects("a")
    assert [one.key for one in found] == ["a/2026-07-26/y.gz", "a/2026-07-27/x.gz", "a/deep/er/w.gz"]
    assert storage.objects("a/") == found and all(isinstance(one, Object) for one in found)
    assert {one.size for one in found} == {17, 14}
    assert all(started <= one.modified_at <= datetime.now(UTC) + timedelta(seconds=2) for one in found)
    assert storage.objects("nothing") == []


def test_named_gives_the_keys_whose_names_begin_so_and_no_others(storage):
    for key in (
        "runs/d/20260101T05-a",
        "runs/d/20260101T05-b",
        "runs/d/20260101T06-a",
        "runs/e/20260101T05-c",
    ):
        storage.put(key, b"x")

    assert storage.named("runs/d", "20260101T05") == ["runs/d/20260101T05-a", "runs/d/20260101T05-b"]
    assert storage.named("runs/d", "20260101T07") == storage.named("runs/f", "2026") == []


def test_folders_names_the_folders_that_lie_directly_below(storage):
    for key in ("a/2026-07-27/x.gz", "a/2026-07-26/y.gz", "a/file.gz"):
        storage.put(key, b"x")
    assert storage.folders("a") == ["2026-07-26", "2026-07-27"]
    assert storage.folders("nothing") == []


def test_what_another_process_wrote_is_seen_at_once(place, storage):
    assert storage.objects("a") == [] and storage.folders("a") == []
    Storage(place.root, place.endpoint_url).put("a/day/b", b"x")
    assert [one.key for one in storage.objects("a")] == ["a/day/b"]
    assert storage.exists("a/day/b") and storage.folders("a") == ["day"]
    Storage(place.root, place.endpoint_url).delete("a/day/b")
    assert storage.objects("a") == [] and not storage.exists("a/day/b")


def test_move_gives_an_object_another_key_and_replaces_what_is_there(storage):
    storage.put("ingest/x", b"new")
    storage.put("archive/x", b"old")
    storage.move("ingest/x", "archive/x")
    assert storage.get("archive/x") == b"new" and not storage.exists("ingest/x")
    storage.move("archive/x", "far/away/x")
    assert storage.get("far/away/x") == b"new"


def test_delete_removes_and_says_nothing_of_what_is_not_there(storage):
    storage.put("a", b"x")
    storage.delete("a")
    storage.delete("a")
    assert not storage.exists("a")


@pytest.mark.parametrize("verb", ["get", "move"])
def test_an_object_that_is_not_there_is_said_with_its_place(verb, storage):
    given = ("no/such",) if verb == "get" else ("no/such", "else/where")
    with pytest.raises(StorageError, match="no/such: there is no such object"):
        getattr(storage, verb)(*given)


HOSTILE = [
    "", "/etc/passwd", "../x", "a/../../x", "a/..", "..", ".", "./x", "a/./b", "a\\..\\b", "a\x00b", "a\nb",
    "a\x1fb",
]  # fmt: skip


@pytest.mark.parametrize("verb", ["put", "create", "get", "exists", "delete", "objects", "folders", "move"])
def test_a_key_that_leaves_the_root_is_refused(verb, tmp_path):
    storage = Storage(str(tmp_path / "kept"))
    more = {"put": (b"x",), "create": (b"x",), "move": ("fine",)}.get(verb, ())
    for key in HOSTILE:
        with pytest.raises(StorageError, match="is no key"):
            getattr(storage, verb)(key, *more)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_move_to_a_key_that_leaves_the_root_is_refused(tmp_path):
    storage = Storage(str(tmp_path / "kept"))
    storage.put("a", b"x")
    with pytest.raises(StorageError, match="is no key"):
        storage.move("a", "../a")
    assert storage.exists("a")


@pytest.mark.parametrize(
    "key", ["a..b/c", "...", "~x=1/y", "Ticker~pair=BTC%2FUSD", "币安/人生", "a b/c+d&e=f%20?"]
)
def test_odd_names_are_names(key, storage):
    storage.put(f"x/{key}", b"body")
    assert storage.get(f"x/{key}") == b"body"
    assert [one.key for one in storage.objects("x")] == [f"x/{key}"]


# ---- killed in the middle


def put_and_die(root, verb):
    """Is killed when the bytes are on the disk and the name is not."""
    kill = lambda *given: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    os.replace = os.link = kill
    getattr(Storage(root), verb)("ingest/x.gz", b"half")


@pytest.mark.parametrize("verb", ["put", "create"])
def test_a_put_that_is_killed_leaves_nothing_that_anyone_sees(verb, tmp_path, start_process):
    process = start_process(put_and_die, str(tmp_path), verb)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    storage = Storage(str(tmp_path))
    assert len(list(tmp_path.rglob("*unfinished*"))) == 1
    assert storage.objects("ingest") == [] and storage.folders("ingest") == []
    assert not storage.exists("ingest/x.gz")
    assert storage.create("ingest/x.gz", b"whole") and storage.get("ingest/x.gz") == b"whole"


def test_a_put_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    storage.put("a", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        storage.put("a", b"new")
    assert storage.get("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def put_for_ever(root, started):
    storage = Storage(root)
    for number in range(10**9):
        storage.put("record.json", bytes([65 + number % 26]) * 200_000)
        started.set()


def test_a_reader_beside_a_writer_sees_the_old_or_the_new_and_never_a_mixture(tmp_path, start_process):
    started = multiprocessing.get_context("forkserver").Event()
    process = start_process(put_for_ever, str(tmp_path), started)
    assert started.wait(60)
    storage, seen = Storage(str(tmp_path)), set()
    for _ in range(200):
        body = storage.get("record.json")
        assert len(body) == 200_000 and len(set(body)) == 1
        seen.add(body[0])
    process.kill()
    process.join()
    assert len(seen) > 1


# ---- roots that cannot be


@pytest.mark.parametrize("verb", ["put", "create"])
def test_a_root_that_cannot_be_written_is_said_plainly(verb, tmp_path):
    (tmp_path / "kept").write_text("a file where a folder should be")
    storage = Storage(str(tmp_path / "kept"))
    with pytest.raises(StorageError, match=r"Cannot write .*/kept/a/b") as caught:
        getattr(storage, verb)("a/b", b"x")
    assert "Check the root, its permissions" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said_plainly(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="PermissionError"):
            Storage(str(tmp_path)).put("a/b", b"x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("root", ["gs://bucket/x", "http://host/x", "ftp://x"])
def test_a_root_of_another_kind_is_refused(root):
    with pytest.raises(StorageError, match="a folder or s3://bucket/prefix"):
        Storage(root)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("verb", "given"),
    [("put", (b"x",)), ("create", (b"x",)), ("get", ())],
)
def test_a_bucket_that_is_not_there_is_said_plainly(verb, given, s3):
    storage = Storage("s3://no-such-bucket/monitor", s3.endpoint_url)
    with pytest.raises(StorageError, match="s3://no-such-bucket/monitor/a"):
        getattr(storage, verb)("a", *given)


@pytest.mark.s3
def test_an_s3_that_does_not_answer_is_said_plainly(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage = Storage("s3://bucket/monitor", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="Cannot write s3://bucket/monitor/a"):
        storage.put("a", b"x")


@pytest.mark.s3
def test_no_object_is_left_half_on_s3(s3):
    storage = Storage(s3.root, s3.endpoint_url)
    with pytest.raises(Exception):  # noqa: B017
        storage.put("a/b", ["no bytes"])
    assert storage.objects("a") == []


def test_a_root_with_a_slash_at_its_end_is_the_same_root(tmp_path):
    Storage(f"{tmp_path}/").put("a", b"x")
    assert Path(tmp_path, "a").read_bytes() == b"x"


@pytest.mark.s3
def test_a_misspelled_bucket_is_an_error_and_no_empty_queue(s3):
    storage = Storage("s3://nobody-made-this/monitor", s3.endpoint_url)

    with pytest.raises(StorageError, match="no bucket nobody-made-this"):
        storage.objects("ingest")


def test_an_object_written_anew_is_told_from_the_one_before(monitor):
    storage = monitor.storage
    assert storage.identity("a/b.json") is None
    storage.put("a/b.json", b"one")
    first = storage.identity("a/b.json")
    assert storage.identity("a/b.json") == first
    storage.put("a/b.json", b"other")
    assert storage.identity("a/b.json") != first


def test_the_page_says_how_long_s3_is_borne_with_as_it_is():
    page = (Path(__file__).parent.parent / "docs" / "storage.md").read_text(encoding="utf-8")
    objects, tables = re.findall(r"^\| (?:objects|tables): .*$", page, re.M)
    tries, client = S3_TRIES, S3_CLIENT
    # what s3fs waits after each try, the last one too
    waits = [min(1.7**number * 0.1, 15) for number in range(tries)]
    silent = tries * client["read_timeout"] + sum(waits)
    cells = [cell.strip() for cell in objects.strip("|").split("|")][1:]
    assert cells[0] == f"{client['read_timeout']} s, {client['connect_timeout']} s to connect"
    assert cells[1].startswith(f"{tries}, with 0.1 s between")
    assert cells[2:] == [f"{int(sum(waits[:-1]))} s of refusals", f"{sum(waits):.0f} s", f"{silent:.0f} s"]

    patience = {name: value.removesuffix("s") for name, value in S3_PATIENCE.items()}
    cells = [cell.strip() for cell in tables.strip("|").split("|")][1:]
    longest = int(patience["retry_timeout"]) + int(patience["timeout"])
    assert cells == [
        f"{patience['timeout']} s, {patience['connect_timeout']} s to connect",
        f"{patience['max_retries']}, within {patience['retry_timeout']} s, "
        f"at most {patience['backoff_config.max_backoff']} s between",
        f"{patience['retry_timeout']} s of refusals",
        f"{patience['retry_timeout']} s",
        f"{longest} s",
    ]
    # a call is over before a tick has to be
    assert max(silent, longest) < load_schedule()["tick"].timeout_s

    runbook = (Path(__file__).parent.parent / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert f"exit code 3 after {sum(waits):.0f} s of refusals or {silent:.0f} s of silence" in runbook
    assert f"| up to {int(sum(waits[:-1]))} s |" in runbook


@pytest.mark.s3
def test_on_s3_nothing_is_listed_to_know_of_one_object_or_to_move_it(s3):
    asked = ThrottledS3(s3.endpoint_url)
    seen = []
    passed_on = asked._passed_on
    asked._passed_on = lambda request, body: (
        seen.append((request.command, request.path)),
        passed_on(request, body),
    )[1]
    storage = Storage(s3.root, asked.address)
    storage.put("ingest/one", b"1")
    seen.clear()

    assert storage.exists("ingest/one") and not storage.exists("ingest/none") and not storage.exists("ingest")
    assert storage.identity("ingest/none") is None and storage.identity("ingest/one")
    storage.move("ingest/one", "archive/one")

    assert storage.get("archive/one") == b"1" and not storage.exists("ingest/one")
    assert not [path for command, path in seen if "list-type" in path]
    asked.close()
