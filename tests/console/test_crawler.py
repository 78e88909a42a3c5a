"""Each role and each type of actor in the console: buttons are exactly what the caller may do, all of it is logged, and
nothing of another tenant is seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.console import crawler
from tests.console.business import ACTORS, SYSTEM, Business
from tests.console.crawler import ALL, Thing, crawl, declared_for, forged
from tests.console.random_business import ask_at_random, give_random_role, random_actor, random_services
from tests.console.serving import opened, seed
from tests.console.site import ROOT, Answer

HOSTILE = "<script>alert(1)</script>\"' {{7*7}} \u202e</textarea><img src=x onerror=alert(2)>"
CANARY = "canary-of-globex"
TENANTS = {"acme": HOSTILE, "globex": CANARY}


def callers(*daily: str) -> pytest.MarkDecorator:
    """Run a test with each caller, those that are not named in the long run only."""
    each = [pytest.param(name, marks=() if name in daily else pytest.mark.soak) for name in ACTORS]
    return pytest.mark.parametrize("caller", each)


MOST = 4
"""The pages of one kind that the plain run opens."""


@pytest.fixture(scope="module")
def seeded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("seeded") / "business.db"
    seed(file, TENANTS)
    return file


@pytest.fixture
def shop(seeded_file: Path, tmp_path: Path) -> Iterator[crawler.Business]:
    """The business on a database of the test."""
    file = tmp_path / "business.db"
    shutil.copy(seeded_file, file)
    with opened(file) as site, site:
        yield crawler.Business(site, file)


def check(answer: Answer) -> None:
    """Check that an answer has nothing of the other tenant, and no text that acts."""
    assert CANARY not in answer.text
    assert "\u202e" not in answer.text
    assert "<script>alert" not in answer.text


def most(request: pytest.FixtureRequest) -> int:
    return ALL if request.config.getoption("markexpr") not in ("not soak",) else MOST


def opens(shop: crawler.Business, caller: str, things: list[Thing]) -> list[tuple[Thing, Answer]]:
    """Return the things whose page a caller may open."""
    browser = shop.site.caller(caller, check)
    answers = [(thing, browser.get(thing.path)) for thing in things]
    assert {answer.status for _, answer in answers} <= {200, 403, 404}
    return [(thing, answer) for thing, answer in answers if answer.status == 200]


@callers("maria", "stranger")
def test_each_link_leads_to_a_page(shop: crawler.Business, caller: str, request: pytest.FixtureRequest) -> None:
    before = shop.dump()

    pages = crawl(shop.site.caller(caller, check), most(request))

    assert f"{ROOT}/catalogue" in pages
    assert shop.dump() == before


def check_buttons(shop: crawler.Business, caller: str) -> None:
    """Check that each page offers a button exactly if pressing it does something, and that the rest is refused."""
    browser = shop.site.caller(caller, check)
    for thing, answer in opens(shop, caller, shop.things("acme")):
        offered = thing.offered(answer)
        declared = [(button.action, payload) for button, payload, _ in declared_for(thing)]
        assert all(each in declared for each in offered), (thing, offered)
        for button, payload, resource in declared_for(thing):
            is_allowed = shop.is_allowed(caller, thing.tenant, button, resource)
            if (button.action, payload) in offered:
                assert is_allowed, (thing, button)
                continue
            pressed, is_written, logged = shop.press(browser, caller, forged(button, payload))
            assert not is_written, (thing, button.action, offered, logged, pressed.status, pressed.tags.text[-600:])
            assert is_allowed or [row.outcome for row in logged] == ["denied"], (thing, button, logged)


def press_all(shop: crawler.Business, caller: str) -> None:
    """Press each button that a page offers, until none is left, and check that none is forbidden."""
    browser = shop.site.caller(caller, check)
    for thing, _ in opens(shop, caller, shop.things("acme")):
        pressed: list[tuple[str, str]] = []
        while True:
            page = browser.get(thing.path)
            left = [form for form in page.tags.buttons if (form.name, form.values["payload"]) not in pressed]
            if not left:
                break
            pressed.append((left[0].name, left[0].values["payload"]))
            answer, _, logged = shop.press(browser, caller, left[0])
            assert answer.status in (303, 202, 409, 422), answer.tags.text
            assert [row.outcome for row in logged] != ["denied"], (thing, left[0])
            if answer.status == 303:
                assert browser.open(answer.location).status == 200


@callers("maria", "bot")
def test_buttons_are_those_that_can_allows(shop: crawler.Business, caller: str) -> None:
    check_buttons(shop, caller)


@callers("maria")
def test_an_offered_button_is_never_forbidden(shop: crawler.Business, caller: str) -> None:
    press_all(shop, caller)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 60))])
def test_random_rights_have_their_buttons(seeded_file: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    file = tmp_path / "business.db"
    shutil.copy(seeded_file, file)
    services = random_services(random)
    actor = random_actor(random)
    with opened(file, services=services, actors={**ACTORS, actor.id: actor}) as site, site:
        business = Business(site.engine, site.engine.resolve_tenant("acme").unwrap(), HOSTILE)
        ask_at_random(business, services, random.choice([SYSTEM, ACTORS["carla"], actor]))
        resources = [f"workflow_run/{site.things('acme')['run']}", f"change/{site.things('acme')['change']}", "thing/1"]
        give_random_role(business, random, actor, resources)
        crawl(site.caller(actor.id, check), 2)
        shop = crawler.Business(site, file)
        check_buttons(shop, actor.id)
        press_all(shop, actor.id)


@callers("maria")
def test_nothing_of_another_tenant_can_be_had(shop: crawler.Business, caller: str) -> None:
    browser = shop.site.caller(caller, check)
    before = shop.dump()
    for thing in shop.things("globex"):
        page = browser.get(thing.path)
        assert page.status in (403, 404) or "{id}" not in thing.kind
        assert thing.offered(page) == []
        for button, payload, _ in declared_for(thing):
            answer, is_written, _ = shop.press(browser, caller, forged(button, payload))
            assert answer.status in (403, 404, 409) or button.action == "relay.redrive", answer.tags.text
            assert not is_written
    for id in [thing.id for thing in shop.things("globex")[::4]] + shop.executions("globex")[::20]:
        assert browser.get(f"/log/{id}").status in (403, 404)
        for name in ("approval_id", "parent_id", "before", "subject", "request_id"):
            assert browser.get(f"/log?{name}={id}").status in (200, 403)
    assert shop.dump() == before


def test_a_caller_that_is_not_signed_in_gets_nothing(shop: crawler.Business) -> None:
    nobody = shop.site.caller(None, check)
    signed_in = shop.site.caller("maria", check)
    for url in crawl(signed_in, 2):
        answer = nobody.open(url)
        assert answer.status == 401
        assert HOSTILE[:8] not in answer.text
        assert answer.tags.buttons == []
    things = shop.things("acme")
    before = (shop.dump(), shop.logged())
    for thing in things:
        for button, payload, _ in declared_for(thing):
            assert nobody.press(forged(button, payload)).status == 401
    assert (shop.dump(), shop.logged()) == before
