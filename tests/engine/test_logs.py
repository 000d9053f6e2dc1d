import json
import logging

from quanttaas_jupyter.engine.logs import STUDY, JsonLines


def line(message: str, *values: object, **extra: object) -> dict[str, str]:
    record = logging.getLogger("test").makeRecord("test", logging.WARNING, "f", 1, message, values, None, extra=extra)
    found: dict[str, str] = json.loads(JsonLines().format(record))
    return found


def test_a_record_is_one_json_object_with_the_fields_that_cloud_logging_reads() -> None:
    token = STUDY.set("abcd1234")
    found = line("two\nlines of %s", "text", trial="int8", stage="f00")
    STUDY.reset(token)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "severity": "WARNING",
        "message": "two\nlines of text",
        "logger": "test",
        "study": "abcd1234",
        "trial": "int8",
        "stage": "f00",
    }


def test_what_is_unknown_is_left_out() -> None:
    assert not {"study", "trial", "stage"} & set(line("hello"))


def test_secrets_do_not_reach_the_log() -> None:
    found = line("GET x?X-Goog-Signature=abc123&y=1 with Authorization: Bearer s3cret and token=hidden")
    assert not any(secret in found["message"] for secret in ("abc123", "s3cret", "hidden"))
    assert "y=1" in found["message"]
