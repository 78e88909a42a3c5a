"""The pages of approvals: what they show, which buttons they have, and what pressing these does."""

from __future__ import annotations

import re

import pytest

from tests.console.till import Till, forms_of


def test_waiting_approvals_are_listed(till: Till) -> None:
    id = till.ask(7, reason="ticket 4711")
    page = till.get("/approvals").text
    assert f'href="/approvals/{id}"' in page
    assert "ticket 4711" in page
    assert "you may approve" in page
    assert "None is rejected." in till.get("/approvals?status=rejected").text


def test_approving_executes_the_action_once(till: Till) -> None:
    id = till.ask()
    form = till.forms(f"/approvals/{id}")["approvals.approve"]
    answers = [till.press(form, comment="fine\r\nby me") for _ in range(2)]
    assert [(each.status_code, each.headers["location"]) for each in answers] == [(303, f"/approvals/{id}")] * 2
    assert till.paid() == 1
    page = till.get(f"/approvals/{id}")
    assert "human:boss" in page.text
    assert forms_of(page.text) == {}
    (row,) = [row for row in till.log(action="approvals.approve") if row.outcome == "succeeded"]
    assert (row.source, row.actor_id, row.input["comment"]) == ("console", "boss", "fine\nby me")


def test_the_message_is_shown_once(till: Till) -> None:
    id = till.ask()
    till.press(till.forms(f"/approvals/{id}")["approvals.approve"])
    assert "Approved: the action was executed." in till.get(f"/approvals/{id}").text
    assert "Approved: the action was executed." not in till.get(f"/approvals/{id}").text


def test_a_forged_message_is_not_shown(till: Till) -> None:
    till.client.cookies.set("actionengine_done", "<b>pay now</b>")
    page = till.get("/approvals").text
    assert "pay now" not in page


@pytest.mark.parametrize(
    ("actor", "buttons"),
    [
        ("boss", {"approvals.approve", "approvals.reject"}),
        ("clerk", {"approvals.cancel"}),
        ("auditor", set()),
    ],
)
def test_buttons_are_those_that_may_be_pressed(till: Till, actor: str, buttons: set[str]) -> None:
    forms = till.forms(f"/approvals/{till.ask()}", actor)
    assert set(forms) == buttons
    for form in forms.values():
        fresh = Till()
        id = fresh.ask()
        pressed = fresh.forms(f"/approvals/{id}", actor)[".".join(form.action.split("/")[-2:])]
        assert fresh.press(pressed, actor).status_code == 303


def test_what_is_not_offered_is_denied_and_logged(till: Till) -> None:
    id = till.ask()
    form = till.forms(f"/approvals/{id}")["approvals.approve"]
    answer = till.press(form, "auditor")
    assert answer.status_code in (403, 404)
    assert "human:auditor" in answer.text
    (row,) = till.log(action="approvals.approve")
    assert (row.outcome, row.actor_id, row.source) == ("denied", "auditor", "console")
    assert till.paid() == 0


def test_the_second_window_learns_who_decided(till: Till) -> None:
    id = till.ask()
    windows = [till.forms(f"/approvals/{id}", actor) for actor in ("boss", "deputy")]
    assert till.press(windows[0]["approvals.reject"], "boss", comment="too much").status_code == 303
    answer = till.press(windows[1]["approvals.approve"], "deputy")
    assert answer.status_code == 409
    assert "is rejected by human:boss at 20" in answer.text
    assert "too much" in answer.text
    assert forms_of(answer.text) == {}
    assert till.paid() == 0


def test_a_failed_action_leaves_the_form_filled(till: Till) -> None:
    id = till.ask(fails=True)
    answer = till.press(till.forms(f"/approvals/{id}")["approvals.approve"], comment="go on")
    assert answer.status_code == 422
    assert "the bank refused it" in answer.text
    forms = forms_of(answer.text)
    assert forms["approvals.approve"]["field.comment"] == "go on"
    assert forms["approvals.reject"]["field.comment"] == ""


def test_a_preview_shows_the_writes_and_binds_them(till: Till) -> None:
    id = till.ask(7)
    form = till.forms(f"/approvals/{id}")["approvals.approve"]
    form["preview"] = "1"
    shown = till.press(form, comment="fine")
    assert shown.status_code == 200
    assert "What approving would write" in shown.text
    assert re.search(r"Insert <code>payments/", shown.text)
    assert "<code>7</code>" in shown.text
    assert "ae_approvals" not in shown.text
    assert till.paid() == 0
    bound = forms_of(shown.text)["approvals.approve"]
    assert (bound["plan"][:5], bound["field.comment"]) == ("plan_", "fine")
    assert till.press(bound).status_code == 303
    assert till.paid() == 1


def test_bound_effects_are_shown() -> None:
    till = Till(binds="effects")
    page = till.get(f"/approvals/{till.ask(9)}").text
    assert "What approving writes" in page
    assert "<code>9</code>" in page


def test_an_approval_of_another_tenant_is_not_there(till: Till) -> None:
    id = till.ask(reason="the secret of globex", tenant="globex")
    answer = till.get(f"/approvals/{id}")
    assert answer.status_code == 404
    assert "secret" not in answer.text
    own = till.forms(f"/approvals/{till.ask()}")["approvals.approve"]
    own["payload"] = own["payload"].replace(own["payload"].split('"')[3], id)
    assert till.press(own).status_code == 404
    assert till.paid("globex") == 0


@pytest.mark.parametrize("query", ["status=odd", "after=tampered", f"after={'x' * 5000}", "after=%00"])
def test_a_tampered_address_gets_a_page(till: Till, query: str) -> None:
    answer = till.get(f"/approvals?{query}")
    assert answer.status_code == 400
    assert "is not valid" in answer.text


@pytest.mark.parametrize("query", ["path=1&self=2&parameter=3&action=4", "%ff=%00", "status=all&status=all", "&&=&"])
def test_odd_parameters_do_no_harm(till: Till, query: str) -> None:
    till.ask()
    assert till.get(f"/approvals?{query}&status=pending").status_code == 200


@pytest.mark.parametrize("host", ["[", "a b", "evil.example/?", ""])
def test_an_odd_host_header_does_no_harm(till: Till, host: str) -> None:
    id = till.ask()
    answer = till.get(f"/approvals/{id}", host=host)
    assert (answer.status_code, "evil" in answer.text) == (200, False)


@pytest.mark.parametrize("address", ["/log?before=x", "/log?before=1", "/log?before=%00", "/log?before=" + "9" * 5000])
def test_a_tampered_cursor_of_the_log_gets_a_page(till: Till, address: str) -> None:
    assert till.get(address).status_code == 400


@pytest.mark.parametrize("id", ["nothing", "x" * 3000, "%00", "%E2%80%AE", "%ff", "a%2Fb", "%3Cscript%3E"])
def test_an_unknown_approval_gets_a_page(till: Till, id: str) -> None:
    answer = till.get(f"/approvals/{id}")
    assert answer.status_code in (400, 404)
    assert "<script>" not in answer.text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 1234 * 5 }}",
    "\u202egnp",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(till: Till, text: str) -> None:
    id = till.ask(reason=text, note=text)
    for page in (till.get("/approvals"), till.get(f"/approvals/{id}")):
        assert "<script>alert" not in page.text
        assert "<img" not in page.text
        assert "6170" not in page.text
        assert "\u202e" not in page.text
        assert 'href="javascript' not in page.text
    assert ("\\u202egnp" in page.text) is (text == "\u202egnp")
