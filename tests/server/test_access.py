"""Who may ask for what: tokens, origins, ids, stores, and what an administrator leaves out."""

from __future__ import annotations

import dataclasses
import http.cookiejar
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from quanttaas_jupyter.server.extension import _ROUTES
from tests.server.conftest import House, cancelled, configure, finished, settings, write
from tests.server.running import Client, server

METHODS = ("get", "post", "delete")


def addresses() -> list[tuple[str, str]]:
    """Every method of every route, with something in the place of its groups."""
    found = []
    for pattern, handler in _ROUTES:
        path = pattern.replace("([^/]+)", "abcd1234")
        found += [(name.upper(), path) for name in METHODS if name in vars(handler)]
    return found


def stranger(client: Client) -> Client:
    return dataclasses.replace(client, token="")


@pytest.mark.parametrize(("method", "path"), addresses())
def test_without_a_token_nothing_is_answered(house: House, method: str, path: str) -> None:
    answer = stranger(house.client).ask(method, path, {} if method == "POST" else None)
    assert answer.status == 403
    assert answer.json["message"].endswith(".")
    assert answer.json.keys() == {"message", "insert", "needs_trust"}


def test_every_route_of_the_design_is_there() -> None:
    assert ("DELETE", "studies/abcd1234") in addresses()
    assert len(addresses()) == 17


