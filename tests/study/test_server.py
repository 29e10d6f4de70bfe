"""The server: who gets what, with which headers; a second machine's browser, a stranger, a guesser."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from siamdiff.__main__ import main
from siamdiff.study.answers import Answers
from siamdiff.study.folder import ANSWERS, PRIVATE, read_key, read_readers, read_study
from siamdiff.study.making import Made
from siamdiff.study.server import COOKIE, HEADERS, MAX_FAILURES, create_app
from tests.listeners import documented, is_loopback
from tests.study.sets import Server, small_study

URL = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return small_study(tmp_path_factory.mktemp("server"))


@pytest.fixture
def client(made: Made) -> Iterator[TestClient]:
    study = read_study(made.place)
    app = create_app(made.place, study, read_readers(made.place), Answers(made.place / ANSWERS, study.id))
    with TestClient(app, base_url=URL, raise_server_exceptions=False) as client:
        yield client


def signed_in(client: TestClient, made: Made, reader: str = "reader-1") -> TestClient:
    assert client.post("/api/session", json={"code": made.codes[reader]}).status_code == 204
    return client


def sent(reader: str = "reader-1", /, **answer: object) -> dict[str, object]:
    return {"reader": reader, "change": "1" * 32, "knows": [], "answer": answer}


def test_images_and_answers_are_for_readers_alone(client: TestClient, made: Made):
    name = read_study(made.place).orders["reader-1"][0]
    for path in ("/api/study", f"/images/{name}.png"):
        assert client.get(path).status_code == 401
    assert client.put(f"/api/answers/{name}", json=sent()).status_code == 401
    for path in ("/", "/study.js", "/study.css"):
        assert client.get(path).status_code == 200
    for path in (
        "/private/key.json",
        "/study.json",
        "/answers.sqlite",
        "/images/",
        "/docs",
        "/openapi.json",
        "/%2e%2e/study.json",
    ):
        assert client.get(path).status_code == 404
    client.cookies.set(COOKIE, "guess")
    assert client.get("/api/study").status_code == 401


def test_an_answer_is_kept_for_the_reader_who_gave_it_or_for_nobody(client: TestClient, made: Made):
    """Tabs of a browser share one cookie: a page may outlive its reader's session and meet another's."""
    name = read_study(made.place).orders["reader-1"][2]
    signed_in(client, made, "reader-2")
    assert client.put(f"/api/answers/{name}", json=sent("reader-1")).status_code == 401
    assert client.put(f"/api/answers/{name}", json={"change": "1" * 32, "answer": {}}).status_code == 422
    assert client.get("/api/study").json()["answers"].keys().isdisjoint({name})
    signed_in(client, made, "reader-1")
    assert client.put(f"/api/answers/{name}", json=sent("reader-1")).status_code == 204
    assert name in client.get("/api/study").json()["answers"]


def test_nothing_in_an_answer_of_the_server_tells_real_from_synthetic(client: TestClient, made: Made):
    signed_in(client, made)
    key, study = read_key(made.place), read_study(made.place)
    told = client.get("/api/study")
    assert told.json()["images"] == study.orders["reader-1"]
    assert told.json().keys() == {"study", "reader", "side", "reasons", "images", "answers"}
    heads: dict[str, set[object]] = {"real": set(), "synthetic": set()}
    for name in study.orders["reader-1"]:
        response = client.get(f"/images/{name}.png")
        assert response.status_code == 200 and len(response.content) == study.image_bytes
        kind = "real" if key.images[name].method == "real" else "synthetic"
        heads[kind].add(tuple(sorted((k, v) for k, v in response.headers.items() if k != "date")))
    assert len(heads["real"]) == 1 and heads["real"] == heads["synthetic"]
    names = {name for name, _ in next(iter(heads["real"]))}  # type: ignore[misc]
    assert not names & {"etag", "last-modified", "server", "set-cookie", "x-process-time"}


def test_it_serves_without_the_key(made: Made, tmp_path: Path):
    """Which may be kept elsewhere while readers read."""
    key = made.place / PRIVATE / "key.json"
    key.rename(tmp_path / "key.json")
    try:
        with Server(made.place) as server:
            assert server.port
    finally:
        (tmp_path / "key.json").rename(key)


def test_headers_keep_a_browser_narrow(client: TestClient, made: Made):
    for path in ("/", "/study.js", "/api/study", "/none"):
        response = client.get(path)
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    page = client.get("/").text
    assert " style=" not in page and "<script>" not in page and "//" not in page.replace("<!DOCTYPE", "")
    response = client.post("/api/session", json={"code": made.codes["reader-1"]})
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie


def test_a_cookie_is_secure_behind_tls(client: TestClient, made: Made):
    with TestClient(client.app, base_url="https://study.example") as behind:
        response = behind.post("/api/session", json={"code": made.codes["reader-1"]})
    assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": URL, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": URL}, 204),
        ({"Origin": URL, "Sec-Fetch-Site": "same-origin"}, 204),
        # behind a proxy that names itself as the host
        ({"Origin": "https://study.example", "Sec-Fetch-Site": "same-origin"}, 204),
    ],
)
def test_other_sites_cannot_write(client: TestClient, made: Made, headers: dict[str, str], status: int):
    signed_in(client, made, "reader-2")
    name = read_study(made.place).orders["reader-2"][0]
    content = b'{"reader": "reader-2", "change": "22222222222222222222222222222222", "answer": {}}'
    given = {"Content-Type": "application/json"} | headers
    assert client.put(f"/api/answers/{name}", content=content, headers=given).status_code == status
    if status == 403:
        assert client.delete("/api/session", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"realism": 6}, 422),
        ({"realism": 2.5}, 422),
        ({"verdict": "maybe"}, 422),
        ({"marks": [{"x": 2, "y": 0}]}, 422),
        ({"marks": [{"x": 0, "y": 0}] * 21}, 422),
        ({"words": "x" * 501}, 422),
        ({"reader": "reader-2"}, 422),
        ({"words": "x" * 70_000}, 413),
    ],
)
def test_what_is_no_answer_is_refused(client: TestClient, made: Made, answer: dict[str, object], status: int):
    signed_in(client, made)
    name = read_study(made.place).orders["reader-1"][1]
    response = client.put(f"/api/answers/{name}", json=sent(**answer))
    assert response.status_code == status and len(response.text) < 300
    assert client.put(f"/api/answers/{'0' * 32}", json=sent()).status_code == 404
    assert name not in client.get("/api/study").json()["answers"]


def test_codes_cannot_be_tried_out_and_are_in_no_log(
    client: TestClient, made: Made, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    statuses = [
        client.post("/api/session", json={"code": f"WRONG{i}"}).status_code for i in range(MAX_FAILURES)
    ]
    assert set(statuses) == {403}
    refused = client.post("/api/session", json={"code": made.codes["reader-1"]})
    assert refused.status_code == 429 and refused.headers["retry-after"] == "60"
    long = client.post("/api/session", json={"code": made.codes["reader-1"] * 20})
    assert long.status_code == 422 and made.codes["reader-1"] not in long.text
    assert "WRONG" not in caplog.text and made.codes["reader-1"] not in caplog.text


def test_behind_a_proxy_wrong_codes_count_for_the_reader_who_gave_them(made: Made):
    with Server(made.place) as server, httpx.Client(base_url=server.url) as client:
        guesser, reader = ({"X-Forwarded-For": of} for of in ("192.0.2.1", "192.0.2.2"))
        for _ in range(MAX_FAILURES):
            assert client.post("/api/session", json={"code": "WRONG"}, headers=guesser).status_code == 403
        code = {"code": made.codes["reader-1"]}
        assert client.post("/api/session", json=code, headers=guesser).status_code == 429
        secure = client.post("/api/session", json=code, headers=reader | {"X-Forwarded-Proto": "https"})
    assert secure.status_code == 204 and "secure" in secure.headers["set-cookie"].lower()


def test_who_signs_out_is_out(client: TestClient, made: Made):
    signed_in(client, made)
    token = client.cookies[COOKIE]
    assert client.delete("/api/session").status_code == 204
    client.cookies.set(COOKIE, token)
    assert client.get("/api/study").status_code == 401
    assert token.encode() not in (made.place / ANSWERS).read_bytes()


def test_it_listens_on_this_machine_alone(made: Made):
    with Server(made.place) as server:
        assert server.process
        found = [
            c.laddr
            for c in psutil.Process(server.process.pid).net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        ]
        assert [(is_loopback(address.ip), address.port) for address in found] == [(True, server.port)]
        assert documented("The reader study") == {("study serve", address.ip) for address in found}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["NONE"], "holds no study"),
        (["PLACE", "--host", "no.such.host.invalid"], "cannot be listened on"),
        (["PLACE", "--host", "a..b"], "cannot be listened on"),
        (["PLACE", "--port", "70000"], "not in 0 to 65535"),
        (["PLACE", "--port", "TAKEN"], "and a free port"),
    ],
)
def test_a_mistake_is_one_line(made: Made, capsys: pytest.CaptureFixture[str], argv: list[str], told: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"PLACE": str(made.place), "NONE": "/nowhere", "TAKEN": str(taken.getsockname()[1])}
        assert main(["study", "serve", *(places.get(word, word) for word in argv)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and told in line


def test_without_its_extra_it_says_so(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    monkeypatch.delitem(__import__("sys").modules, "siamdiff.study.serving", raising=False)
    assert main(["study", "serve", str(made.place)]) == 2
    assert "pip install 'siamdiff[study]'" in capsys.readouterr().err