@pytest.fixture
def browser(house: House) -> urllib.request.OpenerDirector:
    """Signed in by a cookie, as a person's browser is: the token went over the address once."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    opener.open(f"{house.client.address}/login?token={house.client.token}", timeout=10).read()
    return opener


def cookies(browser: urllib.request.OpenerDirector) -> dict[str, str]:
    # The types of the standard library know no handlers of an opener.
    handlers: list[Any] = vars(browser)["handlers"]
    jar = next(handler.cookiejar for handler in handlers if hasattr(handler, "cookiejar"))
    return {cookie.name: cookie.value or "" for cookie in jar}


def status(browser: urllib.request.OpenerDirector, request: urllib.request.Request) -> int:
    try:
        with browser.open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_signed_in_browser_needs_the_xsrf_token_to_do_anything(
    house: House, browser: urllib.request.OpenerDirector
) -> None:
    url = f"{house.client.address}/quanttaas/recipe/validate"
    assert status(browser, urllib.request.Request(url, b"{}", method="POST")) == 403
    headers = {"X-XSRFToken": cookies(browser)["_xsrf"]}
    assert status(browser, urllib.request.Request(url, b"{}", headers, method="POST")) == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_another_page_of_a_signed_in_browser_is_refused(
    house: House, browser: urllib.request.OpenerDirector, method: str
) -> None:
    path = "recipe/validate" if method == "POST" else "studies/abcd1234"
    headers = {"Origin": "https://evil.example", "X-XSRFToken": cookies(browser)["_xsrf"]}
    url = f"{house.client.address}/quanttaas/{path}"
    body = b"{}" if method == "POST" else None
    # Jupyter hides what it refuses to other origins.
    assert status(browser, urllib.request.Request(url, body, headers, method=method)) in (403, 404)


@pytest.mark.parametrize(
    "study", ["..%2F..%2Fetc", "%2e%2e", "..", "a%2Fb", "ABCD", "abcd1234%0A", "a" * 80, "%00", "<script>"]
)
@pytest.mark.parametrize("tail", ["", "/events", "/weight", "/artifacts/int8"])
def test_ids_of_another_form_are_refused(house: House, study: str, tail: str) -> None:
    answer = house.client.get(f"studies/{study}{tail}".replace("<", "%3C").replace(">", "%3E"))
    assert answer.status in (400, 404)
    if answer.status == 400:
        assert "no valid id" in answer.json["message"]


def test_a_folder_above_is_never_reached(house: House) -> None:
    (house.folder / "secret").write_text("secret")
    for path in ("studies/../../secret", "studies/abcd1234/artifacts/..%2F..%2F..%2Fsecret"):
        answer = house.client.get(path)
        assert answer.status == 404
        assert answer.body != b"secret"


@pytest.mark.parametrize("store", ["/etc", "file:///etc", "gs://other/place", "s3://x", "../far", "gs://"])
def test_a_store_that_is_not_configured_is_not_found(house: House, store: str) -> None:
    write_once(house)
    answer = house.client.get("studies/abcd1234", store=store)
    assert answer.status == 404
    assert "not one that this server may use" in answer.json["message"]


def write_once(house: House) -> None:
    if house.store.size("studies/abcd1234/study.json") is None:
        write(house.store, "abcd1234", cancelled())


def test_a_malformed_request_is_told_in_one_sentence(house: House) -> None:
    write_once(house)
    answers = [
        house.client.get("studies/abcd1234", axis="depth"),
        house.client.get("studies/abcd1234/events", after="-1"),
        house.client.post("recipe/validate", {"modle": "x"}),
        house.client.post("recipe/validate", {"amounts": "x" * 10}),
        house.client.post("recipe/plan", {"amounts": [0.1] * 51}),
        house.client.post("clusters/stop", ["far"]),
        house.client.post("clusters/start", {"cpus": 0}),
    ]
    for answer in answers:
        assert answer.status == 400
        assert "the request is malformed: " in answer.json["message"]
        assert "Traceback" not in answer.json["message"]


def test_a_failure_of_ours_shows_no_traceback(tmp_path: Path) -> None:
    configure(tmp_path)
    code = (
        "import quanttaas_jupyter.study_store.index as index\n"
        "def look(self): raise KeyError('inner secret')\n"
        "index.StudyIndex.look = look"
    )
    with server(tmp_path, code=code, **settings(tmp_path)) as client:
        answer = client.get("studies")
    assert answer.status == 500
    assert answer.json["message"] == "The server failed with KeyError; its log says more."


def test_settings_restrict_stores_and_clusters_and_add_none(tmp_path: Path) -> None:
    configure(tmp_path)
    allowed = [str(tmp_path / "store"), "/elsewhere"]
    python = f"c.QuantTaaS.stores = {allowed}\nc.QuantTaaS.clusters = ['local', 'other']"
    (tmp_path / "jupyter_server_config.py").write_text(python)
    with server(tmp_path, **settings(tmp_path)) as client:
        house = House(client, tmp_path)
        write(house.store, "abcd1234", finished())
        write(house.far, "faraway1", finished())
        service = client.get("service").json
        assert service["stores"] == [house.store.uri]
        assert [cluster["name"] for cluster in service["clusters"]] == ["local"]
        assert [line["id"] for line in client.get("studies").json["studies"]] == ["abcd1234"]
        assert client.get("studies/faraway1").status == 404
        assert client.get("studies/faraway1", store=house.far.uri).status == 404
        assert [line["name"] for line in client.get("clusters").json["clusters"]] == ["local"]
        for path, body in (
            ("clusters/stop", {"name": "far"}),
            ("clusters/start", {}),
            ("clusters/connect", {"name": "far", "address": "http://127.0.0.1:9"}),
            ("clusters/connect", {"name": "other", "address": "http://127.0.0.1:9", "store": str(tmp_path / "x")}),
        ):
            answer = client.post(path, body)
            assert answer.status == 404
            assert re.search("may use|leave out", answer.json["message"])
        problems = client.post("recipe/validate", {"model": "m", "data": "d", "cluster": "far"}).json["problems"]
        assert [problem["field"] for problem in problems] == ["cluster"]
        # A study of a cluster that the settings leave out can be seen, not resumed.
        write(house.store, "resumed1", cancelled(), cluster="far")
        assert client.get("studies/resumed1").status == 200
        assert client.post("studies/resumed1/resume").status == 404


def test_who_may_only_read_changes_nothing(tmp_path: Path) -> None:
    configure(tmp_path)
    (tmp_path / "jupyter_server_config.py").write_text(
        "from jupyter_server.auth import Authorizer\n"
        "class OnlyReads(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return resource != 'quanttaas' or action == 'read'\n"
        "c.ServerApp.authorizer_class = OnlyReads"
    )
    with server(tmp_path, **settings(tmp_path)) as client:
        write(House(client, tmp_path).store, "abcd1234", cancelled())
        for method, path in addresses():
            if method != "GET":
                assert client.ask(method, path, {} if method == "POST" else None).status == 403
        assert client.get("studies/abcd1234").status == 200


def test_the_extension_is_found_by_its_configuration_alone(house: House) -> None:
    assert "quanttaas_jupyter | extension was successfully loaded" in (house.folder / "server.log").read_text()
    assert json.loads(house.client.get("service").body)["version"]
